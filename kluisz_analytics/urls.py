"""Addresses: pages, admin, API."""

from django.contrib import admin
from django.urls import include, path
from drf_spectacular.views import SpectacularSwaggerView
from rest_framework.permissions import AllowAny

from kluisz_analytics.api_schema import SchemaView

urlpatterns = [
    path("", include("usage.dashboards.urls")),
    path("admin/", admin.site.urls),
    path("api/v2/analytics/", include("usage.api.urls")),
    path("api/v2/credits/", include("credits.api.urls")),
    path("api/v2/schema/", SchemaView.as_view(), name="schema"),
    path(
        "api/v2/docs/",
        SpectacularSwaggerView.as_view(url_name="schema", permission_classes=[AllowAny]),
        name="docs",
    ),
]
