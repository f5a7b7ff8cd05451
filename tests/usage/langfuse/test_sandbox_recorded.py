"""The sandbox answers as the real server did, field by field and type by type."""

import json
from typing import Any

import httpx
import pytest

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox, recorded

AFTER_33_ROWS = [
    "observations_all_fields",
    "observations_default_fields",
    "observations_empty_window",
    "observations_filter_metadata",
    "observations_filter_types",
    "observations_page1",
    "observations_page2",
    "observations_page3",
    "observations_roots",
    "error_bad_cursor",
    "error_bad_date",
    "error_bad_field",
    "error_limit_1001",
    "health",
    "metrics_by_day",
    "metrics_by_hour",
    "metrics_by_model",
    "metrics_by_type",
    "metrics_empty",
    "metrics_error_by_user",
    "metrics_filter_metadata",
    "metrics_total",
    "v1_daily_on_v4",
    "v1_observations_on_v4",
    "v1_traces_on_v4",
]


def ask(sandbox: RunningSandbox, request: dict[str, Any]) -> httpx.Response:
    return httpx.request(
        request["method"],
        sandbox.url + request["path"],
        params=request["params"],
        auth=(PUBLIC_KEY, SECRET_KEY),
    )


def complete(row: dict[str, Any]) -> dict[str, Any]:
    """A recorded row that lacks some groups, with their empty values, as the store needs it."""
    empty = recorded("observations_all_fields")["body"]["data"][1]
    return {**empty, "traceName": "", "tags": [], **row}


@pytest.mark.parametrize("name", AFTER_33_ROWS)
def test_it_answers_as_recorded(sandbox: RunningSandbox, name: str) -> None:
    sandbox.store.add(recorded("observations_all_fields")["body"]["data"])
    expected = recorded(name)

    answer = ask(sandbox, expected["request"])

    assert answer.status_code == expected["status"]
    assert answer.headers["content-type"] == expected["headers"]["content-type"]
    # As JSON text, so that 0 and 0.0, "" and null are told apart; metrics name models of equal cost
    # in any order.
    assert as_text(answer.json()) == as_text(expected["body"])


def as_text(body: Any) -> str:
    if (
        isinstance(body, dict)
        and isinstance(body.get("data"), list)
        and body["data"]
        and "count_count" in body["data"][0]
    ):
        body = {
            **body,
            "data": sorted((approximately(row) for row in body["data"]), key=json.dumps),
        }
    return json.dumps(body, sort_keys=True)


def approximately(row: dict[str, Any]) -> dict[str, Any]:
    """Sums of floats depend on the order of addition in their last digit."""
    cost = row["sum_totalCost"]
    return {
        **row,
        "sum_totalCost": round(cost, 15) if isinstance(cost, float) else cost and float(cost),
    }


def test_a_row_that_is_sent_again_is_another_row_with_the_same_id(sandbox: RunningSandbox) -> None:
    expected = recorded("observations_same_id_again")
    sandbox.store.add([complete(row) for row in expected["body"]["data"]])

    answer = ask(sandbox, expected["request"])

    assert as_text(answer.json()) == as_text(expected["body"])
    ids = [row["id"] for row in answer.json()["data"]]
    assert len(ids) > len(set(ids))


def test_it_says_which_project_the_keys_are_for_as_recorded(sandbox: RunningSandbox) -> None:
    expected = recorded("projects")
    sandbox.sandbox.project_id = "proj1"
    answer = ask(sandbox, expected["request"])
    (project,), (theirs,) = answer.json()["data"], expected["body"]["data"]
    its_organization, their_organization = project.pop("organization"), theirs.pop("organization")
    assert (answer.status_code, project) == (expected["status"], theirs)
    assert its_organization.keys() == their_organization.keys()


def test_a_wrong_key_is_refused_as_recorded(sandbox: RunningSandbox) -> None:
    expected = recorded("error_wrong_key")
    answer = httpx.get(
        sandbox.url + expected["request"]["path"],
        params={"limit": 1},
        auth=(PUBLIC_KEY, "sk-lf-wrong"),
    )
    assert (answer.status_code, answer.json()) == (expected["status"], expected["body"])


def test_pages_of_any_size_give_every_row_once(sandbox: RunningSandbox) -> None:
    rows = recorded("observations_all_fields")["body"]["data"]
    sandbox.store.add(rows)
    for limit in (1, 2, 7, 33):
        found, cursor = [], None
        while True:
            query = {"limit": limit, "fields": "core", **({"cursor": cursor} if cursor else {})}
            body = ask(
                sandbox, {"method": "GET", "path": "/api/public/v2/observations", "params": query}
            ).json()
            found += [row["id"] for row in body["data"]]
            cursor = body["meta"].get("cursor")
            if cursor is None:
                break
        assert found == [row["id"] for row in rows]


def test_versions_of_one_row_never_straddle_a_page(sandbox: RunningSandbox) -> None:
    rows = recorded("observations_all_fields")["body"]["data"][:3]
    sandbox.store.add([rows[0], rows[1], {**rows[1], "level": "ERROR"}, rows[2]])
    first = ask(
        sandbox, {"method": "GET", "path": "/api/public/v2/observations", "params": {"limit": 2}}
    ).json()
    rest = ask(
        sandbox,
        {
            "method": "GET",
            "path": "/api/public/v2/observations",
            "params": {"limit": 3, "cursor": first["meta"]["cursor"]},
        },
    )
    assert len(first["data"]) + len(rest.json()["data"]) == 4
