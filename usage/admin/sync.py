"""Admin pages for connections and the sync."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import ImproperlyConfigured
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.widgets import UnfoldAdminPasswordWidget

from kluisz_analytics.admin_pages import ModelAdmin, ReadOnlyAdmin
from kluisz_analytics.confirmation import confirmed_action, confirmed_page
from usage import connections
from usage.connections import WrongProject, client_for
from usage.facts.environments import bill_in
from usage.facts.rejections import retry_rejected
from usage.langfuse.client import LangfuseClientService, LangfuseProject
from usage.langfuse.errors import LangfuseError
from usage.langfuse.http import IMPATIENT
from usage.models import (
    ConnectionTenant,
    LangfuseConnection,
    RejectedObservation,
    SyncDrift,
    SyncRun,
    SyncTurn,
    SyncWindow,
    TenantComparison,
    TenantDay,
)
from usage.sync.status import last_error


class ConnectionForm(forms.ModelForm):
    """A secret key can be entered, and is never shown again."""

    unchecked = ""
    """Why it isn't known of which project the keys are."""

    new_secret_key = forms.CharField(
        label="Secret key",
        required=False,
        widget=UnfoldAdminPasswordWidget,
        help_text="Stored encrypted. Leave it empty to keep the one that is stored.",
    )

    class Meta:
        model = LangfuseConnection
        fields = [
            "name",
            "host",
            "public_key",
            "plan",
            "organization",
            "tenant",
            "server",
            "billed_environments",
            "is_enabled",
        ]

    def clean_new_secret_key(self) -> str:
        secret: str = self.cleaned_data["new_secret_key"]
        if not secret and not self.instance.encrypted_secret_key:
            raise forms.ValidationError("Enter the secret key of this Langfuse project (sk-lf-…).")
        return secret

    def clean(self) -> dict[str, Any]:
        """Refuses keys of a project that this connection must not read.

        The environment's connection goes on as this one where its keys are no longer there. A
        server that can't be asked now is asked by each sync.
        """
        super().clean()
        if self.errors or not self._has_other_keys():
            return self.cleaned_data
        self.instance.server = self.cleaned_data["server"]
        try:
            project = self._project()
            holder = connections.holder_of(self.instance, project.id)
            if self.instance.pk is None and holder and connections.is_retired(holder):
                self.instance, holder.source = holder, LangfuseConnection.Source.ROW
            connections.check_project(self.instance, project.id)
        except WrongProject as error:
            raise forms.ValidationError(str(error)) from error
        except (LangfuseError, ImproperlyConfigured) as error:
            self.unchecked = str(error)
        else:
            self.instance.project_id = project.id
        return self.cleaned_data

    def _has_other_keys(self) -> bool:
        what_tells = {"host", "public_key", "new_secret_key", "server"}
        return not self.instance.project_id or bool(what_tells.intersection(self.changed_data))

    def _project(self) -> LangfuseProject:
        """The project of the keys as they are entered; asks once."""
        entered = self.cleaned_data
        secret_key = entered["new_secret_key"] or self.instance.secret_key
        host, public_key = entered["host"], entered["public_key"]
        with LangfuseClientService(host, public_key, secret_key, patience=IMPATIENT) as client:
            return client.project()

    def save(self, commit: bool = True) -> LangfuseConnection:
        if self.cleaned_data["new_secret_key"]:
            self.instance.secret_key = self.cleaned_data["new_secret_key"]
        return super().save(commit)


@admin.register(LangfuseConnection)
class LangfuseConnectionAdmin(ModelAdmin):
    form = ConnectionForm
    list_display = [
        "name",
        "source",
        "host",
        "project_id",
        "plan",
        "api",
        "write_mode",
        "tenant",
        "is_enabled",
    ]
    readonly_fields = ["project_id", "api", "write_mode", "notice", "last_error"]
    list_select_related = ["tenant"]
    search_fields = ["name", "host"]
    actions_detail = ["test_connection"]

    @admin.display(empty_value="-")
    def last_error(self, connection: LangfuseConnection) -> str:
        """Of the last run that had one, also of one that is still waiting for its server."""
        return last_error(connection)

    def has_change_permission(
        self, request: HttpRequest, obj: LangfuseConnection | None = None
    ) -> bool:
        from_elsewhere = obj is not None and obj.source != LangfuseConnection.Source.ROW
        return super().has_change_permission(request, obj) and not from_elsewhere

    def has_delete_permission(
        self, request: HttpRequest, obj: LangfuseConnection | None = None
    ) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: LangfuseConnection, form: ConnectionForm, change: bool
    ) -> None:
        if change and "billed_environments" in form.changed_data:
            bill_in(obj, obj.billed_environments)
        super().save_model(request, obj, form, change)
        if form.unchecked:
            messages.warning(
                request, f"Saved; which project its keys are for isn't known yet: {form.unchecked}"
            )

    def has_test_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Also of a connection that is not changed here, but by the environment."""
        return super().has_change_permission(request)

    @confirmed_page(
        "Test connection",
        "Ask this Langfuse now who it is, with the stored keys?",
        url_path="test",
        permission="test",
    )
    def test_connection(self, request: HttpRequest, connection: LangfuseConnection) -> None:
        try:
            with client_for(connection, IMPATIENT) as client:
                health, project = client.health(), connections.claim_project(connection, client)
                client.find_out()
                connections.remember_server(connection, client.api, client.write_mode)
        except LangfuseError as error:
            messages.error(request, str(error))
        else:
            messages.success(
                request,
                f"{connection.host} is a Langfuse {health.version}, read by"
                f" {connection.get_api_display()}; the keys are for {project.name}.",
            )
            if connection.notice:
                messages.warning(request, connection.notice)


@admin.register(ConnectionTenant)
class ConnectionTenantAdmin(ReadOnlyAdmin):
    list_display = ["tenant", "connection"]
    list_filter = ["connection"]
    list_select_related = ["tenant", "connection"]


@admin.register(SyncTurn)
class SyncTurnAdmin(ReadOnlyAdmin):
    list_display = ["connection", "kind", "held_by", "held_until"]
    list_select_related = ["connection"]


@admin.register(SyncRun)
class SyncRunAdmin(ReadOnlyAdmin):
    list_display = [
        "started_at",
        "connection",
        "kind",
        "outcome",
        "windows",
        "windows_elsewhere",
        "windows_drifted",
        "observations_read",
        "observations_stored",
        "observations_deleted",
        "traces_changed",
        "transactions_posted",
        "error",
    ]
    list_filter = ["kind", "outcome", "connection"]
    list_select_related = ["connection"]


@admin.register(SyncWindow)
class SyncWindowAdmin(ReadOnlyAdmin):
    list_display = [
        "start",
        "connection",
        "state",
        "complete_through",
        "observations",
        "leased_by",
        "leased_until",
        "error",
    ]
    list_filter = ["state", "connection"]
    list_select_related = ["connection"]
    date_hierarchy = "start"


@admin.register(SyncDrift)
class SyncDriftAdmin(ReadOnlyAdmin):
    list_display = [
        "start",
        "period",
        "tenant",
        "run",
        "count_before",
        "count_now",
        "cost_usd_before",
        "cost_usd_now",
        "users_before",
        "users_now",
        "observations_stored",
        "observations_deleted",
    ]
    list_filter = ["run__connection", "period"]
    list_select_related = ["run__connection", "tenant"]
    date_hierarchy = "start"


@admin.register(TenantComparison)
class TenantComparisonAdmin(ReadOnlyAdmin):
    shows = "When each tenant's usage was last compared with Langfuse's, by connection."
    list_display = ["tenant", "connection", "compared_at"]
    list_filter = ["connection"]
    list_select_related = ["tenant", "connection"]


@admin.register(TenantDay)
class TenantDayAdmin(ReadOnlyAdmin):
    shows = (
        "Langfuse's figures of each tenant's days and ours, as the daily reconciliation"
        " last found them. A run counts here on the day of its first step, there each step on its"
        " own; “all” is the whole project."
    )
    list_display = [
        "day",
        "whose",
        "connection",
        "langfuse_count",
        "observations",
        "langfuse_tokens",
        "tokens",
        "langfuse_cost",
        "our_cost",
        "langfuse_users",
        "users",
        "compared_at",
    ]
    list_filter = ["connection", "tenant"]
    list_select_related = ["tenant", "connection"]
    date_hierarchy = "day"

    @admin.display(description="Tenant", ordering="tenant")
    def whose(self, day: TenantDay) -> str:
        return day.tenant.name if day.tenant else "all"

    # Langfuse's is a float sum: both as far as it can be believed.
    @admin.display(description="Langfuse cost, USD", ordering="langfuse_cost_usd")
    def langfuse_cost(self, day: TenantDay) -> str:
        return f"{day.langfuse_cost_usd:,.6f}"

    @admin.display(description="Cost, USD", ordering="cost_usd")
    def our_cost(self, day: TenantDay) -> str:
        return f"{day.cost_usd:,.6f}"


@admin.register(RejectedObservation)
class RejectedObservationAdmin(ReadOnlyAdmin):
    list_display = [
        "first_seen_at",
        "langfuse_observation_id",
        "langfuse_trace_id",
        "reason",
        "resolution",
        "tried_at",
        "connection",
    ]
    list_filter = ["resolution", "connection"]
    list_select_related = ["connection"]
    search_fields = ["langfuse_observation_id", "langfuse_trace_id", "reason"]
    actions = ["try_again"]

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """What is read is charged: platform admins only."""
        return bool(request.user.is_superuser)

    @confirmed_action(
        "Try everything of these connections again",
        "Try to read everything again that is set aside of the connections of these rows?",
        permissions=["retry"],
    )
    def try_again(
        self, request: HttpRequest, rows: QuerySet[RejectedObservation], form: object
    ) -> None:
        chosen = LangfuseConnection.objects.filter(pk__in=rows.values("connection"))
        stored = sum(retry_rejected(connection).observations_stored for connection in chosen)
        messages.success(request, f"Tried again: {stored} could be read now.")
