"""Finds what has been reached and tells it, once for each subject, threshold and period (domain.md,
Credits).

A period is a calendar month of the tenant's zone, or a budget's own. Where several thresholds are
reached at once, the highest is told; the others are kept as reached, so that they are not told
later. Whoever looks first stores the alert: its key is unique.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet, Sum
from django.utils import timezone

from credits import budgets, deliveries
from credits.models import Account, Alert, TenantBudget, UsageCharge
from credits.recurrence import month_of
from kluisz_analytics import figures
from kluisz_analytics.tenants.models import Tenant, User

THRESHOLDS = (80, 95, 100)
PACE = timedelta(days=28)
RECENT = timedelta(minutes=15)
ZERO = Decimal(0)
Kind = Alert.Kind


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
    reached = [*_credits(tenant, now, start, end), *_budgets(tenant, now)]
    with transaction.atomic():
        return _store_and_send(reached, now)


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
                    f"{who} has used {figures.percent_of(used, allocated)} of"
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


def _budgets(tenant: Tenant, now: datetime) -> Iterator[Alert]:
    reckoned = list(budgets.reckon(TenantBudget.objects.filter(tenant=tenant), now))
    budgets.name_flows(reckoned)
    for budget in reckoned:
        start, _ = budgets.period_of_budget(budget, now)
        kind = Kind.BUDGET_CREDITS if budget.unit == TenantBudget.Unit.CREDITS else Kind.BUDGET_USD
        for threshold in THRESHOLDS:
            if budget.used * 100 >= budget.amount * threshold:
                what = (
                    "new runs are refused" if budget.is_hard and budget.left <= 0 else "runs go on"
                )
                yield Alert(
                    kind=kind,
                    tenant=tenant,
                    user=budget.user,
                    budget=budget,
                    threshold=threshold,
                    period_start=start,
                    message=(
                        f"{budget.subject} has used"
                        f" {figures.percent_of(budget.used, budget.amount)} of"
                        f" {budget.period_text} {budget.amount_text}; {what}."
                    ),
                )


def _store_and_send(reached: Iterable[Alert], now: datetime) -> int:
    """Store what is new, and have the highest of each subject and kind delivered."""
    by_subject: dict[tuple[str, UUID | None, int | None, datetime], list[Alert]]
    by_subject = defaultdict(list)
    for alert in reached:
        subject = alert.kind, alert.user_id, alert.budget_id, alert.period_start
        by_subject[subject].append(alert)
    new = 0
    for alerts in by_subject.values():
        highest, *others = sorted(alerts, key=lambda one: -one.threshold)
        for alert in (highest, *others):
            alert.is_sent = alert is highest
            stored, is_new = _stored(alert)
            new += is_new
            if is_new and alert.is_sent:
                deliveries.address(stored, now)
    return new


def _stored(alert: Alert) -> tuple[Alert, bool]:
    """The alert as it is stored, and whether this call stored it."""
    owner: dict[str, object]
    if alert.budget_id:
        owner = {"budget_id": alert.budget_id}
    elif alert.user_id:
        owner = {"user_id": alert.user_id, "budget": None}
    else:
        owner = {"user_id": None, "budget": None, "tenant_id": alert.tenant_id}
    stored = {
        "tenant_id": alert.tenant_id,
        "user_id": alert.user_id,
        "message": alert.message,
        "is_sent": alert.is_sent,
    }
    return Alert.objects.get_or_create(
        kind=alert.kind,
        threshold=alert.threshold,
        period_start=alert.period_start,
        **owner,
        defaults=stored,
    )
