"""Puts the platform view on the admin's index page."""

from typing import Any
from zoneinfo import ZoneInfo

from django.http import HttpRequest, QueryDict
from rest_framework.exceptions import ValidationError

from kluisz_analytics.tenants.models import User
from usage.dashboards import pages
from usage.dashboards.filter_bar import FilterBar
from usage.scope import Scope

UTC = ZoneInfo("UTC")


def add_platform_view(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """The index page's context with the platform's dashboard; only a platform admin gets it."""
    if not request.user.is_superuser:
        return context
    viewer: User = request.user  # type: ignore[assignment]
    try:
        bar = FilterBar.of(request.GET, viewer, Scope(), UTC, fixed=["tz"])
    except ValidationError:
        # The admin's own pages have no address for a refusal.
        bar = FilterBar.of(QueryDict(), viewer, Scope(), UTC, fixed=["tz"])
    return {
        **context,
        "title": "Platform",
        "dashboard": pages.platform_dashboard(bar),
        "bar": bar,
        "kept_whole": bar.kept_whole,
    }
