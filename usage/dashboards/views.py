"""The pages: thin views over usage.dashboards.pages."""

from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.contrib.auth.decorators import login_required
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from rest_framework.exceptions import ValidationError

from kluisz_analytics.tenants.access import NotVisible
from kluisz_analytics.tenants.models import Tenant, User
from usage.access import (
    platform_scope,
    scope_of,
    tenant_scope,
    user_scope,
    visible_trace,
)
from usage.analytics.explain import explain
from usage.analytics.traces import labelled
from usage.dashboards import pages
from usage.dashboards.period_picker import PeriodPicker
from usage.dashboards.sources import sources_page


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
    platform_scope(request.user)  # type: ignore[arg-type]
    picker = _picked(request, ZoneInfo("UTC"))
    return _page(request, picker, pages.platform_dashboard(picker.period))


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
    picker = _picked(request, ZoneInfo("UTC"))
    return {"page": sources_page(picker.period), "period_picker": picker}


@login_required
def tenant_dashboard(request: HttpRequest, slug: str) -> HttpResponse:
    viewer: User = request.user  # type: ignore[assignment]
    tenant = get_object_or_404(Tenant, slug=slug)
    try:
        scope = tenant_scope(viewer, tenant.pk)
    except NotVisible as error:
        raise Http404(f"There is no tenant “{slug}”.") from error
    picker = _picked(request, tenant.zone)
    return _page(request, picker, pages.tenant_dashboard(scope, tenant, picker.period, viewer))


@login_required
def user_dashboard(request: HttpRequest, user_id: UUID) -> HttpResponse:
    viewer: User = request.user  # type: ignore[assignment]
    try:
        scope = user_scope(viewer, user_id)
    except NotVisible as error:
        raise Http404(str(error)) from error
    user = User.objects.select_related("tenant").get(pk=user_id)
    picker = _picked(request, user.tenant.zone)
    return _page(request, picker, pages.user_dashboard(scope, user, picker.period, viewer))


@login_required
def trace_page(request: HttpRequest, trace_id: UUID) -> HttpResponse:
    """One run, and why it was charged what it was."""
    viewer: User = request.user  # type: ignore[assignment]
    try:
        trace = visible_trace(viewer, trace_id)
    except NotVisible as error:
        raise Http404(str(error)) from error
    (run,) = labelled([trace], scope_of(viewer))
    context = {
        "explanation": explain(trace, viewer),
        "title": run.label,
        "crumbs": pages.crumbs_of(trace, viewer),
    }
    return render(request, "traces/trace.html", context)


def _picked(request: HttpRequest, zone: ZoneInfo) -> PeriodPicker:
    try:
        return PeriodPicker.of(request.GET, zone)
    except ValidationError as error:
        raise BadRequest(
            " ".join(str(message) for messages in error.detail.values() for message in messages)  # type: ignore[union-attr]
        ) from error


def _page(request: HttpRequest, picker: PeriodPicker, dashboard: pages.Dashboard) -> HttpResponse:
    context: dict[str, Any] = {"dashboard": dashboard, "period_picker": picker}
    return render(request, "dashboards/dashboard.html", context)
