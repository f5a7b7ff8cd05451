"""What Langfuse says of a trace, as one text."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.engine import PricingEngine
from tests.conftest import NOON
from tests.usage.facts.test_decide import BOOK, DIRECTORY, KEY, received
from usage.facts.decide import assemble
from usage.facts.received import (
    in_precedence,
    is_newer,
    newest_by_trace,
    packed,
    packed_deletions,
    unpacked,
)
from usage.langfuse.wire import ReceivedObservation, TraceAttributes

moments = st.integers(-(10**13), 10**13).map(
    lambda microseconds: NOON + timedelta(microseconds=microseconds)
)
# Quotes, backslashes, control characters and what is not ASCII among them.
texts = st.text(max_size=8).map(lambda text: text.replace("\x00", "")) | st.sampled_from(
    ["", 'say "x"', "a\\b", "tab\there", "Zürich", "\\N"]
)
observations = st.builds(
    lambda step_id, said, **fields: ReceivedObservation(
        "t1", TraceAttributes(*said), received(step_id, **fields).step
    ),
    st.sampled_from("abcdef"),
    st.tuples(*[st.sampled_from(["", "x", "y"])] * 5),
    name=texts,
    model=texts,
    is_root=st.booleans(),
    level=st.sampled_from(["DEFAULT", "ERROR"]),
    start_time=moments,
    end_time=st.none() | moments,
    received_at=st.sampled_from([NOON, NOON + timedelta(microseconds=1)]),
    usage_details=st.dictionaries(texts, st.integers(0, 10**9), max_size=3),
    cost_usd=st.none() | st.decimals(min_value=0, max_value=10_000, places=12),
)


NOTHING = TraceAttributes()


def text_of(ordered: list[ReceivedObservation], decided: TraceAttributes = NOTHING) -> str:
    return packed([one.step for one in ordered], [one.trace_attributes for one in ordered], decided)


@given(
    st.lists(observations, min_size=1, max_size=8),
    st.dictionaries(st.sampled_from("abcdef"), moments),
)
def test_what_is_packed_comes_back_as_it_was(
    versions: list[ReceivedObservation], deleted: dict[str, datetime]
) -> None:
    steps = newest_by_trace(versions)["t1"]
    ordered = in_precedence([*steps.values()])
    for decided in (ordered[0].trace_attributes, TraceAttributes("of", "no", "step")):
        back = unpacked("t1", decided, text_of(ordered, decided), packed_deletions(deleted))
        assert (back.observations, back.deleted) == (steps, deleted)


@given(st.lists(observations, min_size=1, max_size=8), st.randoms())
def test_the_same_steps_are_the_same_text_in_whatever_order_they_came(
    versions: list[ReceivedObservation], chance: Any
) -> None:
    engine = PricingEngine(BOOK)

    def text(history: list[ReceivedObservation]) -> str:
        return assemble(
            1, KEY, [*newest_by_trace(history)["t1"].values()], DIRECTORY, engine
        ).received

    shuffled = [*versions]
    chance.shuffle(shuffled)
    assert text(versions) == text(shuffled) == text(versions + shuffled)


def test_the_same_usage_in_another_order_is_the_same_text() -> None:
    usages = [{"input": 1, "output": 2}, {"output": 2, "input": 1}]
    assert len({text_of([received(usage_details=usage)]) for usage in usages}) == 1


@given(observations, observations)
def test_of_two_versions_that_differ_exactly_one_is_newer(
    one: ReceivedObservation, other: ReceivedObservation
) -> None:
    assert [is_newer(one, other), is_newer(other, one)].count(True) == (0 if one == other else 1)


def test_what_a_step_says_as_the_trace_was_decided_is_not_said_again() -> None:
    said = {"user_reference": "someone", "flow_id": "flow-of-ours", "trace_name": "Run"}
    _, _, text = assemble(
        1, KEY, [received("a", **said), received("b", **said)], DIRECTORY, PricingEngine(BOOK)
    )
    assert "flow-of-ours" not in text
    _, _, text = assemble(
        1, KEY, [received("a", is_root=True, **said), received("b")], DIRECTORY, PricingEngine(BOOK)
    )
    assert text.startswith("[[null,")
    assert '[["","","","","",""],' in text


@pytest.mark.parametrize("cost", ["0.000000000001", "9999.999999999999", "0"])
def test_costs_keep_every_place(cost: str) -> None:
    back = unpacked("t1", TraceAttributes(), text_of([received("a", cost_usd=Decimal(cost))]), "")
    assert back.observations["a"].step.cost_usd == Decimal(cost)
