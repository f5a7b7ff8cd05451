"""The rendered pages, by role."""

import re
from collections.abc import Callable

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from credits.models import Account
from tests.conftest import People
from usage.models import LangfuseConnection, Trace

pytestmark = pytest.mark.django_db


def page(user: object, path: str) -> tuple[int, str]:
    client = Client()
    if user is not None:
        client.force_login(user)  # type: ignore[arg-type]
    answer = client.get(path, follow=True)
    # A token of random letters spells somebody's name, or begins as a key does, now and then.
    return answer.status_code, re.sub(
        r'name="csrfmiddlewaretoken" value="\w+"', "", answer.content.decode()
    )


def test_home_leads_to_the_widest_dashboard_of_the_role(people: People) -> None:
    for user, address in (
        (people.platform_admin, "/platform/"),
        (people.acme_admin, "/tenants/acme/"),
        (people.acme_user, f"/users/{people.acme_user.pk}/"),
    ):
        client = Client()
        client.force_login(user)
        assert client.get("/").headers["Location"] == address
    assert Client().get("/").headers["Location"].startswith("/login/")
    assert page(people.service, "/")[0] == 403


def test_pages_show_their_own_numbers_and_no_others(
    people: People, use: Callable[..., None]
) -> None:
    now = timezone.now()
    use(people.acme_user, "12.34", start=now, flow=str(people.flow.pk), model="acme-only-model")
    use(people.globex_user, "56.78", start=now, model="globex-only-model")
    use(None, "3", start=now)
    status, text = page(people.platform_admin, "/platform/")
    assert status == 200
    for shown in (
        "$72.12",
        "Acme",
        "Globex",
        "ann",
        "gus",
        "Triage",
        "acme-only-model",
        "1 run has no known owner",
        "Usage over time",
    ):
        assert shown in text, shown
    for user, path in (
        (people.acme_admin, "/tenants/acme/"),
        (people.acme_user, f"/users/{people.acme_user.pk}/"),
    ):
        status, text = page(user, path)
        assert status == 200
        assert "$12.34" in text
        assert "Triage" in text
        for hidden in ("globex", "Globex", "gus", "56.78", "no known owner"):
            assert hidden not in text, hidden
    assert "2,345" in page(people.acme_user, "/")[1], "credits"


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        ("acme_admin", "/platform/", 403),
        ("acme_admin", "/tenants/globex/", 404),
        ("acme_admin", "/tenants/nobody/", 404),
        ("acme_user", "/tenants/acme/", 403),
        ("acme_user", "/tenants/globex/", 404),
        ("acme_user", "/users/{acme_colleague}/", 403),
        ("acme_user", "/users/{globex_user}/", 404),
        ("acme_admin", "/users/{acme_user}/", 200),
        ("acme_admin", "/users/{globex_user}/", 404),
        ("platform_admin", "/users/{globex_user}/", 200),
        ("platform_admin", "/tenants/globex/", 200),
        ("service", "/platform/", 403),
        ("service", "/users/{service}/", 403),
        ("acme_admin", "/platform/?days=7", 403),
    ],
)
def test_nobody_sees_what_is_not_theirs(people: People, role: str, path: str, status: int) -> None:
    ids = {
        name: getattr(people, name).pk
        for name in ("acme_colleague", "globex_user", "acme_user", "service")
    }
    assert page(getattr(people, role), path.format(**ids))[0] == status


@pytest.mark.parametrize(
    "query",
    [
        "?days=7",
        "?days=8",
        "?start_date=2026-11-01&end_date=2026-11-02",
        "?start_date=2026-11-01",
        "?start_date=&end_date=",
    ],
)
def test_a_period_can_be_chosen(people: People, query: str) -> None:
    assert page(people.acme_user, f"/users/{people.acme_user.pk}/{query}")[0] == 200


@pytest.mark.parametrize(
    "query",
    [
        "?days=0",
        "?days=x",
        "?days=7&start_date=2026-11-01",
        "?tz=Mars",
        "?start_date=2026-11-31",
        "?start_date=2026-11-02&end_date=2026-11-01",
        "?end_date=0001-01-01",
    ],
)
def test_an_impossible_period_is_refused(people: People, query: str) -> None:
    assert page(people.acme_user, f"/users/{people.acme_user.pk}/{query}")[0] == 400


def test_an_empty_page_says_so(people: People) -> None:
    assert "No runs in this period" in page(people.acme_admin, "/tenants/acme/")[1]


def test_what_has_no_price_is_said(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, None, start=timezone.now(), model="acme-llm-7b")
    _, text = page(people.acme_admin, "/tenants/acme/")
    assert "1 model call has no price" in text
    assert "–" in text


@pytest.mark.parametrize(
    ("path", "current"),
    [
        ("/admin/usage/usageruling/doubtful/", "What doesn't add up"),
        ("/admin/usage/usageruling/", "Rulings"),
        ("/admin/usage/repricing/unpriced/", "Unpriced usage"),
        ("/admin/usage/repricing/what-if/", "What if"),
        ("/admin/", "Platform"),
    ],
)
def test_the_sidebar_marks_the_page_and_no_other(people: People, path: str, current: str) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    groups = client.get(path).context["sidebar_navigation"]
    marked = [item["title"] for group in groups for item in group["items"] if item["active"]]
    assert marked == [current]


def test_an_empty_list_says_what_would_be_there(people: People) -> None:
    _, text = page(people.platform_admin, "/admin/usage/disputedtrace/")
    assert "Runs that name a tenant that their user was not of at the time" in text
    assert "There is no disputed trace so far." in text
    assert "Create a new item" not in text
    _, text = page(people.platform_admin, "/admin/usage/disputedtrace/?state=settled")
    assert "No disputed trace fits the search and the filters." in text


def test_the_admins_index_is_the_platform_view(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "12.34", start=timezone.now())
    status, text = page(people.platform_admin, "/admin/")
    assert status == 200
    assert "$12.34" in text
    assert "Tenants" in text


def test_every_model_has_its_admin_pages(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    use(people.acme_user, "12.34")
    client = Client()
    client.force_login(people.platform_admin)
    for model, model_admin in admin.site._registry.items():
        name = f"{model._meta.app_label}_{model._meta.model_name}"
        assert client.get(reverse(f"admin:{name}_changelist")).status_code == 200, name
        first = model._default_manager.first()
        if first is not None:
            assert (
                client.get(reverse(f"admin:{name}_change", args=[first.pk])).status_code == 200
            ), name
        if model_admin.search_fields:
            assert client.get(reverse(f"admin:{name}_changelist"), {"q": "a"}).status_code == 200, (
                name
            )
    from django.apps import apps

    from credits.models.accounts import HourCut
    from usage.models import AttributionRule, ResponseTraces, UserNumber

    ours = {
        model
        for app in ("tenants", "pricing", "credits", "usage")
        for model in apps.get_app_config(app).get_models()
    }
    shown_with_others = {HourCut, UserNumber, AttributionRule, ResponseTraces}
    assert ours - admin.site._registry.keys() == shown_with_others


def test_a_connections_secret_is_never_shown(
    people: People, bare_connection: LangfuseConnection
) -> None:
    _, text = page(
        people.platform_admin,
        reverse("admin:usage_langfuseconnection_change", args=[bare_connection.pk]),
    )
    assert bare_connection.encrypted_secret_key not in text
    assert 'value="sk' not in text
    assert "sk" not in bare_connection.encrypted_secret_key[:2]


def test_testing_a_connection_says_what_is_wrong(
    people: People, connection: LangfuseConnection
) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    address = f"/admin/usage/langfuseconnection/{connection.pk}/test/"
    assert (
        "is a Langfuse 4.16.0"
        in client.post(address, {"confirmed": "yes"}, follow=True).content.decode()
    )
    connection.secret_key = "wrong"
    connection.save()
    assert (
        "refused the keys"
        in client.post(address, {"confirmed": "yes"}, follow=True).content.decode()
    )


def test_an_operator_voids_a_deleted_trace_in_the_admin(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    Trace.objects.update(deleted_observations=2)
    client, page = Client(), reverse("admin:usage_trace_changelist")
    chosen = {
        "action": "void_traces",
        "_selected_action": [str(Trace.objects.get().pk)],
        "confirmed": "yes",
    }
    client.force_login(people.platform_admin)
    assert b"Say why" in client.post(page, chosen, follow=True).content
    answer = client.post(page, {**chosen, "reason": "A test run"}, follow=True)
    assert b"Voided 1 trace;" in answer.content
    assert (Trace.objects.get().is_voided, Account.objects.get(user=people.acme_user).used) == (
        True,
        0,
    )
    client.post(page, {**chosen, "action": "restore_traces"}, follow=True)
    assert str(Account.objects.get(user=people.acme_user).used) == "11.400000"
