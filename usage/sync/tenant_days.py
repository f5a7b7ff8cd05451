"""What Langfuse says of each tenant's days, and of all of a project's, beside what we have.

A run that is given to another owner leaves the totals of its hour as they were. It changes those of
its tenants' days, though, or what each user of the day had; so the days of which these changed are
read again. Metrics can be filtered by one tenant, not grouped by all of them (langfuse.md, v2
metrics), so each tenant is a request of its own. Where the plan allows fewer, those that were asked
for longest ago come first.
"""

import hashlib
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import NamedTuple, TypeVar
from uuid import UUID

from django.db import models, transaction
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from kluisz_analytics.tenants.models import Tenant
from usage.langfuse.client import MOST_FIGURES, Figures, LangfuseClientService
from usage.langfuse.errors import BudgetSpent, ServerTrouble
from usage.models import ConnectionTenant, LangfuseConnection, TenantComparison, TenantDay, Trace
from usage.periods import DAY

logger = logging.getLogger(__name__)
T = TypeVar("T", bound=models.Model)
# Where the plan has no limit, a run makes at most so many requests; where it has one, at most this
# part of what is left, since hours have to be asked for, too, and others ask beside us.
MOST_REQUESTS = 2_000
PART_OF_WHAT_IS_LEFT = 2
# A time with too many users for one request is halved so often; then they are only counted.
HALVINGS = 3
TenantOrAll = UUID | None
"""A tenant, or None for all that is in the project."""


class DayFigures(NamedTuple):
    """What Langfuse reports of a day, and a digest of what each of its users had; "" where there
    were too many of them to ask for.
    """

    figures: Figures
    users_digest: str

    def differs(self, other: "DayFigures") -> bool:
        is_known = bool(self.users_digest and other.users_digest)
        return self.figures.differ(other.figures) or (
            is_known and self.users_digest != other.users_digest
        )


FiguresByDay = dict[date, DayFigures]


@dataclass(frozen=True, slots=True)
class Change:
    """A day of which Langfuse reports something else than when it was last compared."""

    tenant_id: TenantOrAll
    day: date
    before: Figures
    now: Figures


class Allowance:
    """How many requests may still be made."""

    def __init__(self, client: LangfuseClientService) -> None:
        left = client.metrics_left()
        self._left = MOST_REQUESTS if left is None else left // PART_OF_WHAT_IS_LEFT

    def spend(self) -> None:
        """Raises BudgetSpent when none is left."""
        if self._left <= 0:
            raise BudgetSpent("The requests that a comparison of tenants may make are made.")
        self._left -= 1


def fetch(
    connection: LangfuseConnection, client: LangfuseClientService, days: Sequence[date]
) -> dict[TenantOrAll, FiguresByDay]:
    """What Langfuse says of these days, without gaps and the earliest first: of all in the project
    and of as many tenants as the plan's limit allows. Days without anything are left out.
    """
    found: dict[TenantOrAll, FiguresByDay] = {}
    if not days:
        return found
    allowance = Allowance(client)
    for tenant_id in _in_turn(connection):
        is_filtered = tenant_id is not None and connection.tenant_id is None
        reference = str(tenant_id) if is_filtered else ""
        try:
            by_day: FiguresByDay = {}
            for some in _chunks(days):
                by_day |= _fetch(client, allowance, reference, some)
            found[tenant_id] = by_day
        except BudgetSpent as spent:
            logger.info("%s: the other tenants are compared next time: %s", connection.name, spent)
            break
    return found


def _in_turn(connection: LangfuseConnection) -> list[TenantOrAll]:
    """Whom to ask for: all; then the tenants that the connection has anything of, then the others,
    those first that were asked for longest ago.
    """
    if connection.tenant_id is not None:
        return [connection.tenant_id]
    of_connection = ConnectionTenant.objects.filter(connection=connection)
    known = set(of_connection.values_list("tenant_id", flat=True))
    compared = dict(
        TenantComparison.objects.filter(connection=connection).values_list(
            "tenant_id", "compared_at"
        )
    )
    never = datetime.min.replace(tzinfo=UTC)
    tenants = Tenant.objects.values_list("pk", flat=True)
    return [
        None,
        *sorted(tenants, key=lambda one: (one not in known, compared.get(one, never), one)),
    ]


def _chunks(days: Sequence[date]) -> Iterable[Sequence[date]]:
    return (days[first : first + MOST_FIGURES] for first in range(0, len(days), MOST_FIGURES))


def _fetch(
    client: LangfuseClientService,
    allowance: Allowance,
    reference: str,
    days: Sequence[date],
    halvings: int = HALVINGS,
) -> FiguresByDay:
    """By user, all days in one request; in several of fewer days where that is too much."""
    start, end = _moment(days[0]), _moment(days[-1]) + DAY
    allowance.spend()
    try:
        rows = client.user_days(start, end, reference)
    except BudgetSpent:
        raise
    except ServerTrouble:
        # What takes too long as a whole often does not in parts.
        if len(days) == 1:
            raise
        return _fetch_by_halves(client, allowance, reference, days, halvings)
    if len(rows) < MOST_FIGURES:
        return _by_day(rows)
    if len(days) > 1 and halvings:
        return _fetch_by_halves(client, allowance, reference, days, halvings - 1)
    allowance.spend()
    totals = client.tenant_days(start, end, reference)
    return {day.date(): DayFigures(figures, "") for day, figures in totals.items() if figures.count}


def _fetch_by_halves(
    client: LangfuseClientService,
    allowance: Allowance,
    reference: str,
    days: Sequence[date],
    halvings: int,
) -> FiguresByDay:
    middle = len(days) // 2
    older = _fetch(client, allowance, reference, days[:middle], halvings)
    return older | _fetch(client, allowance, reference, days[middle:], halvings)


def _by_day(rows: Iterable[tuple[datetime, str, Figures]]) -> FiguresByDay:
    users: dict[date, dict[str, Figures]] = defaultdict(dict)
    for day, user, figures in rows:
        users[day.date()][user] = figures
    return {day: DayFigures(_together(of_day), digest(of_day)) for day, of_day in users.items()}


def _together(users: Mapping[str, Figures]) -> Figures:
    return Figures(
        sum(one.count for one in users.values()),
        sum(one.tokens for one in users.values()),
        sum(one.cost_usd for one in users.values()),
        len(users.keys() - {""}),
    )


def digest(users: Mapping[str, Figures]) -> str:
    """A short text that is another for other users, or other figures of one; a float sum may differ
    in its last digits.
    """
    text = "\n".join(
        f"{user}\t{one.count}\t{one.tokens}\t{one.cost_usd:.6f}"
        for user, one in sorted(users.items())
    )
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


NOTHING = DayFigures(_together({}), digest({}))


def changes(
    connection: LangfuseConnection, found: Mapping[TenantOrAll, FiguresByDay], days: Sequence[date]
) -> list[Change]:
    """Those of these days of which something else is reported than before; of days that nobody had
    asked for after their end, nothing is known.
    """
    compared = dict(
        TenantComparison.objects.filter(connection=connection).values_list(
            "tenant_id", "compared_at"
        )
    )
    stored: dict[TenantOrAll, FiguresByDay] = defaultdict(dict)
    for row in TenantDay.objects.filter(connection=connection, day__in=days):
        stored[row.tenant_id][row.day] = _stored_in(row)
    return [
        Change(tenant_id, day, before.figures, now.figures)
        for tenant_id, by_day in found.items()
        if tenant_id in compared
        for day in sorted(by_day.keys() | stored[tenant_id].keys())
        if _moment(day) + DAY <= compared[tenant_id]
        and (before := stored[tenant_id].get(day, NOTHING)).differs(now := by_day.get(day, NOTHING))
    ]


def _stored_in(row: TenantDay) -> DayFigures:
    figures = Figures(
        row.langfuse_count, row.langfuse_tokens, row.langfuse_cost_usd, row.langfuse_users
    )
    return DayFigures(figures, row.langfuse_users_digest)


def keep(
    connection: LangfuseConnection,
    found: Mapping[TenantOrAll, FiguresByDay],
    days: Iterable[date],
    compared_at: datetime,
) -> None:
    """Keep what was reported of these days, and what we have of them by now."""
    listed = set(days)
    if not listed or not found:
        return
    ours = _ours(connection, min(listed), max(listed))
    rows = [
        TenantDay(
            connection=connection,
            tenant_id=tenant_id,
            day=day,
            langfuse_count=figures.count,
            langfuse_tokens=figures.tokens,
            langfuse_cost_usd=figures.cost_usd,
            langfuse_users=figures.users or 0,
            langfuse_users_digest=users_digest,
            compared_at=compared_at,
            **ours.get((tenant_id, day), Ours())._asdict(),
        )
        for tenant_id, by_day in found.items()
        for day in sorted(listed & (by_day.keys() | ours.days_of(tenant_id)))
        for figures, users_digest in [by_day.get(day, NOTHING)]
    ]
    with transaction.atomic():
        _of(TenantDay.objects.filter(connection=connection, day__in=listed), found).delete()
        TenantDay.objects.bulk_create(rows, batch_size=1000)


def remember(
    connection: LangfuseConnection, tenants: Collection[TenantOrAll], compared_at: datetime
) -> None:
    """Keep that these were asked for: each day that had ended by then is known."""
    with transaction.atomic():
        _of(TenantComparison.objects.filter(connection=connection), tenants).delete()
        TenantComparison.objects.bulk_create(
            TenantComparison(connection=connection, tenant_id=tenant_id, compared_at=compared_at)
            for tenant_id in tenants
        )


def _of(rows: QuerySet[T], tenants: Collection[TenantOrAll]) -> QuerySet[T]:
    of_tenants = Q(tenant__in=[one for one in tenants if one is not None])
    return rows.filter(of_tenants | Q(tenant=None) if None in tenants else of_tenants)


class Ours(NamedTuple):
    """What we have of a day; the fields are columns of TenantDay."""

    observations: int = 0
    tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    users: int = 0

    def plus(self, other: "Ours") -> "Ours":
        return Ours(
            self.observations + other.observations,
            self.tokens + other.tokens,
            self.cost_usd + other.cost_usd,
            self.users + other.users,
        )


class OursByDay(dict[tuple[TenantOrAll, date], Ours]):
    """What we have of each tenant's days, and of all under None."""

    def days_of(self, tenant_id: TenantOrAll) -> set[date]:
        return {day for tenant, day in self if tenant == tenant_id}


def _ours(connection: LangfuseConnection, first: date, last: date) -> OursByDay:
    found = OursByDay()
    groups = (
        Trace.objects.filter(
            connection=connection, hour__gte=_moment(first), hour__lt=_moment(last) + DAY
        )
        .order_by()
        .values_list("tenant_id", TruncDate("hour", tzinfo=UTC))
        .annotate(
            Sum("observations"), Sum("total_tokens"), Sum("cost_usd"), Count("user", distinct=True)
        )
    )
    for tenant_id, day, observations, tokens, cost_usd, users in groups:
        of_group = Ours(observations, tokens, cost_usd or Decimal(0), users)
        if tenant_id is not None:
            found[tenant_id, day] = of_group
        found[None, day] = found.get((None, day), Ours()).plus(of_group)
    return found


def _moment(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)
