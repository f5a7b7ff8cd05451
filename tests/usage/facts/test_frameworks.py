"""Frameworks recorded at work, with what Langfuse stores of their runs and what they were served:
no call has more or fewer tokens than it used, and a call without usage is told from none.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pricing.units import count_tokens
from usage.facts.unmetered import unmetered_calls
from usage.langfuse.wire import StepVersion, decode_page

RECORDED = json.loads(
    (Path(__file__).parent.parent.parent / "fixtures/usage/frameworks.json").read_text()
)
INPUT = ("input", "cached_input", "cache_write", "cache_write_1h", "input_audio", "input_image")
# One step for all calls of its agent, or calls that two tracers recorded; the list of what doesn't
# add up is for these.
NOT_CALL_BY_CALL = {"adk", "smolagents", "langchain-anthropic"}
UNMETERED = {"dspy": 2}


def steps_of(name: str) -> list[StepVersion]:
    rows = RECORDED[name]["observations"]
    page = decode_page(json.dumps({"data": rows, "meta": {}}).encode())
    assert not page.rejected
    return [one.step for one in page.observations]


def tokens_used(used: Mapping[str, int]) -> tuple[int, int]:
    of_input = sum(count for kind, count in used.items() if kind in INPUT)
    return of_input, sum(used.values()) - of_input


@pytest.mark.parametrize("name", [name for name, one in RECORDED.items() if one["used"]])
def test_each_call_has_the_tokens_that_it_used(name: str) -> None:
    counted = Counter(
        (tokens.input, tokens.output)
        for step in steps_of(name)
        if (tokens := count_tokens(step.usage_details)).total and step.type == "GENERATION"
    )
    used = Counter(map(tokens_used, RECORDED[name]["used"]))
    if name in NOT_CALL_BY_CALL:
        assert counted.keys() <= used.keys()
    elif counted:
        assert counted == used
    else:
        assert name in ("autogen", *UNMETERED), "nothing is said of its calls"


def test_the_cache_write_that_a_tracer_counts_twice_is_counted_once() -> None:
    for step in steps_of("langchain-anthropic"):
        if step.usage_details:
            assert count_tokens(step.usage_details).input == 1200
            assert count_tokens(step.usage_details).cache_write == 200


@pytest.mark.parametrize("name", RECORDED)
def test_calls_without_usage_are_told_from_what_is_no_call(name: str) -> None:
    traces: dict[str, list[Any]] = {}
    for row, step in zip(RECORDED[name]["observations"], steps_of(name), strict=True):
        traces.setdefault(row["traceId"], []).append(step)
    found = sum(len(unmetered_calls(steps)) for steps in traces.values())
    assert found == UNMETERED.get(name, 0)
