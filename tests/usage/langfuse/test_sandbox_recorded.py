"""The sandbox answers as the real server did, field by field and type by type."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox, recorded
from usage.langfuse.client import LangfuseClientService

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


def test_versions_of_one_row_beyond_a_pages_border_come_on_no_page(
    sandbox: RunningSandbox,
) -> None:
    """The cursor is a strict bound of start, trace and id (Langfuse's source, events.ts,
    applyObservationsCursorFilter).
    """
    rows = recorded("observations_all_fields")["body"]["data"][:3]
    sandbox.store.add([rows[0], rows[1], {**rows[1], "level": "ERROR"}, rows[2]])

    def page(**query: Any) -> dict[str, Any]:
        request = {"method": "GET", "path": "/api/public/v2/observations", "params": query}
        return ask(sandbox, request).json()

    first = page(limit=2)
    rest = page(limit=3, cursor=first["meta"]["cursor"])
    assert [row["id"] for row in first["data"]] == [rows[0]["id"], rows[1]["id"]]
    assert [row["id"] for row in rest["data"]] == [rows[2]["id"]]


def test_a_limit_of_zero_gives_an_empty_last_page(sandbox: RunningSandbox) -> None:
    """As types/observations.ts takes it, and v2/observations answers it."""
    sandbox.store.add(recorded("observations_all_fields")["body"]["data"])
    request = {"method": "GET", "path": "/api/public/v2/observations", "params": {"limit": 0}}
    answer = ask(sandbox, request)
    assert (answer.status_code, answer.json()) == (200, {"data": [], "meta": {}})
    refused = ask(sandbox, {**request, "params": {"limit": -1}})
    assert refused.status_code == 400


@pytest.mark.both_databases
def test_metrics_include_their_end(sandbox: RunningSandbox) -> None:
    """In queryBuilder.ts the bound is <=; empty hours are filled in up to the end, without it."""
    row = recorded("observations_all_fields")["body"]["data"][0]
    sandbox.store.add([{**row, "startTime": "2026-11-23T14:00:00.000Z"}])
    query = {
        "view": "observations",
        "metrics": [{"measure": "count", "aggregation": "count"}],
        "timeDimension": {"granularity": "hour"},
        "fromTimestamp": "2026-11-23T12:00:00Z",
        "toTimestamp": "2026-11-23T14:00:00Z",
    }
    answer = ask(sandbox, metrics(query)).json()["data"]
    assert [(one["time_dimension"], one["count_count"]) for one in answer] == [
        ("2026-11-23 12:00:00", "0"),
        ("2026-11-23 13:00:00", "0"),
        ("2026-11-23 14:00:00", "1"),
    ]
    with LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY) as client:
        start = datetime(2026, 11, 23, 12, tzinfo=UTC)
        found = client.figures(start, start + timedelta(hours=2), "hour")
    assert [one.count for one in found.values()] == [0, 0], "the end is the next hour's"


def metrics(query: dict[str, Any]) -> dict[str, Any]:
    params = {"query": json.dumps(query)}
    return {"method": "GET", "path": "/api/public/v2/metrics", "params": params}


def filtered(sandbox: RunningSandbox, key: str, value: str, operator: str = "=") -> str:
    """How many observations the metrics count whose metadata meets the filter."""
    condition = {"column": "metadata", "type": "stringObject", "key": key}
    query = {
        "view": "observations",
        "metrics": [{"measure": "count", "aggregation": "count"}],
        "filters": [{**condition, "operator": operator, "value": value}],
        "fromTimestamp": "2026-11-23T00:00:00Z",
        "toTimestamp": "2026-11-24T00:00:00Z",
    }
    found: str = ask(sandbox, metrics(query)).json()["data"][0]["count_count"]
    return found


@pytest.mark.parametrize(
    "written",
    [
        "acme",
        '"acme"',
        "true",
        "null",
        "1200",
        "1.50",
        "1e3",
        '{"a": 1}',
        "[1, 2]",
        '"caf\\u00e9"',
        "",
    ],
)
def test_a_filter_finds_what_a_span_was_sent_with_to_the_letter(
    sandbox: RunningSandbox, written: str
) -> None:
    """However it is shown: what says something as JSON is shown as that."""
    said = {"key": "langfuse.observation.metadata.k", "value": {"stringValue": written}}
    moment = str(int(datetime(2026, 11, 23, 14, tzinfo=UTC).timestamp()) * 10**9)
    span = {"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "s", "attributes": [said]}
    times = {"startTimeUnixNano": moment, "endTimeUnixNano": moment}
    export = {"resourceSpans": [{"scopeSpans": [{"spans": [{**span, **times}]}]}]}
    sent = httpx.post(
        f"{sandbox.url}/api/public/otel/v1/traces", json=export, auth=(PUBLIC_KEY, SECRET_KEY)
    )
    assert sent.status_code == 200
    assert (filtered(sandbox, "k", written), filtered(sandbox, "k", "other")) == ("1", "0")


@pytest.mark.parametrize(
    ("operator", "value", "count"),
    [
        ("=", '"acme-1"', "2"),
        ("=", "acme-1", "1"),
        ("contains", "acme-1", "3"),
        ("contains", '"acme-1"', "2"),
        ("does not contain", "acme-1", "1"),
        ("starts with", '"acme', "2"),
    ],
)
def test_metadata_is_compared_as_it_was_written(
    sandbox: RunningSandbox, operator: str, value: str, count: str
) -> None:
    """SDK 5 writes JSON, quotes included; others don't. A row without the key meets no filter."""
    rows = recorded("observations_all_fields")["body"]["data"][:5]
    written = [{"tenant_id": "acme-1"}, {"tenant_id": "acme-1"}, {"tenant_id": "globex"}, {}]
    sandbox.store.add(
        [{**row, "metadata": metadata} for row, metadata in zip(rows, written, strict=False)]
    )
    raw = {"metadata": {"tenant_id": "acme-1"}, "metadataAsWritten": {"tenant_id": "acme-1"}}
    sandbox.store.add([{**rows[4], **raw}])
    assert filtered(sandbox, "tenant_id", value, operator) == count


def test_metrics_count_users(sandbox: RunningSandbox) -> None:
    rows = recorded("observations_all_fields")["body"]["data"][:4]
    sandbox.store.add(
        [{**row, "userId": user} for row, user in zip(rows, ["a", "a", "b", ""], strict=True)]
    )
    query = {
        "view": "observations",
        "metrics": [{"measure": "uniqueUserIds", "aggregation": "uniq"}],
        "fromTimestamp": "2026-11-23T00:00:00Z",
        "toTimestamp": "2026-11-24T00:00:00Z",
    }
    assert ask(sandbox, metrics(query)).json()["data"] == [{"uniq_uniqueUserIds": "2"}]
