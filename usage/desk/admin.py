"""Rulings as the admin shows and makes them: asked first, with both figures and a reason."""

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from unfold.widgets import UnfoldAdminTextInputWidget

from kluisz_analytics.admin_pages import admin_user, amount_column
from usage.admin.rework import ReworkAdmin
from usage.analytics.recorded import LANGFUSE_SDK
from usage.desk import rulings
from usage.desk.alike import ROWS, alike_sources, likely_twins
from usage.desk.doubtful import (
    DoubtfulObservation,
    doubtful_models,
    doubtful_observations,
    undecided,
)
from usage.desk.hidden import hidden_calls
from usage.desk.views import expected_view, platform_admins_only
from usage.facts.findings import CHOICES, Finding, Takes
from usage.models import LangfuseConnection, Observation, UsageRuling


class RulingForm(forms.Form):
    """What is ruled, and on what: with a trace and an observation on these, with ``of_model``
    on the model, with ``of_source`` on what an integration records, else on the whole connection.
    """

    finding = forms.ChoiceField(choices=UsageRuling.Kind.choices, widget=forms.HiddenInput)
    takes = forms.ChoiceField(choices=UsageRuling.Choice.choices, widget=forms.HiddenInput)
    connection = forms.ModelChoiceField(LangfuseConnection.objects.all(), widget=forms.HiddenInput)
    of_model = forms.BooleanField(required=False, widget=forms.HiddenInput)
    model = forms.CharField(required=False, max_length=200, strip=False, widget=forms.HiddenInput)
    of_source = forms.BooleanField(required=False, widget=forms.HiddenInput)
    source = forms.CharField(required=False, max_length=200, strip=False, widget=forms.HiddenInput)
    trace = forms.UUIDField(required=False, widget=forms.HiddenInput)
    observation = forms.CharField(required=False, max_length=200, widget=forms.HiddenInput)
    reason = forms.CharField(
        max_length=400,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the ruling and each adjustment.",
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        finding, takes = cleaned.get("finding"), cleaned.get("takes")
        if finding and takes and takes not in CHOICES[Finding(finding)]:
            self.add_error("takes", f"“{takes}” is no choice for “{finding}”.")
        if bool(cleaned.get("trace")) != bool(cleaned.get("observation")):
            self.add_error("observation", "Name the trace and the observation, or neither.")
        is_on_one = bool(cleaned.get("trace")) or bool(cleaned.get("of_source"))
        if takes == Takes.OTHERS and not is_on_one:
            self.add_error("takes", "Name the integration, or the trace and the observation.")
        return cleaned

    @property
    def step(self) -> tuple[UUID, str] | None:
        trace, observation = self.cleaned_data["trace"], self.cleaned_data["observation"]
        return (trace, observation) if trace else None

    @property
    def of(self) -> dict[str, Any]:
        """On what, as :func:`rulings.begin` takes it."""
        data, is_of_more = self.cleaned_data, self.step is None
        return {
            "step": self.step,
            "model": data["model"] if data["of_model"] and is_of_more else None,
            "source": data["source"] if data["of_source"] and is_of_more else None,
        }

    @property
    def on_what(self) -> str:
        """In words."""
        of, name = self.of, self.cleaned_data["connection"].name
        if of["step"]:
            return f"this observation of “{name}”"
        if of["model"] is not None:
            return f"calls of “{of['model'] or 'no model'}” of “{name}”"
        if of["source"] is not None:
            return f"what {of['source'] or LANGFUSE_SDK} records in “{name}”"
        return f"all of “{name}”"


@admin.register(UsageRuling)
class UsageRulingAdmin(ReworkAdmin):
    shows = (
        "What was ruled on usage that doesn't add up, and what that changed. Open one to stop,"
        " continue or undo it; new ones begin on “What doesn't add up”."
    )
    list_display = [
        "id",
        "state",
        "finding",
        "takes",
        "connection",
        "model",
        "source",
        "langfuse_observation_id",
        "reason",
        "traces_done",
        "traces_changed",
        amount_column("cost_usd_difference"),
        amount_column("credits_difference"),
        "created_at",
        "created_by",
    ]
    list_filter = ["state", "finding"]
    list_select_related = ["connection", "created_by"]

    def advance(self, row: UsageRuling, seconds: float) -> None:
        rulings.advance(row, seconds)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("doubtful/", view(platform_admins_only(doubtful_view)), name="usage_doubtful"),
            path(
                "expected/", view(platform_admins_only(expected_view)), name="usage_expectedusage"
            ),
            *super().get_urls(),
        ]

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What it is about first; ruling is a second step on the same page."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        asked = request.POST if request.method == "POST" else request.GET
        form = RulingForm(asked)
        is_valid = form.is_valid()
        if is_valid and request.method == "POST":
            return self._begin(request, form)
        context = {
            **self.admin_site.each_context(request),
            "title": "Rule on what doesn't add up",
            "form": form,
            "is_valid": is_valid,
            "choice": UsageRuling.Choice(form.cleaned_data["takes"]).label if is_valid else "",
            "kind": UsageRuling.Kind(form.cleaned_data["finding"]).label if is_valid else "",
            "observations": _observations(form) if is_valid else 0,
            "opts": UsageRuling._meta,
        }
        return render(request, "admin/usage/rule.html", context)

    def _begin(self, request: HttpRequest, form: RulingForm) -> HttpResponse:
        data = form.cleaned_data
        try:
            ruling = rulings.begin(
                Finding(data["finding"]),
                Takes(data["takes"]),
                data["connection"],
                reason=data["reason"],
                by=admin_user(request),
                **form.of,
            )
        except ValueError as error:
            messages.error(request, str(error))
            query = {name: request.POST.get(name, "") for name in form.fields}
            return HttpResponseRedirect(
                f"{reverse('admin:usage_usageruling_add')}?{urlencode(query)}"
            )
        self.log_addition(request, ruling, "Begun.")
        self.go_on(request, ruling)
        return HttpResponseRedirect(reverse("admin:usage_usageruling_change", args=[ruling.pk]))


def _observations(form: RulingForm) -> int:
    """How many it is about now."""
    data, of = form.cleaned_data, form.of
    if data["takes"] == Takes.OTHERS:
        if of["step"]:
            return 1
        return Observation.objects.filter(
            trace__connection=data["connection"], source=of["source"]
        ).count()
    found = rulings.observations_of(data["finding"]).filter(trace__connection=data["connection"])
    if of["step"]:
        found = found.filter(trace=of["step"][0], langfuse_observation_id=of["step"][1])
    elif of["model"] is not None:
        found = found.filter(model=of["model"])
    return found.count()


def doubtful_view(request: HttpRequest) -> HttpResponse:
    """What doesn't add up, each with the choices that there are."""
    ways = {
        finding.value: [
            (one.value, UsageRuling.Choice(one.value).label)
            for one in choices
            if one is not Takes.OTHERS
        ]
        for finding, choices in CHOICES.items()
    }
    kinds = dict(UsageRuling.Kind.choices)
    twins = likely_twins()
    context = {
        **admin.site.each_context(request),
        "title": "What doesn't add up",
        "models": [(one, kinds[one.finding], ways[one.finding]) for one in doubtful_models()],
        "observations": [
            (one, _what(one.finding, one.usage_doubt, kinds), _ways(one, ways[one.finding]))
            for one in doubtful_observations()
        ],
        "alike": alike_sources(twins),
        "alike_calls": twins[:ROWS],
        "hidden": hidden_calls(),
        "langfuse_sdk": LANGFUSE_SDK,
        "undecided": undecided().count(),
        "choices": dict(UsageRuling.Choice.choices),
    }
    return render(request, "admin/usage/doubtful.html", context)


def _ways(one: DoubtfulObservation, ways: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The choices that there are for it: its own total is one where that is another figure."""
    if one.finding == Finding.UNITS and one.other_cost_usd is None:
        return [way for way in ways if way[0] != Takes.TOTAL]
    return ways


def _what(finding: str, usage_doubt: str, kinds: dict[str, str]) -> str:
    is_of_units = finding == Finding.UNITS
    return Observation.UsageDoubt(usage_doubt).label if is_of_units else kinds[finding]
