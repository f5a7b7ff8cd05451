"""What doesn't add up, as tables: costs that are far apart, a cost of 0, steps that carry what the
steps inside them used; and which ruling holds.
"""

from decimal import Decimal as D
from itertools import permutations

import pytest

from tests.usage.facts.test_decide import received, trace_of
from usage.facts.findings import (
    Finding,
    Ruling,
    Rulings,
    Takes,
    finding_of,
    sums_of_children,
)
from usage.langfuse.wire import StepVersion

DOLLAR = 10**12


@pytest.mark.parametrize(
    ("langfuse", "ours", "tokens", "finding"),
    [
        (DOLLAR, DOLLAR, 10, Finding.NONE),
        (DOLLAR * 3 // 2, DOLLAR, 10, Finding.NONE),
        (DOLLAR * 3 // 2 + 1, DOLLAR, 10, Finding.COST),
        (DOLLAR, DOLLAR * 3 // 2 + 1, 10, Finding.COST),
        (DOLLAR, None, 10, Finding.NONE),
        (DOLLAR, 0, 10, Finding.COST),
        (3, 1, 10, Finding.NONE),
        (0, DOLLAR, 1_000, Finding.FREE),
        (0, None, 1_000, Finding.FREE),
        (0, DOLLAR, 999, Finding.NONE),
        (0, 0, 1_000, Finding.NONE),
        (148_789_000_000, 18_756_750_000, 117_456, Finding.COST),
    ],
)
def test_of_two_costs(langfuse: int, ours: int | None, tokens: int, finding: Finding) -> None:
    assert finding_of(langfuse, ours, tokens, 150) is finding


def step(name: str, parent: str = "", used: str = "", cost: str | None = None) -> StepVersion:
    """``used``: "in out", or that of OpenAI with cached tokens inside: "in cached out"."""
    details: dict[str, int] = {}
    match [int(count) for count in used.split()]:
        case [tokens_in, tokens_out]:
            details = {"input": tokens_in, "output": tokens_out}
        case [tokens_in, cached, tokens_out]:
            details = {
                "input": tokens_in - cached,
                "input_cached_tokens": cached,
                "output": tokens_out,
            }
    return received(
        name,
        parent_id=parent,
        is_root=not parent,
        usage_details=details,
        cost_usd=None if cost is None else D(cost),
    ).step


def sums(*steps: StepVersion) -> dict[str, str]:
    using = [one for one in steps if one.usage_details or one.cost_usd is not None]
    return dict(sums_of_children(steps, using))


CALLS = [step("a", "agent", "10 5"), step("b", "agent", "20 7")]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        ([step("agent", "", "30 12"), *CALLS], {"agent": "a"}),
        ([step("agent", "", "30 13"), *CALLS], {}),
        ([step("agent", "", "31 12"), *CALLS], {}),
        ([step("agent", "", "10 5"), *CALLS], {}),
        ([step("agent"), *CALLS], {}),
        ([step("agent", "", "14426 771"), step("a", "agent", "14426 771")], {"agent": "a"}),
        # What is between uses nothing itself.
        (
            [step("agent", "", "10 5"), step("chain", "agent"), step("a", "chain", "10 5")],
            {"agent": "a"},
        ),
        # Each carries what the one inside it used: only the innermost is counted.
        (
            [
                step("agent", "", "10 5"),
                step("inner", "agent", "10 5"),
                step("a", "inner", "10 5"),
            ],
            {"agent": "inner", "inner": "a"},
        ),
        # Cached tokens apart or not: the same in the canonical form.
        ([step("agent", "", "10 5"), step("a", "agent", "10 4 5")], {"agent": "a"}),
        # Beside one another, equal calls did happen: retries, loops, n=2.
        ([step("root"), step("a", "root", "10 5"), step("b", "root", "10 5")], {}),
        ([step("a", "", "10 5")], {}),
        # No tokens: Langfuse's cost.
        (
            [
                step("agent", "", "", "0.3"),
                step("a", "agent", "9 9", "0.1"),
                step("b", "agent", "9 9", "0.2"),
            ],
            {"agent": "a"},
        ),
        (
            [
                step("agent", "", "", "0.3"),
                step("a", "agent", "9 9", "0.1"),
                step("b", "agent", "9 9", None),
            ],
            {},
        ),
        ([step("agent", "", "", "0"), step("a", "agent", "9 9", "0")], {}),
        # A circle of parents is nobody's sum.
        ([step("a", "b", "1 1"), step("b", "a", "1 1")], {}),
        ([step("a", "b", "1 1"), step("b", "c", "1 1"), step("c", "a", "1 1")], {}),
        ([step("a", "b", "1 1"), step("b", "c"), step("c", "b"), step("d", "c", "1 1")], {}),
        # What says nothing is none of those that it repeats.
        (
            [step("agent", "", "10 5"), step("a", "agent", "0 0"), step("b", "agent", "10 5")],
            {"agent": "b"},
        ),
    ],
)
def test_of_steps_inside_one_another(steps: list[StepVersion], found: dict[str, str]) -> None:
    for order in list(permutations(steps))[:24]:
        assert sums(*order) == found


def test_a_call_is_counted_once_whatever_carries_it() -> None:
    agent = received(
        "agent", is_root=True, usage_details={"input": 30, "output": 12}, cost_usd=D("0.4")
    )
    calls = [
        received(
            name,
            parent_id="agent",
            cost_usd=D(cost),
            usage_details={"input": tokens_in, "output": tokens_out},
        )
        for name, tokens_in, tokens_out, cost in (("a", 10, 5, "0.1"), ("b", 20, 7, "0.3"))
    ]
    trace, billed = trace_of(agent, *calls)
    assert (trace.tokens.input, trace.tokens.output, trace.cost_picousd) == (
        30,
        12,
        400_000_000_000,
    )
    assert (trace.observations, trace.priced_observations) == (3, 2)
    (carrier,) = [one for one in billed if one.counted_in]
    assert (carrier.version.observation_id, carrier.counted_in) == ("agent", "a")
    assert (carrier.finding, carrier.cost_picousd, carrier.other_cost_picousd) == (
        Finding.SUM,
        None,
        400_000_000_000,
    )
    without = trace_of(agent, calls[0])[0]
    assert without.cost_picousd == 500_000_000_000, "10 and 5 are not the sum"


def test_what_carries_a_sum_of_a_sum_is_counted_in_what_is_counted_itself() -> None:
    steps = [
        received(name, parent_id=parent, is_root=not parent, usage_details={"input": 9})
        for name, parent in (("agent", ""), ("inner", "agent"), ("call", "inner"))
    ]
    trace, billed = trace_of(*steps)
    assert trace.tokens.input == 9
    assert {one.version.observation_id: one.counted_in for one in billed} == {
        "call": "",
        "inner": "call",
        "agent": "call",
    }


@pytest.mark.parametrize(
    ("rulings", "takes"),
    [
        ([], Takes.AS_USUAL),
        ([Ruling(1, "cost", "price_book")], Takes.PRICE_BOOK),
        ([Ruling(1, "free", "price_book")], Takes.AS_USUAL),
        ([Ruling(1, "cost", "price_book", "m")], Takes.PRICE_BOOK),
        ([Ruling(1, "cost", "price_book", "other")], Takes.AS_USUAL),
        ([Ruling(1, "cost", "price_book", "")], Takes.AS_USUAL),
        ([Ruling(1, "cost", "langfuse", "m"), Ruling(2, "cost", "price_book")], Takes.LANGFUSE),
        ([Ruling(1, "cost", "price_book"), Ruling(2, "cost", "langfuse")], Takes.LANGFUSE),
        (
            [Ruling(1, "cost", "price_book", None, ("k", "s")), Ruling(2, "cost", "langfuse", "m")],
            Takes.PRICE_BOOK,
        ),
        ([Ruling(1, "cost", "price_book", None, ("other", "s"))], Takes.AS_USUAL),
    ],
)
def test_which_ruling_holds(rulings: list[Ruling], takes: Takes) -> None:
    for order in permutations(rulings):
        assert Rulings(order).takes(Finding.COST, "m", ("k", "s")) is takes
