"""What each dashboard shows, gathered once for a scope and a period."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.urls import reverse
from django.utils import timezone

from credits.accounts import remaining_by_tenant
from credits.status import CreditStatus, credit_status
from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.access import sees_user
from kluisz_analytics.tenants.models import Flow, Tenant, User
from usage.analytics import queries
from usage.analytics.projection import Projection, month_projection
from usage.analytics.queries import Ranked, Summary
from usage.analytics.traces import Run, recent_traces
from usage.dashboards import charts
from usage.dashboards.compared_with import than
from usage.dashboards.filter_bar import OWNERS, FilterBar, last_day_before
from usage.dashboards.ordering import LIST_COLUMNS, MODEL_COLUMNS, Column, columns_of
from usage.desk.doubtful import undecided
from usage.facts.disputes import open_disputes
from usage.measures import Dimension, Numbers
from usage.models import Trace
from usage.periods import Granularity
from usage.sync.freshness import Freshness, Lagging, freshness_of
from usage.templatetags.figures import percent

ROWS = 8
LISTS = {Dimension.TENANT: "tenants", Dimension.USER: "users", Dimension.FLOW: "flows"}
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
    models: list[Row]
    model_columns: list[Column]
    lists: list[TopList]
    runs: list[Run]
    all_runs: str
    what_changed: str
    freshness: Freshness
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
    def month_end_day(self) -> date | None:
        """The last day of the month that the projection is for."""
        if self.projection is None:
            return None
        return last_day_before(self.projection.month_end, self.period.zone)

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


def platform_dashboard(bar: FilterBar) -> Dashboard:
    """The whole platform."""
    period, filters = bar.period, bar.filters
    common, (tenants, users, flows, unattributed, active_tenants) = _answers(
        bar,
        _first(bar, Dimension.TENANT),
        _first(bar, Dimension.USER),
        _first(bar, Dimension.FLOW),
        queries.unattributed(period, filters),
        queries.active_tenants(period, filters),
    )
    disputes, doubtful = queries.counts_of([open_disputes(), undecided()])
    return Dashboard(
        title="Platform",
        subtitle="All tenants",
        lists=[_tenant_list(bar, tenants), _user_list(bar, users), _flow_list(bar, flows)],
        unattributed=unattributed if unattributed.total_traces else None,
        totals=queries.platform_totals(),
        active_tenants=active_tenants,
        open_disputes=disputes,
        doubtful=doubtful,
        **common,
    )


def tenant_dashboard(bar: FilterBar, tenant: Tenant) -> Dashboard:
    """One tenant."""
    common, (users, flows) = _answers(bar, _first(bar, Dimension.USER), _first(bar, Dimension.FLOW))
    return Dashboard(
        title=tenant.name,
        subtitle="Tenant",
        lists=[_user_list(bar, users), _flow_list(bar, flows)],
        crumbs=_platform_crumb(bar),
        **common,
    )


def user_dashboard(bar: FilterBar, user: User) -> Dashboard:
    """One user, with its credits."""
    now = timezone.now()
    viewer, crumbs = bar.viewer, _platform_crumb(bar)
    if viewer.is_superuser or viewer.is_tenant_admin:
        address = reverse("tenant-dashboard", args=[user.tenant.slug])
        crumbs.append((user.tenant.name, bar.link(address, without=OWNERS)))
    common, (flows, projection) = _answers(
        bar,
        _first(bar, Dimension.FLOW),
        month_projection(bar.scope, bar.period.zone, now),
    )
    return Dashboard(
        title=user.get_full_name() or user.username,
        subtitle=f"User of {user.tenant.name}",
        lists=[_flow_list(bar, flows)],
        credits=credit_status(user, now),
        projection=projection,
        crumbs=crumbs,
        **common,
    )


def crumbs_to_overview(bar: FilterBar) -> list[tuple[str, str]]:
    """From a list of all that the viewer may see back to the page of that."""
    viewer = bar.viewer
    if viewer.is_superuser:
        return _platform_crumb(bar)
    if viewer.is_tenant_admin:
        address = reverse("tenant-dashboard", args=[viewer.tenant.slug])
        return [(viewer.tenant.name, bar.link(address, without={"tenant_id"}))]
    return [("My usage", bar.link(reverse("user-dashboard", args=[viewer.pk]), without=OWNERS))]


def _platform_crumb(bar: FilterBar) -> list[tuple[str, str]]:
    if not bar.viewer.is_superuser:
        return []
    return [("Platform", bar.link(reverse("platform-dashboard"), without=OWNERS))]


def crumbs_of(trace: Trace, viewer: User, kept: str) -> list[tuple[str, str]]:
    """From the widest page that the viewer may see down to the run's user, with the period and the
    filters that were ``kept``.
    """
    crumbs = [("Platform", reverse("platform-dashboard"))] if viewer.is_superuser else []
    is_its_admin = viewer.is_tenant_admin and viewer.tenant_id == trace.tenant_id
    if trace.tenant is not None and (viewer.is_superuser or is_its_admin):
        crumbs.append((trace.tenant.name, reverse("tenant-dashboard", args=[trace.tenant.slug])))
    if trace.user is not None and sees_user(viewer, trace.user):
        crumbs.append((trace.user.username, reverse("user-dashboard", args=[trace.user.pk])))
    return [(label, f"{address}{kept}") for label, address in crumbs]


def _first(bar: FilterBar, dimension: Dimension) -> queries.Query[list[Ranked]]:
    """A list of the page, in the order that its address says."""
    order = bar.orders[LISTS[dimension]]
    return queries.first(dimension, bar.scope, bar.period, order, ROWS, bar.filters)


def _answers(bar: FilterBar, *own: queries.Query[Any]) -> tuple[dict[str, Any], list[Any]]:
    """What every page shows, and the answers to the page's own queries; all asked at once."""
    scope, period, filters = bar.scope, bar.period, bar.filters
    granularity = Granularity.HOUR if period.end - period.start <= HOURLY_UP_TO else Granularity.DAY
    now = timezone.now()
    freshness = freshness_of(scope, now)
    summary, series, models, *answers = queries.execute_all(
        queries.summary(scope, period, freshness.complete_through, filters, bar.against),
        queries.time_series(scope, period, granularity, filters),
        queries.breakdown(Dimension.MODEL, scope, period, filters),
        *own,
    )
    rows = [row for rows in answers if isinstance(rows, list) for row in rows]
    flows = {row.key: row.row for row in rows if isinstance(row.row, Flow)}
    common = {
        "period": period,
        "summary": summary,
        "over_time": charts.usage_over_time(series, period, now),
        "by_model": charts.cost_by_model(models),
        "models": [_model_row(bar, row) for row in bar.orders["models"].sorted(models)],
        "model_columns": columns_of("models", MODEL_COLUMNS, bar.orders),
        "runs": recent_traces(scope, period, filters, ROWS, flows),
        "all_runs": reverse("runs") + bar.kept_whole,
        "what_changed": reverse("what-changed") + bar.kept_whole,
        "freshness": freshness,
        "lagging": freshness.lagging if scope.is_platform else [],
    }
    return common, answers


def _tenant_list(bar: FilterBar, rows: list[Ranked]) -> TopList:
    remaining = remaining_by_tenant([row.key for row in rows])
    return TopList(
        "Tenants",
        columns_of("tenants", LIST_COLUMNS, bar.orders),
        _rows(
            rows,
            urls={
                row.key: bar.link(
                    reverse("tenant-dashboard", args=[row.row.slug]), without={"tenant_id"}
                )
                for row in rows
                if isinstance(row.row, Tenant)
            },
            details={key: f"{amount:,.0f} credits left" for key, amount in remaining.items()},
        ),
    )


def _user_list(bar: FilterBar, rows: list[Ranked]) -> TopList:
    """Those who have left the tenant since have their numbers, and no page, there."""
    scope = bar.scope
    users = [row.row for row in rows if isinstance(row.row, User)]
    of_now = [user for user in users if scope.tenant_id in (None, user.tenant_id)]
    return TopList(
        "Users",
        columns_of("users", LIST_COLUMNS, bar.orders),
        _rows(
            rows,
            urls={
                user.pk: bar.link(reverse("user-dashboard", args=[user.pk]), without=OWNERS)
                for user in of_now
            },
            details={user.pk: user.tenant.name for user in users} if scope.is_platform else {},
        ),
    )


def _flow_list(bar: FilterBar, rows: list[Ranked]) -> TopList:
    """Each leads to this page of the flow alone."""
    return TopList(
        "Flows",
        columns_of("flows", LIST_COLUMNS, bar.orders),
        _rows(
            rows,
            urls={row.key: bar.here(flow_id=row.key) for row in rows if row.key},
            details={row.key: row.row.project.name for row in rows if isinstance(row.row, Flow)},
        ),
    )


def _model_row(bar: FilterBar, row: Ranked) -> Row:
    return Row(
        label=row.label,
        numbers=row.numbers,
        bar=row.share or 0.0,
        detail=f"{percent(row.share)} of the cost",
        url=bar.here(model=row.key) if row.key else "",
        last_activity=row.last_activity,
    )


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
