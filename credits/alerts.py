"""Finds what has been reached and tells it, once for each subject, threshold and period (domain.md,
Credits).

A period is a calendar month of the tenant's zone. Where several thresholds are reached at once, the
highest is told; the others are kept as reached, so that they are not told later. Whoever looks
first stores the alert: its key is unique.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet, Sum
from django.utils import timezone
from django.utils.module_loading import import_string

from credits import deliveries
from credits.models import Account, Alert, TenantBudget, UsageCharge
from credits.recurrence import month_of
from kluisz_analytics import figures
from kluisz_analytics.fields import CreditsField
from kluisz_analytics.scales import CREDIT_PLACES, round_half_up
from kluisz_analytics.tenants.models import Tenant, User

THRESHOLDS = (80, 95, 100)
PACE = timedelta(days=28)
RECENT = timedelta(minutes=15)
ZERO = Decimal(0)
Kind = Alert.Kind

CostOfTenant = Callable[[UUID, datetime, datetime], Decimal]
"""What a tenant's usage cost its providers between two moments, USD.

The usage app knows: the setting CREDITS_COST_OF_TENANT names the function to ask.
"""


def evaluate_all(now: datetime | None = None) -> int:
    """Look at every active tenant and its users. Returns how many alerts are new; beat calls it."""
    moment = now or timezone.now()
    return _evaluate_each(Tenant.objects.filter(is_active=True), moment)


def evaluate_changed(now: datetime | None = None) -> int:
    """The same for tenants whose accounts changed a short while ago, and those with a budget: what
    can be new from minute to minute.
    """
    moment = now or timezone.now()
    has_changed = Q(users__account__updated_at__gte=moment - RECENT) | Q(budgets__isnull=False)
    return _evaluate_each(Tenant.objects.filter(has_changed, is_active=True).distinct(), moment)


def _evaluate_each(tenants: QuerySet[Tenant], now: datetime) -> int:
    """One tenant's trouble keeps no other from being told; it is raised after all were looked
    at.
    """
    new, troubles = 0, []
    for tenant in tenants.order_by("pk"):
        try:
            new += evaluate(tenant, now)
        except Exception as trouble:  # noqa: BLE001 - raised below
            trouble.add_note(f"While looking at tenant {tenant.slug} ({tenant.pk}).")
            troubles.append(trouble)
    if troubles:
        raise ExceptionGroup("Not all tenants could be looked at.", troubles)
    return new


def evaluate(tenant: Tenant, now: datetime) -> int:
    """Look at one tenant: its users' credits, all of them together, and its budgets.

    Returns how many alerts are new.
    """
    start, end = month_of(now, tenant.zone)
    reached = [*_credits(tenant, now, start, end), *_budgets(tenant, now, start)]
    with transaction.atomic():
        return _tell(reached, now)


def _credits(tenant: Tenant, now: datetime, start: datetime, end: datetime) -> Iterator[Alert]:
    accounts = list(
        Account.objects.filter(user__tenant=tenant, user__is_active=True).select_related("user")
    )
    paces = _paces(tenant, now)
    for account in accounts:
        yield from _of_credits(
            tenant,
            account.user,
            account.allocated,
            account.used,
            paces[account.pk],
            now,
            start,
            end,
        )
    allocated, used = (
        sum((getattr(one, name) for one in accounts), ZERO) for name in ("allocated", "used")
    )
    yield from _of_credits(
        tenant, None, allocated, used, sum(paces.values(), ZERO), now, start, end
    )


def _paces(tenant: Tenant, now: datetime) -> dict[UUID, Decimal]:
    """What each user used in the last four weeks."""
    charges = UsageCharge.objects.filter(
        account__user__tenant=tenant, hour__gte=now - PACE, hour__lte=now
    ).order_by()
    return defaultdict(lambda: ZERO, charges.values_list("account").annotate(used=Sum("credits")))


def _of_credits(
    tenant: Tenant,
    user: User | None,
    allocated: Decimal,
    used: Decimal,
    pace: Decimal,
    now: datetime,
    start: datetime,
    end: datetime,
) -> Iterator[Alert]:
    if allocated <= 0:
        return
    who = user.username if user else tenant.name
    for threshold in THRESHOLDS:
        if used * 100 >= allocated * threshold:
            yield Alert(
                kind=Kind.CREDITS,
                tenant=tenant,
                user=user,
                threshold=threshold,
                period_start=start,
                message=(
                    f"{who} has used {used * 100 / allocated:,.0f}% of"
                    f" {figures.credits(allocated)} credits."
                ),
            )
    rest = (
        pace * Decimal((end - now) // timedelta(seconds=1)) / Decimal(PACE // timedelta(seconds=1))
    )
    if used < allocated < used + rest:
        yield Alert(
            kind=Kind.PROJECTION,
            tenant=tenant,
            user=user,
            threshold=100,
            period_start=start,
            message=(
                f"At the pace of four weeks, {who}'s remaining"
                f" {figures.credits(allocated - used)} credits run out before the month's end."
            ),
        )


def _budgets(tenant: Tenant, now: datetime, start: datetime) -> Iterator[Alert]:
    for budget in TenantBudget.objects.filter(tenant=tenant):
        budget.used, budget.period_start = used_of(budget, tenant, start, now), start
        budget.save(update_fields=["used", "period_start"])
        kind = Kind.BUDGET_CREDITS if budget.unit == TenantBudget.Unit.CREDITS else Kind.BUDGET_USD
        for threshold in THRESHOLDS:
            if budget.used * 100 >= budget.amount * threshold:
                what = (
                    "new runs are refused" if budget.is_hard and budget.left <= 0 else "runs go on"
                )
                yield Alert(
                    kind=kind,
                    tenant=tenant,
                    threshold=threshold,
                    period_start=start,
                    message=(
                        f"{tenant.name} has used {budget.used * 100 / budget.amount:,.0f}%"
                        f" of this month's {budget.amount_text}; {what}."
                    ),
                )


def used_of(budget: TenantBudget, tenant: Tenant, start: datetime, now: datetime) -> Decimal:
    """What counts against the budget in the month so far."""
    if budget.unit == TenantBudget.Unit.USD:
        cost_of: CostOfTenant = import_string(settings.CREDITS_COST_OF_TENANT)
        return round_half_up(cost_of(tenant.pk, start, now), CREDIT_PLACES)
    charges = UsageCharge.objects.filter(
        account__user__tenant=tenant, hour__gte=start, hour__lte=now
    ).order_by()
    return charges.aggregate(total=Sum(F("credits"), output_field=CreditsField()))["total"] or ZERO


def _tell(reached: Iterable[Alert], now: datetime) -> int:
    """Store what is new, and have the highest of each subject and kind delivered."""
    by_subject: dict[tuple[str, UUID | None, datetime], list[Alert]] = defaultdict(list)
    for alert in reached:
        by_subject[alert.kind, alert.user_id, alert.period_start].append(alert)
    new = 0
    for alerts in by_subject.values():
        highest, *others = sorted(alerts, key=lambda one: -one.threshold)
        for alert in (highest, *others):
            alert.is_told = alert is highest
            stored, is_new = _stored(alert)
            new += is_new
            if is_new and alert.is_told:
                deliveries.address(stored, now)
    return new


def _stored(alert: Alert) -> tuple[Alert, bool]:
    """The alert as it is stored, and whether this call stored it."""
    owner = (
        {"user_id": alert.user_id}
        if alert.user_id
        else {"user_id": None, "tenant_id": alert.tenant_id}
    )
    told = {"tenant_id": alert.tenant_id, "message": alert.message, "is_told": alert.is_told}
    return Alert.objects.get_or_create(
        kind=alert.kind,
        threshold=alert.threshold,
        period_start=alert.period_start,
        **owner,
        defaults=told,
    )
