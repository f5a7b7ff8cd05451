"""What counts against budgets: what has been charged in their periods, and what is held (domain.md,
Credits).

A budget's row keeps both, and the gate trusts it while all usage that changed is in it
(``changes``). Reservations add to what is held; whatever makes it less is found when the row is
reckoned anew: by the beat, and by the gate before it refuses. Who locks budgets has locked the
accounts before, and locks them in the order of their keys.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F, Q, QuerySet
from django.utils.module_loading import import_string

from credits.models import Hold, TenantBudget
from credits.recurrence import Recurrence, period_of
from kluisz_analytics.identifiers import parse_uuid
from kluisz_analytics.scales import CREDIT_PLACES, Credits, from_scaled, round_half_up
from kluisz_analytics.tenants.models import Flow, User

TABLE = TenantBudget._meta.db_table
ATTEMPTS = 10
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Run:
    """What decides which budgets a run falls under; "" for what is not known of it."""

    flow_id: str = ""
    model: str = ""


ANY_RUN = Run()


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage counts against a budget, in [start, end); None and "" stand for all."""

    tenant_id: UUID
    user_id: UUID | None
    flow_id: str
    model: str
    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Used:
    """What was used, and its provider cost in USD."""

    credits: Decimal = ZERO
    cost_usd: Decimal = ZERO


class BudgetNow(NamedTuple):
    """A budget with what is used and held of it in the period that is running."""

    budget: TenantBudget
    period_start: datetime
    period_end: datetime


UsedOf = Callable[[Sequence[UsageQuery]], Sequence[Used]]
"""What the usage of each query came to.

The usage app knows: the setting CREDITS_USED names the function to ask.
"""


@dataclass(frozen=True, slots=True)
class BudgetStanding:
    """A budget that refused a run: what it is of, and its amounts (of its unit) in the period."""

    id: int
    kind: str
    period: str
    unit: str
    amount: Credits
    used: Credits
    held: Credits
    message: str


def starts_of(now: datetime, zone: ZoneInfo) -> Mapping[str, datetime]:
    """When the current day, week and month began in the zone."""
    return {one.value: period_of(one, now, zone)[0] for one in Recurrence}


def hard_budgets(user: User, run: Run) -> QuerySet[TenantBudget]:
    """The hard budgets that a run of the user falls under."""
    mine = TenantBudget.objects.filter(
        Q(user__isnull=True) | Q(user=user.pk),
        tenant=user.tenant_id,
        is_hard=True,
        flow_id__in=["", run.flow_id],
        model__in=["", run.model],
    )
    return mine.select_related("tenant", "user").order_by("pk")


def refusing(
    user: User, run: Run, needs: Mapping[str, Decimal], now: datetime
) -> BudgetStanding | None:
    """The first hard budget without room for what a run needs, by unit; None if all have it.

    What is not up to date is reckoned, and nothing is stored.
    """
    budgets = list(hard_budgets(user, run))
    _load(budgets, now)
    for budget in budgets:
        if budget.left < needs[budget.unit]:
            name_flows([budget])
            return _standing(budget, needs[budget.unit])
    return None


def name_flows(budgets: Sequence[TenantBudget]) -> None:
    """Has those of a flow say its name, where the tenant has it in its directory; one query, or
    none.
    """
    ids = {parsed for one in budgets if (parsed := parse_uuid(one.flow_id))}
    if not ids:
        return
    flows = Flow.objects.filter(pk__in=ids, project__tenant__in={one.tenant_id for one in budgets})
    names = {str(pk): name for pk, name in flows.values_list("pk", "name")}
    for budget in budgets:
        budget.flow_name = names.get(budget.flow_id, "")


def _standing(budget: TenantBudget, needs: Decimal) -> BudgetStanding:
    what = f"{budget.period_text} {budget.amount_text}"
    if budget.left <= 0:
        message = (
            f"{budget.subject} has used up {what}: new runs are refused until the"
            f" {budget.period}'s end."
        )
    else:
        message = (
            f"{budget.subject} has {budget.text_of(budget.left)} left of {what}, and the run"
            f" requires {budget.text_of(needs)}."
        )
    if budget.held:
        message += f" Runs that are under way hold {budget.text_of(budget.held)}."
    return BudgetStanding(
        budget.pk,
        budget.kind,
        budget.period,
        budget.unit,
        budget.amount,
        budget.used,
        budget.held,
        message,
    )


def as_they_stand(budgets: Sequence[TenantBudget], now: datetime) -> list[BudgetNow]:
    """How each stands at ``now``; what is not up to date is reckoned, and nothing is stored."""
    _load(budgets, now)
    return [BudgetNow(one, *period_of_budget(one, now)) for one in budgets]


def reckon(budgets: QuerySet[TenantBudget], now: datetime) -> list[TenantBudget]:
    """Store what counts against these budgets at ``now``, and return them with it.

    Where usage comes in meanwhile, it is reckoned again.
    """
    for _ in range(ATTEMPTS):
        found = list(budgets.select_related("tenant", "user").order_by("pk"))
        _load_used(found, now)
        with transaction.atomic():
            locked = dict(
                TenantBudget.objects.select_for_update()
                .filter(pk__in=[one.pk for one in found])
                .order_by("pk")
                .values_list("pk", "changes")
            )
            # Nobody reserves until this ends, so all that is held is seen.
            _load_held(found, now)
            done = [one for one in found if locked.get(one.pk) == one.changes]
            for one in done:
                one.reckoned_changes = one.changes
            TenantBudget.objects.bulk_update(
                done, ["used", "held", "period_start", "reckoned_changes"]
            )
        if len(done) == len(locked):
            break
    return found


def is_due(user: User, run: Run, now: datetime) -> bool:
    """Whether a hard budget of the run counts more than it has to, or is not up to date."""
    budgets = list(hard_budgets(user, run))
    stored = [(one.used, one.held) for one in budgets if _is_current(one, now)]
    if len(stored) < len(budgets):
        return True
    _load(budgets, now)
    return stored != [(one.used, one.held) for one in budgets]


def usage_changed(tenant_ids: Collection[UUID]) -> None:
    """Usage of these tenants was stored, changed or taken away: what counts against their budgets
    has to be reckoned. Call it in the transaction that does it, after the ledger's locks.
    """
    keys = list(
        TenantBudget.objects.select_for_update()
        .filter(tenant__in=tenant_ids)
        .order_by("pk")
        .values_list("pk", flat=True)
    )
    if keys:
        TenantBudget.objects.filter(pk__in=keys).update(changes=F("changes") + 1)


def _is_current(budget: TenantBudget, now: datetime) -> bool:
    start, _ = period_of_budget(budget, now)
    return budget.period_start == start and budget.changes == budget.reckoned_changes


def period_of_budget(budget: TenantBudget, now: datetime) -> tuple[datetime, datetime]:
    """The current day, week or month of the budget, in its tenant's time zone."""
    return period_of(Recurrence(budget.period), now, budget.tenant.zone)


def _load(budgets: Sequence[TenantBudget], now: datetime) -> None:
    """What counts against them at ``now``; what was used only where that is not stored."""
    _load_used([one for one in budgets if not _is_current(one, now)], now)
    _load_held(budgets, now)


def _load_used(budgets: Sequence[TenantBudget], now: datetime) -> None:
    if not budgets:
        return
    used_of: UsedOf = import_string(settings.CREDITS_USED)
    queries = [
        UsageQuery(one.tenant_id, one.user_id, one.flow_id, one.model, *period_of_budget(one, now))
        for one in budgets
    ]
    for one, used, query in zip(budgets, used_of(queries), queries, strict=True):
        amount = used.cost_usd if one.unit == TenantBudget.Unit.USD else used.credits
        one.used, one.period_start = round_half_up(amount, CREDIT_PLACES), query.start


def _load_held(budgets: Sequence[TenantBudget], now: datetime) -> None:
    """One query. A hold counts in the period that its run began in."""
    if not budgets:
        return
    starts = " UNION ALL ".join("SELECT %s AS id, %s AS start" for _ in budgets)
    since = [
        value
        for one in budgets
        for value in (
            one.pk,
            connection.ops.adapt_datetimefield_value(period_of_budget(one, now)[0]),
        )
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            HELD.format(starts=starts),
            [*since, connection.ops.adapt_datetimefield_value(now)],
        )
        held = dict(cursor.fetchall())
    for one in budgets:
        one.held = from_scaled(int(held.get(one.pk) or 0), CREDIT_PLACES)


# A settled hold's cost is in proportion to what the run says that it used.
HELD = f"""
    SELECT b.id, SUM(CASE WHEN b.unit = 'usd' THEN CAST(ROUND(CAST(h.cost_usd AS double precision)
            * COALESCE(h.settled_credits, h.credits) / h.credits) AS bigint)
        ELSE COALESCE(h.settled_credits, h.credits) END)
    FROM ({{starts}}) s JOIN {TABLE} b ON b.id = s.id
    JOIN "user" u ON u.tenant_id = b.tenant_id AND (b.user_id IS NULL OR b.user_id = u.id)
    JOIN {Hold._meta.db_table} h ON h.account_id = u.id AND h.state IN ('open', 'settled')
        AND h.created_at >= s.start AND (b.flow_id = '' OR b.flow_id = h.flow_id)
        AND (b.model = '' OR b.model = h.model)
    WHERE h.expires_at > %s GROUP BY b.id"""
