"""The tier's monthly credits, by the calendar of each tenant's zone (domain.md, Credits).

A top-up's key is (user, month), so doing it again gives nothing; it is for the whole month whenever
in the month it is given. A whole month in which nothing ran is over, and so is what it would have
given.
"""

from collections.abc import Iterable
from datetime import datetime

from django.utils import timezone

from credits.grants import NewGrant, give
from credits.models import Grant
from credits.recurrence import month_of
from kluisz_analytics.tenants.models import User
from pricing.tiers import tiers_of

USERS_A_BATCH = 1_000
MONTHLY_PRIORITY = 50
"""What ends with the month is burned before what does not."""


def top_up_all(now: datetime | None = None) -> int:
    """Give every active user what its tier gives for this month.

    Returns how many grants were given; beat calls it.
    """
    moment = now or timezone.now()
    users = (
        User.objects.filter(is_active=True, tenant__is_active=True)
        .select_related("tenant")
        .order_by("pk")
    )
    given, batch = 0, []
    for user in users.iterator(chunk_size=USERS_A_BATCH):
        batch.append(user)
        if len(batch) == USERS_A_BATCH:
            given += top_up(batch, moment)
            batch = []
    return given + top_up(batch, moment)


def top_up(users: Iterable[User], now: datetime) -> int:
    """The same for some users, with their tenants loaded. Returns how many grants were given."""
    users = list(users)
    known = set(
        Grant.objects.filter(
            account__in=[user.pk for user in users], source=Grant.Source.MONTHLY
        ).values_list("idempotency_key", flat=True)
    )
    new = [one for one in _due(users, now) if one.idempotency_key not in known]
    give(new)
    return len(new)


def _due(users: list[User], now: datetime) -> list[NewGrant]:
    due = []
    tiers_now = tiers_of(users, now)
    for user in users:
        start, end = month_of(now, user.tenant.zone)
        tier = tiers_now.get(user.pk)
        if tier is not None and tier.default_credits_per_month > 0:
            due.append(
                NewGrant(
                    user=user,
                    amount=tier.default_credits_per_month,
                    source=Grant.Source.MONTHLY,
                    idempotency_key=f"monthly:{user.pk}:{start.astimezone(user.tenant.zone):%Y-%m}",
                    reason=f"{tier.name}, {start.astimezone(user.tenant.zone):%B %Y}",
                    priority=MONTHLY_PRIORITY,
                    starts_at=start,
                    expires_at=end,
                )
            )
    return due
