"""Admin pages for rollups and stats."""

from django.contrib import admin

from kluisz_analytics.admin_pages import ReadOnlyAdmin, amount_column
from usage.models import (
    FlowEstimate,
    FlowUsage,
    ModelUsage,
    PlatformModelUsage,
    PlatformUsage,
    StalePeriod,
    TenantUsageStats,
    UserUsageStats,
)


class RollupAdmin(ReadOnlyAdmin):
    list_filter = ["granularity"]
    exclude = ["users", "latencies"]
    show_full_result_count = False


@admin.register(TenantUsageStats)
class TenantUsageStatsAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "tenant",
        "total_traces",
        "failed_traces",
        "total_tokens",
        amount_column("total_cost_usd"),
        "total_credits_used",
        "active_users_count",
    ]
    list_filter = ["granularity", "tenant"]
    list_select_related = ["tenant"]


@admin.register(UserUsageStats)
class UserUsageStatsAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "user",
        "traces_count",
        "failed_traces",
        "total_tokens",
        amount_column("cost_usd"),
        "credits_used",
    ]
    list_select_related = ["user"]
    search_fields = ["user__username"]


@admin.register(FlowUsage)
class FlowUsageAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "tenant_key",
        "project_id",
        "flow_id",
        "total_traces",
        amount_column("total_cost_usd"),
        amount_column("credits_exact"),
    ]
    search_fields = ["flow_id", "project_id"]


@admin.register(ModelUsage)
class ModelUsageAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "tenant_key",
        "model",
        "total_tokens",
        amount_column("total_cost_usd"),
        amount_column("credits_exact"),
    ]
    search_fields = ["model"]


@admin.register(PlatformUsage)
class PlatformUsageAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "is_attributed",
        "total_traces",
        "failed_traces",
        "total_tokens",
        amount_column("total_cost_usd"),
        amount_column("credits_exact"),
        "active_users_count",
    ]
    list_filter = ["granularity", "is_attributed"]


@admin.register(PlatformModelUsage)
class PlatformModelUsageAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "model",
        "total_tokens",
        amount_column("total_cost_usd"),
        amount_column("credits_exact"),
        "active_users_count",
    ]
    search_fields = ["model"]


@admin.register(StalePeriod)
class StalePeriodAdmin(RollupAdmin):
    list_display = ["period_start", "granularity"]


@admin.register(FlowEstimate)
class FlowEstimateAdmin(ReadOnlyAdmin):
    list_display = ["flow_id", amount_column("median"), amount_column("p90"), "runs", "computed_at"]
    search_fields = ["flow_id"]
