"""What runs name and nobody is known by, as a list with the money at stake; each becomes an alias
of somebody, or a new entry of the directory, by one click.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import BigIntegerField, Count, ExpressionWrapper, F, Max, Min, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.text import slugify
from unfold.widgets import BASE_INPUT_CLASSES

from kluisz_analytics.admin_pages import admin_user
from kluisz_analytics.figures import counted
from kluisz_analytics.scales import USD_PLACES, Usd, from_scaled
from kluisz_analytics.tenants.models import Tenant, TenantAlias, User, UserAlias
from usage.facts.apply import Applied
from usage.facts.attribution import attribute_known
from usage.models import LangfuseConnection, Trace
from usage.models.facts import NOT_OWNED

ROWS = 200
Kind = Literal["tenant", "user"]


@dataclass(frozen=True, slots=True)
class UnknownName:
    """What runs of a connection call a tenant, or a user of a tenant (None: none is known)."""

    kind: Kind
    text: str
    connection_id: int
    connection: str
    tenant_id: UUID | None
    tenant: str
    runs: int
    cost_usd: Usd
    first_seen: datetime
    last_seen: datetime


def unknown_names(limit: int = ROWS) -> list[UnknownName]:
    """Those with the highest cost, of these those with the most runs; three queries."""
    waiting = Trace.objects.filter(NOT_OWNED, dispute="", is_voided=False).order_by()
    tenants = waiting.filter(tenant=None).exclude(tenant_reference="")
    users = waiting.filter(user=None).exclude(user_reference="")
    # Of a tenant that is named and not known, it is the tenant that is missing.
    users = users.exclude(tenant=None, tenant_reference__gt="")
    rows = [
        *_by_text("tenant", tenants.values("connection", text=F("tenant_reference")), limit),
        *_by_text("user", users.values("connection", "tenant", text=F("user_reference")), limit),
    ]
    connections = dict(LangfuseConnection.objects.values_list("pk", "name"))
    named = {row["tenant"] for row in rows if row.get("tenant")}
    names = dict(Tenant.objects.filter(pk__in=named).values_list("pk", "name"))
    found = [_row(row, connections, names) for row in rows]
    return sorted(found, key=lambda one: (-one.cost_usd, -one.runs, one.text))[:limit]


def _by_text(kind: Kind, grouped: Any, limit: int) -> list[dict[str, Any]]:
    cost = ExpressionWrapper(F("cost_usd"), output_field=BigIntegerField())
    rows = grouped.annotate(
        runs=Count("pk"),
        cost=Sum(cost),
        first_seen=Min("start_time"),
        last_seen=Max("start_time"),
    )
    return [{**row, "kind": kind} for row in rows.order_by("-cost", "-runs", "text")[:limit]]


def _row(row: dict[str, Any], connections: dict[int, str], names: dict[UUID, str]) -> UnknownName:
    tenant_id = row.get("tenant")
    return UnknownName(
        row["kind"],
        row["text"],
        row["connection"],
        connections[row["connection"]],
        tenant_id,
        names.get(tenant_id, "") if tenant_id else "",
        row["runs"],
        from_scaled(row["cost"] or 0, USD_PLACES),
        row["first_seen"],
        row["last_seen"],
    )


class NamingForm(forms.Form):
    """Who is meant: with ``to`` (a tenant's slug, or a user name in the tenant) that one, else a
    new entry.
    """

    kind = forms.ChoiceField(choices=[("tenant", "tenant"), ("user", "user")])
    text = forms.CharField(max_length=200)
    connection = forms.ModelChoiceField(LangfuseConnection.objects.all())
    tenant = forms.ModelChoiceField(Tenant.objects.all(), required=False)
    to = forms.CharField(max_length=200, required=False)

    def make(self) -> str:
        """Make the alias or the entry, and say what was made.

        Raises ValidationError for what can't be.
        """
        data = self.cleaned_data
        if data["kind"] == "tenant":
            return _name_tenant(data["text"], data["to"])
        if data["tenant"] is None and not data["to"]:
            raise ValidationError("Say whose user it is: write the user name of one that is known.")
        return _name_user(data["text"], data["tenant"], data["to"])


def _name_tenant(text: str, to: str) -> str:
    if to:
        tenant = Tenant.objects.filter(slug__iexact=to.strip()).first()
        if tenant is None:
            raise ValidationError(f"There is no tenant “{to}”: write its slug.")
    else:
        tenant = Tenant(name=text, slug=slugify(text)[:100])
        tenant.full_clean()
        tenant.save()
    alias = TenantAlias(tenant=tenant, name=text)
    alias.full_clean()
    alias.save()
    return f"“{text}” is {tenant}"


def _name_user(text: str, tenant: Tenant | None, to: str) -> str:
    if to:
        users = User.objects.filter(username__iexact=to.strip())
        user = (users if tenant is None else users.filter(tenant=tenant)).first()
        if user is None:
            raise ValidationError(f"There is no user “{to}”{f' of {tenant}' if tenant else ''}.")
    else:
        user = User(username=text[:150], tenant=tenant)
        user.set_unusable_password()
        user.full_clean()
        user.save()
    # A user's own name is none that another is called by.
    alias = UserAlias(tenant=user.tenant if tenant is None else tenant, user=user, name=text)
    alias.full_clean()
    alias.save()
    return f"“{text}” is {user} of {alias.tenant}"


def unknown_view(request: HttpRequest) -> HttpResponse:
    """The list, and by POST one of its choices."""
    if request.method == "POST":
        return _named(request)
    context = {
        **admin.site.each_context(request),
        "title": "Named and not known",
        "names": unknown_names(),
        "input_classes": " ".join(BASE_INPUT_CLASSES),
        "slugs": Tenant.objects.order_by("slug").values_list("slug", flat=True)[:ROWS],
    }
    return render(request, "admin/usage/unknown.html", context)


def _named(request: HttpRequest) -> HttpResponse:
    form = NamingForm(request.POST)
    try:
        if not form.is_valid():
            raise ValidationError([error for errors in form.errors.values() for error in errors])
        with transaction.atomic():
            made = form.make()
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        applied: Applied = attribute_known(form.cleaned_data["connection"])
        _log(request, form.cleaned_data["connection"], made)
        messages.success(
            request, f"{made}. {counted(applied.traces_changed, 'run')} found its owner."
        )
    return HttpResponseRedirect(reverse("admin:usage_unknownowners"))


def _log(request: HttpRequest, connection: LangfuseConnection, made: str) -> None:
    """Keep who did it, in the connection's history."""
    by = admin_user(request)
    LogEntry.objects.log_actions(by.pk, [connection], CHANGE, f"Named: {made}.", single_object=True)
