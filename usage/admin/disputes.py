"""The platform's desk of disputed traces: each is settled by a click, and that is undone by one."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from kluisz_analytics.admin_pages import ReadOnlyAdmin, admin_user, amount_column
from kluisz_analytics.confirmation import confirmed_action
from kluisz_analytics.figures import counted
from usage.facts import disputes
from usage.facts.owner import Dispute, Outcome
from usage.models import DisputedTrace, TraceSettlement

WHY = {Dispute.NOT_A_MEMBER: "not a member", Dispute.STEPS_DISAGREE: "its steps disagree"}
QUESTION = "Settle these disputes? What was charged for them so far is posted anew."


class StateFilter(admin.SimpleListFilter):
    """Those that wait for somebody, or those that are settled."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("settled", "Settled")]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[DisputedTrace]
    ) -> QuerySet[DisputedTrace]:
        if self.value() == "settled":
            return queryset.exclude(settled_as="")
        return queryset.filter(settled_as="") if self.value() == "open" else queryset


@admin.register(DisputedTrace)
class DisputedTraceAdmin(ReadOnlyAdmin):
    actions = ["settle_named_tenant", "settle_users_tenant", "leave_out", "undo_settlement"]
    list_display = [
        "start_time",
        "settled",
        "name",
        "why",
        "disputed_tenant",
        "disputed_user",
        "tenant_of_user",
        "total_tokens",
        amount_column("cost_usd", "Cost, USD"),
    ]
    list_filter = [StateFilter, "disputed_tenant"]
    list_select_related = ["disputed_tenant", "disputed_user__tenant"]
    search_fields = ["langfuse_trace_id", "name", "disputed_user__username"]
    show_full_result_count = False
    shows = (
        "Runs that name a tenant that their user was not of at the time. They are in no tenant's"
        " numbers, credits and budgets until they are settled; settling is undone by “Undo”."
    )
    # Open ones first.
    ordering = ["settled_as", "-start_time"]
    exclude = ["is_failed", "is_voided"]

    def has_settle_permission(self, request: HttpRequest) -> bool:
        """It moves money: platform admins only."""
        return bool(request.user.is_superuser)

    @admin.display(description="Why", ordering="dispute")
    def why(self, trace: DisputedTrace) -> str:
        return WHY[Dispute(trace.dispute)]

    @admin.display(description="User's tenant now", ordering="disputed_user__tenant__name")
    def tenant_of_user(self, trace: DisputedTrace) -> str:
        return trace.disputed_user.tenant.name if trace.disputed_user else ""

    @admin.display(description="Settled as", ordering="settled_as")
    def settled(self, trace: DisputedTrace) -> str:
        if not trace.settled_as:
            return "open"
        return str(TraceSettlement.Outcome(trace.settled_as).label)

    @confirmed_action(
        "Settle: the named tenant's, without a user", QUESTION, permissions=["settle"]
    )
    def settle_named_tenant(
        self, request: HttpRequest, traces: QuerySet[DisputedTrace], form: forms.Form
    ) -> None:
        self._settle(request, traces, Outcome.NAMED_TENANT)

    @confirmed_action(
        "Settle: the user's, in the tenant that it was of", QUESTION, permissions=["settle"]
    )
    def settle_users_tenant(
        self, request: HttpRequest, traces: QuerySet[DisputedTrace], form: forms.Form
    ) -> None:
        self._settle(request, traces, Outcome.USERS_TENANT)

    @confirmed_action("Settle: left out", QUESTION, permissions=["settle"])
    def leave_out(
        self, request: HttpRequest, traces: QuerySet[DisputedTrace], form: forms.Form
    ) -> None:
        self._settle(request, traces, Outcome.LEFT_OUT)

    @confirmed_action(
        "Undo: disputed again",
        "Undo what these disputes were settled as? What was charged is refunded.",
        permissions=["settle"],
    )
    def undo_settlement(
        self, request: HttpRequest, traces: QuerySet[DisputedTrace], form: forms.Form
    ) -> None:
        applied = disputes.undo(_keys(traces), admin_user(request))
        messages.success(request, f"Disputed again: {counted(applied.traces_changed, 'trace')}.")

    def _settle(
        self, request: HttpRequest, traces: QuerySet[DisputedTrace], outcome: Outcome
    ) -> None:
        applied = disputes.settle(_keys(traces), outcome, admin_user(request))
        messages.success(request, f"Settled {counted(applied.traces_changed, 'trace')}.")


def _keys(traces: QuerySet[DisputedTrace]) -> list[str]:
    return [pk.hex for pk in traces.values_list("pk", flat=True)]


@admin.register(TraceSettlement)
class TraceSettlementAdmin(ReadOnlyAdmin):
    shows = "What disputed runs were settled as, by whom, and what of it was undone."
    list_display = [
        "created_at",
        "trace",
        "named_tenant",
        "named_user",
        "outcome",
        "created_by",
        "undone_at",
        "undone_by",
    ]
    list_filter = ["outcome"]
    list_select_related = ["trace", "named_tenant", "named_user", "created_by", "undone_by"]
