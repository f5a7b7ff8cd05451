"""Admin pages for connections, the sync, facts and rollups. Facts and rollups are shown, never edited."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.decorators import action

from credits.admin import ReadOnlyAdmin
from usage.connections import client_for
from usage.langfuse.errors import LangfuseError
from usage.models import (
    FlowUsage,
    LangfuseConnection,
    ModelUsage,
    Observation,
    RejectedObservation,
    SyncRun,
    SyncWindow,
    TenantUsageStats,
    Trace,
    UserUsageStats,
)


class ConnectionForm(forms.ModelForm):
    """A secret key can be entered, and is never shown again."""

    new_secret_key = forms.CharField(
        label="Secret key",
        required=False,
        widget=forms.PasswordInput,
        help_text="Stored encrypted. Leave it empty to keep the one that is stored.",
    )

    class Meta:
        model = LangfuseConnection
        fields = ["name", "host", "public_key", "tenant", "is_enabled"]

    def clean_new_secret_key(self) -> str:
        secret: str = self.cleaned_data["new_secret_key"]
        if not secret and not self.instance.encrypted_secret_key:
            raise forms.ValidationError("Enter the secret key of this Langfuse project (sk-lf-…).")
        return secret

    def save(self, commit: bool = True) -> LangfuseConnection:
        if self.cleaned_data["new_secret_key"]:
            self.instance.secret_key = self.cleaned_data["new_secret_key"]
        return super().save(commit)


@admin.register(LangfuseConnection)
class LangfuseConnectionAdmin(ModelAdmin):
    form = ConnectionForm
    list_display = ["name", "source", "host", "tenant", "is_enabled"]
    list_select_related = ["tenant"]
    search_fields = ["name", "host"]
    actions_detail = ["test_connection"]

    def has_change_permission(self, request: HttpRequest, obj: LangfuseConnection | None = None) -> bool:
        from_elsewhere = obj is not None and obj.source != LangfuseConnection.Source.ROW
        return super().has_change_permission(request, obj) and not from_elsewhere

    def has_delete_permission(self, request: HttpRequest, obj: LangfuseConnection | None = None) -> bool:
        return False

    @action(description="Test connection", url_path="test")
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponseRedirect:
        connection = LangfuseConnection.objects.get(pk=object_id)
        try:
            with client_for(connection) as client:
                health, projects = client.health(), client.projects()
        except LangfuseError as error:
            messages.error(request, str(error))
        else:
            names = ", ".join(project.name for project in projects) or "no project"
            messages.success(request, f"{connection.host} is a Langfuse {health.version}; the keys are for {names}.")
        return HttpResponseRedirect(reverse("admin:usage_langfuseconnection_change", args=[object_id]))


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    list_display = [
        "started_at", "connection", "kind", "outcome", "windows", "windows_drifted", "observations_read", "observations_stored",
        "traces_changed", "transactions_posted", "error",
    ]  # fmt: skip
    list_filter = ["kind", "outcome", "connection"]
    list_select_related = ["connection"]


@admin.register(SyncWindow)
class SyncWindowAdmin(ReadOnlyAdmin):
    list_display = ["start", "connection", "state", "complete_through", "observations", "leased_by", "leased_until", "error"]
    list_filter = ["state", "connection"]
    list_select_related = ["connection"]
    date_hierarchy = "start"


@admin.register(RejectedObservation)
class RejectedObservationAdmin(ReadOnlyAdmin):
    list_display = ["first_seen_at", "langfuse_observation_id", "langfuse_trace_id", "reason", "connection"]
    list_filter = ["connection"]
    list_select_related = ["connection"]
    search_fields = ["langfuse_observation_id", "langfuse_trace_id", "reason"]


class OwnerFilter(admin.SimpleListFilter):
    """Attributed or not (domain.md, Unattributed usage)."""

    title = "owner"
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("known", "Known"), ("unattributed", "Unattributed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        nobody = Q(tenant__isnull=True) | Q(user__isnull=True)
        if self.value() == "unattributed":
            return queryset.filter(nobody)
        return queryset.exclude(nobody) if self.value() == "known" else queryset


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    list_display = [
        "start_time",
        "name",
        "tenant",
        "user",
        "is_failed",
        "total_tokens",
        "cost_usd",
        "credits",
        "unpriced_observations",
        "latency_ms",
    ]
    list_filter = [OwnerFilter, "is_failed", "tenant"]
    list_select_related = ["tenant", "user"]
    search_fields = ["langfuse_trace_id", "name", "user__username", "user_reference", "tenant_reference", "flow_id"]
    show_full_result_count = False


@admin.register(Observation)
class ObservationAdmin(ReadOnlyAdmin):
    list_display = ["start_time", "name", "type", "level", "model", "total_tokens", "cost_usd", "cost_source", "credits"]
    list_filter = ["cost_source", "type", "level"]
    search_fields = ["langfuse_observation_id", "trace__langfuse_trace_id", "model", "name"]
    show_full_result_count = False


class RollupAdmin(ReadOnlyAdmin):
    list_filter = ["granularity"]
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
        "total_cost_usd",
        "total_credits_used",
        "active_users_count",
    ]
    list_filter = ["granularity", "tenant"]
    list_select_related = ["tenant"]


@admin.register(UserUsageStats)
class UserUsageStatsAdmin(RollupAdmin):
    list_display = ["period_start", "granularity", "user", "traces_count", "failed_traces", "total_tokens", "cost_usd", "credits_used"]
    list_select_related = ["user"]
    search_fields = ["user__username"]


@admin.register(FlowUsage)
class FlowUsageAdmin(RollupAdmin):
    list_display = [
        "period_start",
        "granularity",
        "tenant_key",
        "user_key",
        "project_id",
        "flow_id",
        "total_traces",
        "total_cost_usd",
        "credits_exact",
    ]
    search_fields = ["flow_id", "project_id"]


@admin.register(ModelUsage)
class ModelUsageAdmin(RollupAdmin):
    list_display = ["period_start", "granularity", "tenant_key", "user_key", "model", "total_tokens", "total_cost_usd", "credits_exact"]
    search_fields = ["model"]
