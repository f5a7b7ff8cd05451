"""Admin pages for connections, the sync, facts and rollups. Facts and rollups are shown, never edited."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from unfold.admin import ModelAdmin
from unfold.decorators import action
from unfold.forms import ActionForm

from credits.admin import ReadOnlyAdmin
from kluisz_analytics.tenants.models import User
from usage import connections
from usage.connections import client_for
from usage.langfuse.errors import LangfuseError
from usage.models import (
    FlowUsage,
    LangfuseConnection,
    ModelUsage,
    Observation,
    RejectedObservation,
    SyncDrift,
    SyncRun,
    SyncWindow,
    TenantUsageStats,
    Trace,
    TraceVoid,
    UserUsageStats,
)
from usage.sync.rejections import retry_rejected
from usage.sync.voiding import restore, void


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
        fields = ["name", "host", "public_key", "plan", "tenant", "is_enabled"]

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
    list_display = ["name", "source", "host", "plan", "api", "tenant", "is_enabled"]
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
                connections.remember_api(connection, client.find_api())
        except LangfuseError as error:
            messages.error(request, str(error))
        else:
            names = ", ".join(project.name for project in projects) or "no project"
            messages.success(
                request,
                f"{connection.host} is a Langfuse {health.version}, read by {connection.get_api_display()}; the keys are for {names}.",
            )
        return HttpResponseRedirect(reverse("admin:usage_langfuseconnection_change", args=[object_id]))


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    list_display = [
        "started_at", "connection", "kind", "outcome", "windows", "windows_drifted", "observations_read", "observations_stored",
        "observations_gone", "traces_changed", "transactions_posted", "error",
    ]  # fmt: skip
    list_filter = ["kind", "outcome", "connection"]
    list_select_related = ["connection"]


@admin.register(SyncWindow)
class SyncWindowAdmin(ReadOnlyAdmin):
    list_display = ["start", "connection", "state", "complete_through", "observations", "leased_by", "leased_until", "error"]
    list_filter = ["state", "connection"]
    list_select_related = ["connection"]
    date_hierarchy = "start"


@admin.register(SyncDrift)
class SyncDriftAdmin(ReadOnlyAdmin):
    list_display = [
        "start",
        "run",
        "count_before",
        "count_now",
        "cost_usd_before",
        "cost_usd_now",
        "observations_stored",
        "observations_gone",
    ]
    list_filter = ["run__connection"]
    list_select_related = ["run__connection"]
    date_hierarchy = "start"


@admin.register(RejectedObservation)
class RejectedObservationAdmin(ReadOnlyAdmin):
    list_display = [
        "first_seen_at", "langfuse_observation_id", "langfuse_trace_id", "reason", "resolution", "tried_at", "connection",
    ]  # fmt: skip
    list_filter = ["resolution", "connection"]
    list_select_related = ["connection"]
    search_fields = ["langfuse_observation_id", "langfuse_trace_id", "reason"]
    actions = ["try_again"]

    @admin.action(description="Try everything of these connections again")
    def try_again(self, request: HttpRequest, queryset: QuerySet[RejectedObservation]) -> None:
        chosen = LangfuseConnection.objects.filter(pk__in=queryset.values("connection"))
        stored = sum(retry_rejected(connection).observations_stored for connection in chosen)
        messages.success(request, f"Tried again: {stored} could be read now.")


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


class GoneFilter(admin.SimpleListFilter):
    """Deleted in Langfuse since it was read (domain.md: it stays billed unless an operator voids it)."""

    title = "in Langfuse"
    parameter_name = "in_langfuse"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("deleted", "Deleted, billed"), ("voided", "Deleted, voided")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        if self.value() == "deleted":
            return queryset.filter(gone_observations__gt=0, is_voided=False)
        return queryset.filter(is_voided=True) if self.value() == "voided" else queryset


class ReasonForm(ActionForm):
    """What an action on traces needs beside the traces."""

    reason = forms.CharField(
        required=False,
        max_length=500,
        label="",
        widget=forms.TextInput(attrs={"placeholder": "Reason, for voiding", "class": "action-reason", "aria-label": "Reason"}),
    )


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    actions = ["void_traces", "restore_traces"]
    action_form = ReasonForm

    def has_void_permission(self, request: HttpRequest) -> bool:
        """It moves money: platform admins only."""
        return bool(request.user.is_superuser)

    @admin.action(description="Void: deleted in Langfuse, not to be billed", permissions=["void"])
    def void_traces(self, request: HttpRequest, queryset: QuerySet[Trace]) -> None:
        try:
            count = void(
                [pk.hex for pk in queryset.values_list("pk", flat=True)],
                request.POST.get("reason", ""),
                User.objects.get(username=request.user.get_username()),
            )
        except ValueError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, f"Voided {count} traces; what was charged for them has been refunded.")

    @admin.action(description="Restore: bill voided traces again", permissions=["void"])
    def restore_traces(self, request: HttpRequest, queryset: QuerySet[Trace]) -> None:
        count = restore([pk.hex for pk in queryset.values_list("pk", flat=True)])
        messages.success(request, f"Restored {count} traces; they are charged again.")

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
        "gone_observations",
        "is_voided",
    ]
    list_filter = [OwnerFilter, GoneFilter, "is_failed", "tenant"]
    list_select_related = ["tenant", "user"]
    search_fields = ["langfuse_trace_id", "name", "user__username", "user_reference", "tenant_reference", "flow_id"]
    show_full_result_count = False


@admin.register(TraceVoid)
class TraceVoidAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "trace", "reason", "created_by"]
    list_select_related = ["trace", "created_by"]


@admin.register(Observation)
class ObservationAdmin(ReadOnlyAdmin):
    list_display = ["start_time", "name", "type", "level", "model", "total_tokens", "cost_usd", "cost_source", "credits", "gone_since"]
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
