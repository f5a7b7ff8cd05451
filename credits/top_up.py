"""What tiers give of themselves: default credits, once, and monthly credits, by the calendar of
each tenant's zone (domain.md, Credits).

Default credits welcome a user: it gets those of the first tier that it has and that gives any,
however that came to be its tier, and never again; another tier brings none. Only a license that is
changed with a reset gives them anew (:mod:`credits.licenses`).

A monthly top-up's key is (user, month), so doing it again gives nothing; it is for the whole month
whenever in the month it is given. A whole month in which nothing ran is over, and so is what it
would have given.

A tenant may get another zone. What was given for the running month then ends with that month in the
new zone, and a month's credits begin where those of the month before end: so there is always one
month's, never none and never two.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.utils import timezone

from credits import ledger
from credits.grants import NewGrant, end_at, give
from credits.models import Grant
from credits.recurrence import month_name, month_of
from kluisz_analytics.tenants.models import User
from pricing.tiers import tiers_of

USERS_A_BATCH = 1_000
WELCOMED_AT_ONCE = 5_000
MONTHLY_PRIORITY = 50
"""What ends with the month is burned before what does not."""
TWO_MONTHS = timedelta(days=64)


def top_up_all(now: datetime | None = None) -> int:
    """Give every active user what its tier gives: for this month, and if it never had any, by
    default.

    Returns how many grants were given or now end at another time; beat calls it.
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
    given = _given(users, now)
    moved = end_at(dict(_other_ends(users, given, now)))
    due = list(_due(users, _given(users, now) if moved else given, now))
    give(due)
    return moved + len(due)


Given = Mapping[UUID, Sequence[tuple[str, Grant]]]
"""The monthly grants of users that may concern this month, with the names of their months."""


def _given(users: list[User], now: datetime) -> Given:
    grants = Grant.objects.filter(
        account__in=[user.pk for user in users],
        source=Grant.Source.MONTHLY,
        idempotency_key__startswith="monthly:",
        expires_at__gt=now - TWO_MONTHS,
    )
    given: dict[UUID, list[tuple[str, Grant]]] = defaultdict(list)
    for grant in grants.order_by("pk"):
        given[grant.account_id].append((month_of_key(grant.idempotency_key), grant))
    return given


def monthly_key(user: User, month: str) -> str:
    """The key of what a user is given for a month (as "2026-11")."""
    return f"monthly:{user.pk}:{month}"


def month_of_key(key: str) -> str:
    """The month that was given for; the key may go on after it."""
    return key.split(":")[2]


def _other_ends(users: list[User], given: Given, now: datetime) -> Iterator[tuple[Grant, datetime]]:
    """Grants for the running month that end at another time than it does. Once the next month's is
    given, its beginning is where they end, also where the zone went back to the month before.
    """
    for user in users:
        _, end = month_of(now, user.tenant.zone)
        name = month_name(now, user.tenant.zone)
        mine = given.get(user.pk, ())
        if max((month for month, _ in mine), default="") != name:
            continue
        for month, grant in mine:
            if month == name and grant.voided_at is None and grant.expires_at != end:
                yield grant, end


def _due(users: list[User], given: Given, now: datetime) -> Iterator[NewGrant]:
    tiers_now = tiers_of(users, now)
    for user in users:
        start, end = month_of(now, user.tenant.zone)
        name = month_name(now, user.tenant.zone)
        mine = given.get(user.pk, ())
        tier = tiers_now.get(user.pk)
        # A zone further west may go back to a month whose next one has been given.
        if tier is None or not tier.default_credits_per_month or _has(mine, name):
            continue
        before = month_name(start - timedelta(days=1), user.tenant.zone)
        ends = [one.expires_at for month, one in mine if month == before and not one.voided_at]
        yield NewGrant(
            user=user,
            amount=tier.default_credits_per_month,
            source=Grant.Source.MONTHLY,
            idempotency_key=monthly_key(user, name),
            reason=f"{tier.name}, {start.astimezone(user.tenant.zone):%B %Y}",
            priority=MONTHLY_PRIORITY,
            starts_at=max((one for one in ends if one is not None), default=start),
            expires_at=end,
        )


def _has(mine: Sequence[tuple[str, Grant]], month: str) -> bool:
    """Whether the month, or a later one, has been given."""
    return any(given >= month for given, _ in mine)
