"""Which usage burns which grant, against the same rules written down the slow way."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credits.burn import Burned, GrantTerms, burn_down

DAY = timedelta(days=1)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
END = T0 + 100 * DAY


def at(day: float) -> datetime:
    return T0 + day * DAY


def grant(
    number: int,
    amount: int,
    start: float = 0,
    end: float | None = None,
    priority: int = 100,
    **more: int | None,
) -> GrantTerms:
    return GrantTerms(
        number, amount, priority, at(start), NEVER if end is None else at(end), **more
    )


def left(burned: Burned) -> dict[int, int]:
    return {number: state.left for number, state in burned.grants.items()}


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        ([grant(1, 10, priority=2), grant(2, 10, priority=1)], {1: 10, 2: 3}),
        ([grant(1, 10, end=50), grant(2, 10, end=40)], {1: 10, 2: 3}),
        ([grant(1, 10), grant(2, 10, end=40)], {1: 10, 2: 3}),
        ([grant(2, 10, start=1), grant(1, 10, start=0)], {1: 3, 2: 10}),
        ([grant(1, 10), grant(2, 10)], {1: 3, 2: 10}),
        ([grant(1, 5), grant(2, 10)], {1: 0, 2: 8}),
    ],
)
def test_the_order_is_priority_then_expiry_then_age(
    grants: Sequence[GrantTerms], expected: dict[int, int]
) -> None:
    assert left(burn_down(grants, [(at(10), 7)], END)) == expected


def test_usage_burns_what_was_in_force_at_its_own_time() -> None:
    grants = [grant(1, 10, end=5), grant(2, 10, start=5, end=10), grant(3, 10, start=10)]
    burned = burn_down(grants, [(at(4.9), 1), (at(5), 2), (at(20), 3)], END)
    assert left(burned) == {1: 9, 2: 8, 3: 7}
    assert [burned.grants[number].has_ended for number in (1, 2, 3)] == [True, True, False]


def test_what_no_grant_covers_is_debt_and_the_next_grant_pays_it() -> None:
    grants = [grant(1, 10, end=5), grant(2, 10, start=20), grant(3, 10, start=30)]
    assert burn_down(grants, [(at(1), 25)], at(10)).debt == 15
    burned = burn_down(grants, [(at(1), 25)], END)
    assert (left(burned), burned.debt) == ({1: 0, 2: 0, 3: 5}, 0)


def test_a_grant_that_has_not_begun_is_not_there() -> None:
    assert burn_down([grant(1, 10, start=50)], [(at(1), 5)], at(49.9)) == Burned(debt=5)


@pytest.mark.parametrize(("maximum", "carried"), [(0, 0), (4, 4), (None, 7), (100, 7)])
def test_an_occurrence_takes_over_what_is_left_up_to_its_limit(
    maximum: int | None, carried: int
) -> None:
    grants = [grant(1, 10, 0, 5), grant(2, 10, 5, 10, previous=1, rollover_maximum=maximum)]
    burned = burn_down(grants, [(at(1), 3)], at(6))
    assert burned.grants[2].carried == carried


events = st.lists(st.tuples(st.integers(0, 60).map(at), st.integers(0, 50)), max_size=12).map(
    sorted
)


@st.composite
def many_grants(draw: st.DrawFn) -> list[GrantTerms]:
    made = []
    for number in range(1, draw(st.integers(1, 6))):
        start = draw(st.integers(0, 40))
        end = draw(st.none() | st.integers(start + 1, 60))
        made.append(grant(number, draw(st.integers(1, 40)), start, end, draw(st.integers(1, 3))))
    return made


def slowly(
    grants: Sequence[GrantTerms], usage: Sequence[tuple[datetime, int]], until: datetime
) -> tuple[dict[int, int], int]:
    """One credit after another, one day after another."""
    remaining = {one.id: one.amount for one in grants}
    debt = 0
    day = T0
    while day <= until:
        for one in sorted((one for one in grants if one.starts_at == day), key=lambda one: one.id):
            while debt and remaining[one.id]:
                debt, remaining[one.id] = debt - 1, remaining[one.id] - 1
        for moment, amount in usage:
            for _ in range(amount if moment == day else 0):
                in_force = [
                    one
                    for one in grants
                    if one.starts_at <= day < one.ends_at and remaining[one.id]
                ]
                if in_force:
                    remaining[
                        min(
                            in_force,
                            key=lambda one: (one.priority, one.ends_at, one.starts_at, one.id),
                        ).id
                    ] -= 1
                else:
                    debt += 1
        day += DAY
    return {one.id: remaining[one.id] for one in grants if one.starts_at <= until}, debt


@given(many_grants(), events, st.integers(0, 70).map(at))
def test_it_is_the_same_as_burning_one_credit_after_another(
    grants: list[GrantTerms], usage: list[tuple[datetime, int]], until: datetime
) -> None:
    burned = burn_down(grants, usage, until)
    assert (left(burned), burned.debt) == slowly(grants, usage, until)


@given(many_grants(), events, st.randoms())
def test_it_does_not_depend_on_the_order_in_which_grants_became_known(
    grants: list[GrantTerms], usage: list[tuple[datetime, int]], random: object
) -> None:
    shuffled = list(grants)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert burn_down(shuffled, usage, END) == burn_down(grants, usage, END)
    assert sum(state.burned for state in burn_down(grants, usage, END).grants.values()) + burn_down(
        grants, usage, END
    ).debt == sum(amount for _, amount in usage)
