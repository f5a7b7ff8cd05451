"""What tiers give of themselves: default credits, once, and monthly credits, by the calendar of
each tenant's zone (domain.md, Credits).

Default credits welcome a user: it gets those of the first tier that it has and that gives any,
however that came to be its tier, and never again; another tier brings none. Only a license that is
changed with a reset gives them anew (:mod:`credits.licenses`).

A monthly top-up's key is (user, month), so doing it again gives nothing; it is for the whole month
whenever in the month it is given. A whole month in which nothing ran is over, and so is what it
would have given.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from credits import ledger
from credits.grants import NewGrant, give
from credits.models import Grant
from credits.recurrence import month_of
from kluisz_analytics.tenants.models import User
from pricing.tiers import tiers_of

USERS_A_BATCH = 1_000
WELCOMED_AT_ONCE = 5_000
MONTHLY_PRIORITY = 50
"""What ends with the month is burned before what does not."""


def top_up_all(now: datetime | None = None) -> int:
    """Give every active user what its tier gives: for this month, and if it never had any, by
    default.

    Returns how many grants were given; beat calls it.
    """
    moment = now or timezone.now()
    return sum(top_up(batch, moment) for batch in _batches(_active(User.objects.all())))


def welcome(users: QuerySet[User], by: User | None = None) -> int:
    """Give the active ones of these users their tiers' default credits, if they never had any: to
    as many as a request can, to the rest the beat.

    Returns how many grants were given.
    """
    now = timezone.now()
    had = Grant.objects.filter(account=OuterRef("pk"), source=Grant.Source.TIER_DEFAULT)
    new = _active(users).filter(~Exists(had))[:WELCOMED_AT_ONCE]
    return sum(_give_default_credits(batch, now, by) for batch in _batches(new))


def _active(users: QuerySet[User]) -> QuerySet[User]:
    active = users.filter(is_active=True, tenant__is_active=True)
    return active.select_related("tenant").order_by("pk")


def _batches(users: QuerySet[User]) -> Iterator[list[User]]:
    found = users.iterator(chunk_size=USERS_A_BATCH)
    while batch := list(islice(found, USERS_A_BATCH)):
        yield batch


def top_up(users: list[User], now: datetime) -> int:
    """The same as :func:`top_up_all` for some active users, with their tenants loaded."""
    return _give_default_credits(users, now) + _give_monthly_credits(users, now)


def _give_default_credits(users: list[User], now: datetime, by: User | None = None) -> int:
    tiers = tiers_of(_without_default_credits(users), now)
    due = [user for user in users if user.pk in tiers and tiers[user.pk].default_credits > 0]
    if not due:
        return 0
    with transaction.atomic():
        ledger.lock([user.pk for user in due])
        # Somebody may have been given them while the accounts were waited for.
        new = [
            NewGrant(
                user,
                tiers[user.pk].default_credits,
                Grant.Source.TIER_DEFAULT,
                f"tier-default:{user.pk}",
                f"Default credits of {tiers[user.pk].name}",
                created_by=by,
            )
            for user in _without_default_credits(due)
        ]
        give(new)
    return len(new)


def _without_default_credits(users: list[User]) -> list[User]:
    had = set(
        Grant.objects.filter(
            account__in=[user.pk for user in users], source=Grant.Source.TIER_DEFAULT
        ).values_list("account_id", flat=True)
    )
    return [user for user in users if user.pk not in had]


def _give_monthly_credits(users: list[User], now: datetime) -> int:
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
