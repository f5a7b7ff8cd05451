"""What admin pages of several apps have in common."""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.contrib.admin.views.main import ChangeList
from django.contrib.admin.widgets import AutocompleteSelect
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold import admin as unfold
from unfold.decorators import display
from unfold.forms import PaginationInlineFormSet
from unfold.widgets import UnfoldBooleanWidget

from kluisz_analytics import figures
from kluisz_analytics.plain_numbers import PlainDecimalField, PlainIntegerField
from kluisz_analytics.tenants.models import User

BEYOND_64_BITS = re.compile(r"\d{19}")


class PossibleChoices(AutocompleteSelect):
    """A choice among rows that can show again what was wrongly sent: no row can have it."""

    def optgroups(self, name: str, value: Any, attr: Any = None) -> Any:
        target = self.field.target_field
        return super().optgroups(name, [one for one in value if _is_possible(target, one)], attr)


class CarefulForms:
    """Forms that take numbers as people write them, and answer whatever is sent."""

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name in self.get_autocomplete_fields(request):  # type: ignore[attr-defined]
            widget = PossibleChoices(db_field, self.admin_site)  # type: ignore[attr-defined]
            kwargs.setdefault("widget", widget)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[misc]

    def formfield_for_dbfield(
        self, db_field: "models.Field[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> Any:
        if not db_field.choices and isinstance(db_field, models.DecimalField):
            kwargs.setdefault("form_class", PlainDecimalField)
        if not db_field.choices and isinstance(db_field, models.IntegerField):
            kwargs.setdefault("form_class", PlainIntegerField)
        return super().formfield_for_dbfield(db_field, request, **kwargs)  # type: ignore[misc]


class InlineRows(PaginationInlineFormSet):
    """Rows inside another's form, each with a tick to delete it that can be seen."""

    def add_fields(self, form: Any, index: int | None) -> None:
        super().add_fields(form, index)
        if "DELETE" in form.fields:
            form.fields["DELETE"].widget = UnfoldBooleanWidget()


class TabularInline(CarefulForms, unfold.TabularInline):
    """Rows inside another's form."""

    formset = InlineRows


class ModelAdmin(CarefulForms, unfold.ModelAdmin):
    """An admin that answers whatever stands in its address: what no row can have finds nothing.

    ``shows`` says above the list, and in an empty one, what its rows are.
    """

    shows = ""
    list_before_template = "admin/shows.html"

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        texts = [*request.GET, *(value for name, value in _values(request.GET) if name != "q")]
        if any(BEYOND_64_BITS.search(text) for text in texts) or _has_nul(request.GET):
            # As Django answers a filter that makes no sense.
            return HttpResponseRedirect(f"{request.path}?e=1")
        return super().changelist_view(request, extra_context)

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changelist: ChangeList = super().get_changelist_instance(request)
        _align(changelist.result_list, changelist.list_display)
        return changelist

    def response_action(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        key = self.opts.pk
        for chosen in request.POST.getlist(helpers.ACTION_CHECKBOX_NAME):
            if not _is_possible(key, chosen):
                messages.error(request, f"There is no {self.opts.verbose_name} “{chosen}”.")
                return HttpResponseRedirect(request.get_full_path())
        return super().response_action(request, queryset)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What a link fills in, without what its field can't be."""
        initial = super().get_changeform_initial_data(request)
        return {name: value for name, value in initial.items() if self._can_be(name, value)}

    def _can_be(self, name: str, value: Any) -> bool:
        try:
            field = self.opts.get_field(name)
        except FieldDoesNotExist:
            return "\x00" not in str(value)
        return not isinstance(field, models.Field) or _is_possible(field, value)


def _values(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, one) for name, many in query.lists() for one in many]  # type: ignore[attr-defined]


def _has_nul(query: Mapping[str, Any]) -> bool:
    """PostgreSQL stores no NUL in a text, and refuses to look for one."""
    return any("\x00" in name or "\x00" in value for name, value in _values(query))


def _is_possible(field: "models.Field[Any, Any]", value: Any) -> bool:
    """Whether a row could have the value there."""
    if isinstance(field, models.ForeignKey | models.OneToOneField):
        return _is_possible(field.target_field, value)
    try:
        field.run_validators(field.to_python(value))
    except ValidationError:
        return False
    return "\x00" not in str(value)


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


def amount_column(name: str, label: str = "", ordering: Any = None) -> Any:
    """A column of a list with an amount as people read it: thousands apart, as many decimals as the
    page's longest has, a dash for unknown. ``name`` is a field, or a property with an ``ordering``.
    """

    @admin.display(description=label or name.replace("_", " "), ordering=ordering or name)
    def column(row: Any) -> str:
        value: Decimal | None = getattr(row, name)
        places = _places_of(row).get(name)
        return figures.exact(value, figures.exact_places([value]) if places is None else places)

    column.amount = name  # type: ignore[attr-defined]
    return column


def _places_of(row: Any) -> dict[str, int]:
    """How many decimals the page's columns of amounts have (:func:`_align`)."""
    places: dict[str, int] = row.__dict__.setdefault("_column_places", {})
    return places


def _align(rows: Iterable[Any], columns: Iterable[Any]) -> None:
    """Has each column of amounts one number of decimals on the page."""
    for name in [column.amount for column in columns if hasattr(column, "amount")]:
        places = figures.exact_places(getattr(row, name) for row in rows)
        for row in rows:
            _places_of(row)[name] = places


def state_column(name: str, label: str, true: str, false: str, *, true_is: str = "info") -> Any:
    """A column with what a boolean of the row means, in words and in the colour of its mood.

    A tick and a cross would say that true is good and false is bad; here ``true_is`` says it
    ("danger", "warning", "success" or "info").
    """
    false_is = "success" if true_is == "danger" else ""

    @display(description=label, ordering=name, label={true: true_is, false: false_is})
    def column(row: Any) -> str:
        return true if getattr(row, name) else false

    return column
