"""What changes something or reaches out from the admin is shown first, done by POST when it is
confirmed, and recorded with who did it (the row's history).
"""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.db.models import Model, QuerySet
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
)
from django.shortcuts import render
from django.urls import reverse
from unfold.decorators import action

from kluisz_analytics.admin_pages import admin_user

TEMPLATE = "admin/confirm.html"
CONFIRMED = ("confirmed", "yes")
ROWS_SHOWN = 20


def confirmed_page(description: str, question: str, *, url_path: str, permission: str) -> Any:
    """Makes a method of an admin, called with (request, row), an action of the row's page.

    GET asks the question; a confirmed POST does it, and comes back to the row. An unknown row is
    404. A ValueError of the method is shown, and nothing is recorded.
    """

    def decorate(do: Callable[[Any, HttpRequest, Any], None]) -> Any:
        @wraps(do)
        def view(admin: Any, request: HttpRequest, object_id: str) -> HttpResponse:
            row = admin.get_object(request, unquote(object_id))
            if row is None:
                raise Http404(f"There is no {admin.opts.verbose_name} {object_id}.")
            if request.method not in ("GET", "HEAD", "POST"):
                return HttpResponseNotAllowed(["GET", "HEAD", "POST"])
            back = reverse(
                f"admin:{admin.opts.app_label}_{admin.opts.model_name}_change", args=[row.pk]
            )
            if not _is_confirmed(request):
                return _confirmation_page(admin, request, description, question, [row], back=back)
            try:
                do(admin, request, row)
            except ValueError as error:
                messages.error(request, str(error))
            else:
                admin.log_change(request, row, f"{description}.")
            return HttpResponseRedirect(back)

        return action(description=description, url_path=url_path, permissions=[permission])(view)

    return decorate


def confirmed_action(
    description: str,
    question: str,
    *,
    permissions: Iterable[str],
    form: type[forms.Form] = forms.Form,
) -> Any:
    """Makes a method of an admin, called with (request, rows, form), an action of its list.

    ``form`` is what it takes beside the rows; it is checked before the question is asked.
    """

    def decorate(do: Callable[[Any, HttpRequest, QuerySet[Any], Any], None]) -> Any:
        @wraps(do)
        def run(admin: Any, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
            asked = form(request.POST)
            if not asked.is_valid():
                for found in asked.errors.values():
                    messages.error(request, " ".join(map(str, found)))
                return None
            if not _is_confirmed(request):
                back = request.get_full_path()
                return _confirmation_page(
                    admin, request, description, question, rows, back=back, form=asked
                )
            chosen = list(rows)
            try:
                do(admin, request, rows, asked)
            except ValueError as error:
                messages.error(request, str(error))
            else:
                _record(request, chosen, description)
            return None

        run.short_description = description  # type: ignore[attr-defined]
        run.allowed_permissions = list(permissions)  # type: ignore[attr-defined]
        return run

    return decorate


def _is_confirmed(request: HttpRequest) -> bool:
    name, value = CONFIRMED
    return request.method == "POST" and request.POST.get(name) == value


def _record(request: HttpRequest, rows: list[Model], description: str) -> None:
    LogEntry.objects.log_actions(
        user_id=admin_user(request).pk,
        queryset=rows,  # type: ignore[arg-type]  # any iterable will do
        action_flag=CHANGE,
        change_message=f"{description}.",
    )


def _confirmation_page(
    admin: Any,
    request: HttpRequest,
    description: str,
    question: str,
    rows: Any,
    *,
    back: str,
    form: forms.Form | None = None,
) -> HttpResponse:
    count = len(rows) if isinstance(rows, list) else rows.count()
    name, value = CONFIRMED
    repeated = [
        (key, one)
        for key, values in request.POST.lists()
        if key not in ("csrfmiddlewaretoken", name)
        for one in values
    ]
    details = [
        (form.fields[key].label or key.replace("_", " ").capitalize(), cleaned)
        for key, cleaned in (form.cleaned_data if form else {}).items()
        if form is not None and cleaned not in (None, "")
    ]
    context = {
        **admin.admin_site.each_context(request),
        "title": description,
        "opts": admin.opts,
        "question": question,
        "rows": rows[:ROWS_SHOWN],
        "count": count,
        "more": max(0, count - ROWS_SHOWN),
        "details": details,
        "hidden": [*repeated, (name, value)],
        "back": back,
    }
    return render(request, TEMPLATE, context)
