"""Admin pages for credits. The ledger is shown, never edited; a grant is made through the ledger."""

import uuid
from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from credits import ledger
from credits.models import Account, Grant, Transaction, UsageCharge
from kluisz_analytics.admin_pages import ReadOnlyAdmin


class GrantInline(TabularInline):
    model = Grant
    extra = 0
    fields = readonly_fields = ["amount", "source", "reason", "created_at", "created_by"]
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Account)
class AccountAdmin(ReadOnlyAdmin):
    list_display = ["user", "tenant", "allocated", "used", "held", "remaining", "updated_at"]
    list_filter = ["user__tenant"]
    list_select_related = ["user__tenant"]
    search_fields = ["user__username", "user__email"]
    inlines = [GrantInline]

    @admin.display(ordering="user__tenant__name")
    def tenant(self, account: Account) -> str:
        return account.user.tenant.name


@admin.register(Grant)
class GrantAdmin(ModelAdmin):
    list_display = ["account", "amount", "source", "reason", "created_at", "created_by"]
    list_filter = ["source"]
    list_select_related = ["account__user", "created_by"]
    search_fields = ["account__user__username", "reason"]
    autocomplete_fields = ["account"]
    fields = ["account", "amount", "source", "reason"]

    def save_model(self, request: HttpRequest, obj: Grant, form: Any, change: bool) -> None:
        entry = ledger.grant(
            obj.account.user,
            obj.amount,
            source=Grant.Source(obj.source),
            reason=obj.reason,
            created_by=request.user,  # type: ignore[arg-type]
            idempotency_key=f"grant:{uuid.uuid4()}",
        )
        obj.pk = entry.grant_id

    def has_change_permission(self, request: HttpRequest, obj: Grant | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Grant | None = None) -> bool:
        return False


@admin.register(Transaction)
class TransactionAdmin(ReadOnlyAdmin):
    list_display = ["created_at", "account", "type", "amount", "balance_after", "usage_hour", "reason"]
    list_filter = ["type", "account__user__tenant"]
    list_select_related = ["account__user"]
    search_fields = ["account__user__username", "reason", "idempotency_key"]
    date_hierarchy = "created_at"


@admin.register(UsageCharge)
class UsageChargeAdmin(ReadOnlyAdmin):
    list_display = ["hour", "account", "credits", "postings"]
    list_select_related = ["account__user"]
    search_fields = ["account__user__username"]
    date_hierarchy = "hour"
