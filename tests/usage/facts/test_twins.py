"""Which records are of one call, as a table: twins are found, calls that did happen stay."""

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal as D
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.model_names import understand
from tests.conftest import NOON
from tests.usage.facts.test_decide import received, trace_of
from usage.demo.traffic import Request, read_requests
from usage.facts.findings import Finding
from usage.facts.pairing import clash
from usage.facts.twins import Call, across, counted_once
from usage.langfuse.wire import StepVersion

LITELLM_ID = "chatcmpl-e8c5ad1e-233a-45fc-9e2e-12ffa266b43d"


def call(
    name: str, source: str, at: str = "0-100", used: str = "10 5", **fields: Any
) -> StepVersion:
    """``at``: from when until when, in milliseconds; ``used``: "in out" or "in cached out"."""
    start, end = (NOON + timedelta(milliseconds=int(one)) for one in at.split("-"))
    counts = [int(one) for one in used.split()]
    details = {"input": counts[0], "output": counts[-1]}
    if len(counts) == 3:
        details |= {"input": counts[0] - counts[1], "input_cached_tokens": counts[1]}
    values = {
        "type": "GENERATION",
        "model": "gpt-4o",
        "start_time": start,
        "end_time": end,
        "source": source,
        "usage_details": details,
        **fields,
    }
    return received(name, is_root="parent_id" not in fields, **values).step


def twins(*steps: StepVersion, deleted: Sequence[str] = ()) -> dict[str, str]:
    return dict(counted_once(steps, steps, lambda one: understand(one.model), (), deleted).twice)


OUTER = call("sdk", "langchain", "0-100")


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        # What is counted says more, else came first, else has the smaller id.
        ([OUTER, call("gw", "litellm", "10-90")], {"gw": "sdk"}),
        ([OUTER, call("gw", "litellm", "10-90", "10 4 5")], {"sdk": "gw"}),
        ([OUTER, call("gw", "litellm", "10-90", cost_usd=D("0.1"))], {"sdk": "gw"}),
        ([OUTER, call("gw", "litellm", "10-90", model="gpt-4o-2024-08-06")], {"sdk": "gw"}),
        ([OUTER, call("gw", "litellm", "0-100")], {"sdk": "gw"}),
        ([OUTER, call("gw", "litellm", "0-100", model="azure/gpt-4o")], {"sdk": "gw"}),
        # One sign is missing, so it is not certain.
        ([OUTER, call("gw", "litellm", "10-110")], {}),
        ([OUTER, call("gw", "litellm", "100-110")], {}),
        ([OUTER, call("gw", "litellm", "10-90", model="gpt-4o-mini")], {}),
        ([OUTER, call("gw", "litellm", "10-90", model="")], {}),
        ([OUTER, call("gw", "litellm", "10-90", "11 5")], {}),
        ([OUTER, call("gw", "litellm", "10-90", "10 6")], {}),
        ([OUTER, call("gw", "langchain", "10-90")], {}),
        (
            [
                call("a", "x", model="gpt-4o-2024-05-13"),
                call("b", "y", model="gpt-4o-2024-08-06"),
            ],
            {},
        ),
        ([call("a", "x", used="10 4 5"), call("b", "y", used="10 3 5")], {}),
        # The same response, whatever else it says.
        (
            [call("a", "x", response_id="r1"), call("b", "x", "200-300", response_id="r1")],
            {"b": "a"},
        ),
        (
            [call("a", "x", response_id="r1"), call("b", "y", used="2 5", response_id="r1")],
            {"b": "a"},
        ),
        ([call("a", "x", response_id="r1"), call("b", "y", response_id="r2")], {}),
        ([call("a", "x", response_id="r1"), call("b", "y")], {"b": "a"}),
        # Of the gateway's own id nobody knows whose response it is.
        (
            [call("a", "x", response_id="msg_1"), call("b", "y", response_id=LITELLM_ID)],
            {"b": "a"},
        ),
        # The gateway says the provider's own answer in a step inside.
        (
            [
                call("a", "x", "0-9", response_id="msg_1"),
                call("b", "y", "20-30", response_id=LITELLM_ID),
                call(
                    *("raw", "y", "20-30"),
                    parent_id="b",
                    response_id="msg_1",
                    usage_details={},
                    type="SPAN",
                ),
            ],
            {"b": "a"},
        ),
        # Three integrations, one call.
        (
            [OUTER, call("http", "openai", "5-95"), call("gw", "litellm", "10-90")],
            {"http": "sdk", "gw": "sdk"},
        ),
        # Two calls at once that two recorded are two pairs, the nearest ones.
        (
            [
                call("a1", "x", "0-100"),
                call("a2", "x", "1-60"),
                call("b1", "y", "2-99"),
                call("b2", "y", "3-59"),
            ],
            {"b1": "a1", "b2": "a2"},
        ),
        # As many pairs as there can be: the nearest of b1 is all that b2 can have.
        (
            [
                call("a1", "x", "0-100"),
                call("a2", "x", "10-50"),
                call("b1", "y", "20-49"),
                call("b2", "y", "11-50"),
                call("b3", "y", "1-99"),
            ],
            {"b2": "a2", "b3": "a1"},
        ),
        # A retry that the gateway didn't see.
        (
            [call("a1", "x", "0-10"), call("a2", "x", "20-40"), call("b", "y", "21-39")],
            {"b": "a2"},
        ),
        # Loops: each its own.
        (
            [
                *(call(f"a{at}", "x", f"{at}0-{at}9") for at in range(1, 4)),
                *(call(f"b{at}", "y", f"{at}2-{at}8") for at in range(1, 4)),
            ],
            {"b1": "a1", "b2": "a2", "b3": "a3"},
        ),
    ],
)
def test_records_of_one_call(steps: list[StepVersion], found: dict[str, str]) -> None:
    for order in list(permutations(steps))[:24]:
        assert twins(*order) == found


def test_what_is_deleted_gives_way() -> None:
    steps = OUTER, call("gw", "litellm", "10-90")
    assert twins(*steps, deleted=["sdk"]) == {"sdk": "gw"}


def test_an_agent_that_carries_its_calls_sum_is_found_whichever_record_is_counted() -> None:
    agent = call("agent", "x", "0-500", "20 10", type="AGENT", model="")
    calls = [
        call("a1", "x", "0-100", parent_id="agent"),
        call("b1", "y", "1-99", "10 4 5", parent_id="agent"),
        call("a2", "x", "200-300", parent_id="agent"),
        call("b2", "y", "201-299", parent_id="a2"),
    ]
    for order in permutations([agent, *calls]):
        once = counted_once(order, order, lambda one: understand(one.model))
        assert (once.twice, once.sums) == ({"a1": "b1", "b2": "a2"}, {"agent": "a1"}), order


def test_a_wrapper_of_one_call_is_its_sum_though_the_twin_lies_beside_it() -> None:
    steps = [
        call("wrapper", "x", "0-100"),
        call("inner", "x", "10-90", parent_id="wrapper"),
        call("gw", "y", "11-89", parent_id="wrapper"),
    ]
    once = counted_once(steps, steps, lambda one: understand(one.model))
    counted = {one.observation_id for one in steps} - once.twice.keys() - once.sums.keys()
    assert len(counted) == 1


@pytest.mark.parametrize("ids", [4, 9])
def test_an_id_that_comes_with_many_usages_names_no_call(ids: int) -> None:
    steps = [
        call(f"a{at}", "x", f"{at}0-{at}9", f"{10 + at} 5", response_id="same") for at in range(ids)
    ]
    assert twins(*steps) == {}


def test_ids_that_differ_are_of_two_calls() -> None:
    assert clash({"chatcmpl-1"}, {"chatcmpl-2"})
    assert not clash({"chatcmpl-1", "x"}, {"x"})
    assert not clash(set(), {"x"})
    assert not clash({LITELLM_ID}, {"msg_1"})
    assert clash({LITELLM_ID}, {LITELLM_ID.replace("e8", "e9")})


def test_what_is_counted_gets_what_it_lacks() -> None:
    sdk = received("sdk", **_fields(OUTER), is_root=True)
    gateway = received(
        "gw",
        **_fields(call("gw", "litellm", "10-90", "10 4 5", model="gpt-4o-2024-08-06")),
        cost_usd=D("0.5"),
    )
    trace, billed = trace_of(sdk, gateway)
    counted, other = billed
    assert (trace.tokens.input, trace.tokens.output, trace.tokens.cached) == (10, 5, 4)
    assert trace.cost_picousd == 500_000_000_000
    assert (counted.version.observation_id, counted.version.model) == ("gw", "gpt-4o-2024-08-06")
    assert (other.finding, other.counted_in, other.cost_picousd) == (Finding.TWICE, "gw", None)
    assert trace.priced_observations == 1


def _fields(step: StepVersion) -> dict[str, Any]:
    names = ("type", "model", "start_time", "end_time", "source", "usage_details")
    return {name: getattr(step, name) for name in names}


def test_across_traces_an_owners_record_is_counted_with_what_the_other_says() -> None:
    sdk = call("sdk", "langchain", response_id="r1")
    gateway = call("gw", "litellm", "500-600", "10 4 5", response_id="r1", cost_usd=D("0.5"))
    calls = [
        Call("t1", None, sdk, frozenset({"r1"}), 0, understand("gpt-4o")),
        Call("t2", None, gateway, frozenset({"r1"}), 2, understand("gpt-4o")),
    ]
    for order in permutations(calls):
        found = across(order, frozenset({"r1"}))
        assert found.counted_in == {("t2", "gw"): ("t1", "sdk")}
        counted = found.instead["t1", "sdk"]
        assert (counted.usage_details, counted.cost_usd) == (gateway.usage_details, D("0.5"))
        assert counted.observation_id == "sdk"


sources = st.sampled_from(["x", "y", "z"])
starts = st.integers(0, 30)


@st.composite
def happened(draw: st.DrawFn) -> tuple[list[StepVersion], int]:
    """Calls one after the other, each recorded by one or more integrations, and how many there
    were.
    """
    steps, at = [], 0
    count = draw(st.integers(1, 6))
    for number in range(count):
        at += draw(st.integers(0, 20))
        length = draw(st.integers(10, 30))
        used = draw(st.sampled_from(["10 5", "12 1"]))
        for depth, source in enumerate(sorted(draw(st.sets(sources, min_size=1)))):
            steps.append(
                call(f"{source}{number}", source, f"{at + depth}-{at + length - depth}", used)
            )
        at += length + 1
    return draw(st.permutations(steps)), count


@given(happened())
def test_calls_that_happened_are_all_counted_and_each_once(made: tuple[Any, int]) -> None:
    steps, count = made
    found = twins(*steps)
    assert len(steps) - len(found) == count
    assert all(one[1:] == other[1:] for one, other in found.items())


@given(st.lists(st.tuples(starts, st.integers(0, 30)), min_size=1, max_size=12))
def test_of_one_integration_without_ids_nothing_is_a_twin(spans: list[tuple[int, int]]) -> None:
    steps = [
        call(f"a{at}", "x", f"{start}-{start + length}") for at, (start, length) in enumerate(spans)
    ]
    assert twins(*steps) == {}


@given(st.lists(st.tuples(sources, starts, st.integers(0, 30)), min_size=1, max_size=9), st.data())
def test_the_order_of_the_records_changes_nothing(
    spans: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    steps = [
        call(f"a{at}", source, f"{start}-{start + length}")
        for at, (source, start, length) in enumerate(spans)
    ]
    found = twins(*steps)
    assert twins(*data.draw(st.permutations(steps))) == found
    by_source = [sum(one[0] == source for one in spans) for source in "xyz"]
    assert len(steps) - len(found) >= max(by_source), "each integration's calls did happen"


def test_of_many_calls_at_once_each_is_found() -> None:
    """Fifty parallel agents with one prompt, behind a gateway."""
    steps = [
        one
        for at in range(50)
        for one in (
            call(f"a{at:02}", "x", f"{at % 7}-{1000 + at}"),
            call(f"b{at:02}", "y", f"{10 + at % 11}-{900 - at % 13}"),
        )
    ]
    assert len(twins(*steps)) == 50


def azure(source: str, requests: Sequence[Request], inside: int = 0, **said: Any) -> list[Any]:
    """Real requests as calls of one model, each under way for 20 ms a token that it answered."""
    steps = []
    for one in requests:
        start = NOON + timedelta(hours=one.place, milliseconds=inside)
        length = timedelta(milliseconds=1_000 + 20 * one.output_tokens - 2 * inside)
        steps.append(
            received(
                f"{source}{one.service}{one.row}",
                type="GENERATION",
                model="gpt-4o",
                source=source,
                start_time=start,
                end_time=start + length,
                usage_details={"input": one.input_tokens, "output": one.output_tokens},
                **{name: f"{value}{one.service}{one.row}" for name, value in said.items()},
            ).step
        )
    return steps


def test_of_real_traffic_with_many_equal_calls_none_is_lost_and_none_is_counted_twice() -> None:
    requests = read_requests()[:6_000]
    usages = {(one.input_tokens, one.output_tokens) for one in requests}
    assert len(requests) - len(usages) > 500, "equal ones are plenty"
    assert twins(*azure("x", requests)) == {}
    half = len(requests) // 2
    two = azure("x", requests[:half], response_id="r"), azure("y", requests[half:], response_id="r")
    assert twins(*two[0], *two[1]) == {}, "each has an id of its own"
    assert len(twins(*azure("x", requests), *azure("y", requests, inside=3))) == len(requests)
