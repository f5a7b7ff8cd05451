"""Names for the bar of filters, by a part of them: those that the viewer may see."""

from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from django.db.models import Q
from django.utils import timezone

from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.models import Flow, Project, Tenant, User
from usage.analytics import queries
from usage.analytics.queries import Order
from usage.measures import Dimension, Metric
from usage.scope import Scope

AT_ONCE = 20
USED_WITHIN = timedelta(days=90)
MOST_USED = 500


class Found(NamedTuple):
    """What to filter by, what it is called, and what tells it from others of that name."""

    value: str
    label: str
    detail: str = ""


def look_up(dimension: Dimension, text: str, scope: Scope) -> list[Found]:
    """The first of those whose name has the text in it; one query, or those of a question."""
    if dimension is Dimension.TENANT:
        return [*_tenants(text, scope)]
    if dimension is Dimension.USER:
        return [*_users(text, scope)]
    if dimension is Dimension.PROJECT:
        return [*_projects(text, scope)]
    if dimension is Dimension.FLOW:
        return [*_flows(text, scope)]
    return [*_used(dimension, text, scope)]


def _tenants(text: str, scope: Scope) -> Iterable[Found]:
    if not scope.is_platform:
        return
    named = Tenant.objects.filter(Q(name__icontains=text) | Q(slug__icontains=text))
    for tenant in named.order_by("name", "pk")[:AT_ONCE]:
        yield Found(str(tenant.pk), tenant.name)


def _users(text: str, scope: Scope) -> Iterable[Found]:
    named = User.objects.select_related("tenant").filter(is_service_account=False)
    for word in text.split():
        named = named.filter(
            Q(username__icontains=word)
            | Q(first_name__icontains=word)
            | Q(last_name__icontains=word)
            | Q(email__icontains=word)
        )
    if scope.tenant_id is not None:
        named = named.filter(tenant=scope.tenant_id)
    if scope.user_id is not None:
        named = named.filter(pk=scope.user_id)
    for user in named.order_by("username", "pk")[:AT_ONCE]:
        full_name = user.get_full_name()
        details = [full_name, "" if scope.tenant_id else user.tenant.name]
        yield Found(str(user.pk), user.username, ", ".join(filter(None, details)))


def _projects(text: str, scope: Scope) -> Iterable[Found]:
    named = Project.objects.select_related("tenant").filter(name__icontains=text)
    if scope.tenant_id is not None:
        named = named.filter(tenant=scope.tenant_id)
    elif scope.user_id is not None:
        named = named.filter(tenant__users=scope.user_id)
    for project in named.order_by("name", "pk")[:AT_ONCE]:
        yield Found(str(project.pk), project.name, project.tenant.name if scope.is_platform else "")


def _flows(text: str, scope: Scope) -> Iterable[Found]:
    named = Flow.objects.select_related("project__tenant").filter(name__icontains=text)
    if scope.tenant_id is not None:
        named = named.filter(project__tenant=scope.tenant_id)
    elif scope.user_id is not None:
        named = named.filter(project__tenant__users=scope.user_id)
    for flow in named.order_by("name", "pk")[:AT_ONCE]:
        whose = [flow.project.name, flow.project.tenant.name if scope.is_platform else ""]
        yield Found(str(flow.pk), flow.name, ", ".join(filter(None, whose)))


def _used(dimension: Dimension, text: str, scope: Scope) -> Iterable[Found]:
    """Models and environments have no directory: those that were used of late, the most first."""
    now = timezone.now()
    period = Period(now - USED_WITHIN, now, ZoneInfo("UTC"))
    order = Order(Metric.TRACES.sum)
    used = queries.execute(queries.first(dimension, scope, period, order, MOST_USED))
    fit = [row for row in used if row.key and text.casefold() in row.label.casefold()]
    for row in fit[:AT_ONCE]:
        yield Found(str(row.key), row.label)
