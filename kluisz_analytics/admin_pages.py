"""What admin pages of several apps have in common."""

from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from kluisz_analytics.tenants.models import User


class ReadOnlyAdmin(ModelAdmin):
    """Rows that only the software writes."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class InListFilter(admin.SimpleListFilter):
    """Rows of a list that are in force, by default; those that were withdrawn are its history."""

    title = "list"
    parameter_name = "list"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("withdrawn", "Withdrawn"), ("all", "All, with history")]

    def choices(self, changelist: Any) -> Any:
        _, *others = super().choices(changelist)
        yield {
            "selected": self.value() is None,
            "query_string": changelist.get_query_string(remove=[self.parameter_name]),
            "display": "Current",
        }
        yield from others

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() == "all":
            return queryset
        return queryset.filter(withdrawn_at__isnull=self.value() is None)


def admin_user(request: HttpRequest) -> User:
    """Who works in the admin, for the rows that say by whom they were made."""
    return User.objects.get(username=request.user.get_username())


def amount_column(name: str, label: str = "") -> Any:
    """A column of a list with an amount as people read it: thousands apart, no zeros that say
    nothing, a dash for unknown.
    """

    @admin.display(description=label or name.replace("_", " "), ordering=name)
    def column(row: Any) -> str:
        value: Decimal | None = getattr(row, name)
        if value is None:
            return "–"
        text = f"{value:,f}"
        return text.rstrip("0").rstrip(".") if "." in text else text

    return column
