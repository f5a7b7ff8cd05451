"""Those seen in usage, as a desk: merged with who they are, or entered as they are, by a click that
first says what moves.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import BigIntegerField, Count, ExpressionWrapper, F, Max, Q, QuerySet, Sum
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from unfold.widgets import BASE_INPUT_CLASSES, UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from credits.models import Account
from credits.top_up import welcome
from kluisz_analytics.admin_pages import admin_user
from kluisz_analytics.confirmation import CONFIRMED
from kluisz_analytics.figures import counted
from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, Credits, Usd, from_scaled
from kluisz_analytics.tenants.directory import change_directory, names_change
from kluisz_analytics.tenants.models import DirectoryChange, Standing, Tenant, User
from usage.facts.attribution import attribute_all
from usage.models import AttributionRules, Trace

ROWS = 200
NOTHING = Decimal(0)
Kind = Literal["tenant", "user"]
MODELS: Mapping[str, type[Tenant] | type[User]] = {"tenant": Tenant, "user": User}


@dataclass(frozen=True, slots=True)
class Uses:
    """What somebody has used."""

    runs: int = 0
    cost_usd: Usd = NOTHING
    credits: Credits = NOTHING
    last_seen: datetime | None = None


@dataclass(frozen=True, slots=True)
class SeenEntry:
    """Somebody seen in usage, with what it has used."""

    kind: str
    row: Tenant | User
    by: str
    uses: Uses

    @property
    def tenant(self) -> str:
        return str(self.row.tenant) if isinstance(self.row, User) else ""


def seen_entries(standing: str = Standing.SEEN, text: str = "") -> list[SeenEntry]:
    """Those with the standing whose name has the text in it, the newest first; six queries."""
    found = {
        "tenant": _with(Tenant.objects.order_by("-created_at", "pk"), standing, text),
        "user": _with(
            User.objects.select_related("tenant").order_by("-date_joined", "pk"), standing, text
        ),
    }
    rules = AttributionRules.objects.in_bulk(
        {row.seen_by for rows in found.values() for row in rows if row.seen_by}
    )
    return [
        SeenEntry(kind, row, _name_of(rules, row.seen_by), uses.get(row.pk, Uses()))
        for kind, rows in found.items()
        for uses in [uses_of(kind, [row.pk for row in rows])]
        for row in rows
    ]


def _with(rows: Any, standing: str, text: str) -> list[Any]:
    found = rows.filter(seen=standing, seen_as__icontains=text).exclude(seen_as="")
    return list(found.select_related("merged_into")[:ROWS])


def _name_of(rules: Mapping[int, AttributionRules], number: int | None) -> str:
    together = rules.get(number) if number else None
    return together.name if together else ""


def uses_of(kind: str, ids: Iterable[UUID]) -> dict[UUID, Uses]:
    """What each of the tenants or users has used; one query."""
    rows = Trace.objects.filter(**{f"{kind}__in": list(ids)}, is_voided=False).order_by()
    cost, spent = (
        Sum(ExpressionWrapper(F(name), output_field=BigIntegerField()))
        for name in ("cost_usd", "credits")
    )
    summed = rows.values_list(kind).annotate(
        runs=Count("pk"), cost=cost, spent=spent, last=Max("start_time")
    )
    return {
        pk: Uses(
            runs, from_scaled(cost or 0, USD_PLACES), from_scaled(spent or 0, CREDIT_PLACES), last
        )
        for pk, runs, cost, spent, last in summed
    }


def merge(seen: Tenant | User, into: Tenant | User, by: User) -> int:
    """Let all usage of somebody seen in usage be that of who it is, from now on and before. Returns
    how many runs moved.

    Raises ValueError for what can't be merged.
    """
    check(seen, into)
    model = type(seen)
    with transaction.atomic():
        change_directory()
        model._default_manager.filter(pk=seen.pk).update(seen=Standing.MERGED, merged_into=into.pk)
        DirectoryChange.objects.create(**{f"{kind_of(seen)}_id": seen.pk})
        _log(by, [seen], f"Merged into {into}.")
        _log(by, [into], f"“{seen.seen_as}”, seen in usage, was merged into it.")
    return attribute_all().traces_changed


def check(seen: Tenant | User, into: Tenant | User) -> None:
    """Raises ValueError, saying what to do first, for what can't be merged."""
    if seen.seen not in (Standing.SEEN, Standing.KNOWN):
        raise ValueError(f"“{seen}” is “{seen.get_seen_display()}”, so it can't be merged.")
    if into.seen != Standing.ENTERED:
        raise ValueError(f"“{into}” is seen in usage itself: enter it first.")
    if isinstance(seen, User) and isinstance(into, User) and seen.tenant_id != into.tenant_id:
        raise ValueError(
            f"“{into}” is of {into.tenant}, “{seen}” of {seen.tenant}: merge the tenants first."
        )
    if isinstance(seen, Tenant):
        others = User.objects.filter(tenant=seen, seen=Standing.ENTERED)
        if others.exists():
            raise ValueError(f"{counted(others.count(), 'user')} of it were entered: move them.")
    users = Q(user=seen.pk) if isinstance(seen, User) else Q(user__tenant=seen.pk)
    if account := Account.objects.exclude(allocated=0, held=0).filter(users).first():
        raise ValueError(f"“{account.user}” has credits or holds: void its grants first.")


def enter(seen: Tenant | User, by: User) -> None:
    """Let somebody seen in usage be an entry as others are, with its usage.

    Raises ValueError where it is known otherwise, or of a tenant that is only seen in usage.
    """
    if seen.seen != Standing.SEEN:
        raise ValueError(f"“{seen}” is “{seen.get_seen_display()}”, so it can't be entered.")
    if isinstance(seen, User) and seen.tenant.seen != Standing.ENTERED:
        raise ValueError(f"Its tenant is seen in usage, too: enter “{seen.tenant}” first.")
    with transaction.atomic():
        seen.seen = Standing.ENTERED
        if isinstance(seen, User):
            _enter_user(seen)
        else:
            seen.name = seen.seen_as
            seen.save()
        _log(by, [seen], "Entered as it is.")


def _enter_user(user: User) -> None:
    """Under the name that it was seen by, if nobody has it and it may be one."""
    name = user.seen_as[:150]
    user.is_active = True
    with names_change([name]):
        marked, user.username = user.username, name
        try:
            user.full_clean()
        except ValidationError:
            user.username = marked
        user.save()
    welcome(User.objects.filter(pk=user.pk))


def kind_of(row: Tenant | User) -> Kind:
    return "user" if isinstance(row, User) else "tenant"


def _log(by: User, rows: list[Any], what: str) -> None:
    LogEntry.objects.log_actions(by.pk, rows, CHANGE, what, single_object=True)


class FilterForm(forms.Form):
    """Which are listed."""

    standing = forms.ChoiceField(
        required=False,
        choices=[one for one in Standing.choices if one[0]],
        widget=UnfoldAdminSelectWidget,
    )
    text = forms.CharField(
        required=False, max_length=200, label="Called", widget=UnfoldAdminTextInputWidget
    )


class MergeForm(forms.Form):
    """Who is meant; ``to`` is a tenant's slug, or a user's name. Empty: it is entered as it is."""

    kind = forms.ChoiceField(choices=[(kind, kind) for kind in MODELS])
    seen = forms.UUIDField()
    to = forms.CharField(max_length=200, required=False)

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = self.cleaned_data
        model = MODELS.get(data.get("kind", ""))
        if model is None or "seen" not in data:
            return data
        rows: QuerySet[Any] = model._default_manager.exclude(seen=Standing.ENTERED)
        data["row"] = rows.filter(pk=data["seen"]).first()
        if data["row"] is None:
            raise ValidationError(f"There is no such {data['kind']} seen in usage.")
        name = "username__iexact" if model is User else "slug__iexact"
        to = data.get("to", "").strip()
        data["into"] = model._default_manager.filter(**{name: to}).first() if to else None
        if to and data["into"] is None:
            raise ValidationError(f"There is no {data['kind']} “{to}”.")
        return data

    def do(self, by: User) -> str:
        """Do it, and say what was done. Raises ValueError for what can't be."""
        row, into = self.cleaned_data["row"], self.cleaned_data["into"]
        if into is None:
            enter(row, by)
            return f"“{row.seen_as}” is entered as {row}."
        moved = merge(row, into, by)
        return f"“{row.seen_as}” is {into}: {counted(moved, 'run')} moved."

    def check(self) -> None:
        """Raises ValueError for what can't be."""
        if self.cleaned_data["into"] is not None:
            check(self.cleaned_data["row"], self.cleaned_data["into"])


def seen_view(request: HttpRequest) -> HttpResponse:
    """The list; by POST one of its choices, asked first."""
    if request.method == "POST":
        return _chosen(request)
    form = FilterForm(request.GET)
    asked = form.cleaned_data if form.is_valid() else {}
    context = {
        **admin.site.each_context(request),
        "title": "Seen in usage",
        "form": form,
        "entries": seen_entries(asked.get("standing") or Standing.SEEN, asked.get("text", "")),
        "input_classes": " ".join(BASE_INPUT_CLASSES),
        "slugs": Tenant.objects.filter(seen=Standing.ENTERED).order_by("slug")[:ROWS],
    }
    return render(request, "admin/usage/seen.html", context)


def _chosen(request: HttpRequest) -> HttpResponse:
    form = MergeForm(request.POST)
    if not form.is_valid():
        messages.error(request, " ".join(str(one) for many in form.errors.values() for one in many))
        return HttpResponseRedirect(reverse("admin:usage_seeninusage"))
    name, value = CONFIRMED
    try:
        form.check()
        if request.POST.get(name) != value:
            return _asked(request, form)
        messages.success(request, form.do(admin_user(request)))
    except ValueError as error:
        messages.error(request, str(error))
    return HttpResponseRedirect(reverse("admin:usage_seeninusage"))


def _asked(request: HttpRequest, form: MergeForm) -> HttpResponse:
    """What moves, before it does."""
    row, into, kind = (form.cleaned_data[name] for name in ("row", "into", "kind"))
    context = {
        **admin.site.each_context(request),
        "title": f"Merge into {into}" if into else "Enter as it is",
        "row": row,
        "into": into,
        "kind": kind,
        "uses": uses_of(kind, [row.pk]).get(row.pk, Uses()),
        "users": User.objects.filter(tenant=row.pk).exclude(seen=Standing.ENTERED).count()
        if kind == "tenant"
        else 0,
        "hidden": [
            *((key, form.cleaned_data[key]) for key in ("kind", "seen", "to")),
            CONFIRMED,
        ],
    }
    return render(request, "admin/usage/merge.html", context)
