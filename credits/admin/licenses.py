"""Admin pages for licenses and their pools."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import F, QuerySet
from django.http import HttpRequest
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminSelectWidget

from credits import licenses
from credits.licenses import CreditsPolicy, LicenseRefused
from credits.models import License, LicenseEvent, LicensePool
from kluisz_analytics.admin_pages import ModelAdmin, ReadOnlyAdmin, admin_user
from kluisz_analytics.confirmation import confirmed_action
from kluisz_analytics.figures import counted
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier


class LicensePoolForm(forms.ModelForm):
    """A pool is never made smaller than what is given of it."""

    class Meta:
        model = LicensePool
        fields = ["tenant", "tier", "total"]

    def clean_total(self) -> int:
        total: int = self.cleaned_data["total"]
        assigned = (
            LicensePool.objects.filter(pk=self.instance.pk)
            .values_list("assigned", flat=True)
            .first()
            or 0
        )
        if total < assigned:
            raise forms.ValidationError(
                f"{assigned} licenses are given; take some back before there are {total}."
            )
        return total


@admin.register(LicensePool)
class LicensePoolAdmin(ModelAdmin):
    form = LicensePoolForm
    list_display = ["tenant", "tier", "total", "assigned", "free"]
    list_select_related = ["tenant", "tier"]
    list_filter = ["tenant", "tier"]
    search_fields = ["tenant__name", "tier__name"]
    fields = ["tenant", "tier", "total"]

    @admin.display(description="Free", ordering=F("total") - F("assigned"))
    def free(self, pool: LicensePool) -> int:
        return pool.total - pool.assigned

    def save_model(self, request: HttpRequest, obj: LicensePool, form: Any, change: bool) -> None:
        """Only the total is written: what is given may have changed since the page was opened."""
        obj.save(update_fields=["total"] if change else None)

    def get_readonly_fields(
        self, request: HttpRequest, obj: LicensePool | None = None
    ) -> list[str]:
        return ["tenant", "tier"] if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: LicensePool | None = None) -> bool:
        return (
            super().has_delete_permission(request, obj)
            and obj is not None
            and not obj.licenses.exists()
        )


class LicenseForm(forms.ModelForm):
    """A license to give: the pool is the tenant's of the user, so only the tier is chosen."""

    by: User
    tier = forms.ModelChoiceField(
        PricingTier.objects.filter(retired_at__isnull=True), widget=UnfoldAdminSelectWidget
    )

    class Meta:
        model = License
        fields = ["user", "expires_at"]

    def _post_clean(self) -> None:
        """Given right away: only the statement that takes it from the pool can say whether there is
        one.
        """
        if self.errors:
            return
        try:
            values = self.cleaned_data
            self.instance = licenses.assign(
                values["user"], values["tier"], self.by, expires_at=values["expires_at"]
            )
        except LicenseRefused as error:
            self.add_error(None, str(error))


class LicenseChange(forms.Form):
    """What changing licenses takes beside them."""

    tier = forms.ModelChoiceField(
        PricingTier.objects.all(), error_messages={"required": "Choose the tier to change to."}
    )
    credits = forms.ChoiceField(choices=[(one.value, one.value) for one in CreditsPolicy])


class UncheckedChoice(forms.ChoiceField):
    """A choice that the action checks, which can say what is wrong with it."""

    def validate(self, value: Any) -> None:
        """Anything, as far as the bar goes."""


class LicenseChangeBar(ActionForm):
    """Where it is chosen, beside the choice of the action."""

    tier = UncheckedChoice(
        required=False,
        label="",
        choices=lambda: [
            ("", "To tier …"),
            *PricingTier.objects.values_list("pk", "name"),
        ],
        widget=forms.Select(attrs={"class": "action-reason", "aria-label": "Tier"}),
    )
    credits = UncheckedChoice(
        required=False,
        label="",
        choices=[(one.value, f"Credits: {one.value}") for one in CreditsPolicy],
        widget=forms.Select(attrs={"class": "action-reason", "aria-label": "Credits"}),
    )


@admin.register(License)
class LicenseAdmin(ReadOnlyAdmin):
    form = LicenseForm
    list_display = ["user", "pool", "starts_at", "expires_at", "ended_at", "assigned_by"]
    list_select_related = ["user", "pool__tenant", "pool__tier", "assigned_by"]
    list_filter = ["pool__tenant", "pool__tier"]
    search_fields = ["user__username"]
    autocomplete_fields = ["user"]
    actions = ["take_back", "change_tier"]
    action_form = LicenseChangeBar

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def get_fields(self, request: HttpRequest, obj: License | None = None) -> list[str]:
        return (
            ["user", "tier", "expires_at"]
            if obj is None
            else ["user", "pool", "starts_at", "expires_at", "ended_at", "assigned_by"]
        )

    def get_form(
        self, request: HttpRequest, obj: License | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        form = super().get_form(request, obj, change, **kwargs)
        if obj is None:
            form.by = admin_user(request)
        return form

    def save_model(self, request: HttpRequest, obj: License, form: Any, change: bool) -> None:
        """It was given when the form was checked."""

    @confirmed_action(
        "Take back into the pool",
        "Take these licenses back? Their users can start no runs from then on.",
        permissions=["add"],
    )
    def take_back(self, request: HttpRequest, chosen: QuerySet[License], form: Any) -> None:
        self._each(
            request,
            chosen,
            lambda license: licenses.unassign(license.user, admin_user(request)),
            "Took back",
        )

    @confirmed_action(
        "Change to the tier",
        "Change these licenses?",
        permissions=["add"],
        form=LicenseChange,
    )
    def change_tier(
        self, request: HttpRequest, chosen: QuerySet[License], form: LicenseChange
    ) -> None:
        tier, policy = form.cleaned_data["tier"], CreditsPolicy(form.cleaned_data["credits"])
        self._each(
            request,
            chosen,
            lambda license: licenses.change(
                license.user, tier, admin_user(request), credits=policy
            ),
            "Changed",
        )

    def _each(
        self,
        request: HttpRequest,
        chosen: QuerySet[License],
        do: Callable[[License], Any],
        verb: str,
    ) -> None:
        done = 0
        for license in chosen.filter(ended_at__isnull=True).select_related("user__tenant"):
            try:
                do(license)
            except LicenseRefused as error:
                messages.error(request, str(error))
            else:
                done += 1
        if done:
            messages.success(request, f"{verb} {counted(done, 'license')}.")


@admin.register(LicenseEvent)
class LicenseEventAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "user",
        "kind",
        "tier_before",
        "tier_after",
        "credits",
        "reason",
        "created_by",
    ]
    list_select_related = ["user", "tier_before", "tier_after", "created_by"]
    list_filter = ["kind"]
    search_fields = ["user__username"]
