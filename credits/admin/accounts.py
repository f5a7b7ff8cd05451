"""Admin pages for accounts, grants, holds and the ledger."""

import uuid
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from credits import grants
from credits.grants import NewGrant
from credits.models import Account, Grant, Hold, Transaction, UsageCharge
from credits.recurrence import Recurrence
from kluisz_analytics.admin_pages import (
    ModelAdmin,
    ReadOnlyAdmin,
    TabularInline,
    admin_user,
    amount_column,
)
from kluisz_analytics.confirmation import confirmed_action
from kluisz_analytics.figures import counted
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.plain_numbers import decimal_of


class GrantInline(TabularInline):
    model = Grant
    extra = 0
    fields = readonly_fields = ["amount", "source", "reason", "created_at", "created_by"]
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class Adjustment(forms.Form):
    """What adjusting takes beside the accounts."""

    amount = forms.CharField(required=False)
    reason = forms.CharField(max_length=500, error_messages={"required": "Write a reason."})

    def clean_amount(self) -> Decimal:
        text: str = self.cleaned_data["amount"]
        try:
            amount = decimal_of(text)
            if amount:
                grants.check_amount(abs(amount), "Giving" if amount > 0 else "Taking")
        except ValueError as error:
            raise forms.ValidationError(f"Write an amount other than 0. {error}") from error
        if not amount:
            raise forms.ValidationError(f"Write an amount other than 0 (not “{text}”).")
        return amount


class AdjustmentBar(ActionForm):
    """Where it is entered, beside the choice of the action."""

    amount = forms.CharField(
        required=False,
        label="",
        widget=forms.TextInput(
            attrs={"placeholder": "± credits", "class": "action-reason", "aria-label": "Amount"}
        ),
    )
    reason = forms.CharField(
        required=False,
        label="",
        widget=forms.TextInput(
            attrs={"placeholder": "Reason", "class": "action-reason", "aria-label": "Reason"}
        ),
    )


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = [
        "user",
        "tenant",
        *map(amount_column, ("allocated", "used", "held")),
        amount_column("remaining", ordering=F("allocated") - F("used") - F("held")),
        "updated_at",
    ]
    actions = ["adjust_accounts"]
    action_form = AdjustmentBar
    list_filter = ["user__tenant"]
    list_select_related = ["user__tenant"]
    search_fields = ["user__username", "user__email"]
    inlines = [GrantInline]

    def has_move_permission(self, request: HttpRequest) -> bool:
        """It is money: platform admins only."""
        return bool(request.user.is_superuser)

    @confirmed_action(
        "Adjust by the amount, up or down",
        "Adjust the credits of each of these accounts?",
        permissions=["move"],
        form=Adjustment,
    )
    @transaction.atomic
    def adjust_accounts(
        self, request: HttpRequest, accounts: QuerySet[Account], form: Adjustment
    ) -> None:
        amount: Decimal = form.cleaned_data["amount"]
        for account in accounts.select_related("user__tenant"):
            grants.adjust(
                account.user,
                amount,
                reason=form.cleaned_data["reason"],
                idempotency_key=f"admin:{uuid.uuid4()}",
                by=admin_user(request),
            )
        adjusted = counted(accounts.count(), "account")
        messages.success(request, f"Adjusted {adjusted} by {amount:+f} credits.")

    @admin.display(ordering="user__tenant__name")
    def tenant(self, account: Account) -> str:
        return account.user.tenant.name


class GrantForm(forms.ModelForm):
    """A grant to give; the reason is kept, so there has to be one."""

    reason = forms.CharField(max_length=500, widget=UnfoldAdminTextInputWidget)

    class Meta:
        model = Grant
        fields = [
            "account",
            "amount",
            "source",
            "reason",
            "priority",
            "starts_at",
            "expires_at",
            "recurrence",
            "rollover_maximum",
        ]

    def clean_amount(self) -> Decimal:
        amount: Decimal = self.cleaned_data["amount"]
        if amount <= 0:
            raise forms.ValidationError(f"{amount} is not possible: write a number above 0.")
        return amount

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                grants.check_term(cleaned["starts_at"], cleaned.get("expires_at"))
            except ValueError as error:
                self.add_error(None, str(error))
        return cleaned


@admin.register(Grant)
class GrantAdmin(ModelAdmin):
    list_display = [
        "account",
        amount_column("amount"),
        "source",
        "priority",
        "starts_at",
        "expires_at",
        "voided_at",
        "reason",
        "created_by",
    ]
    list_filter = ["source", "recurrence"]
    list_select_related = ["account__user", "created_by"]
    search_fields = ["account__user__username", "reason"]
    autocomplete_fields = ["account"]
    fields = [
        "account",
        "amount",
        "source",
        "reason",
        "priority",
        "starts_at",
        "expires_at",
        "recurrence",
        "rollover_maximum",
    ]
    actions = ["void"]
    form = GrantForm

    def has_add_permission(self, request: HttpRequest) -> bool:
        """It is money: platform admins only."""
        return bool(request.user.is_superuser)

    @confirmed_action(
        "Void: end it now; what is left goes back",
        "Void these grants? What is left of them is taken out of the accounts, for good.",
        permissions=["add"],
    )
    def void(self, request: HttpRequest, chosen: QuerySet[Grant], form: Any) -> None:
        for grant in chosen:
            grants.void(grant, admin_user(request))
        messages.success(
            request,
            f"Voided {counted(chosen.count(), 'grant')}; what was left is out of the accounts.",
        )

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {"source": Grant.Source.MANUAL, **super().get_changeform_initial_data(request)}

    def save_model(self, request: HttpRequest, obj: Grant, form: Any, change: bool) -> None:
        given = grants.grant(
            NewGrant(
                user=obj.account.user,
                amount=obj.amount,
                source=Grant.Source(obj.source),
                idempotency_key=f"admin:{uuid.uuid4()}",
                reason=obj.reason,
                priority=obj.priority,
                starts_at=obj.starts_at,
                expires_at=obj.expires_at,
                recurrence=Recurrence(obj.recurrence) if obj.recurrence else None,
                rollover_maximum=obj.rollover_maximum,
                created_by=admin_user(request),
            )
        )
        obj.pk = given.pk

    def has_change_permission(self, request: HttpRequest, obj: Grant | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Grant | None = None) -> bool:
        return False


@admin.register(Transaction)
class TransactionAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "account",
        "type",
        amount_column("amount"),
        amount_column("balance_after"),
        "usage_hour",
        "reason",
    ]
    list_filter = ["type", "account__user__tenant"]
    list_select_related = ["account__user"]
    search_fields = ["account__user__username", "reason", "idempotency_key"]
    date_hierarchy = "created_at"


@admin.register(UsageCharge)
class UsageChargeAdmin(ReadOnlyAdmin):
    list_display = ["hour", "account", amount_column("credits"), "postings"]
    list_select_related = ["account__user"]
    search_fields = ["account__user__username"]
    date_hierarchy = "hour"


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "account",
        "trace_id",
        "state",
        amount_column("credits"),
        amount_column("settled_credits"),
        "expires_at",
        "ended_at",
    ]
    list_filter = ["state", "account__user__tenant"]
    list_select_related = ["account__user"]
    search_fields = ["trace_id", "account__user__username"]
    show_full_result_count = False

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Hold], search_term: str
    ) -> tuple[QuerySet[Hold], bool]:
        """A run is found by its id in any form."""
        found, may_repeat = super().get_search_results(request, queryset, search_term)
        if not search_term:
            return found, may_repeat
        return found | queryset.filter(trace_id=as_trace_id(search_term)), may_repeat
