"""Attribution rules as the admin shows and makes them: from a preset or by hand, what they would
change first.
"""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from kluisz_analytics.admin_pages import admin_user, amount_column
from kluisz_analytics.confirmation import confirmed_page
from kluisz_analytics.tenants.models import Tenant, User
from usage.admin.rework import ReworkAdmin
from usage.analytics.attribution import in_words
from usage.desk import attribution
from usage.desk.attribution_preview import Preview, preview
from usage.desk.presets import PRESETS
from usage.desk.seen import seen_view
from usage.desk.unknown import unknown_view
from usage.desk.views import platform_admins_only
from usage.facts.rules import ENTERED
from usage.models import AttributionRule, AttributionRules, LangfuseConnection
from usage.models.attribution import ENTERED_A_DAY

ROWS_SHOWN = 200
SPARE_ROWS = 3
RULE_FIELDS = ("gives", "source", "path", "pattern", "value", "finds_by", "table", "wins")
OF_ENTERED = ("enters", "tier")


class PresetForm(forms.Form):
    preset = forms.ChoiceField(
        label="Start from",
        choices=[(name, one.label) for name, one in PRESETS.items()],
        widget=UnfoldAdminSelectWidget,
    )
    enters = forms.BooleanField(
        required=False,
        label="Enter whom nobody knows",
        widget=UnfoldBooleanSwitchWidget,
    )


class RulesForm(forms.Form):
    """What the rules have in common."""

    connection = forms.ModelChoiceField(
        LangfuseConnection.objects.all(), widget=UnfoldAdminSelectWidget
    )
    name = forms.CharField(max_length=100, widget=UnfoldAdminTextInputWidget)
    since = forms.DateTimeField(
        required=False,
        label="For runs that begin from",
        widget=UnfoldAdminTextInputWidget,
        help_text="For example 2026-11-01 00:00; “now”: from now on. Empty: for all.",
    )
    position = forms.IntegerField(
        initial=0,
        min_value=-1_000_000,
        max_value=1_000_000,
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Of several, the lowest is asked first.",
    )
    enters_a_day = forms.IntegerField(
        initial=ENTERED_A_DAY,
        required=False,
        min_value=0,
        max_value=1_000_000,
        label="Enter at most, a day",
        widget=UnfoldAdminIntegerFieldWidget,
        help_text="Tenants and users whom nobody knows, of rules that enter them.",
    )
    reason = forms.CharField(
        max_length=400,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Kept with the rules and each adjustment.",
    )

    def __init__(self, data: Any = None, **kwargs: Any) -> None:
        if data is not None and data.get("since", "").strip().casefold() == "now":
            data = data.copy()
            data["since"] = timezone.now().strftime("%Y-%m-%d %H:%M:%S")
        super().__init__(data, **kwargs)

    def clean_enters_a_day(self) -> int:
        bound: int | None = self.cleaned_data["enters_a_day"]
        return ENTERED_A_DAY if bound is None else bound

    @property
    def together(self) -> AttributionRules:
        """The rules' row, not stored."""
        return AttributionRules(
            **{name: self.cleaned_data[name] for name in ("connection", "name", "since")},
            position=self.cleaned_data["position"],
            reason=self.cleaned_data["reason"],
        )


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = AttributionRule
        fields = (*RULE_FIELDS, *OF_ENTERED)
        widgets = {
            **dict.fromkeys(RULE_FIELDS, UnfoldAdminTextInputWidget),
            **dict.fromkeys(("gives", "source", "wins", "tier"), UnfoldAdminSelectWidget),
            "enters": UnfoldBooleanSwitchWidget,
        }


RuleForms = forms.formset_factory(
    RuleForm, extra=0, max_num=attribution.MOST_RULES, validate_max=True, absolute_max=60
)


@admin.register(AttributionRules)
class AttributionRulesAdmin(ReworkAdmin):
    actions_detail = ["stop", "resume", "undo", "end"]
    shows = (
        "Whose the runs are that other tracers recorded, by rules of a connection. Open one to end,"
        " stop, continue or undo it. They are never changed: undo them, and make others."
    )
    list_display = [
        "id",
        "state",
        "name",
        "connection",
        "position",
        "since",
        "until",
        "enters_a_day",
        "reason",
        "traces_done",
        "traces_changed",
        amount_column("cost_usd_difference"),
        amount_column("credits_difference"),
        "created_at",
        "created_by",
    ]
    list_filter = ["state", "connection"]
    list_select_related = ["connection", "created_by"]
    readonly_fields = ["in_their_order"]

    @admin.display(description="Rules")
    def in_their_order(self, together: AttributionRules) -> str:
        return "\n".join(f"{number}. {one}" for number, one in enumerate(together.rules.all(), 1))

    def advance(self, row: AttributionRules, seconds: float) -> None:
        attribution.advance(row, seconds)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view
        return [
            path("unknown/", view(platform_admins_only(unknown_view)), name="usage_unknownowners"),
            path("seen/", view(platform_admins_only(seen_view)), name="usage_seeninusage"),
            *super().get_urls(),
        ]

    @confirmed_page(
        "End",
        "End them? Runs that begin from now on are decided without them; those before stay.",
        url_path="end",
        permission="move",
    )
    def end(self, request: HttpRequest, row: AttributionRules) -> None:
        attribution.end(row)

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What they would change first; making them is a second step on the same page."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        found: Preview | None = None
        if request.method == "POST":
            form, rows = RulesForm(request.POST), RuleForms(request.POST, prefix="rules")
            if form.is_valid() and rows.is_valid():
                rules = [one.save(commit=False) for one in rows if one.has_changed()]
                try:
                    if "begin" in request.POST:
                        return self._begin(request, form, rules)
                    found = preview(form.together, rules)
                except ValidationError as error:
                    form.add_error(None, "; ".join(error.messages))
                except ValueError as error:
                    form.add_error(None, str(error))
        else:
            form, rows = _of_preset(request.GET)
        context = {
            **self.admin_site.each_context(request),
            "title": "Attribution rules",
            "form": form,
            "rows": rows,
            "presets": PresetForm(request.GET or None),
            "preview": found,
            "moved": _labelled(found) if found else [],
            "samples": _samples(found) if found else [],
            "rows_shown": ROWS_SHOWN,
            "opts": AttributionRules._meta,
        }
        return render(request, "admin/usage/attribute.html", context)

    def _begin(
        self, request: HttpRequest, form: RulesForm, rules: Sequence[AttributionRule]
    ) -> HttpResponse:
        data = form.cleaned_data
        together = attribution.begin(
            data["connection"],
            rules,
            name=data["name"],
            reason=data["reason"],
            by=admin_user(request),
            since=data["since"],
            position=data["position"],
            enters_a_day=data["enters_a_day"],
        )
        self.log_addition(request, together, "Begun.")
        self.go_on(request, together)
        change = reverse("admin:usage_attributionrules_change", args=[together.pk])
        return HttpResponseRedirect(change)


def _of_preset(asked: Any) -> tuple[RulesForm, Any]:
    """Empty forms, or those of a preset."""
    preset = PRESETS.get(asked.get("preset", ""))
    initial = {"name": preset.label} if preset else {}
    if str(asked.get("connection", "")).isdigit():
        initial["connection"] = asked["connection"]
    rules: list[dict[str, Any]] = [dict(one) for one in preset.rules] if preset else []
    if asked.get("enters"):
        for one in rules:
            one["enters"] = one["gives"] in ENTERED
    spare = [{"finds_by": "id,alias"} for _ in range(SPARE_ROWS)]
    return RulesForm(initial=initial), RuleForms(prefix="rules", initial=[*rules, *spare])


def _names(found: Preview) -> dict[Any, str]:
    """What the tenants and users of the preview are called."""
    tenants = Tenant.objects.in_bulk({tenant for tenant, _ in found.moved if tenant})
    users = User.objects.in_bulk({user for _, user in found.moved if user})
    return {None: "–"} | {pk: str(one) for pk, one in (*tenants.items(), *users.items())}


def _labelled(found: Preview) -> list[dict[str, Any]]:
    names = _names(found)
    return [
        {"tenant": names[one.tenant_id], "user": names[one.user_id], "moved": one}
        for one in found.largest(ROWS_SHOWN)
    ]


def _samples(found: Preview) -> list[dict[str, Any]]:
    names = _names(found)
    return [
        {
            **one._asdict(),
            "was": " / ".join(names[pk] for pk in one.before),
            "would_be": "disputed" if one.dispute else " / ".join(names[pk] for pk in one.after),
            "why": in_words(one.given),
        }
        for one in found.samples
    ]
