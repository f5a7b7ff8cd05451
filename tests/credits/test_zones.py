"""A tenant's new zone: its users always have one month's credits, never none and never two."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from unittest import mock

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from credits import enforcement, grants
from credits.grants import NewGrant
from credits.models import Account, Grant
from credits.recurrence import Recurrence
from credits.top_up import top_up_all
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier
from tests.conftest import People
from usage.books import verify_books

pytestmark = pytest.mark.django_db
D = Decimal
HOUR = timedelta(hours=1)
NEW_YORK, LOS_ANGELES = "America/New_York", "America/Los_Angeles"
Clock = Callable[[datetime], None]


@pytest.fixture
def clock() -> Iterator[Clock]:
    """Sets the time of everything that asks Django for it."""
    moment = [datetime(2026, 11, 20, 12, tzinfo=UTC)]
    with mock.patch.object(timezone, "now", side_effect=lambda: moment[0]):

        def set_to(now: datetime) -> None:
            moment[0] = now

        yield set_to


@pytest.fixture
def ann(people: People) -> User:
    PricingTier.objects.update(default_credits=0)
    User.objects.exclude(pk=people.acme_user.pk).update(is_active=False)
    return people.acme_user


def move(zone: str) -> None:
    Tenant.objects.filter(slug="acme").update(timezone=zone)


def beat(now: datetime) -> None:
    grants.catch_up(now)
    top_up_all(now)


def terms(user: User) -> list[tuple[datetime, datetime | None]]:
    mine = Grant.objects.filter(account=user.pk, source=Grant.Source.MONTHLY)
    return list(mine.order_by("starts_at").values_list("starts_at", "expires_at"))


def in_force(user: User, now: datetime) -> int:
    return sum(start <= now and (end is None or now < end) for start, end in terms(user))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_from_new_york_to_los_angeles_no_hour_is_without_credits(ann: User, clock: Clock) -> None:
    move(NEW_YORK)
    beat(at("2026-11-20T12:00"))
    move(LOS_ANGELES)
    for hour in range(-3, 12):
        now = at("2026-12-01T00:00") + hour * HOUR
        clock(now)
        beat(now)
        assert in_force(ann, now) == 1
        assert Account.objects.get(pk=ann.pk).remaining == 10_000
    assert terms(ann) == [
        (at("2026-11-01T04:00"), at("2026-12-01T08:00")),
        (at("2026-12-01T08:00"), at("2027-01-01T08:00")),
    ]


def test_from_los_angeles_to_new_york_no_hour_has_the_credits_of_two_months(
    ann: User, clock: Clock
) -> None:
    move(LOS_ANGELES)
    beat(at("2026-11-20T12:00"))
    clock(at("2026-12-01T06:00"))
    move(NEW_YORK)
    for now in (at("2026-12-01T06:00"), at("2026-12-01T07:59"), at("2026-12-01T08:00")):
        clock(now)
        beat(now)
        assert in_force(ann, now) == 1
        assert Account.objects.get(pk=ann.pk).remaining == 10_000
    assert terms(ann)[1] == (at("2026-12-01T08:00"), at("2027-01-01T05:00"))


def test_the_gate_waits_for_no_beat(ann: User, clock: Clock) -> None:
    """Not even for an hour, and not where who asks knows the tenant as it was."""
    move(NEW_YORK)
    clock(at("2026-11-20T12:00"))
    beat(at("2026-11-20T12:00"))
    known = User.objects.select_related("tenant").get(pk=ann.pk)
    move(LOS_ANGELES)
    for now in (at("2026-12-01T05:30"), at("2026-12-01T08:30")):
        clock(now)
        assert enforcement.check(known, credits=D(10_000)).remaining == 10_000


def test_a_month_that_a_zone_further_west_goes_back_to_is_not_given_again(
    ann: User, clock: Clock
) -> None:
    User.objects.filter(pk=ann.pk).update(is_active=False)
    move(NEW_YORK)
    beat(at("2026-12-01T05:30"))
    User.objects.filter(pk=ann.pk).update(is_active=True)
    beat(at("2026-12-01T05:30"))
    move(LOS_ANGELES)
    beat(at("2026-12-01T06:00"))
    assert [start for start, _ in terms(ann)] == [at("2026-12-01T05:00")]


def test_what_was_used_after_the_old_end_burns_the_month_that_goes_on(
    ann: User, clock: Clock, use: Callable[..., None]
) -> None:
    """Also where the beat had ended the month already."""
    move(NEW_YORK)
    beat(at("2026-11-20T12:00"))
    use(ann, "1", at("2026-12-01T05:20"))
    clock(at("2026-12-01T05:30"))
    grants.catch_up(at("2026-12-01T05:30"))
    assert Account.objects.get(pk=ann.pk).remaining == -190
    move(LOS_ANGELES)
    beat(at("2026-12-01T05:40"))
    assert Account.objects.get(pk=ann.pk).remaining == 10_000 - 190
    clock(at("2026-12-01T08:00"))
    beat(at("2026-12-01T08:00"))
    assert Account.objects.get(pk=ann.pk).remaining == 10_000
    assert verify_books() == []


def test_a_recurring_grant_goes_on_where_it_ended(ann: User, clock: Clock) -> None:
    """By Lord Howe's clocks a day is half an hour longer once a year."""
    move("America/New_York")
    clock(at("2026-10-20T12:00"))
    daily = NewGrant(
        User.objects.get(pk=ann.pk),
        D(5),
        Grant.Source.MANUAL,
        "daily",
        recurrence=Recurrence.DAILY,
        starts_at=at("2026-10-20T12:00"),
    )
    grants.grant(daily)
    for day, zone in ((24, "Europe/Amsterdam"), (28, "Australia/Lord_Howe"), (40, NEW_YORK)):
        grants.catch_up(at("2026-10-01T13:00") + timedelta(days=day - 1))
        move(zone)
    found = list(Grant.objects.order_by("starts_at").values_list("starts_at", "expires_at"))
    assert len(found) == 21
    assert all(end == start for (_, end), (start, _) in pairwise(found))


ZONES = [
    "UTC",
    NEW_YORK,
    LOS_ANGELES,
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Kiritimati",
    "Pacific/Pago_Pago",
    "America/St_Johns",
    "Europe/Amsterdam",
]
FROM, UNTIL = at("2026-10-29T00:00"), at("2027-01-03T00:00")
BORDERS = [at("2026-11-01T00:00"), at("2026-12-01T00:00"), at("2027-01-01T00:00")]
minutes = st.integers(-32 * 60, 32 * 60)
changes = st.lists(st.tuples(st.sampled_from(BORDERS), minutes, st.sampled_from(ZONES)), max_size=4)


@settings(max_examples=12)
@given(first=st.sampled_from(ZONES), moves=changes)
def test_at_every_moment_one_months_credits_are_there(
    ann: User, clock: Clock, first: str, moves: list[tuple[datetime, int, str]]
) -> None:
    zones = {border + timedelta(minutes=late): zone for border, late, zone in moves}
    beats = {
        border + hour * HOUR + timedelta(minutes=7)
        for border in BORDERS
        for hour in range(-34, 36, 3)
    }
    with transaction.atomic():
        move(first)
        for now in sorted({FROM} | beats | zones.keys() | {UNTIL}):
            clock(now)
            if now in zones:
                move(zones[now])
            beat(now)
            assert in_force(ann, now) == 1
        given = terms(ann)
        assert len(given) in (3, 4), "as many as months began"
        assert all(end == start for (_, end), (start, _) in pairwise(given))
        assert Account.objects.get(pk=ann.pk).remaining == 10_000
        transaction.set_rollback(True)
