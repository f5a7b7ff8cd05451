"""Building days beside a sync that goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Event
from time import monotonic, sleep
from typing import Any

import pytest
from django.db import OperationalError, connection

from tests.conftest import NOON, People
from usage.books import verify_books
from usage.models import LangfuseConnection, StalePeriod, SyncWindow, TenantUsageStats
from usage.periods import Granularity
from usage.rollups import build
from usage.rollups.build import build_rollups
from usage.sync import day_builder, windows
from usage.sync.day_builder import DayBuilder
from usage.sync.windows import Span

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time"),
]
TODAY = NOON.replace(hour=0)
YESTERDAY = TODAY - timedelta(days=1)
LATER = TODAY + timedelta(days=60)
HOURS = [YESTERDAY + timedelta(hours=number) for number in range(48)]


@pytest.fixture
def source() -> LangfuseConnection:
    """A connection of which all hours are read."""
    connection = LangfuseConnection.objects.create(name="beside", host="https://langfuse.example")
    windows.open_windows(connection, Span(HOURS[0], HOURS[-1] + timedelta(hours=1)))
    SyncWindow.objects.update(state=SyncWindow.State.DONE)
    return connection


@pytest.fixture(autouse=True)
def _two_days_used_long_ago(
    people: People, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_builder.timezone, "now", lambda: LATER)
    for number in range(2):
        use(people.acme_user, start=NOON - timedelta(days=number))


def days_built() -> set[datetime]:
    days = TenantUsageStats.objects.filter(granularity=Granularity.DAY)
    return set(days.values_list("period_start", flat=True))


def test_a_day_is_built_once_it_and_the_day_before_are_read(source: LangfuseConnection) -> None:
    with DayBuilder(source, HOURS) as days:
        days.read(HOURS[24:])
    assert days.built == days_built() == set()
    with DayBuilder(source, HOURS) as days:
        days.read(HOURS[24:])
        days.read(HOURS[1:24])
        days.read(HOURS[:1])
    assert days.built == days_built() == {YESTERDAY, TODAY}
    assert build_rollups(LATER, days.built) == 2
    assert not StalePeriod.objects.exists()
    assert verify_books() == []


def test_of_two_workers_that_read_parts_of_a_day_the_last_one_builds_it(
    source: LangfuseConnection,
) -> None:
    last = SyncWindow.objects.filter(start=HOURS[30])
    last.update(state=SyncWindow.State.LEASED)
    with DayBuilder(source, HOURS) as first:
        first.read(HOURS)
    assert first.built == days_built() == {YESTERDAY}
    last.update(state=SyncWindow.State.DONE)
    with DayBuilder(source, HOURS) as second:
        second.read(HOURS)
    assert second.built == {TODAY}
    assert days_built() == {YESTERDAY, TODAY}


def test_a_day_that_is_not_over_is_left_for_the_end(
    source: LangfuseConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(day_builder.timezone, "now", lambda: NOON)
    with DayBuilder(source, HOURS) as days:
        days.read(HOURS)
    assert days.built == {YESTERDAY}


def test_a_day_that_could_not_be_built_is_built_at_the_end(
    source: LangfuseConnection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bool:
        raise OperationalError("canceling statement due to lock timeout")

    monkeypatch.setattr(day_builder, "build_days", fail)
    with DayBuilder(source, HOURS) as days:
        days.read(HOURS)
    assert "could not be built beside the sync" in caplog.text
    assert build_rollups(LATER, days.built) == 2
    assert verify_books() == []


def test_nothing_is_built_any_more_when_the_sync_fails(
    source: LangfuseConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, is_ending = Event(), Event()

    def build_days(days: list[datetime], now: datetime) -> list[datetime]:
        begun.set()
        assert is_ending.wait(30)
        return build.build_days(days, now)

    class Ending(ThreadPoolExecutor):
        """Lets the building go on once the builder is told to end."""

        def shutdown(self, *args: Any, **kwargs: Any) -> None:
            is_ending.set()
            super().shutdown(*args, **kwargs)

    monkeypatch.setattr(day_builder, "DAYS_TOGETHER", 1)
    monkeypatch.setattr(day_builder, "build_days", build_days)
    monkeypatch.setattr(day_builder, "ThreadPoolExecutor", Ending)
    days = DayBuilder(source, HOURS)
    days.read(HOURS)
    assert begun.wait(30)
    days.__exit__(RuntimeError, RuntimeError(), None)
    assert days.built == days_built() == {TODAY}


def test_the_builders_connection_is_closed(source: LangfuseConnection) -> None:
    def sessions() -> set[int]:
        with connection.cursor() as cursor:
            # PostgreSQL's own workers come and go as they like.
            cursor.execute(
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND"
                " backend_type = 'client backend'"
            )
            return {pid for (pid,) in cursor.fetchall()}

    before = sessions()
    with DayBuilder(source, HOURS) as days:
        days.read(HOURS)
    # A session ends a moment after its connection is closed.
    deadline = monotonic() + 10
    while sessions() - before and monotonic() < deadline:
        sleep(0.05)
    assert sessions() <= before
