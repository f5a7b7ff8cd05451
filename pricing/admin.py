"""Admin pages for tiers and prices.

Rows of the lists are recorded, replaced and withdrawn (pricing.lists), never edited in place.
"""

from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.dateparse import parse_datetime
from unfold.decorators import action
from unfold.widgets import (
    UnfoldAdminFileFieldWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanWidget,
)

from kluisz_analytics.admin_pages import (
    InlineRows,
    InListFilter,
    ModelAdmin,
    ReadOnlyAdmin,
    TabularInline,
    admin_user,
    amount_column,
)
from kluisz_analytics.confirmation import confirmed_action
from kluisz_analytics.figures import counted
from kluisz_analytics.plain_numbers import checked
from pricing import lists
from pricing.models import (
    IN_LIST,
    ModelAlias,
    ModelPrice,
    PricingTier,
    ShippedPriceList,
    TierAssignment,
    TierRate,
)
from pricing.price_csv import (
    COLUMNS,
    LARGEST_BYTES,
    PriceListError,
    export_prices,
    import_prices,
)
from pricing.price_texts import EXAMPLES, per_million, price_text
from pricing.units import COUNTED_AS, UnitKind

RECORDED = ["recorded_at", "recorded_by", "withdrawn_at", "withdrawn_by"]
MAIN_KINDS = [UnitKind.INPUT, UnitKind.CACHED_INPUT, UnitKind.OUTPUT]
FURTHER_TOKENS = [kind for kind in COUNTED_AS if kind not in MAIN_KINDS]
NO_TOKENS = [kind for kind in UnitKind if kind not in COUNTED_AS]


def _in_threes(kinds: list[UnitKind]) -> list[tuple[str, ...]]:
    names = [kind.value for kind in kinds]
    return [tuple(names[at : at + 3]) for at in range(0, len(names), 3)]


class RateRows(InlineRows):
    """A tier's rates: one at least, and no two from the same moment."""

    def clean(self) -> None:
        super().clean()
        if any(self.errors):
            return
        kept = [
            form.instance.valid_from
            for form in self.forms
            if form not in self.deleted_forms and form.instance.valid_from is not None
        ]
        if not kept:
            raise ValidationError(
                "A tier needs a rate: without one its usage has a cost and no credits."
            )
        twice = sorted({moment for moment in kept if kept.count(moment) > 1})
        if twice:
            raise ValidationError(
                f"Two rates begin at {twice[0]:%Y-%m-%d %H:%M}, and only one can hold: choose"
                " another beginning, or delete the other."
            )


class TierRateInline(TabularInline):
    """The rates in force: new ones are added; one that is wrong is withdrawn by deleting it
    here.
    """

    model = TierRate
    formset = RateRows
    extra = 0
    fields = [
        "valid_from",
        "credits_per_usd",
        "pricing_multiplier",
        "minimum_credits_per_trace",
        "maximum_credits_per_trace",
        "grace_credits",
        "charges_failed_runs",
    ]
    verbose_name_plural = (
        "rates in force (deleting one withdraws it; what it priced stays as it is)"
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[TierRate]:
        return super().get_queryset(request).filter(IN_LIST)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


CREDITS_PER_USD = Subquery(
    TierRate.objects.filter(IN_LIST, tier=OuterRef("pk")).values("credits_per_usd")[:1]
)
"""Of a tier's rate in force."""


@admin.register(PricingTier)
class PricingTierAdmin(ModelAdmin):
    list_display = [
        "name",
        "rate",
        amount_column("default_credits"),
        amount_column("default_credits_per_month"),
        "retired_at",
    ]
    search_fields = ["name"]
    fields = ["name", "default_credits", "default_credits_per_month", "retired_at"]
    inlines = [TierRateInline]
    actions = ["retire"]

    @admin.display(description="Rate in force", ordering=CREDITS_PER_USD)
    def rate(self, tier: PricingTier) -> str:
        rate = tier.rates.filter(IN_LIST).first()
        return (
            f"{price_text(rate.credits_per_usd)} credits a dollar ×"
            f" {price_text(rate.pricing_multiplier)}"
            if rate
            else "–"
        )

    @confirmed_action(
        "Retire: not given to anyone anew",
        "Retire these tiers? Whoever has one keeps it; nobody is given it anew.",
        permissions=["change"],
    )
    def retire(self, request: HttpRequest, tiers: QuerySet[PricingTier], form: Any) -> None:
        messages.success(
            request, f"Retired {lists.retire_tiers(tiers)} tiers; whoever has them keeps them."
        )

    def has_delete_permission(self, request: HttpRequest, obj: PricingTier | None = None) -> bool:
        return (
            super().has_delete_permission(request, obj)
            and obj is not None
            and not obj.assignments.exists()
        )

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        rates = formset.save(commit=False)
        for rate in formset.deleted_objects:
            lists.withdraw(rate, admin_user(request))
        for rate in rates:
            lists.enter_rate(rate, admin_user(request))


@admin.register(TierRate)
class TierRateAdmin(ReadOnlyAdmin):
    """The history of all rates: who entered and withdrew which, when."""

    list_display = [
        "tier",
        "valid_from",
        amount_column("credits_per_usd"),
        amount_column("pricing_multiplier"),
        *RECORDED,
    ]
    exclude = ["charges_failed_runs"]
    readonly_fields = ["failed_runs"]
    list_filter = [InListFilter, "tier"]
    list_select_related = ["tier", "recorded_by", "withdrawn_by"]

    @admin.display(description="Failed runs")
    def failed_runs(self, rate: TierRate) -> str:
        return "charged" if rate.charges_failed_runs else "not charged"

    def has_delete_permission(self, request: HttpRequest, obj: TierRate | None = None) -> bool:
        """Only along with a tier that nobody ever had."""
        may_delete = request.user.has_perm("pricing.delete_tierrate")
        return may_delete and obj is not None and not obj.tier.assignments.exists()


@admin.register(TierAssignment)
class TierAssignmentAdmin(ReadOnlyAdmin):
    list_display = ["tier", "user", "tenant", "valid_from", *RECORDED]
    list_filter = [InListFilter, "tier"]
    list_select_related = ["tier", "user", "tenant", "recorded_by", "withdrawn_by"]
    search_fields = ["user__username", "tenant__name", "tier__name"]
    autocomplete_fields = ["tier", "user", "tenant"]
    actions = ["withdraw"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def save_model(
        self, request: HttpRequest, obj: TierAssignment, form: Any, change: bool
    ) -> None:
        lists.assign_tier(obj, admin_user(request))

    @confirmed_action(
        "Withdraw: as if it had not been given",
        "Withdraw these assignments? Usage is priced as if they had not been given.",
        permissions=["add"],
    )
    def withdraw(
        self, request: HttpRequest, assignments: QuerySet[TierAssignment], form: Any
    ) -> None:
        chosen = list(assignments.filter(IN_LIST))
        for assignment in chosen:
            lists.withdraw(assignment, admin_user(request))
        messages.success(
            request,
            f"Withdrew {len(chosen)} assignments; what was priced with them stays until it is"
            " repriced.",
        )


class PriceField(forms.DecimalField):
    """USD for a million units, also written for so many: 1.50/one."""

    widget = UnfoldAdminTextInputWidget

    # Django's own does the same; only its stubs say otherwise.
    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        if isinstance(value, str) and "/" in value:
            try:
                value = per_million(value)
            except ValueError as error:
                raise ValidationError(str(error), code="invalid") from error
        return super().to_python(checked(value))

    def prepare_value(self, value: Any) -> Any:
        return price_text(value) if isinstance(value, Decimal) else value


class ModelPriceForm(forms.ModelForm):
    """A price; saving a changed one records a new one in its place."""

    with_hole = forms.BooleanField(
        label="With a hole",
        required=False,
        widget=UnfoldBooleanWidget,
        help_text="Needed where the model has other prices, and none when this one ends.",
    )

    class Meta:
        model = ModelPrice
        field_classes = {kind.value: PriceField for kind in UnitKind}
        fields = [
            name
            for name in (field.name for field in ModelPrice._meta.fields)
            if name != "id" and name not in RECORDED
        ]

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]  # a hook of Django's model forms
        if self.errors:
            return
        try:
            hole = lists.check_price(self.instance, self.replaced())
        except ValidationError as error:
            self.add_error(None, error)
            return
        if hole is not None and not self.cleaned_data["with_hole"]:
            self.add_error(
                "with_hole",
                f"“{self.instance.model}” would have no price of this list {hole}: choose another"
                " end, or tick this if it is meant so.",
            )

    def replaced(self) -> ModelPrice | None:
        """The price that is being changed."""
        return ModelPrice.objects.get(pk=self.instance.pk) if self.instance.pk else None


class PriceFileForm(forms.Form):
    """The upload of a price list."""

    file = forms.FileField(label="CSV file", widget=UnfoldAdminFileFieldWidget)

    def clean_file(self) -> str:
        file = self.cleaned_data["file"]
        if file.size > LARGEST_BYTES:
            raise forms.ValidationError(
                f"{file.name} has {file.size:,} bytes; at most {LARGEST_BYTES:,} are read at once."
            )
        try:
            return str(file.read().decode())
        except UnicodeDecodeError as error:
            raise forms.ValidationError(f"{file.name} is not text in UTF-8: {error}.") from error


@admin.register(ModelPrice)
class ModelPriceAdmin(ModelAdmin):
    form = ModelPriceForm
    list_display = [
        "model",
        "match",
        "owner",
        "precedence",
        "conditions",
        "valid_from",
        "valid_until",
        *(amount_column(kind.value, f"{kind.value.replace('_', ' ')} $/M") for kind in MAIN_KINDS),
        *RECORDED,
    ]
    list_filter = [InListFilter, "precedence", "match", "tenant"]
    list_select_related = ["tenant", "recorded_by", "withdrawn_by"]
    search_fields = ["model"]
    autocomplete_fields = ["tenant"]
    readonly_fields = RECORDED
    actions = ["withdraw", "export_chosen"]
    actions_list = ["import_list", "export_list"]
    fieldsets = [
        ("For what", {"fields": ["tenant", "model", "match", "precedence", "conditions"]}),
        ("From when", {"fields": ["valid_from", "valid_until", "with_hole"]}),
        (
            "USD for a million units",
            {
                "description": f"Or for so many: {EXAMPLES}.",
                "fields": [tuple(kind.value for kind in MAIN_KINDS)],
            },
        ),
        ("Further tokens", {"fields": _in_threes(FURTHER_TOKENS)}),
        ("What is no tokens", {"fields": [*_in_threes(NO_TOKENS), "other_units"]}),
    ]

    def get_fieldsets(self, request: HttpRequest, obj: ModelPrice | None = None) -> Any:
        return (
            self.fieldsets if obj is None else [*self.fieldsets, ("History", {"fields": RECORDED})]
        )

    @admin.display(description="for", ordering="tenant__name", empty_value="")
    def owner(self, price: ModelPrice) -> str:
        return price.tenant.name if price.tenant else "Platform"

    def has_change_permission(self, request: HttpRequest, obj: ModelPrice | None = None) -> bool:
        return super().has_change_permission(request, obj) and (
            obj is None or obj.withdrawn_at is None
        )

    def has_delete_permission(self, request: HttpRequest, obj: ModelPrice | None = None) -> bool:
        return False

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What a link fills in; a time comes as ISO text."""
        initial = super().get_changeform_initial_data(request)
        if "valid_from" in initial:
            initial["valid_from"] = parse_datetime(str(initial["valid_from"]))
        return initial

    def save_model(self, request: HttpRequest, obj: ModelPrice, form: Any, change: bool) -> None:
        lists.enter_price(obj, admin_user(request), replaces=form.replaced() if change else None)

    @confirmed_action(
        "Withdraw from the list",
        "Withdraw these prices? Nothing new is priced with them.",
        permissions=["change"],
    )
    def withdraw(self, request: HttpRequest, prices: QuerySet[ModelPrice], form: Any) -> None:
        chosen = list(prices.filter(IN_LIST))
        for price in chosen:
            lists.withdraw(price, admin_user(request))
        messages.success(
            request,
            f"Withdrew {counted(len(chosen), 'price')}; what they priced stays until repriced.",
        )

    @admin.action(description="Export as CSV", permissions=["view"])
    def export_chosen(
        self, request: HttpRequest, queryset: QuerySet[ModelPrice]
    ) -> StreamingHttpResponse:
        return _download(queryset)

    @action(description="Export CSV", url_path="export", permissions=["view"])
    def export_list(self, request: HttpRequest) -> StreamingHttpResponse:
        return _download(ModelPrice.objects.filter(IN_LIST))

    @action(description="Import CSV", url_path="import", permissions=["change"])
    def import_list(self, request: HttpRequest) -> HttpResponse:
        form = PriceFileForm(request.POST or None, request.FILES or None)
        problems: list[str] = []
        if request.method == "POST" and form.is_valid():
            try:
                done = import_prices(form.cleaned_data["file"], admin_user(request))
            except PriceListError as error:
                problems = error.problems
            else:
                messages.success(
                    request,
                    f"{counted(done.entered, 'price')} entered, {done.replaced} replaced,"
                    f" {done.unchanged} unchanged.",
                )
                return HttpResponseRedirect(reverse("admin:pricing_modelprice_changelist"))
        context = {
            **self.admin_site.each_context(request),
            "title": "Import prices",
            "form": form,
            "problems": problems,
            "columns": COLUMNS,
        }
        return render(request, "admin/pricing/import_prices.html", context)


@admin.register(ModelAlias)
class ModelAliasAdmin(ReadOnlyAdmin):
    """What names mean: added and withdrawn; one of the same name, connection and beginning takes
    the other's place.
    """

    list_display = ["name", "connection", "model", "provider", "valid_from", *RECORDED]
    list_filter = [InListFilter, "provider", "connection"]
    list_select_related = ["connection", "recorded_by", "withdrawn_by"]
    search_fields = ["name", "model"]
    fields = ["name", "connection", "model", "provider", "valid_from"]
    actions = ["withdraw"]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def save_model(self, request: HttpRequest, obj: ModelAlias, form: Any, change: bool) -> None:
        lists.enter_alias(obj, admin_user(request))

    @confirmed_action(
        "Withdraw: the names mean what they say",
        "Withdraw these? From now on the names are priced by what they say themselves.",
        permissions=["add"],
    )
    def withdraw(self, request: HttpRequest, aliases: QuerySet[ModelAlias], form: Any) -> None:
        chosen = list(aliases.filter(IN_LIST))
        for alias in chosen:
            lists.withdraw(alias, admin_user(request))
        messages.success(
            request,
            f"Withdrew {len(chosen)} aliases; what was priced with them stays until it is"
            " repriced.",
        )


def _download(prices: QuerySet[ModelPrice]) -> StreamingHttpResponse:
    lines = export_prices(prices.select_related("tenant").iterator(chunk_size=2000))
    return StreamingHttpResponse(
        lines,
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="prices.csv"'},
    )


@admin.register(ShippedPriceList)
class ShippedPriceListAdmin(ReadOnlyAdmin):
    list_display = ["recorded_at", "origin", "version", "models_count"]
    fields = ["recorded_at", "origin", "version", "models_count"]
