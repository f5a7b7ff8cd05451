"""What is entered can be seen, and what is shown says whether it is good."""

import pytest
from django.contrib import admin
from django.contrib.admin.options import ModelAdmin
from django.db.models import BooleanField
from django.test import Client

from tests.admin.declared import row_of
from tests.admin.html_form import Control, controls_of
from tests.admin.test_every_page import address, every_admin, own_addresses, request_of, reverse
from tests.conftest import People

pytestmark = pytest.mark.django_db
# Unfold's widgets have a border, and colours for the light and the dark page; those of a dashboard
# within the admin have them from its own style.
SEEN = [
    {"kz-date"},
    {"border", "dark:bg-base-900"},
    {"appearance-none", "dark:bg-base-700"},
    {"bg-base-300", "cursor-pointer"},
    {"admin-autocomplete"},
    {"grow", "font-medium", "truncate"},
]
IN_THE_ACTION_BAR = {"action-reason"}
# True is good, so a tick and a cross say what they mean.
GOOD_WHEN_TRUE = {"is_active", "is_enabled", "is_attributed"}


def is_seen(control: Control) -> bool:
    # Unfold shows a file's input as the text field beside it.
    return control.kind == "file" or any(wanted <= control.classes for wanted in SEEN)


def unseen(page: str) -> list[Control]:
    """The visible inputs of a page's own form that have none of unfold's classes."""
    frame = {"q", "s", "search", "select_across", "_selected_action", "action", ""}
    shown = [one for one in controls_of(page) if one.is_visible and one.name not in frame]
    return [one for one in shown if not is_seen(one)]


@every_admin
def test_every_input_of_every_form_can_be_seen(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    model = model_admin.model
    pages = [address(model, "change", row_of(model).pk)]
    if model_admin.has_add_permission(request_of(world.platform_admin)):
        pages.append(address(model, "add"))
    for name, is_of_a_row in own_addresses(model_admin):
        if not name.startswith("pricing_modelprice_export"):
            args = [row_of(model).pk] if is_of_a_row else []
            pages.append(reverse(f"admin:{name}", args=args))
    for page in pages:
        assert unseen(root.get(page).content.decode()) == [], page


@every_admin
def test_every_input_of_the_action_bar_can_be_seen(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    page = root.get(address(model_admin.model, "changelist")).content.decode()
    bar = [one for one in unseen(page) if one.kind not in ("radio", "checkbox")]
    assert [one for one in bar if not one.classes >= IN_THE_ACTION_BAR] == []


@every_admin
def test_a_cross_never_stands_for_what_is_good(
    model_admin: ModelAdmin, root: Client, world: People
) -> None:
    booleans = {
        field.name for field in model_admin.model._meta.fields if isinstance(field, BooleanField)
    }
    request = request_of(world.platform_admin)
    listed = {one for one in model_admin.get_list_display(request) if isinstance(one, str)}
    assert listed & booleans <= GOOD_WHEN_TRUE
    row = row_of(model_admin.model)
    if not model_admin.has_change_permission(request, row):
        shown = admin.utils.flatten_fieldsets(model_admin.get_fieldsets(request, row))
        assert set(shown) & booleans <= GOOD_WHEN_TRUE
