"""Windows: leased by one worker at a time, taken over when a lease runs out."""

from datetime import datetime, timedelta

import pytest

from tests.conftest import NOON
from usage.models import LangfuseConnection, SyncWindow
from usage.sync import windows
from usage.sync.windows import LeaseLost, Span

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture
def opened(bare_connection: LangfuseConnection) -> list[SyncWindow]:
    windows.open_windows(bare_connection, Span(NOON, NOON + 4 * HOUR))
    return list(SyncWindow.objects.order_by("-start"))


def read_at(read: list[SyncWindow], moment: datetime) -> dict[int, datetime]:
    return {window.pk: moment for window in read}


def test_a_span_is_the_whole_hours_that_it_touches() -> None:
    assert Span.around(NOON, NOON + HOUR) == Span(NOON, NOON + HOUR)
    assert Span.around(NOON + timedelta(minutes=5), NOON + timedelta(minutes=61)) == Span(NOON, NOON + 2 * HOUR)


def test_opening_twice_opens_once(bare_connection: LangfuseConnection, opened: list[SyncWindow]) -> None:
    windows.open_windows(bare_connection, Span(NOON, NOON + 4 * HOUR))
    assert SyncWindow.objects.count() == 4


def test_two_workers_never_have_the_same_window(opened: list[SyncWindow]) -> None:
    assert windows.lease(opened[:2], "first", NOON)
    assert not windows.lease(opened[1:3], "second", NOON)
    assert set(SyncWindow.objects.filter(state="leased").values_list("leased_by", flat=True)) == {"first"}
    assert windows.lease(opened[2:], "second", NOON)


def test_a_dead_workers_windows_are_taken_over(opened: list[SyncWindow]) -> None:
    assert windows.lease(opened, "dead", NOON)
    later = NOON + windows.lease_time() + timedelta(seconds=1)
    assert windows.lease(opened, "alive", later)
    with pytest.raises(LeaseLost):
        windows.renew(opened, "dead", later)
    with pytest.raises(LeaseLost):
        windows.complete(opened[:1], "dead", read_at(opened, later), {})


def test_what_was_read_while_its_hour_ran_is_due_again(bare_connection: LangfuseConnection, opened: list[SyncWindow]) -> None:
    span, never = Span(NOON, NOON + 4 * HOUR), NOON + 100 * HOUR
    assert windows.due(bare_connection, span, never) == opened
    windows.lease(opened, "w", NOON)
    moment = NOON + 3 * HOUR + timedelta(minutes=20)
    windows.complete(opened, "w", read_at(opened, moment), {})
    assert windows.due(bare_connection, span, never) == opened[:1]
    assert windows.due(bare_connection, span, NOON + 2 * HOUR) == opened[:2]
    assert windows.complete_through(bare_connection) == moment - windows.SETTLING


def test_neighbours_are_walked_together(opened: list[SyncWindow]) -> None:
    assert windows.runs(opened, 24) == [opened]
    assert windows.runs(opened, 3) == [opened[:3], opened[3:]]
    assert windows.runs([opened[0], opened[2], opened[3]], 24) == [[opened[0]], opened[2:]]


def test_the_fewer_are_left_the_shorter_the_runs() -> None:
    hours = [SyncWindow(start=NOON - number * HOUR, end=NOON - (number - 1) * HOUR) for number in range(400)]
    runs = windows.runs(hours, 24)
    sizes = [len(run) for run in runs]
    assert [window for run in runs for window in run] == hours
    assert sizes[:3] == [24, 24, 24]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-3] == 6


def test_completeness_ends_at_the_first_gap(bare_connection: LangfuseConnection, opened: list[SyncWindow]) -> None:
    assert windows.complete_through(bare_connection) is None
    windows.lease(opened, "w", NOON)
    windows.complete([opened[3], opened[1]], "w", read_at(opened, NOON + 10 * HOUR), {})
    assert windows.complete_through(bare_connection) == NOON + HOUR
    windows.give_back([opened[2], opened[0]], "w", "no answer")
    assert set(SyncWindow.objects.filter(state="pending").values_list("error", flat=True)) == {"no answer"}
