"""When a user's credits run out, by the weekday pattern of what was charged (credits.forecast)."""

from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal

from credits.forecast import DAYS, Forecast, Pattern
from credits.models import UsageCharge
from kluisz_analytics.scales import CREDIT_PLACES, to_scaled
from kluisz_analytics.tenants.models import User


def exhaustion_date(user: User, remaining: Decimal, now: datetime) -> date | None:
    """The day, in the tenant's zone, on which the credits run out: today when none remain, None
    without usage or beyond a year.
    """
    zone = user.tenant.zone
    today = now.astimezone(zone).date()
    used: Counter[date] = Counter()
    charges = UsageCharge.objects.filter(
        account=user.pk, hour__gte=now - timedelta(days=DAYS + 2), hour__lte=now
    )
    for hour, credits in charges.values_list("hour", "credits"):
        used[hour.astimezone(zone).date()] += to_scaled(credits, CREDIT_PLACES)
    past = [today - timedelta(days=number) for number in range(DAYS, 0, -1)]
    forecast = Forecast(today, used[today], Pattern.of([(day, used[day]) for day in past]))
    return forecast.day_of(remaining * 10**CREDIT_PLACES)
