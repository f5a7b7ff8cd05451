"""Admin pages for traces and observations."""

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.db.models import Max, Min, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from unfold.decorators import display
from unfold.forms import ActionForm

from kluisz_analytics.admin_pages import (
    ReadOnlyAdmin,
    admin_user,
    amount_column,
    state_column,
)
from kluisz_analytics.confirmation import confirmed_action
from kluisz_analytics.figures import counted
from kluisz_analytics.tenants.attributed import OWNED_LOOKUPS, WITHOUT_USER_LOOKUPS
from usage.analytics.explain import explain
from usage.facts.voiding import restore, void
from usage.models import Observation, ReceivedTrace, Trace, TraceVoid


class OwnerFilter(admin.SimpleListFilter):
    """Whose it is (domain.md, What is counted)."""

    title = "owner"
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("known", "Known"), ("no_user", "No user"), ("unattributed", "Unattributed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        if self.value() == "unattributed":
            return queryset.filter(tenant__isnull=True)
        if self.value() == "no_user":
            return queryset.filter(**WITHOUT_USER_LOOKUPS)
        return queryset.filter(**OWNED_LOOKUPS) if self.value() == "known" else queryset


class DeletedFilter(admin.SimpleListFilter):
    """Deleted in Langfuse since it was read (domain.md: it stays billed unless an operator voids
    it).
    """

    title = "in Langfuse"
    parameter_name = "in_langfuse"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("deleted", "Deleted, billed"), ("voided", "Deleted, voided")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        if self.value() == "deleted":
            return queryset.filter(deleted_observations__gt=0, is_voided=False)
        return queryset.filter(is_voided=True) if self.value() == "voided" else queryset


class SetAsideFilter(admin.SimpleListFilter):
    """Neither priced nor charged, since it would come to more than any run can (pricing.bounds)."""

    title = "set aside"
    parameter_name = "set_aside"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Set aside")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Trace]) -> QuerySet[Trace]:
        return queryset.exclude(set_aside="") if self.value() == "yes" else queryset


class Voiding(forms.Form):
    """What voiding takes beside the traces."""

    reason = forms.CharField(
        max_length=500,
        error_messages={"required": "Say why: a reason is kept with each voided trace."},
    )


class ReasonBar(ActionForm):
    """Where it is entered, beside the choice of the action."""

    reason = forms.CharField(
        required=False,
        label="",
        widget=forms.TextInput(
            attrs={
                "placeholder": "Reason, for voiding",
                "class": "action-reason",
                "aria-label": "Reason",
            }
        ),
    )


@admin.register(Trace)
class TraceAdmin(ReadOnlyAdmin):
    actions = ["void_traces", "restore_traces", "reprice_period"]
    action_form = ReasonBar
    change_form_before_template = "admin/usage/explanation.html"

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        trace = self.get_object(request, unquote(object_id)) if object_id else None
        context = {
            **(extra_context or {}),
            **({"explanation": explain(trace, admin_user(request))} if trace else {}),
        }
        return super().changeform_view(request, object_id, form_url, context)

    def has_void_permission(self, request: HttpRequest) -> bool:
        """It moves money: platform admins only."""
        return bool(request.user.is_superuser)

    @confirmed_action(
        "Void: deleted in Langfuse, not to be billed",
        "Void these traces? They go out of all numbers, and what was charged is refunded.",
        permissions=["void"],
        form=Voiding,
    )
    def void_traces(self, request: HttpRequest, traces: QuerySet[Trace], form: Voiding) -> None:
        count = void(
            [pk.hex for pk in traces.values_list("pk", flat=True)],
            form.cleaned_data["reason"],
            admin_user(request),
        )
        messages.success(
            request, f"Voided {counted(count, 'trace')}; what was charged has been refunded."
        )

    @confirmed_action(
        "Restore: bill voided traces again",
        "Restore these traces? They are charged again.",
        permissions=["void"],
    )
    def restore_traces(self, request: HttpRequest, traces: QuerySet[Trace], form: Any) -> None:
        count = restore([pk.hex for pk in traces.values_list("pk", flat=True)])
        messages.success(request, f"Restored {counted(count, 'trace')}: charged again.")

    @admin.action(description="Reprice the days of these traces…", permissions=["void"])
    def reprice_period(
        self, request: HttpRequest, queryset: QuerySet[Trace]
    ) -> HttpResponseRedirect:
        """On to the dry run for the days that the chosen traces lie in."""
        span = queryset.aggregate(first=Min("start_time"), last=Max("start_time"))
        query = {"first_day": span["first"].date(), "last_day": span["last"].date(), "tenant": ""}
        return HttpResponseRedirect(f"{reverse('admin:usage_repricing_add')}?{urlencode(query)}")

    list_display = [
        "start_time",
        "name",
        "tenant",
        "user",
        state_column("is_failed", "outcome", "failed", "succeeded", true_is="danger"),
        "total_tokens",
        amount_column("cost_usd"),
        amount_column("credits"),
        "unpriced_observations",
        "latency_ms",
        "deleted_observations",
        state_column("is_voided", "billing", "voided", "billed", true_is="warning"),
    ]
    list_filter = [OwnerFilter, DeletedFilter, SetAsideFilter, "is_failed", "tenant"]
    list_select_related = ["tenant", "user"]
    search_fields = [
        "langfuse_trace_id",
        "name",
        "user__username",
        "user_reference",
        "tenant_reference",
        "flow_id",
    ]
    show_full_result_count = False
    exclude = ["is_failed", "is_voided"]
    readonly_fields = ["outcome", "billing"]

    @display(label={"failed": "danger", "succeeded": "success"})
    def outcome(self, trace: Trace) -> str:
        return "failed" if trace.is_failed else "succeeded"

    @display(label={"voided": "warning"})
    def billing(self, trace: Trace) -> str:
        return "voided" if trace.is_voided else "billed"


@admin.register(TraceVoid)
class TraceVoidAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "trace", "reason", "created_by"]
    list_select_related = ["trace", "created_by"]


@admin.register(ReceivedTrace)
class ReceivedTraceAdmin(ReadOnlyAdmin):
    list_display = ["trace", "started_at", "observations", "deleted"]
    list_select_related = ["trace"]
    search_fields = ["trace__langfuse_trace_id"]
    show_full_result_count = False

    @admin.display(description="Start time", ordering="trace__start_time")
    def started_at(self, row: ReceivedTrace) -> datetime:
        return row.trace.start_time

    @admin.display(description="Observations", ordering="trace__observations")
    def observations(self, row: ReceivedTrace) -> int:
        return row.trace.observations


@admin.register(Observation)
class ObservationAdmin(ReadOnlyAdmin):
    list_display = [
        "start_time",
        "name",
        "type",
        "level",
        "model",
        "total_tokens",
        amount_column("cost_usd"),
        "cost_source",
        amount_column("credits"),
    ]
    list_filter = ["cost_source", "usage_doubt", "type", "level"]
    search_fields = ["langfuse_observation_id", "trace__langfuse_trace_id", "model", "name"]
    show_full_result_count = False
    exclude = ["is_root"]
    readonly_fields = ["place"]

    @admin.display(description="Place in the trace")
    def place(self, observation: Observation) -> str:
        return "root" if observation.is_root else "inner step"
