"""Building the rollups: whatever came when, an answer is what the facts say."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from threading import Event
from zoneinfo import ZoneInfo

import pytest
from django.db import connection, transaction

from kluisz_analytics.periods import Period, midnight
from tests.conftest import NOON, People
from usage.analytics import queries
from usage.books import verify_books
from usage.measures import Dimension
from usage.models import FlowUsage, StalePeriod
from usage.rollups.build import build_rollups
from usage.scope import Scope

pytestmark = pytest.mark.django_db
UTC_ZONE = ZoneInfo("UTC")
TODAY = midnight(NOON.date(), UTC_ZONE)
TOMORROW = TODAY + timedelta(days=1)
DAY = Period(TODAY, TOMORROW, UTC_ZONE)


def runs(dimension: Dimension) -> int:
    assert verify_books() == []
    return sum(
        row.numbers.total_traces
        for row in queries.execute(queries.breakdown(dimension, Scope(), DAY))
    )


@pytest.mark.parametrize("dimension", Dimension)
@pytest.mark.parametrize(
    "built_at",
    [NOON + timedelta(hours=3), TOMORROW, TOMORROW + timedelta(days=60)],
    ids=["while the day runs", "when it is just over", "long after"],
)
def test_what_comes_late_is_counted_once_before_and_after_it_is_built(
    people: People, use: Callable[..., None], dimension: Dimension, built_at: datetime
) -> None:
    for hours in (0, 2):
        use(people.acme_user, start=NOON + timedelta(hours=hours), flow="f", project="p")
    build_rollups(built_at)
    assert runs(dimension) == 2
    use(people.acme_colleague, start=NOON + timedelta(minutes=130), flow="f", project="p")
    assert runs(dimension) == 3
    use(people.acme_user, start=NOON - timedelta(hours=7), flow="f", project="p")
    assert runs(dimension) == 4
    build_rollups(built_at)
    assert runs(dimension) == 4


def test_a_day_that_is_over_has_no_hours_of_flows_left(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, flow="f")
    build_rollups(NOON + timedelta(hours=1))
    assert set(FlowUsage.objects.values_list("granularity", flat=True)) == {"hour"}
    build_rollups(TOMORROW)
    assert set(FlowUsage.objects.values_list("granularity", flat=True)) == {"day"}
    build_rollups(TOMORROW + timedelta(days=60))
    assert set(FlowUsage.objects.values_list("granularity", flat=True)) == {"day", "week", "month"}
    assert not StalePeriod.objects.exists()


@pytest.mark.parametrize("dimension", Dimension)
def test_a_worker_whose_clock_is_behind_loses_nothing(
    people: People, use: Callable[..., None], dimension: Dimension
) -> None:
    for hours in (0, 2):
        use(people.acme_user, start=NOON + timedelta(hours=hours), flow="f", project="p")
    build_rollups(TOMORROW)
    use(people.acme_user, start=NOON + timedelta(hours=4), flow="f", project="p")
    build_rollups(TOMORROW - timedelta(seconds=2))
    assert runs(dimension) == 3
    build_rollups(TOMORROW + timedelta(seconds=2))
    assert runs(dimension) == 3


def test_marks_do_not_pile_up(people: People, use: Callable[..., None]) -> None:
    for number in range(5):
        use(people.acme_user, start=NOON + timedelta(minutes=number), flow="f")
        build_rollups(NOON + timedelta(hours=1))
    marks = StalePeriod.objects.order_by("granularity").values_list("granularity", flat=True)
    assert list(marks) == ["day", "month", "week"]


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_what_is_stored_while_rollups_are_built_is_not_missed(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, flow="f")
    stored, built = Event(), Event()

    def store() -> None:
        try:
            with transaction.atomic():
                use(people.acme_user, start=NOON + timedelta(minutes=10), flow="f")
                stored.set()
                assert built.wait(30)
        finally:
            connection.close()

    with ThreadPoolExecutor(1) as threads:
        storing = threads.submit(store)
        assert stored.wait(30)
        build_rollups(TOMORROW + timedelta(days=60))
        assert runs(Dimension.FLOW) == 1
        built.set()
        storing.result()
    for dimension in Dimension:
        assert runs(dimension) == 2
    build_rollups(TOMORROW + timedelta(days=60))
    assert not StalePeriod.objects.exists()
    assert runs(Dimension.FLOW) == 2


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has one writer at a time")
def test_several_builders_at_once_end_as_one(people: People, use: Callable[..., None]) -> None:
    for number in range(6):
        use(people.acme_user, start=NOON + timedelta(days=number), flow="f")

    def build(_: int) -> None:
        try:
            build_rollups(TOMORROW + timedelta(days=60))
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(build, range(4)))
    assert not StalePeriod.objects.exists()
    assert verify_books() == []
