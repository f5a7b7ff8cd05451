"""The pages: thin views over usage.dashboards.pages."""

from collections.abc import Collection
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from rest_framework.exceptions import ValidationError

from kluisz_analytics.tenants.access import NotVisible, visible_user
from kluisz_analytics.tenants.models import Tenant, User
from kluisz_analytics.zones import unknown_zone
from usage.access import (
    platform_scope,
    scope_of,
    scope_of_user,
    tenant_scope,
    visible_trace,
)
from usage.analytics.explain import explain
from usage.analytics.traces import labelled, langfuse_url
from usage.dashboards import pages
from usage.dashboards.filter_bar import FilterBar, kept_in
from usage.dashboards.look_up import look_up
from usage.dashboards.runs import LAST_PAGE, run_list
from usage.dashboards.sources import sources_page
from usage.dashboards.waterfall import waterfall_of
from usage.dashboards.what_changed import what_changed
from usage.measures import Dimension, Metric
from usage.scope import Scope

UTC = ZoneInfo("UTC")


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """To the widest dashboard that the user may see."""
    user: User = request.user  # type: ignore[assignment]
    if user.is_superuser:
        return redirect("platform-dashboard")
    if user.is_service_account:
        raise PermissionDenied("A service account has no dashboard; it uses the credits API.")
    if user.is_tenant_admin:
        return redirect("tenant-dashboard", user.tenant.slug)
    return redirect("user-dashboard", user.pk)


@login_required
def platform_dashboard(request: HttpRequest) -> HttpResponse:
    scope = platform_scope(request.user)  # type: ignore[arg-type]
    bar = _bar(request, scope, UTC)
    return _page(request, bar, pages.platform_dashboard(bar))


@login_required
def sources(request: HttpRequest) -> HttpResponse:
    """What arrives by integration, for platform admins."""
    platform_scope(request.user)  # type: ignore[arg-type]
    return render(request, "dashboards/sources.html", _sources(request))


def admin_sources(request: HttpRequest) -> HttpResponse:
    """The same as a page of the admin."""
    platform_scope(request.user)  # type: ignore[arg-type]
    context = {**admin.site.each_context(request), "title": "Sources", **_sources(request)}
    return render(request, "admin/usage/sources.html", context)


def _sources(request: HttpRequest) -> dict[str, Any]:
    bar = _bar(request, Scope(), UTC)
    return {"page": sources_page(bar.period), "bar": bar, **_links(bar)}


@login_required
def tenant_dashboard(request: HttpRequest, slug: str) -> HttpResponse:
    viewer: User = request.user  # type: ignore[assignment]
    tenant = get_object_or_404(Tenant, slug=slug)
    try:
        scope = tenant_scope(viewer, tenant.pk)
    except NotVisible as error:
        raise Http404(f"There is no tenant “{slug}”.") from error
    bar = _bar(request, scope, tenant.zone, fixed=["tenant_id"])
    return _page(request, bar, pages.tenant_dashboard(bar, tenant))


@login_required
def user_dashboard(request: HttpRequest, user_id: UUID) -> HttpResponse:
    viewer: User = request.user  # type: ignore[assignment]
    try:
        user = visible_user(viewer, user_id)
    except NotVisible as error:
        raise Http404(str(error)) from error
    scope = scope_of_user(viewer, user)
    bar = _bar(request, scope, user.tenant.zone, fixed=["tenant_id", "user_id"])
    return _page(request, bar, pages.user_dashboard(bar, user))


@login_required
def runs(request: HttpRequest) -> HttpResponse:
    """All runs that the viewer may see, as the bar of filters and a search narrow them."""
    viewer: User = request.user  # type: ignore[assignment]
    bar = _bar(request, scope_of(viewer), UTC if viewer.is_superuser else viewer.tenant.zone)
    try:
        page = int(request.GET.get("page") or 1)
        search = _plain(request.GET.get("search", "").strip())
    except ValueError as error:
        raise BadRequest(str(error)) from error
    if not 1 <= page <= LAST_PAGE:
        raise BadRequest(f"There is no page {page} of the list: it has 1 to {LAST_PAGE}.")
    context = {
        "list": run_list(bar, search, page),
        "bar": bar,
        **_links(bar),
        "crumbs": pages.crumbs_to_overview(bar),
    }
    with timezone.override(bar.period.zone):
        return render(request, "traces/runs.html", context)


@login_required
def what_changed_page(request: HttpRequest) -> HttpResponse:
    """What grew or shrank most of all that the viewer may see: ``by`` a dimension, in a
    ``measure``.
    """
    viewer: User = request.user  # type: ignore[assignment]
    bar = _bar(request, scope_of(viewer), UTC if viewer.is_superuser else viewer.tenant.zone)
    by_default = Dimension.TENANT if bar.scope.is_platform else Dimension.FLOW
    try:
        by = Dimension(request.GET.get("by") or by_default)
        metric = Metric(request.GET.get("measure") or Metric.COST)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    context = {
        "changed": what_changed(bar, by, metric),
        "bar": bar,
        **_links(bar),
        "crumbs": pages.crumbs_to_overview(bar),
    }
    with timezone.override(bar.period.zone):
        return render(request, "dashboards/what_changed.html", context)


@login_required
def trace_page(request: HttpRequest, trace_id: UUID) -> HttpResponse:
    """One run, and why it was charged what it was."""
    viewer: User = request.user  # type: ignore[assignment]
    try:
        trace = visible_trace(viewer, trace_id)
    except NotVisible as error:
        raise Http404(str(error)) from error
    (run,) = labelled([trace], scope_of(viewer))
    zone = _zone_in(request, trace.tenant.zone if trace.tenant else UTC)
    kept = kept_in(request.GET)
    explanation = explain(trace, viewer)
    context = {
        "explanation": explanation,
        "waterfall": waterfall_of(explanation.steps),
        "langfuse_url": langfuse_url(trace),
        "title": run.label,
        "zone": zone.key,
        "crumbs": pages.crumbs_of(trace, viewer, kept),
        "kept": kept,
        "kept_whole": kept_in(request.GET, without=()),
    }
    with timezone.override(zone):
        return render(request, "traces/trace.html", context)


@login_required
def names(request: HttpRequest) -> JsonResponse:
    """Whom or what the bar of filters may mean: ``of`` a dimension, by a part of the name (``q``),
    of one tenant where ``tenant_id`` names it.
    """
    viewer: User = request.user  # type: ignore[assignment]
    try:
        dimension = Dimension(request.GET.get("of", ""))
        tenant_id = UUID(request.GET["tenant_id"]) if request.GET.get("tenant_id") else None
        text = _plain(request.GET.get("q", ""))
    except ValueError as error:
        raise BadRequest(str(error)) from error
    scope = scope_of(viewer)
    if tenant_id is not None and scope.user_id is None:
        try:
            scope = tenant_scope(viewer, tenant_id)
        except NotVisible as error:
            raise Http404(str(error)) from error
    found = look_up(dimension, text, scope)
    return JsonResponse({"results": [one._asdict() for one in found]})


def _zone_in(request: HttpRequest, default: ZoneInfo) -> ZoneInfo:
    """The zone that was chosen on the page before, if one was."""
    name = request.GET.get("tz", "")
    return ZoneInfo(name) if name and not unknown_zone(name) else default


def _plain(text: str) -> str:
    """Raises ValueError for what no name has."""
    if "\x00" in text:
        raise ValueError("A name has no NUL.")
    return text[:200]


def _bar(
    request: HttpRequest, scope: Scope, zone: ZoneInfo, fixed: Collection[str] = ()
) -> FilterBar:
    try:
        return FilterBar.of(request.GET, request.user, scope, zone, fixed)  # type: ignore[arg-type]
    except ValidationError as error:
        raise BadRequest(_in_words(error.detail)) from error
    except NotVisible as error:
        raise Http404(str(error)) from error


def _in_words(detail: object) -> str:
    """All that is wrong, whatever the form in which DRF says it."""
    if isinstance(detail, dict):
        return " ".join(map(_in_words, detail.values()))
    return " ".join(map(_in_words, detail)) if isinstance(detail, list) else str(detail)


def _links(bar: FilterBar) -> dict[str, str]:
    """What the links to other pages keep."""
    return {"kept": bar.kept, "kept_whole": bar.kept_whole}


def _page(request: HttpRequest, bar: FilterBar, dashboard: pages.Dashboard) -> HttpResponse:
    context = {"dashboard": dashboard, "bar": bar, **_links(bar)}
    with timezone.override(bar.period.zone):
        return render(request, "dashboards/dashboard.html", context)
