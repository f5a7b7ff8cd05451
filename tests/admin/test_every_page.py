"""Every page, form, action and address of every registered admin, through HTTP.

All of it is generated from the registry: what is registered anew is in it, and fails until what it
takes is declared (declared.py).
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.admin.options import ModelAdmin
from django.contrib.admin.templatetags.admin_list import result_headers
from django.db import transaction
from django.db.models import Model
from django.test import Client, RequestFactory
from django.urls import reverse

from kluisz_analytics import figures
from kluisz_analytics.tenants.models import User
from tests.admin.declared import (
    Filled,
    actions,
    add_forms,
    addresses,
    change_forms,
    row_of,
)
from tests.admin.html_form import filled
from tests.conftest import People

pytestmark = pytest.mark.django_db
ADMINS = sorted(admin.site._registry.values(), key=lambda one: one.model._meta.label)
every_admin = pytest.mark.parametrize(
    "model_admin", [pytest.param(one, id=one.model._meta.label) for one in ADMINS]
)
USUAL = ("changelist", "add", "change", "delete", "history")
IMPOSSIBLE_IDS = ["nonsense", "9" * 30, "0", "1_0", "-1", "_00", "_0Z", "é", "a" * 300]
IMPOSSIBLE_VALUES = ["nonsense", "9" * 30, "\x00", "99999"]


def address(model: type[Model], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def request_of(user: User) -> Any:
    request = RequestFactory().get("/")
    request.user = user  # type: ignore[attr-defined]
    return request


def stored() -> dict[str, list[str]]:
    """Every row of every table of ours."""
    ours = [apps.get_app_config(name) for name in ("tenants", "pricing", "credits", "usage")]
    models = [model for app in ours for model in app.get_models()]
    return {
        model._meta.label: sorted(map(str, model._default_manager.order_by().values_list()))
        for model in models
    }


def text_of(answer: Any) -> str:
    """The page with the entities of HTML read."""
    from html import unescape

    content = b"".join(answer) if answer.streaming else answer.content
    return unescape(content.decode())


def own_addresses(model_admin: ModelAdmin) -> Iterator[tuple[str, bool]]:
    """The names of an admin's own addresses, and whether they are of one row."""
    meta = model_admin.model._meta
    usual = {f"{meta.app_label}_{meta.model_name}_{page}" for page in USUAL}
    for pattern in model_admin.get_urls():
        if pattern.name and pattern.name not in usual:
            yield pattern.name, bool(pattern.pattern.converters)


def args_of(model_admin: ModelAdmin, is_of_a_row: bool) -> list[Any]:
    return [row_of(model_admin.model).pk] if is_of_a_row else []


@every_admin
def test_every_list_is_shown_searched_sorted_and_filtered(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    address_of_list = address(model_admin.model, "changelist")
    shown = root.get(address_of_list)
    assert shown.status_code == 200
    changelist = shown.context["cl"]
    assert changelist.result_count, f"{model_admin}: make a row in conftest.py"
    choices = [
        choice["query_string"]
        for one in changelist.filter_specs
        for choice in one.choices(changelist)
    ]
    columns = range(len(changelist.list_display))
    # By all columns at once: each is an expression of the one query.
    sorts = ["?o=" + ".".join(f"{sign}{at}" for at in columns) for sign in ("", "-")]
    for query in [*choices, *sorts, "?q=ann", "?all="]:
        assert root.get(f"{address_of_list}{query}").status_code == 200, query


@every_admin
def test_every_list_is_ordered_by_any_of_its_columns(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    changelist = root.get(address(model_admin.model, "changelist")).context["cl"]
    heads = [one for one in result_headers(changelist) if "action-checkbox" not in str(one)]
    assert [one["text"] for one in heads if not one["sortable"]] == []


@every_admin
def test_no_page_says_no_by_a_red_cross(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    """Of a run that is not failed, that would be the wrong way round."""
    row = row_of(model_admin.model)
    for page in (address(model_admin.model, "changelist"), address(row, "change", row.pk)):
        shown = text_of(root.get(page))
        assert not re.search(r"material-symbols-outlined[^>]*>\s*(close|check)_small\s*<", shown)
        assert not re.search(r"icon-(no|yes)\.svg", shown)


@every_admin
def test_columns_of_amounts_have_one_number_of_decimals(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    changelist = root.get(address(model_admin.model, "changelist")).context["cl"]
    for column in changelist.list_display:
        if hasattr(column, "amount"):
            shown = {column(row) for row in changelist.result_list} - {figures.UNKNOWN}
            assert len({len(one.partition(".")[2]) for one in shown}) <= 1, (column.amount, shown)


@every_admin
def test_no_list_breaks_by_what_stands_in_its_address(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    address_of_list = address(model_admin.model, "changelist")
    changelist = root.get(address_of_list).context["cl"]
    names = {name for one in changelist.filter_specs for name in one.expected_parameters()}
    names |= {"q", "o", "p", "nonsense", "user__password", "pk__in"}
    if model_admin.date_hierarchy:
        names |= {
            f"{model_admin.date_hierarchy}__{part}" for part in ("year", "month", "day", "gte")
        }
    for name in sorted(names):
        for value in IMPOSSIBLE_VALUES:
            answer = root.get(address_of_list, {name: value})
            assert answer.status_code < 500, (name, value)


@every_admin
def test_every_row_is_shown_with_its_history(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    for page in ("change", "history"):
        shown = root.get(address(model_admin.model, page, row_of(model_admin.model).pk))
        assert shown.status_code == 200


@every_admin
def test_an_unknown_row_is_a_clear_answer(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    own = [name for name, is_of_a_row in own_addresses(model_admin) if is_of_a_row]
    for impossible in IMPOSSIBLE_IDS:
        for page in ("change", "history", "delete"):
            of_page = address(model_admin.model, page, impossible)
            for answer in (root.get(of_page), root.post(of_page, {"post": "yes"})):
                assert answer.status_code in (302, 403, 404), (page, impossible)
        for name in own:
            of_page = reverse(f"admin:{name}", args=[impossible])
            for answer in (root.get(of_page), root.post(of_page, {"confirmed": "yes"})):
                assert answer.status_code == 404, (name, impossible)


def send(client: Client, where: str, page: str, changed: Filled) -> Any:
    return client.post(where, {**filled(page), **changed})


@every_admin
def test_rows_are_added_and_what_is_wrong_is_said(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    model = model_admin.model
    where = address(model, "add")
    if not model_admin.has_add_permission(request_of(world.platform_admin)):
        assert root.get(where).status_code == 403
        assert root.post(where, {}).status_code == 403
        return
    form = add_forms(world).get(model)
    assert form, f"Declare what the form of {model._meta.label} takes in declared.py."
    empty = root.get(where)
    assert empty.status_code == 200
    page = empty.content.decode()
    before = stored()
    assert root.post(where, {}).status_code in (200, 400), "nothing at all"
    for wrong, word in form.invalid:
        answer = send(root, where, page, {**form.valid, **wrong})
        if answer.status_code == 302:
            answer = root.get(answer["Location"])
        assert answer.status_code == 200, wrong
        assert word in text_of(answer), wrong
        assert stored() == before, wrong
    answer = send(root, where, page, form.valid)
    assert answer.status_code == 302, text_of(answer)
    assert stored() != before
    for query in ("tenant=nonsense", "valid_from=nonsense", "amount=%00", "account=1_0"):
        assert root.get(f"{where}?{query}").status_code == 200, query


@every_admin
def test_rows_are_changed_and_what_is_wrong_is_said(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    model, row = model_admin.model, row_of(model_admin.model)
    where = address(model, "change", row.pk)
    page = root.get(where).content.decode()
    if not model_admin.has_change_permission(request_of(world.platform_admin), row):
        assert root.post(where, {}).status_code == 403
        return
    form = change_forms(world).get(model)
    assert form, f"Declare what the form of {model._meta.label} takes in declared.py."
    before = stored()
    for wrong, word in form.invalid:
        answer = send(root, where, page, {**form.valid, **wrong})
        assert answer.status_code == 200, wrong
        assert word in text_of(answer), wrong
        assert stored() == before, wrong
    answer = send(root, where, page, form.valid)
    assert answer.status_code == 302, text_of(answer)
    assert stored() != before
    assert LogEntry.objects.filter(user=world.platform_admin).exists()


@every_admin
def test_rows_are_deleted_only_where_that_is_allowed(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    row = row_of(model_admin.model)
    where = address(model_admin.model, "delete", row.pk)
    before = stored()
    asked = root.get(where)
    assert stored() == before
    if not model_admin.has_delete_permission(request_of(world.platform_admin), row):
        assert asked.status_code == 403
        assert root.post(where, {"post": "yes"}).status_code == 403
        assert stored() == before
        return
    assert asked.status_code == 200
    answer = root.post(where, {"post": "yes"})
    is_deleted = not model_admin.model._default_manager.filter(pk=row.pk).exists()
    # What others depend on is listed (200), or their own admins keep it (403).
    assert answer.status_code in ((302,) if is_deleted else (200, 403))
    assert is_deleted or stored() == before


@every_admin
def test_every_action_asks_first_then_does_it_and_says_by_whom(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    model = model_admin.model
    where, pk = address(model, "changelist"), str(row_of(model).pk)
    found = model_admin.get_actions(request_of(world.platform_admin))
    for name in [name for name in found if name != "delete_selected"]:
        with transaction.atomic():
            _does_what_it_asked(root, where, name, pk, model, world)
            # The next action finds the world as it was.
            transaction.set_rollback(True)


def _does_what_it_asked(
    root: Client, where: str, name: str, pk: str, model: type[Model], world: People
) -> None:
    action = actions(world).get((model, name))
    assert action, f"Declare what “{name}” of {model._meta.label} takes in declared.py."
    action.ready()
    before = stored()
    nothing_chosen = root.post(where, {"action": name, "index": "0", **action.valid}, follow=True)
    assert "Items must be selected" in text_of(nothing_chosen)
    chosen = {"action": name, "index": "0", "_selected_action": pk}
    for unknown in ("nonsense", "9" * 30):
        answer = root.post(where, {**chosen, "_selected_action": unknown}, follow=True)
        assert answer.status_code < 500, unknown
    for wrong, word in action.invalid:
        answer = root.post(where, {**chosen, **action.valid, **wrong}, follow=True)
        if "confirmed" in text_of(answer):
            answer = root.post(where, filled(answer.content.decode()), follow=True)
        assert answer.status_code == 200, wrong
        assert word in text_of(answer), wrong
        assert stored() == before, wrong
    answer = root.post(where, {**chosen, **action.valid})
    assert stored() == before, name
    if not action.changes:
        assert answer.status_code in (200, 302)
        return
    assert answer.status_code == 200
    done = root.post(where, filled(answer.content.decode()))
    assert done.status_code == 302, text_of(done)
    assert LogEntry.objects.filter(user=world.platform_admin, object_id=chosen["_selected_action"])


@every_admin
def test_every_address_of_its_own_is_shown_and_what_changes_asks_first(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    careful = Client(enforce_csrf_checks=True)
    careful.force_login(world.platform_admin)
    for name, is_of_a_row in own_addresses(model_admin):
        declared = addresses(world).get(name)
        assert declared, f"Declare the address {name} in declared.py."
        args = args_of(model_admin, is_of_a_row)
        where = reverse(f"admin:{name}", args=args)
        declared.ready()
        before = stored()
        shown = root.get(where)
        assert shown.status_code == 200, name
        assert stored() == before, f"{name} changes something by GET"
        if declared.form is not None:
            page = shown.content.decode()
            for wrong, word in declared.form.invalid:
                sent = {**filled(page), **declared.form.valid, **wrong}
                answer = root.get(where, sent) if declared.is_get else root.post(where, sent)
                assert answer.status_code == 200, (name, wrong)
                assert word in text_of(answer), (name, wrong)
                assert stored() == before, (name, wrong)
            sent = {**filled(page), **declared.form.valid}
            answer = root.get(where, sent) if declared.is_get else root.post(where, sent)
            assert answer.status_code in (200, 302), (name, text_of(answer))
        if declared.changes:
            assert root.put(where).status_code == 405
            assert careful.post(where, {"confirmed": "yes"}).status_code == 403
            assert stored() == before
            page = shown.content.decode()
            assert root.post(where, filled(page)).status_code == 302
            assert LogEntry.objects.filter(user=world.platform_admin, object_id=str(args[0])), name
            LogEntry.objects.all().delete()


@every_admin
def test_staff_without_permissions_is_refused_everywhere(
    model_admin: ModelAdmin, nobody: Client, world: People
) -> None:
    model, pk = model_admin.model, row_of(model_admin.model).pk
    own = [
        reverse(f"admin:{name}", args=args_of(model_admin, is_of_a_row))
        for name, is_of_a_row in own_addresses(model_admin)
    ]
    usual = [
        address(model, page, *([] if page in ("changelist", "add") else [pk])) for page in USUAL
    ]
    before = stored()
    for where in (*usual, *own):
        assert nobody.get(where).status_code == 403, where
        assert nobody.post(where, {"confirmed": "yes", "post": "yes"}).status_code == 403, where
    for name in model_admin.get_actions(request_of(world.platform_admin)):
        chosen = {"action": name, "_selected_action": str(pk), "confirmed": "yes"}
        assert nobody.post(address(model, "changelist"), chosen).status_code == 403, name
    assert stored() == before
    assert not LogEntry.objects.exists()


def test_pages_of_no_model_are_shown(root: Client) -> None:
    for name in ("index", "password_change", "jsi18n"):
        assert root.get(reverse(f"admin:{name}")).status_code == 200
    for app in {one.model._meta.app_label for one in ADMINS}:
        assert root.get(reverse("admin:app_list", args=[app])).status_code == 200
