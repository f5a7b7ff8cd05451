"""Addresses of the analytics API, below /api/v2/analytics/."""

from django.urls import path

from usage.api import disputes, sources, traces, views
from usage.desk import views as desk

urlpatterns = [
    path("platform/stats", views.PlatformStats.as_view(), name="platform-stats"),
    path("tenant/<uuid:tenant_id>/stats", views.TenantStats.as_view(), name="tenant-stats"),
    path("user/me/stats", views.MyStats.as_view(), name="my-stats"),
    path("user/<uuid:user_id>/stats", views.UserStats.as_view(), name="user-stats"),
    path("time-series", views.TimeSeries.as_view(), name="time-series"),
    path("top-users", views.TopUsers.as_view(), name="top-users"),
    path("top-flows", views.TopFlows.as_view(), name="top-flows"),
    path("top-tenants", views.TopTenants.as_view(), name="top-tenants"),
    path("traces", traces.Traces.as_view(), name="traces"),
    path("traces/<uuid:trace_id>", traces.TraceDetail.as_view(), name="trace-detail"),
    path("costs", traces.Costs.as_view(), name="costs"),
    path("sync/status", views.SyncStatus.as_view(), name="sync-status"),
    path(
        "traces/<uuid:trace_id>/explanation",
        views.TraceExplanation.as_view(),
        name="trace-explanation",
    ),
    path("anomalies", views.Anomalies.as_view(), name="anomalies"),
    path("unpriced", views.Unpriced.as_view(), name="unpriced"),
    path("doubtful", desk.Doubtful.as_view(), name="doubtful"),
    path("expected-usage", desk.ExpectedUsage.as_view(), name="expected-usage"),
    path("unmetered", views.Unmetered.as_view(), name="unmetered"),
    path("sources", sources.Sources.as_view(), name="sources"),
    path("unknown-names", desk.UnknownNames.as_view(), name="unknown-names"),
    path("disputes", disputes.Disputes.as_view(), name="disputes"),
    path(
        "disputes/<uuid:trace_id>/settle", disputes.SettleDispute.as_view(), name="settle-dispute"
    ),
    path(
        "disputes/<uuid:trace_id>/undo", disputes.UndoSettlement.as_view(), name="undo-settlement"
    ),
    path("cost-breakdown", views.CostBreakdown.as_view(), name="cost-breakdown"),
]
