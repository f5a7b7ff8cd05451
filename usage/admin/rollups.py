"""Admin pages for rollups and stats: of each rule, its dimensions and the main numbers."""

from django.contrib import admin
from django.db.models import CharField, ForeignKey
from django.urls import URLPattern, path

from kluisz_analytics.admin_pages import ReadOnlyAdmin, amount_column
from usage.dashboards.views import admin_sources
from usage.models import FlowEstimate, SourceUsage, StalePeriod
from usage.rollups.rules import BUILT, USERS, RollupRule

NUMBERS = [
    "total_traces",
    "failed_traces",
    "total_tokens",
    amount_column("total_cost_usd"),
    amount_column("credits_exact"),
]


class RollupAdmin(ReadOnlyAdmin):
    list_filter = ["granularity"]
    exclude = ["users", "latencies"]
    show_full_result_count = False


def _admin_of(rule: RollupRule) -> type[RollupAdmin]:
    """Rows by the rule's columns; a tenant and a user by their names."""
    fields = [rule.model._meta.get_field(column) for column in rule.columns]
    options = {
        "list_display": ["period_start", "granularity", *(one.name for one in fields), *NUMBERS],
        "list_select_related": [one.name for one in fields if isinstance(one, ForeignKey)],
        "search_fields": [one.name for one in fields if isinstance(one, CharField)],
    }
    return type(f"{rule.model.__name__}Admin", (RollupAdmin,), options)


for _rule in (*BUILT, USERS):
    admin.site.register(_rule.model, _admin_of(_rule))


@admin.register(SourceUsage)
class SourceUsageAdmin(ReadOnlyAdmin):
    """The rows, and the page of what they come to."""

    list_display = [
        *("period_start", "source", "source_version", "environment", "total_traces"),
        *("priced_observations", "repeated_observations", amount_column("total_cost_usd")),
    ]
    search_fields = ["source", "source_version", "environment"]
    show_full_result_count = False

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(admin_sources)
        return [path("sources/", page, name="usage_sources"), *super().get_urls()]


@admin.register(StalePeriod)
class StalePeriodAdmin(RollupAdmin):
    list_display = ["period_start", "granularity"]


@admin.register(FlowEstimate)
class FlowEstimateAdmin(ReadOnlyAdmin):
    list_display = ["flow_id", amount_column("median"), amount_column("p90"), "runs", "computed_at"]
    search_fields = ["flow_id"]
