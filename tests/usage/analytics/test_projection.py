"""What a month comes to, by the weekday pattern; and when credits run out."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest

from credits.forecast import Forecast, Pattern
from credits.projection import exhaustion_date
from kluisz_analytics.tenants.models import Tenant, User
from tests.conftest import People
from usage.analytics.projection import project_month
from usage.scope import Scope

ZONE = ZoneInfo("Europe/Amsterdam")
MONDAY = date(2026, 10, 5)
DAYS = [MONDAY + timedelta(days=number) for number in range(42)]


def test_a_weekday_uses_what_it_used_on_average() -> None:
    pattern = Pattern.of([(day, 100 if day.weekday() < 5 else 10) for day in DAYS])
    assert list(pattern.means) == [100] * 5 + [10] * 2
    assert list(pattern.variances) == [0] * 7


def test_days_before_the_first_usage_do_not_count() -> None:
    pattern = Pattern.of([(day, 70 if day >= DAYS[-7] else 0) for day in DAYS])
    assert list(pattern.means) == [70] * 7


def test_no_usage_expects_none() -> None:
    forecast = Forecast(date(2026, 11, 16), 0, Pattern.of([(day, 0) for day in DAYS]))
    assert forecast.until(date(2026, 12, 1)) == (0, 0)
    assert forecast.day_of(Decimal(1)) is None


def test_today_is_expected_to_use_what_its_average_has_left() -> None:
    pattern = Pattern.of([(day, 100) for day in DAYS])
    assert Forecast(date(2026, 11, 29), 30, pattern).until(date(2026, 12, 1))[0] == 70 + 100
    assert Forecast(date(2026, 11, 29), 300, pattern).until(date(2026, 12, 1))[0] == 100


def test_credits_run_out_on_the_day_that_uses_the_last() -> None:
    forecast = Forecast(
        date(2026, 11, 27),
        100,
        Pattern.of([(day, 100 if day.weekday() < 5 else 0) for day in DAYS]),
    )
    assert forecast.day_of(Decimal(150)) == date(2026, 12, 1)
    assert forecast.day_of(Decimal(-1)) == date(2026, 11, 27)


@pytest.mark.django_db
def test_a_month_of_a_user(people: People, use: Callable[..., None]) -> None:
    """11.4 credits each working day at ten, in Amsterdam, over the end of summer time."""
    now = datetime(2026, 11, 18, 20, tzinfo=UTC)
    for number in range(41):
        start = datetime(2026, 10, 9, 10, tzinfo=ZONE) + timedelta(days=number)
        if start.weekday() < 5:
            use(people.acme_user, "0.06", start=start.astimezone(UTC))
    found = project_month(Scope(user_id=people.acme_user.pk), ZONE, now)
    assert found.month_end == datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert found.credits_exact == found.credits_low == found.credits_high == Decimal("11.4") * 21
    assert found.total_cost_usd == Decimal("0.06") * 21
    Tenant.objects.filter(pk=people.acme.pk).update(timezone=ZONE.key)
    assert exhaustion_date(User.objects.get(pk=people.acme_user.pk), Decimal(30), now) == date(
        2026, 11, 23
    )
