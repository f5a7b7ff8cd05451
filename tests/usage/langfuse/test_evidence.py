"""What is kept of a step that could name whose it is: not much, and no payload."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage.langfuse.evidence import (
    MOST_CHARACTERS,
    MOST_TEXTS,
    _whole_values,
    evidence_of,
    tags_of,
)
from usage.langfuse.wire import METADATA_LENGTH, decode_page

ROW = {"id": "o1", "traceId": "t1", "startTime": "2026-11-23T12:00:00Z", "type": "SPAN"}
OWN = {"tenant_id": "a", "kluisz_flow_id": "f", "team": "x", "scope.name": "langfuse-sdk"}


def evidence(**row: Any) -> dict[str, str]:
    page = decode_page(json.dumps({"data": [ROW | row], "meta": {}}).encode())
    assert not page.rejected
    return page.observations[0].step.evidence


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({}, {}),
        ({"metadata": None}, {}),
        ({"metadata": "text"}, {}),
        ({"metadata": {"team": "acme", "n": 12.0, "is_test": True, "none": None, "no": ""}},
         {"team": "acme", "n": "12", "is_test": "true"}),
        ({"metadata": {"team": '"acme"'}}, {"team": "acme"}),
        ({"metadata": {"key": {"team": "acme", "more": {"id": 7}}}},
         {"key.team": "acme", "key.more.id": "7"}),
        ({"metadata": {"key": '{"team": "acme", "spend": null}'}}, {"key.team": "acme"}),
        ({"metadata": {"key": "{not json}"}}, {"key": "{not json}"}),
        ({"metadata": {"teams": ["a", "b"], "rows": [{"a": 1}]}}, {"teams": '["a", "b"]'}),
        ({"metadata": {"attributes.gen_ai.prompt.0.content": "x", "attributes.usage.n": 3}}, {}),
        ({"metadata": {"attributes.metadata": '{"team": "a", "usage_object": {"x": 1}}'}},
         {"attributes.metadata.team": "a"}),
        ({"metadata": {"resourceAttributes.service.name": "unknown_service:python",
                       "resourceAttributes.telemetry.sdk.name": "opentelemetry"}}, {}),
        ({"metadata": {"resourceAttributes.service.name": "shop"}},
         {"resourceAttributes.service.name": "shop"}),
        ({"metadata": OWN, "sessionId": "s", "tags": ["x"]}, {}),
        ({"metadata": {"tenant_id": "a"}, "sessionId": "s", "tags": ["x", 1], "release": "r",
          "version": "v"},
         {"@session": "s", "@tags": '["x"]', "@release": "r", "@version": "v"}),
    ],
)  # fmt: skip
def test_what_is_kept(row: dict[str, Any], kept: dict[str, str]) -> None:
    assert evidence(**row) == dict(sorted(kept.items()))


def test_of_a_text_that_was_cut_off_what_is_whole_is_kept_and_that_it_was_cut() -> None:
    said = {"key": "k", "inner": {"team": "acme", "more": {"long": "x" * 300}}, "user": "ann"}
    text = json.dumps(said)[:METADATA_LENGTH]
    found = evidence(metadata={"attributes.metadata": text})
    assert found == {
        "@cut": '["attributes.metadata", "attributes.metadata.inner",'
        ' "attributes.metadata.inner.more"]',
        "attributes.metadata.inner.team": "acme",
        "attributes.metadata.key": "k",
    }


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=12),
    lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), values, max_size=6), st.integers(0, 120))
def test_no_member_is_read_otherwise_than_it_was_written(said: Any, length: int) -> None:
    text = json.dumps(said)
    found, is_whole = _whole_values(text[: max(1, length)])
    for at, (key, value) in enumerate(found):
        cut_inner = at == len(found) - 1 and isinstance(said[key], dict) and isinstance(value, str)
        assert cut_inner or said[key] == value
    if length >= len(text):
        assert is_whole
        assert dict(found) == said


@given(st.dictionaries(st.text(max_size=130), values, max_size=80))
def test_it_is_bounded(metadata: Any) -> None:
    found = evidence_of(metadata)
    own = {path: text for path, text in found.items() if path[:1] != "@"}
    assert len(own) <= MOST_TEXTS
    assert sum(map(len, own.values())) <= MOST_CHARACTERS


def test_where_there_is_more_who_is_spoken_of_is_kept_first() -> None:
    metadata = {f"a{number:03}": "x" for number in range(100)} | {"z.team_id": "acme"}
    found = evidence(metadata=metadata)
    assert len(found) == MOST_TEXTS
    assert found["z.team_id"] == "acme"


def test_tags_are_read_as_they_were_given() -> None:
    tags = ["team:acme", 'with "quotes"', "ünïcode"]
    assert tags_of(evidence(tags=tags)) == tags
