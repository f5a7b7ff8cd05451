"""Puts the platform view on the admin's index page."""

from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest

from usage.dashboards import pages
from usage.dashboards.period_form import PeriodForm


def add_platform_view(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The index page's context with the platform's dashboard; only a platform admin gets it."""
    if not request.user.is_superuser:
        return context
    form = PeriodForm.of(request, ZoneInfo("UTC"))
    if not form.is_valid():
        form = PeriodForm({}, zone=ZoneInfo("UTC"))
        form.full_clean()
    return {
        **context,
        "title": "Platform",
        "dashboard": pages.platform_dashboard(form.period),
        "period_form": form,
    }
