"""Windows: leased by one worker at a time, taken over when a lease runs out."""

from collections import deque
from datetime import datetime, timedelta

import pytest

from tests.conftest import NOON
from usage.models import LangfuseConnection, SyncWindow
from usage.sync import windows
from usage.sync.windows import Span

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
    assert Span.around(NOON + timedelta(minutes=5), NOON + timedelta(minutes=61)) == Span(
        NOON, NOON + 2 * HOUR
    )


def test_opening_twice_opens_once(
    bare_connection: LangfuseConnection, opened: list[SyncWindow]
) -> None:
    windows.open_windows(bare_connection, Span(NOON, NOON + 4 * HOUR))
    assert SyncWindow.objects.count() == 4


def lease(asked: list[SyncWindow], worker: str, now: datetime = NOON) -> list[SyncWindow]:
    return list(windows.lease(asked, worker, now, found_due_at=NOON).windows)


def test_two_workers_never_have_the_same_window(opened: list[SyncWindow]) -> None:
    assert lease(opened[:2], "first") == opened[:2]
    second = windows.lease(opened, "second", NOON, found_due_at=NOON)
    assert (second.windows, second.elsewhere) == (opened[2:], 2)
    assert dict(SyncWindow.objects.values_list("start", "leased_by")) == dict(
        zip(
            [window.start for window in opened], ["first", "first", "second", "second"], strict=True
        )
    )


def test_what_another_worker_has_read_meanwhile_is_not_read_again(opened: list[SyncWindow]) -> None:
    lease(opened[:2], "first")
    windows.complete(opened[:2], {opened[0].pk: NOON - HOUR, opened[1].pk: NOON + HOUR}, {})
    second = windows.lease(opened[:3], "second", NOON + HOUR, found_due_at=NOON)
    assert (second.windows, second.elsewhere) == ([opened[0], opened[2]], 0)


def test_what_was_found_to_have_drifted_is_read_however_lately_it_was(
    opened: list[SyncWindow],
) -> None:
    lease(opened, "first")
    windows.complete(opened, read_at(opened, NOON + HOUR), {})
    SyncWindow.objects.filter(pk=opened[1].pk).update(state=SyncWindow.State.PENDING)
    assert lease(opened, "second", NOON + 2 * HOUR) == opened[1:2]


def test_a_dead_workers_windows_are_taken_over(opened: list[SyncWindow]) -> None:
    assert lease(opened, "dead") == opened
    later = NOON + windows.lease_time() + timedelta(seconds=1)
    assert lease(opened, "alive", later) == opened
    assert windows.held(opened, "dead") == []
    assert windows.held(opened, "alive") == opened


def test_what_was_read_while_its_hour_ran_is_due_again(
    bare_connection: LangfuseConnection, opened: list[SyncWindow]
) -> None:
    span, never = Span(NOON, NOON + 4 * HOUR), NOON + 100 * HOUR
    assert windows.due(bare_connection, span, never) == opened
    lease(opened, "w")
    moment = NOON + 3 * HOUR + timedelta(minutes=20)
    windows.complete(opened, read_at(opened, moment), {})
    assert windows.due(bare_connection, span, never) == opened[:1]
    assert windows.due(bare_connection, span, NOON + 2 * HOUR) == opened[:2]
    assert windows.complete_through(bare_connection) == moment - windows.SETTLING


def runs(due: list[SyncWindow], longest: int) -> list[list[SyncWindow]]:
    left, taken = deque(due), []
    while left:
        taken.append(windows.take_run(left, longest))
    return taken


def test_neighbours_are_walked_together(opened: list[SyncWindow]) -> None:
    with_a_gap = [opened[0], opened[2], opened[3]]
    assert runs(opened, 24) == [opened]
    assert runs(opened, 3) == [opened[:3], opened[3:]]
    assert runs(with_a_gap, 24) == windows.neighbours(with_a_gap) == [[opened[0]], opened[2:]]
    opened[1].complete_through = opened[1].end
    assert runs(opened, 24) == windows.neighbours(opened) == [opened[:1], opened[1:2], opened[2:]]


def test_the_fewer_are_left_the_shorter_the_runs() -> None:
    hours = [
        SyncWindow(start=NOON - number * HOUR, end=NOON - (number - 1) * HOUR)
        for number in range(400)
    ]
    taken = runs(hours, 24)
    sizes = [len(run) for run in taken]
    assert [window for run in taken for window in run] == hours
    # From noon to the beginning of the day, and then whole days while they are few enough of what
    # is left.
    assert sizes[:4] == [13, 24, 24, 24]
    assert sizes[1:] == sorted(sizes[1:], reverse=True)
    assert sizes[-3] == 6


def test_runs_end_with_days() -> None:
    hours = [
        SyncWindow(start=NOON - number * HOUR, end=NOON - (number - 1) * HOUR)
        for number in range(2000)
    ]
    assert [len(run) for run in runs(hours, 24)[:2]] == [13, 24]
    assert [len(run) for run in runs(hours, 100)[:2]] == [13 + 3 * 24, 4 * 24]


def test_completeness_ends_at_the_first_gap(
    bare_connection: LangfuseConnection, opened: list[SyncWindow]
) -> None:
    assert windows.complete_through(bare_connection) is None
    lease(opened, "w")
    windows.complete([opened[3], opened[1]], read_at(opened, NOON + 10 * HOUR), {})
    assert windows.complete_through(bare_connection) == NOON + HOUR
    windows.give_back([opened[2], opened[0]], "w", "no answer")
    assert set(SyncWindow.objects.filter(state="pending").values_list("error", flat=True)) == {
        "no answer"
    }
