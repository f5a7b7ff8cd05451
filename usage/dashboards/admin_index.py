"""Puts the platform view on the admin's index page."""

from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest
from rest_framework.exceptions import ValidationError

from usage.dashboards import pages
from usage.dashboards.ordering import orders_in
from usage.dashboards.period_picker import PeriodPicker


def add_platform_view(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The index page's context with the platform's dashboard; only a platform admin gets it."""
    if not request.user.is_superuser:
        return context
    try:
        picker = PeriodPicker.of(request.GET, ZoneInfo("UTC"))
    except ValidationError:
        # The admin's own pages have no address for a refusal.
        picker = PeriodPicker.of({}, ZoneInfo("UTC"))
    return {
        **context,
        "title": "Platform",
        "dashboard": pages.platform_dashboard(picker.period, orders_in(request.GET)),
        "period_picker": picker,
    }
