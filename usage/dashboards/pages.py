"""What each dashboard shows, gathered once for a scope and a period."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from credits.accounts import remaining_by_tenant
from credits.status import CreditStatus, credit_status
from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.access import sees_user
from kluisz_analytics.tenants.models import Flow, Tenant, User
from usage.analytics import queries
from usage.analytics.projection import Projection, project_month
from usage.analytics.queries import Ranked, Summary
from usage.analytics.traces import Run, recent_traces
from usage.dashboards import charts
from usage.dashboards.compared_with import than
from usage.dashboards.ordering import LIST_COLUMNS, MODEL_COLUMNS, Column, Orders, columns_of
from usage.desk.doubtful import undecided
from usage.facts.disputes import open_disputes
from usage.measures import Dimension, Numbers
from usage.models import Trace
from usage.periods import Granularity
from usage.scope import Scope
from usage.sync.freshness import Freshness, Lagging, freshness_of

ROWS = 8
HOURLY_UP_TO = timedelta(days=2, hours=1)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a top list: with an address, if the viewer may go there, and how long its bar is (0
    to 1).
    """

    label: str
    numbers: Numbers
    bar: float
    detail: str = ""
    url: str = ""
    last_activity: datetime | None = None


@dataclass(frozen=True, slots=True)
class TopList:
    title: str
    columns: list[Column]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A page's content."""

    title: str
    subtitle: str
    period: Period
    summary: Summary
    over_time: dict[str, Any]
    by_model: dict[str, Any]
    models: list[Ranked]
    model_columns: list[Column]
    lists: list[TopList]
    runs: list[Run]
    freshness: Freshness
    uses_sandbox: bool
    lagging: list[Lagging] = field(default_factory=list)
    unattributed: Numbers | None = None
    totals: queries.PlatformTotals | None = None
    active_tenants: int | None = None
    open_disputes: int = 0
    doubtful: int = 0
    credits: CreditStatus | None = None
    projection: Projection | None = None
    crumbs: list[tuple[str, str]] = field(default_factory=list)

    @property
    def first_day(self) -> date:
        """The period's first day in its zone."""
        return self.period.start.astimezone(self.period.zone).date()

    @property
    def last_day(self) -> date:
        """The period's last day in its zone, as people write periods."""
        return _last_day_before(self.period.end, self.period)

    @property
    def month_end_day(self) -> date | None:
        """The last day of the month that the projection is for."""
        return _last_day_before(self.projection.month_end, self.period) if self.projection else None

    @property
    def compared_with(self) -> str:
        """What the arrows compare with, in words; "" where nothing is to be compared.

        A first reading goes from the newest to the oldest, so what was before isn't known yet.
        """
        if self.freshness.is_first_reading or not self.has_changed:
            return ""
        return than(self.period, self.summary.comparison, timezone.now())

    @property
    def has_changed(self) -> bool:
        """Whether there is anything before to compare with."""
        return any(ratio is not None for ratio in self.summary.change.values())

    @property
    def change(self) -> Mapping[str, float | None]:
        """How each number changed, for the arrows."""
        return self.summary.change if self.compared_with else dict.fromkeys(self.summary.change)

    @property
    def success_ratio(self) -> float | None:
        numbers = self.summary.numbers
        return numbers.successful_traces / numbers.total_traces if numbers.total_traces else None


def _last_day_before(moment: datetime, period: Period) -> date:
    return (moment - timedelta(microseconds=1)).astimezone(period.zone).date()


def platform_dashboard(period: Period, orders: Orders) -> Dashboard:
    """The whole platform."""
    scope = Scope()
    common, (tenants, users, flows, unattributed, active_tenants) = _answers(
        scope,
        period,
        orders,
        queries.first(Dimension.TENANT, scope, period, orders["tenants"], ROWS),
        queries.first(Dimension.USER, scope, period, orders["users"], ROWS),
        queries.first(Dimension.FLOW, scope, period, orders["flows"], ROWS),
        queries.unattributed(period),
        queries.active_tenants(period),
    )
    disputes, doubtful = queries.counts_of([open_disputes(), undecided()])
    return Dashboard(
        title="Platform",
        subtitle=f"All tenants · times in {period.zone.key}",
        lists=[
            _tenant_list(tenants, orders),
            _user_list(users, scope, orders),
            _flow_list(flows, orders),
        ],
        unattributed=unattributed if unattributed.total_traces else None,
        totals=queries.platform_totals(),
        active_tenants=active_tenants,
        open_disputes=disputes,
        doubtful=doubtful,
        **common,
    )


def tenant_dashboard(
    scope: Scope, tenant: Tenant, period: Period, viewer: User, orders: Orders
) -> Dashboard:
    """One tenant."""
    common, (users, flows) = _answers(
        scope,
        period,
        orders,
        queries.first(Dimension.USER, scope, period, orders["users"], ROWS),
        queries.first(Dimension.FLOW, scope, period, orders["flows"], ROWS),
    )
    return Dashboard(
        title=tenant.name,
        subtitle=f"Tenant · times in {period.zone.key}",
        lists=[_user_list(users, scope, orders), _flow_list(flows, orders)],
        crumbs=[("Platform", reverse("platform-dashboard"))] if viewer.is_superuser else [],
        **common,
    )


def user_dashboard(
    scope: Scope, user: User, period: Period, viewer: User, orders: Orders
) -> Dashboard:
    """One user, with its credits."""
    now = timezone.now()
    crumbs = [("Platform", reverse("platform-dashboard"))] if viewer.is_superuser else []
    if viewer.is_superuser or viewer.is_tenant_admin:
        crumbs.append((user.tenant.name, reverse("tenant-dashboard", args=[user.tenant.slug])))
    common, (flows,) = _answers(
        scope,
        period,
        orders,
        queries.first(Dimension.FLOW, scope, period, orders["flows"], ROWS),
    )
    return Dashboard(
        title=user.get_full_name() or user.username,
        subtitle=f"User of {user.tenant.name} · times in {period.zone.key}",
        lists=[_flow_list(flows, orders)],
        credits=credit_status(user, now),
        projection=project_month(scope, period.zone, now),
        crumbs=crumbs,
        **common,
    )


def crumbs_of(trace: Trace, viewer: User) -> list[tuple[str, str]]:
    """From the widest page that the viewer may see down to the run's user."""
    crumbs = [("Platform", reverse("platform-dashboard"))] if viewer.is_superuser else []
    is_its_admin = viewer.is_tenant_admin and viewer.tenant_id == trace.tenant_id
    if trace.tenant is not None and (viewer.is_superuser or is_its_admin):
        crumbs.append((trace.tenant.name, reverse("tenant-dashboard", args=[trace.tenant.slug])))
    if trace.user is not None and sees_user(viewer, trace.user):
        crumbs.append((trace.user.username, reverse("user-dashboard", args=[trace.user.pk])))
    return crumbs


def _answers(
    scope: Scope, period: Period, orders: Orders, *own: queries.Query[Any]
) -> tuple[dict[str, Any], list[Any]]:
    """What every page shows, and the answers to the page's own queries; all asked at once."""
    granularity = Granularity.HOUR if period.end - period.start <= HOURLY_UP_TO else Granularity.DAY
    now = timezone.now()
    freshness = freshness_of(scope, now)
    summary, series, models, *answers = queries.execute_all(
        queries.summary(scope, period, freshness.complete_through),
        queries.time_series(scope, period, granularity),
        queries.breakdown(Dimension.MODEL, scope, period),
        *own,
    )
    common = {
        "period": period,
        "summary": summary,
        "over_time": charts.usage_over_time(series, period, now),
        "by_model": charts.cost_by_model(models),
        "models": orders["models"].sorted(models),
        "model_columns": columns_of("models", MODEL_COLUMNS, orders),
        "runs": recent_traces(scope, period, ROWS),
        "freshness": freshness,
        "lagging": freshness.lagging if scope.is_platform else [],
        "uses_sandbox": settings.USES_SANDBOX,
    }
    return common, answers


def _tenant_list(rows: list[Ranked], orders: Orders) -> TopList:
    remaining = remaining_by_tenant([row.key for row in rows])
    return TopList(
        "Tenants",
        columns_of("tenants", LIST_COLUMNS, orders),
        _rows(
            rows,
            urls={
                row.key: reverse("tenant-dashboard", args=[row.row.slug])
                for row in rows
                if isinstance(row.row, Tenant)
            },
            details={key: f"{amount:,.0f} credits left" for key, amount in remaining.items()},
        ),
    )


def _user_list(rows: list[Ranked], scope: Scope, orders: Orders) -> TopList:
    """Those who have left the tenant since have their numbers, and no page, there."""
    users = [row.row for row in rows if isinstance(row.row, User)]
    of_now = [user for user in users if scope.tenant_id in (None, user.tenant_id)]
    return TopList(
        "Users",
        columns_of("users", LIST_COLUMNS, orders),
        _rows(
            rows,
            urls={user.pk: reverse("user-dashboard", args=[user.pk]) for user in of_now},
            details={user.pk: user.tenant.name for user in users} if scope.is_platform else {},
        ),
    )


def _flow_list(rows: list[Ranked], orders: Orders) -> TopList:
    projects = {row.key: row.row.project.name for row in rows if isinstance(row.row, Flow)}
    columns = columns_of("flows", LIST_COLUMNS, orders)
    return TopList("Flows", columns, _rows(rows, details=projects))


def _rows(
    ranked: list[Ranked], urls: dict[Any, str] | None = None, details: dict[Any, str] | None = None
) -> list[Row]:
    most = max((row.numbers.credits_exact or Decimal(0) for row in ranked), default=Decimal(0))
    return [
        Row(
            label=row.label,
            numbers=row.numbers,
            bar=float((row.numbers.credits_exact or Decimal(0)) / most) if most else 0.0,
            detail=(details or {}).get(row.key, ""),
            url=(urls or {}).get(row.key, ""),
            last_activity=row.last_activity,
        )
        for row in ranked
    ]
