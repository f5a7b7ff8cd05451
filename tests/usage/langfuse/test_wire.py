"""Langfuse's rows, good and bad, and what they mean."""

import json
from decimal import Decimal
from typing import Any

import pytest

from tests.conftest import recorded
from usage.langfuse.wire import NotAPage, Page, decode_page

GOOD: dict[str, Any] = {
    "id": "o1",
    "traceId": "t1",
    "startTime": "2026-11-10T12:00:00.000Z",
    "type": "GENERATION",
    "updatedAt": "2026-11-10T12:00:05.000Z",
}


def page_of(*rows: Any) -> Page:
    return decode_page(json.dumps({"data": rows, "meta": {}}).encode())


def test_a_recorded_page_is_read_whole() -> None:
    body = recorded("observations_all_fields")["body"]
    page = decode_page(json.dumps(body).encode())
    assert (len(page.observations), page.rejected, page.cursor) == (33, [], None)
    by_name = {one.step.model: one.step for one in page.observations if one.step.model}
    claude = by_name["claude-sonnet-4-5-20250929"]
    # The parts sum to 0.002775; the store's own total is cut off.
    assert claude.cost_usd == Decimal("0.002775000000")
    assert by_name["my-llama"].cost_usd == 0, "a free model costs 0"
    free = [one.step for one in page.observations if one.step.model == "acme-llm-7b"]
    assert sorted((one.cost_usd is None) for one in free) == [
        False,
        True,
    ], "an empty costDetails is an unknown cost, not 0"
    roots = [one for one in page.observations if one.step.is_root]
    assert roots[2].trace_attributes.tenant_reference == "4be2fac9-d3c7-50d7-aa40-e4a676461eb2"


@pytest.mark.parametrize(
    ("details", "cost"),
    [
        ({}, None),
        (None, None),
        ({"total": 0}, "0"),
        ({"total": 0.02}, "0.02"),
        ({"input": 1.75e-05, "output": 1e-05, "total": 2.7499999e-05}, "0.0000275"),
        ({"input": 0.1, "output": 0.2, "total": 0.5}, "0.5"),
        ({"input": 0.1, "output": 0.2}, "0.3"),
        ({"input": None, "total": 0.7}, "0.7"),
        ({"input": 1.23456789012345e-7}, "0.000000123457"),
    ],
)
def test_the_cost_is_the_sum_of_the_parts_where_it_agrees_with_the_total(
    details: Any, cost: str | None
) -> None:
    (row,) = page_of({**GOOD, "costDetails": details}).observations
    assert row.step.cost_usd == (None if cost is None else Decimal(cost))


@pytest.mark.parametrize("absent", ["", None])
def test_absent_texts_are_empty(absent: Any) -> None:
    (row,) = page_of(
        {
            **GOOD,
            "model": absent,
            "userId": absent,
            "name": absent,
            "level": absent,
            "traceName": absent,
        }
    ).observations
    assert (
        row.step.model,
        row.trace_attributes.user_reference,
        row.step.name,
        row.step.level,
        row.trace_attributes.name,
    ) == ("", "", "", "DEFAULT", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("acme", "acme"),
        ('"acme"', "acme"),
        ('"', '"'),
        (7, "7"),
        (1, "1"),
        (True, "true"),
        ({"a": [1]}, '{"a":[1]}'),
        (None, ""),
        ('"a" and "b"', '"a" and "b"'),
        ('"' + "x" * 250, "x" * 200),
        ('"' + "x" * 199, "x" * 199),
        ('"unfinished', '"unfinished'),
    ],
)
def test_metadata_is_read_json_encoded_or_raw(value: Any, text: str) -> None:
    (row,) = page_of({**GOOD, "metadata": {"tenant_id": value, "scope.name": "x"}}).observations
    assert row.trace_attributes.tenant_reference == text


@pytest.mark.parametrize(
    ("user", "reference"),
    [
        ("ann", "ann"),
        ('"ann"', "ann"),
        ('"7A7602A5-0A5C-4B3C-9D0A-6A1C2F1D7E10"', "7a7602a5-0a5c-4b3c-9d0a-6a1c2f1d7e10"),
        ('"Ann" of "Acme"', '"Ann" of "Acme"'),
        ("", ""),
        (None, ""),
    ],
)
def test_a_user_id_is_read_json_encoded_or_raw(user: str | None, reference: str) -> None:
    (row,) = page_of({**GOOD, "userId": user}).observations
    assert row.trace_attributes.user_reference == reference


@pytest.mark.parametrize(
    ("said", "kept"), [("i" * 250, "i" * 200), ("a\x00b", "ab"), ("i" * 200, "i" * 200)]
)
@pytest.mark.parametrize("of_ours", [{"tenant_id": "t", "kluisz_flow_id": "f"}, {}, None])
def test_ids_are_cut_and_have_no_nul(said: str, kept: str, of_ours: Any) -> None:
    row = {**GOOD, "id": said, "traceId": said, "parentObservationId": said, "metadata": of_ours}
    other = {**GOOD, "id": "o2", "metadata": of_ours}
    page = page_of(row, other)
    one, good = page.observations
    assert (page.rejected, good.step.observation_id) == ([], "o2")
    assert (one.step.observation_id, one.trace_id, one.step.parent_id) == (kept, kept, kept)


@pytest.mark.parametrize(
    "broken", [float("-1"), "NaN", "sNaN", "Infinity", "-Infinity", 10_000.01, "1e30"]
)
def test_a_cost_that_none_can_be_breaks_its_row_alone(broken: Any) -> None:
    row = {**GOOD, "costDetails": {"input": broken, "output": None, "total": 0.1}}
    page = page_of(
        row, {**GOOD, "id": "o2", "costDetails": {"input": broken}}, {**GOOD, "id": "o3"}
    )
    assert [one.step.observation_id for one in page.observations] == ["o3"]
    assert all("The cost of “input” is" in one.reason for one in page.rejected)


def test_the_model_may_have_its_older_name() -> None:
    (row,) = page_of({**GOOD, "providedModelName": "gpt-4o"}).observations
    assert row.step.model == "gpt-4o"


def test_without_is_root_a_row_without_a_parent_is_a_root() -> None:
    first, second = page_of(GOOD, {**GOOD, "parentObservationId": "p"}).observations
    assert (first.step.is_root, second.step.is_root) == (True, False)


def test_metadata_that_is_no_map_is_as_good_as_absent() -> None:
    (row,) = page_of({**GOOD, "metadata": ["x"]}).observations
    assert row.trace_attributes.tenant_reference == ""


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"costDetails": {"total": -1}}, "The cost of “total” is -1"),
        ({"usageDetails": {"input": -5}}, "The count of “input” is -5"),
        ({"costDetails": {"total": 1e30}}, "costs are 0 to"),
        ({"usageDetails": {"input": 2**60}}, "counts are 0 to"),
        ({"type": "NONSENSE"}, "Unknown type “NONSENSE”"),
        ({"level": "LOUD"}, "Unknown level “LOUD”"),
        ({"startTime": "yesterday"}, "startTime"),
        ({"usageDetails": {"input": 1.5}}, "int"),
        ({"traceId": None}, "no trace id"),
        ({"id": ""}, "no id"),
        ({"id": 7}, "str"),
    ],
)
def test_a_row_that_breaks_the_contract_is_set_aside_and_the_rest_is_kept(
    broken: dict[str, Any], reason: str
) -> None:
    page = page_of(GOOD, {**GOOD, "id": "bad", **broken}, {**GOOD, "id": "o3"})
    assert [one.step.observation_id for one in page.observations] == ["o1", "o3"]
    (rejected,) = page.rejected
    assert reason in rejected.reason
    assert json.loads(rejected.row)["startTime"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"[]",
        b'{"data": 3, "meta": {}}',
        b'{"message": "hi"}',
        b'{"data": [{"id"',
        b"\xff\xfe",
    ],
)
def test_what_is_no_page_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(NotAPage):
        decode_page(body)
