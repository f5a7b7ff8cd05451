"""The rules of what is missing, as tables."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from usage.desk.missing import (
    Gap,
    HoldFault,
    HoldState,
    always_calls,
    fault_of,
    gaps_in,
    hours_asked,
)

MONDAY = datetime(2026, 11, 9, tzinfo=UTC)
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)


@pytest.mark.parametrize(
    ("hold", "fault"),
    [
        (HoldState(False, None, False, None), None),
        (HoldState(False, D(4), False, None), None),
        (HoldState(True, None, False, None), HoldFault.NEVER_TRACED),
        (HoldState(True, D(4), False, None), HoldFault.NEVER_TRACED),
        (HoldState(True, D(0), False, None), HoldFault.NEVER_TRACED),
        (HoldState(True, None, True, None), HoldFault.NOT_CHARGED),
        (HoldState(True, D(4), True, None), HoldFault.NOT_CHARGED),
        (HoldState(True, None, True, D(4)), None),
        (HoldState(True, D(4), True, D(4)), None),
        (HoldState(True, D(4), True, D("4.000001")), HoldFault.OTHER_AMOUNT),
        (HoldState(True, D(0), True, D(4)), HoldFault.OTHER_AMOUNT),
        (HoldState(True, D(4), True, D(0)), HoldFault.OTHER_AMOUNT),
    ],
)
def test_of_a_hold(hold: HoldState, fault: HoldFault | None) -> None:
    assert fault_of(hold) is fault


@pytest.mark.parametrize(
    ("runs", "with_calls", "always"),
    [(0, 0, False), (19, 19, False), (20, 20, True), (20, 19, False), (200, 198, True)],
)
def test_of_a_flow(runs: int, with_calls: int, always: bool) -> None:
    assert always_calls(runs, with_calls) is always


def weekly(hour: datetime, *runs: int) -> dict[datetime, int]:
    """Runs in that hour of the weeks before, the nearest first."""
    return {hour - (number + 1) * WEEK: count for number, count in enumerate(runs) if count}


NINE, TEN, ELEVEN = (MONDAY + number * HOUR for number in (9, 10, 11))


@pytest.mark.parametrize(
    ("hours", "runs", "gaps"),
    [
        ([NINE], weekly(NINE, 4, 3, 2, 1), [Gap(NINE, TEN, D("2.5"))]),
        ([NINE], weekly(NINE, 4, 3, 0, 1), []),
        ([NINE], weekly(NINE, 4, 3, 2), []),
        ([NINE], weekly(NINE, 4, 3, 2, 1) | {NINE: 1}, []),
        (
            [NINE, TEN, ELEVEN],
            weekly(NINE, 1, 1, 1, 1) | weekly(TEN, 3, 3, 3, 3) | weekly(ELEVEN, 1, 1, 1, 1),
            [Gap(NINE, MONDAY + 12 * HOUR, D(5))],
        ),
        (
            [NINE, TEN, ELEVEN],
            weekly(NINE, 1, 1, 1, 1) | {TEN: 7} | weekly(ELEVEN, 2, 2, 2, 2),
            [Gap(NINE, TEN, D(1)), Gap(ELEVEN, MONDAY + 12 * HOUR, D(2))],
        ),
        ([NINE], weekly(TEN, 1, 1, 1, 1), []),
    ],
)
def test_of_hours(hours: list[datetime], runs: dict[datetime, int], gaps: list[Gap]) -> None:
    assert gaps_in(hours, runs) == gaps


def test_only_whole_hours_are_asked_about() -> None:
    assert hours_asked(NINE, ELEVEN) == [NINE, TEN]
    minutes = timedelta(minutes=20)
    assert hours_asked(NINE + minutes, ELEVEN + minutes) == [TEN]
    assert hours_asked(NINE + minutes, NINE + 2 * minutes) == []
    assert hours_asked(ELEVEN, NINE) == []
