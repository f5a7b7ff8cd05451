"""Admin pages for budgets, alerts, webhooks and deliveries."""

from django import forms
from django.contrib import admin, messages
from django.db.models import Value
from django.db.models.functions import Coalesce, NullIf
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminPasswordWidget

from credits.deliveries import send_test
from credits.models import Alert, Delivery, TenantBudget, Webhook
from kluisz_analytics.admin_pages import (
    ModelAdmin,
    ReadOnlyAdmin,
    amount_column,
    state_column,
)
from kluisz_analytics.confirmation import confirmed_page
from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.tenants.models import Flow, Tenant


@admin.register(TenantBudget)
class TenantBudgetAdmin(ModelAdmin):
    shows = (
        "What tenants, their users, flows and models may use in a day, a week or a month of the"
        " tenant's zone; used and held are of the running period."
    )
    list_display = [
        "tenant",
        "of_whom",
        "period",
        "unit",
        amount_column("amount"),
        amount_column("used"),
        amount_column("held"),
        state_column("is_hard", "when used up", "refuses runs", "only tells", true_is="warning"),
    ]
    list_filter = ["tenant", "period", "unit", "is_hard"]
    list_select_related = ["tenant", "user"]
    autocomplete_fields = ["tenant", "user"]
    fields = ["tenant", "user", "flow_id", "model", "period", "unit", "amount", "is_hard"]

    @admin.display(
        description="subject",
        ordering=Coalesce(
            "user__username", NullIf("flow_id", Value("")), NullIf("model", Value("")), Value("")
        ),
    )
    def of_whom(self, budget: TenantBudget) -> str:
        return budget.subject

    def save_model(
        self, request: HttpRequest, obj: TenantBudget, form: forms.ModelForm, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        if obj.flow_id and obj.flow_id not in _flow_ids(obj.tenant):
            messages.warning(
                request,
                f"Saved, but “{obj.flow_id}” is the id of no flow of {obj.tenant}: the budget"
                " counts only runs that name it so. A flow's id is on its page in the directory.",
            )


def _flow_ids(tenant: Tenant) -> set[str]:
    flows = Flow.objects.filter(project__tenant=tenant)
    return {canonical_id(str(pk)) for pk in flows.values_list("pk", flat=True)}


class WebhookForm(forms.ModelForm):
    """The signing secret can be entered, and is never shown again."""

    new_secret = forms.CharField(
        label="Signing secret",
        required=False,
        min_length=16,
        widget=UnfoldAdminPasswordWidget,
        help_text=(
            "At least 16 characters; stored encrypted. Leave it empty to keep the one that is"
            " stored."
        ),
    )

    class Meta:
        model = Webhook
        fields = ["tenant", "url", "is_enabled"]

    def clean_new_secret(self) -> str:
        secret: str = self.cleaned_data["new_secret"]
        if not secret and not self.instance.encrypted_secret:
            raise forms.ValidationError(
                "Enter the secret that the receiver checks signatures with."
            )
        return secret

    def save(self, commit: bool = True) -> Webhook:
        if self.cleaned_data["new_secret"]:
            self.instance.secret = self.cleaned_data["new_secret"]
        return super().save(commit)


@admin.register(Webhook)
class WebhookAdmin(ModelAdmin):
    form = WebhookForm
    list_display = ["url", "tenant", "is_enabled"]
    list_filter = ["tenant", "is_enabled"]
    list_select_related = ["tenant"]
    autocomplete_fields = ["tenant"]
    actions_detail = ["test"]

    @confirmed_page(
        "Send a test",
        "Post a test to this address now?",
        url_path="test",
        permission="change",
    )
    def test(self, request: HttpRequest, webhook: Webhook) -> None:
        delivery = send_test(webhook)
        notify = messages.success if delivery.state == Delivery.State.SENT else messages.error
        notify(request, f"{delivery.webhook} answered: {delivery.answer}")


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "tenant",
        "user",
        "kind",
        "threshold",
        "message",
        state_column("is_sent", "sent", "sent", "suppressed"),
    ]
    list_filter = ["kind", "threshold", "tenant"]
    list_select_related = ["tenant", "user"]
    search_fields = ["user__username", "message"]
    exclude = ["is_sent"]
    readonly_fields = ["state"]

    @admin.display(description="State")
    def state(self, alert: Alert) -> str:
        return "sent" if alert.is_sent else "suppressed: a higher one was reached at the same time"


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = [
        "created_at",
        "alert",
        "channel",
        "address",
        "state",
        "attempts",
        "next_attempt_at",
        "answer",
        "sent_at",
    ]
    list_filter = ["state", "channel", "webhook"]
    list_select_related = ["alert"]
