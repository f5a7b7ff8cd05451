"""Admin pages that price stored usage again: repricings, usage without a price, what if."""

from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.widgets import (
    BASE_INPUT_CLASSES,
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from kluisz_analytics.admin_pages import admin_user, amount_column
from kluisz_analytics.tenants.models import Tenant
from pricing.models import PricingTier
from pricing.scenario import Scenario
from usage.access import platform_scope
from usage.admin.rework import ReworkAdmin
from usage.analytics import names
from usage.analytics.unmetered import unmetered_calls
from usage.analytics.unpriced import UnpricedModel, unpriced_models
from usage.desk.doubtful import undecided
from usage.desk.views import platform_admins_only
from usage.measures import Dimension
from usage.models import Repricing, Trace
from usage.repricing import repricing as service
from usage.repricing.labels import labelled
from usage.repricing.preview import preview
from usage.repricing.what_if import Comparison, UnknownModel, total_of, what_if
from usage.scope import Scope

ROWS_SHOWN = 200
UTC_ZONE = ZoneInfo("UTC")
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2999, 12, 31)


class DateInput(forms.DateInput):
    """A date, as the browser asks for it."""

    input_type = "date"

    def __init__(self) -> None:
        super().__init__(format="%Y-%m-%d", attrs={"class": " ".join(BASE_INPUT_CLASSES)})


class PeriodOfTenantForm(forms.Form):
    """Whole days, of a tenant in its zone or of all in UTC."""

    first_day = forms.DateField(widget=DateInput)
    last_day = forms.DateField(widget=DateInput, help_text="Included.")
    tenant = forms.ModelChoiceField(
        Tenant.objects.all(),
        required=False,
        empty_label="All tenants",
        widget=UnfoldAdminSelectWidget,
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        first, last = cleaned.get("first_day"), cleaned.get("last_day")
        for name, day in (("first_day", first), ("last_day", last)):
            if day and not FIRST_DAY <= day <= LAST_DAY:
                self.add_error(
                    name, f"{day} is not possible: write a day from {FIRST_DAY} to {LAST_DAY}."
                )
        if first and last and last < first:
            self.add_error("last_day", f"{last} is before the first day, {first}.")
        return cleaned

    @property
    def tenant_chosen(self) -> Tenant | None:
        tenant: Tenant | None = self.cleaned_data["tenant"]
        return tenant

    @property
    def period(self) -> tuple[datetime, datetime]:
        """From the first moment of the first day until the first moment after the last."""
        zone = self.tenant_chosen.zone if self.tenant_chosen else UTC_ZONE
        first: date = self.cleaned_data["first_day"]
        after: date = self.cleaned_data["last_day"] + timedelta(days=1)
        return datetime.combine(first, time(), zone), datetime.combine(after, time(), zone)


class RepricingForm(PeriodOfTenantForm):
    reason = forms.CharField(
        max_length=400,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the repricing and each adjustment.",
    )


class WhatIfForm(PeriodOfTenantForm):
    """Each tier is a scenario of its own; without one, the tiers stay as they are."""

    tiers = forms.ModelMultipleChoiceField(
        PricingTier.objects.all(),
        required=False,
        label="If everybody had the tier",
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    model = forms.CharField(
        required=False,
        max_length=200,
        label="If the calls of model",
        widget=UnfoldAdminTextInputWidget,
    )
    other_model = forms.CharField(
        required=False, max_length=200, label="had been of model", widget=UnfoldAdminTextInputWidget
    )

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        if bool(cleaned.get("model")) != bool(cleaned.get("other_model")):
            self.add_error("other_model", "Write both models, or neither.")
        if not cleaned.get("tiers") and not cleaned.get("model"):
            self.add_error(
                None, "Choose a tier, or write two models: otherwise nothing would be different."
            )
        return cleaned

    @property
    def scenarios(self) -> list[Scenario]:
        model, other = self.cleaned_data["model"], self.cleaned_data["other_model"]
        models = {model: other} if model else {}
        suffix = f"{model} as {other}" if model else ""
        tiers = list(self.cleaned_data["tiers"])
        if not tiers:
            return [Scenario(suffix, timezone.now(), models=models)]
        return [
            Scenario(
                f"{tier.name}, {suffix}" if suffix else tier.name,
                timezone.now(),
                tier_id=tier.pk,
                models=models,
            )
            for tier in tiers
        ]


def last_month(today: date) -> tuple[date, date]:
    """The first and the last day of the month before."""
    last = today.replace(day=1) - timedelta(days=1)
    return last.replace(day=1), last


@admin.register(Repricing)
class RepricingAdmin(ReworkAdmin):
    list_display = [
        "id",
        "state",
        "start",
        "end",
        "tenant",
        "reason",
        "traces_done",
        "traces_changed",
        amount_column("cost_usd_difference"),
        amount_column("credits_difference"),
        "created_at",
        "created_by",
    ]
    list_filter = ["state", "tenant"]
    list_select_related = ["tenant", "created_by"]

    def advance(self, row: Repricing, seconds: float) -> None:
        service.advance(row, seconds)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path(
                "unpriced/", view(platform_admins_only(unpriced_view)), name="usage_unpricedusage"
            ),
            path("what-if/", view(platform_admins_only(what_if_view)), name="usage_whatif"),
            *super().get_urls(),
        ]

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """The dry run first; applying it is a second step on the same page."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else request.GET
        form = (
            RepricingForm(asked) if "first_day" in asked else RepricingForm(initial=_this_month())
        )
        found = None
        if form.is_bound and form.is_valid():
            start, end = form.period
            if request.method == "POST":
                return self._begin(request, form)
            found = preview(start, end, form.tenant_chosen.pk if form.tenant_chosen else None)
        context = {
            **self.admin_site.each_context(request),
            "title": "Reprice usage",
            "form": form,
            "preview": found,
            "rows": labelled(found)[:ROWS_SHOWN] if found else [],
            "rows_shown": ROWS_SHOWN,
            "opts": Repricing._meta,
        }
        return render(request, "admin/usage/reprice.html", context)

    def _begin(self, request: HttpRequest, form: RepricingForm) -> HttpResponse:
        start, end = form.period
        try:
            repricing = service.begin(
                start,
                end,
                reason=form.cleaned_data["reason"],
                by=admin_user(request),
                tenant=form.tenant_chosen,
            )
        except ValueError as error:
            messages.error(request, str(error))
            query = {
                name: request.POST.get(name, "") for name in ("first_day", "last_day", "tenant")
            }
            return HttpResponseRedirect(
                f"{reverse('admin:usage_repricing_add')}?{urlencode(query)}"
            )
        self.log_addition(request, repricing, "Begun.")
        self.go_on(request, repricing)
        return HttpResponseRedirect(reverse("admin:usage_repricing_change", args=[repricing.pk]))


def _this_month() -> dict[str, date]:
    today = timezone.now().date()
    return {"first_day": today.replace(day=1), "last_day": today}


def unpriced_view(request: HttpRequest) -> HttpResponse:
    """Models without a price, each with a link to enter one, filled in as far as it can be; and
    calls that say no usage.
    """
    estimate = "estimate" in request.GET
    rows = [
        (
            one,
            (reverse("admin:pricing_modelprice_add") + "?" + urlencode(_price_to_enter(one))),
        )
        for one in unpriced_models()
    ]
    context = {
        **admin.site.each_context(request),
        "title": "Unpriced usage",
        "rows": rows,
        "doubtful": undecided().count(),
        "unmetered": unmetered_calls(platform_scope(admin_user(request)), estimate=estimate),
        "estimate": estimate,
        "set_aside": Trace.objects.exclude(set_aside="").count(),
    }
    return render(request, "admin/usage/unpriced.html", context)


def _price_to_enter(unpriced: UnpricedModel) -> dict[str, str]:
    since = unpriced.first_seen.replace(hour=0, minute=0, second=0, microsecond=0)
    found = {"model": unpriced.model, "precedence": "fallback", "valid_from": since.isoformat()}
    return found | ({"conditions": unpriced.context} if unpriced.context else {})


def what_if_view(request: HttpRequest) -> HttpResponse:
    """Real usage on other terms, side by side for each tenant."""
    first, last = last_month(timezone.now().date())
    form = (
        WhatIfForm(request.GET)
        if "first_day" in request.GET
        else WhatIfForm(initial={"first_day": first, "last_day": last})
    )
    comparisons: list[Comparison] = []
    scenarios: list[Scenario] = []
    if form.is_bound and form.is_valid():
        scenarios = form.scenarios
        tenant_id = form.tenant_chosen.pk if form.tenant_chosen else None
        try:
            comparisons = what_if(*form.period, scenarios, tenant_id)
        except UnknownModel as error:
            form.add_error("model" if error.is_of_usage else "other_model", str(error))
    named = names.names_of(Dimension.TENANT, [one.tenant_id for one in comparisons], Scope())
    rows = [(named[one.tenant_id].label, one) for one in comparisons]
    context = {
        **admin.site.each_context(request),
        "title": "What if",
        "form": form,
        "scenarios": scenarios,
        "rows": rows,
        "total": total_of(comparisons),
        "asked": form.is_bound and form.is_valid(),
    }
    return render(request, "admin/usage/what_if.html", context)
