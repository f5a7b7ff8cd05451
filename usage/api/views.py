"""The analytics endpoints: read the parameters, execute one query, hand back its answer."""

from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from credits.accounts import remaining_by_tenant
from credits.status import credit_status
from kluisz_analytics.downloads import CSVRenderer, JSONLinesRenderer
from kluisz_analytics.period_parameters import PeriodParameters, as_validation_error, period_of
from kluisz_analytics.periods import Period, PeriodError
from kluisz_analytics.scales import from_scaled
from kluisz_analytics.tenants.models import Flow, Tenant, User
from kluisz_analytics.tenants.permissions import ReadsPlatform, ReadsUsage
from kluisz_analytics.tenants.views import ApiView
from pricing.tiers import default_tiers_of
from usage.access import (
    platform_scope,
    scope_of,
    tenant_scope,
    user_scope,
    visible_trace,
)
from usage.analytics import queries
from usage.analytics.anomalies import find_anomalies
from usage.analytics.comparison import known_through
from usage.analytics.explain import explain
from usage.analytics.projection import project_month
from usage.analytics.queries import Ranked, Summary
from usage.analytics.unmetered import unmetered_calls
from usage.analytics.unpriced import unpriced_models
from usage.api import answers, parameters
from usage.measures import PLACES, Dimension, Metric
from usage.periods import Granularity
from usage.scope import Scope
from usage.sync.freshness import complete_through_of, freshness_of
from usage.sync.status import sync_status


class AnalyticsView(ApiView):
    """What every analytics endpoint does alike: the caller, the zone, the period's fields of the
    answer.
    """

    renderer_classes = [JSONRenderer]

    def period(self, asked: dict[str, Any], tenant: Tenant | None = None) -> Period:
        """The asked period; its zone is by default the tenant's, else the caller's."""
        return period_of(asked, tenant.zone if tenant else self.zone)

    def framed(
        self, period: Period, body: dict[str, Any], scope: Scope | None = None
    ) -> dict[str, Any]:
        """The body, with the period that it is for and up to when that is complete, if it doesn't
        say so itself.

        It is of ``scope``; by default of all that the caller may see.
        """
        if "complete_through" not in body:
            moment = complete_through_of(scope or scope_of(self.viewer))
            body = {"complete_through": moment, **body}
        return {"period_start": period.start, "period_end": period.end, **body}


class ListView(AnalyticsView):
    """An endpoint with rows, which can be had as CSV and as JSON Lines too."""

    renderer_classes = [JSONRenderer, CSVRenderer, JSONLinesRenderer]
    file_name = "usage"


class PlatformStats(AnalyticsView):
    permission_classes = [ReadsPlatform]

    @extend_schema(
        parameters=[PeriodParameters],
        responses=answers.PlatformAnswer,
        operation_id="platform_stats",
    )
    def get(self, request: Request) -> Response:
        """The whole platform's summary, and what has no owner yet."""
        scope = platform_scope(self.viewer)
        period = self.period(parameters.read_parameters(request, PeriodParameters))
        freshness = freshness_of(scope, timezone.now())
        summary, active_tenants, unattributed = queries.execute_all(
            queries.summary(scope, period, freshness.complete_through),
            queries.active_tenants(period),
            queries.unattributed(period),
        )
        body = {
            **summary_body(summary, freshness.complete_through),
            **asdict(queries.platform_totals()),
            "active_tenants": active_tenants,
            "unattributed": unattributed,
            "lagging_connections": freshness.lagging,
        }
        return Response(answers.PlatformAnswer(self.framed(period, body)).data)


class TenantStats(AnalyticsView):
    permission_classes = [ReadsUsage]

    @extend_schema(
        parameters=[PeriodParameters],
        responses=answers.TenantAnswer,
        operation_id="tenant_stats",
    )
    def get(self, request: Request, tenant_id: UUID) -> Response:
        """A tenant's summary."""
        scope = tenant_scope(self.viewer, tenant_id)
        tenant = Tenant.objects.get(pk=tenant_id)
        period = self.period(parameters.read_parameters(request, PeriodParameters), tenant)
        body = {
            "tenant_id": tenant.pk,
            "name": tenant.name,
            **summary_of(scope, period),
        }
        return Response(answers.TenantAnswer(self.framed(period, body, scope)).data)


class UserStats(AnalyticsView):
    permission_classes = [ReadsUsage]

    @extend_schema(
        parameters=[PeriodParameters],
        responses=answers.UserAnswer,
        operation_id="user_stats",
    )
    def get(self, request: Request, user_id: UUID) -> Response:
        """A user's summary, and what it comes to at the month's end."""
        scope = user_scope(self.viewer, user_id)
        user, now = User.objects.select_related("tenant").get(pk=user_id), timezone.now()
        period = self.period(parameters.read_parameters(request, PeriodParameters), user.tenant)
        body = {
            "user_id": user.pk,
            "username": user.username,
            **summary_of(scope, period),
            "projection": {
                **asdict(project_month(scope, period.zone, now)),
                "exhaustion_date": credit_status(user, now).projected_exhaustion_date,
            },
        }
        return Response(answers.UserAnswer(self.framed(period, body, scope)).data)


class MyStats(UserStats):
    permission_classes = [ReadsUsage]

    @extend_schema(
        parameters=[PeriodParameters],
        responses=answers.UserAnswer,
        operation_id="my_stats",
    )
    def get(self, request: Request) -> Response:  # type: ignore[override]
        """The caller's own summary."""
        return super().get(request, self.viewer.pk)


class TimeSeries(ListView):
    permission_classes = [ReadsUsage]
    file_name = "time-series"

    @extend_schema(
        parameters=[parameters.SeriesParameters],
        responses=answers.SeriesAnswer,
        operation_id="time_series",
    )
    def get(self, request: Request) -> Response:
        """Numbers for each hour, day, week or month; empty ones are zeros."""
        asked = parameters.read_parameters(request, parameters.SeriesParameters)
        period, filters = self.period(asked), parameters.filters_of(asked, self.viewer)
        granularity = Granularity(asked["granularity"])
        try:
            series = queries.execute(
                queries.time_series(scope_of(self.viewer), period, granularity, filters)
            )
        except PeriodError as error:
            raise as_validation_error(error) from error
        points = [
            {"period_start": start, "period_end": end, **numbers.as_dict()}
            for start, end, numbers in series
        ]
        return Response(
            answers.SeriesAnswer(
                self.framed(period, {"granularity": granularity.value, "series": points})
            ).data
        )


class TopUsers(ListView):
    permission_classes = [ReadsUsage]
    file_name = "top-users"

    @extend_schema(
        parameters=[parameters.TopParameters],
        responses=answers.TopUsersAnswer,
        operation_id="top_users",
    )
    def get(self, request: Request) -> Response:
        """The users with the most usage."""
        period, rows = top_rows(self, request, Dimension.USER)
        # One who has moved is of the tenant that the usage is of, to whoever sees only that.
        of_scope = scope_of(self.viewer).tenant_id
        results = [
            {
                "user_id": row.key,
                "username": row.label,
                "tenant_id": (of_scope or row.row.tenant_id) if isinstance(row.row, User) else None,
                "last_activity": row.last_activity,
                **row.numbers.as_dict(),
            }
            for row in rows
        ]
        return Response(answers.TopUsersAnswer(self.framed(period, {"results": results})).data)


class TopFlows(ListView):
    permission_classes = [ReadsUsage]
    file_name = "top-flows"

    @extend_schema(
        parameters=[parameters.TopParameters],
        responses=answers.TopFlowsAnswer,
        operation_id="top_flows",
    )
    def get(self, request: Request) -> Response:
        """The flows with the most usage; a flow that nobody has named is shown by its id."""
        period, rows = top_rows(self, request, Dimension.FLOW)
        results = [
            {
                "flow_id": row.key,
                "flow_name": row.label,
                "project_id": str(row.row.project_id) if isinstance(row.row, Flow) else None,
                "last_activity": row.last_activity,
                **row.numbers.as_dict(),
            }
            for row in rows
        ]
        return Response(answers.TopFlowsAnswer(self.framed(period, {"results": results})).data)


class TopTenants(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "top-tenants"

    @extend_schema(
        parameters=[parameters.TopParameters],
        responses=answers.TopTenantsAnswer,
        operation_id="top_tenants",
    )
    def get(self, request: Request) -> Response:
        """The tenants with the most usage: for platform admins.

        ``tier`` is the tenant's default.
        """
        platform_scope(self.viewer)
        period, rows = top_rows(self, request, Dimension.TENANT)
        rows = [row for row in rows if row.key is not None]
        keys = [row.key for row in rows]
        remaining = remaining_by_tenant(keys)
        tiers, users = default_tiers_of(keys, timezone.now()), queries.users_count(keys)
        results = [
            {
                "tenant_id": row.key,
                "name": row.label,
                "slug": row.row.slug if isinstance(row.row, Tenant) else "",
                "tier": tiers[row.key].name if row.key in tiers else None,
                "users_count": users.get(row.key, 0),
                "credits_remaining": remaining[row.key],
                "last_activity": row.last_activity,
                **row.numbers.as_dict(),
            }
            for row in rows
        ]
        return Response(answers.TopTenantsAnswer(self.framed(period, {"results": results})).data)


class SyncStatus(AnalyticsView):
    permission_classes = [ReadsPlatform]

    @extend_schema(responses=answers.SyncStatusAnswer, operation_id="sync_status")
    def get(self, request: Request) -> Response:
        """How far each connection is read, its last run and error, and what had drifted: for
        platform admins.
        """
        now = timezone.now()
        freshness = freshness_of(platform_scope(self.viewer), now)
        body = {
            "complete_through": freshness.complete_through,
            "lagging_connections": freshness.lagging,
            "connections": sync_status(now),
        }
        return Response(answers.SyncStatusAnswer(body).data)


class CostBreakdown(ListView):
    permission_classes = [ReadsUsage]
    file_name = "cost-breakdown"

    @extend_schema(
        parameters=[parameters.BreakdownParameters],
        responses=answers.BreakdownAnswer,
        operation_id="cost_breakdown",
    )
    def get(self, request: Request) -> Response:
        """All usage by a dimension, with each one's share of the cost; the shares sum to 1."""
        asked = parameters.read_parameters(request, parameters.BreakdownParameters)
        period, filters = self.period(asked), parameters.filters_of(asked, self.viewer)
        dimension = Dimension(asked["group_by"])
        rows = queries.execute(
            queries.breakdown(dimension, scope_of(self.viewer), period, filters, asked["limit"])
        )
        results = [
            {
                "key": None if row.key in (None, "") else str(row.key),
                "label": row.label,
                "share": row.share,
                **row.numbers.as_dict(),
            }
            for row in rows
        ]
        return Response(
            answers.BreakdownAnswer(
                self.framed(period, {"group_by": dimension.value, "results": results})
            ).data
        )


class Anomalies(ListView):
    permission_classes = [ReadsUsage]
    file_name = "anomalies"

    @extend_schema(
        parameters=[parameters.AnomalyParameters],
        responses=answers.AnomaliesAnswer,
        operation_id="anomalies",
    )
    def get(self, request: Request) -> Response:
        """Days or hours that stand out of a tenant's, a user's, a flow's or a model's own pattern,
        the farthest out first.
        """
        asked = parameters.read_parameters(request, parameters.AnomalyParameters)
        period, filters = self.period(asked), parameters.filters_of(asked, self.viewer)
        granularity, by, metric = (
            Granularity(asked["granularity"]),
            Dimension(asked["group_by"]),
            Metric(asked["metric"]),
        )
        try:
            found = find_anomalies(
                scope_of(self.viewer),
                period,
                granularity,
                by,
                metric.sum,
                filters,
                asked["limit"],
                known_through(timezone.now(), complete_through_of(scope_of(self.viewer))),
            )
        except PeriodError as error:
            raise as_validation_error(error) from error
        results = [
            {
                **asdict(one),
                "key": None if one.key is None else str(one.key),
                "value": shown_amount(metric, one.value),
                "usual": shown_amount(metric, one.usual),
            }
            for one in found
        ]
        body = {
            "granularity": granularity.value,
            "group_by": by.value,
            "metric": metric.value,
            "results": results,
        }
        return Response(answers.AnomaliesAnswer(self.framed(period, body)).data)


class TraceExplanation(AnalyticsView):
    permission_classes = [ReadsUsage]

    @extend_schema(responses=answers.ExplanationAnswer, operation_id="trace_explanation")
    def get(self, request: Request, trace_id: UUID) -> Response:
        """Why a run was charged what it was: every figure between its units and its credits."""
        return Response(
            answers.ExplanationAnswer(
                explain(visible_trace(self.viewer, trace_id), self.viewer)
            ).data
        )


class Unpriced(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "unpriced"

    @extend_schema(responses=answers.UnpricedAnswer, operation_id="unpriced")
    def get(self, request: Request) -> Response:
        """Models without a price, or with one for a part of their units, with what they used, the
        most used first: for platform admins.
        """
        body = {
            "complete_through": complete_through_of(platform_scope(self.viewer)),
            "results": unpriced_models(),
        }
        return Response(answers.UnpricedAnswer(body).data)


class Unmetered(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "unmetered"

    @extend_schema(
        parameters=[parameters.UnmeteredParameters],
        responses=answers.UnmeteredAnswer,
        operation_id="unmetered",
    )
    def get(self, request: Request) -> Response:
        """Calls of models that say neither what they used nor what they cost, by model, flow and
        tenant, with the likely reason, the most frequent first: for platform admins.
        """
        scope = platform_scope(self.viewer)
        asked = parameters.read_parameters(request, parameters.UnmeteredParameters)
        body = {
            "complete_through": complete_through_of(scope),
            "results": unmetered_calls(scope, estimate=asked["estimate"]),
        }
        return Response(answers.UnmeteredAnswer(body).data)


def top_rows(view: ListView, request: Request, dimension: Dimension) -> tuple[Period, list[Ranked]]:
    asked = parameters.read_parameters(request, parameters.TopParameters)
    period, filters = view.period(asked), parameters.filters_of(asked, view.viewer)
    metric, limit = Metric(asked["metric"]), asked["limit"]
    top = queries.top(dimension, scope_of(view.viewer), period, metric, limit, filters)
    return period, queries.execute(top)


def shown_amount(metric: Metric, amount: float) -> str:
    """An amount of the metric, exact text; counts that are a median may end in a half."""
    places = PLACES.get(metric.unit)
    return (
        f"{from_scaled(round(amount), places):f}"
        if places
        else f"{amount:g}"
        if amount % 1
        else f"{amount:.0f}"
    )


def summary_of(scope: Scope, period: Period) -> dict[str, Any]:
    """The scope's summary, as an answer's fields."""
    complete_through = complete_through_of(scope)
    summary = queries.execute(queries.summary(scope, period, complete_through))
    return summary_body(summary, complete_through)


def summary_body(summary: Summary, complete_through: datetime | None) -> dict[str, Any]:
    """The summary's fields, and up to when it is complete."""
    return {
        **summary.numbers.as_dict(),
        "complete_through": complete_through,
        "compared_until": summary.comparison.until,
        "previous_period": {
            "period_start": summary.comparison.previous_start,
            "period_end": summary.comparison.previous_end,
            **summary.previous.as_dict(),
        },
        "change": summary.change,
    }
