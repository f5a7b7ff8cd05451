"""Attribution rules over HTTP: from a preset, shown first, made by a click, and undone; and who is
named and not known.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from kluisz_analytics.tenants.models import Tenant, TenantAlias, User, UserAlias
from tests.conftest import NOON, People
from tests.usage.desk.test_attribution import call, make, owners, rule, store
from usage.analytics.explain import explain
from usage.desk.presets import PRESETS
from usage.models import AttributionRules, LangfuseConnection, Trace

pytestmark = pytest.mark.django_db
ADD = "admin:usage_attributionrules_add"


@pytest.fixture
def root(people: People, client: Client) -> Client:
    client.force_login(people.platform_admin)
    return client


def asked(connection: LangfuseConnection, **fields: str) -> dict[str, str]:
    return {
        "connection": str(connection.pk),
        "name": "teams",
        "position": "0",
        "reason": "as agreed",
        "rules-TOTAL_FORMS": "3",
        "rules-INITIAL_FORMS": "1",
        "rules-0-gives": "tenant",
        "rules-0-source": "metadata",
        "rules-0-path": "team",
        "rules-0-finds_by": "slug",
        "rules-1-gives": "user",
        "rules-1-source": "user_id",
        "rules-1-finds_by": "name",
        "rules-2-finds_by": "id,alias",
        **fields,
    }


def text_of(answer: Any) -> str:
    return answer.content.decode()


def test_they_are_shown_made_and_undone_over_http(
    root: Client, people: People, bare_connection: LangfuseConnection
) -> None:
    store(bare_connection, call("run", evidence={"team": "Acme"}, user_reference="ann"))
    shown = text_of(root.post(reverse(ADD), asked(bare_connection, preview="yes")))
    assert "Make them hold" in shown
    assert "The tenant is by a rule: “Acme”. The user is by a rule: “ann”." in shown
    assert "Acme / ann" in shown
    assert not AttributionRules.objects.exists(), "nothing is made by showing"
    answer = root.post(reverse(ADD), asked(bare_connection, begin="yes"), follow=True)
    together = AttributionRules.objects.get()
    assert together.state == "applied"
    assert together.rules.count() == 2, "an empty row is none"
    assert together.created_by == people.platform_admin
    assert "1. The tenant from: Metadata of any step team" in text_of(answer)
    assert owners() == {"run": ("acme", "ann")}
    (run,) = Trace.objects.all()
    why = explain(run, people.platform_admin).why_owned
    assert why == (
        "The tenant is by rule 1 of “teams” (Metadata of any step team): “Acme”."
        " The user is by rule 2 of “teams” (userId): “ann”."
    )
    page = text_of(root.get(reverse("trace", args=[run.pk])))
    assert "is by rule 1 of “teams”" in page
    undo = reverse("admin:usage_attributionrules_undo", args=[together.pk])
    root.post(undo, {"confirmed": "yes"})
    assert owners() == {"run": ("", "")}
    assert explain(Trace.objects.get(), people.platform_admin).why_owned == ""


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fills_the_form_that_can_be_sent_as_it_is(
    root: Client, bare_connection: LangfuseConnection, preset: str
) -> None:
    page = root.get(reverse(ADD), {"preset": preset})
    filled = {
        f"rules-{at}-{name}": value
        for at, row in enumerate(PRESETS[preset].rules)
        for name, value in row.items()
    }
    text = text_of(page)
    for name, value in filled.items():
        if name.endswith("-path") and value:
            assert f'value="{value}"' in text
    sent = asked(bare_connection, **{"rules-TOTAL_FORMS": str(len(PRESETS[preset].rules))})
    sent = {name: value for name, value in sent.items() if name[:7] not in ("rules-0", "rules-1")}
    root.post(reverse(ADD), {**sent, **filled, "begin": "yes"})
    assert AttributionRules.objects.get().rules.count() == len(PRESETS[preset].rules)


def test_from_now_on_is_a_word(root: Client, bare_connection: LangfuseConnection) -> None:
    store(bare_connection, call("past", evidence={"team": "acme"}))
    root.post(reverse(ADD), asked(bare_connection, begin="yes", since="now"))
    assert AttributionRules.objects.get().since is not None
    assert owners() == {"past": ("", "")}


@pytest.mark.parametrize("who", ["acme_admin", "acme_user", "service"])
def test_only_a_platform_admin_makes_them(
    client: Client, people: People, bare_connection: LangfuseConnection, who: str
) -> None:
    user: User = getattr(people, who)
    user.is_staff = True
    user.save()
    client.force_login(user)
    for address in (reverse(ADD), reverse("admin:usage_unknownowners")):
        assert client.post(address, asked(bare_connection, begin="yes")).status_code == 403
    assert not AttributionRules.objects.exists()


def unknown(root: Client) -> str:
    return text_of(root.get(reverse("admin:usage_unknownowners")))


def name(root: Client, connection: LangfuseConnection, **fields: Any) -> str:
    address = reverse("admin:usage_unknownowners")
    return text_of(root.post(address, {"connection": connection.pk, **fields}, follow=True))


def test_who_is_named_and_not_known_is_listed_and_named_by_a_click(
    root: Client, people: People, bare_connection: LangfuseConnection
) -> None:
    store(
        bare_connection,
        call("one", evidence={"team": "Team 7"}, user_reference="annie"),
        call("two", tenant_reference="Initech"),
    )
    make(
        bare_connection,
        [rule("tenant", "metadata", "team"), rule("user", "user_id", finds_by="alias")],
    )
    page = unknown(root)
    assert "Team 7" in page
    assert "Initech" in page
    assert "annie" not in page, "its tenant is missing first"
    said = name(root, bare_connection, kind="tenant", text="Team 7", to="acme")
    assert "“Team 7” is Acme. 1 run found its owner." in said
    assert "annie" in unknown(root)
    acme = people.acme.pk
    name(root, bare_connection, kind="user", text="annie", tenant=acme, to="ANN")
    assert owners()["one"] == ("acme", "ann")
    name(root, bare_connection, kind="tenant", text="Initech")
    assert Tenant.objects.get(slug="initech").name == "Initech"
    assert owners()["two"] == ("initech", "")
    assert "Everybody who is named is known." in unknown(root)
    assert Trace.objects.get(langfuse_trace_id="one").credits == D("11.4")


def test_a_new_user_has_no_password(
    root: Client, people: People, bare_connection: LangfuseConnection
) -> None:
    store(bare_connection, call("one", tenant_reference=str(people.acme.pk), user_reference="new"))
    name(root, bare_connection, kind="user", text="new", tenant=people.acme.pk)
    assert owners() == {"one": ("acme", "new")}
    assert not User.objects.get(username="new").has_usable_password()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"kind": "tenant", "text": "x", "to": "nobody"}, "There is no tenant “nobody”"),
        ({"kind": "tenant", "text": "Globex"}, "already exists"),
        ({"kind": "tenant", "text": "globex", "to": "acme"}, "would name two"),
        ({"kind": "user", "text": "x", "to": "nobody"}, "There is no user “nobody”"),
        ({"kind": "user", "text": "x"}, "Say whose user it is"),
        ({"kind": "tenant", "text": ""}, "required"),
        ({"kind": "other", "text": "x"}, "valid choice"),
    ],
)
def test_what_cant_be_named_so_is_said(
    root: Client, people: People, bare_connection: LangfuseConnection, fields: Any, says: str
) -> None:
    assert says in name(root, bare_connection, **fields)
    assert not TenantAlias.objects.exists()
    assert not UserAlias.objects.exists()


def test_who_is_named_and_not_known_is_answered_with_the_money_at_stake(
    people: People, bare_connection: LangfuseConnection, api: Callable[..., Any]
) -> None:
    acme = str(people.acme.pk)
    store(
        bare_connection,
        call("one", tenant_reference="Initech"),
        call("two", tenant_reference="Initech", start_time=NOON + timedelta(hours=1)),
        call("three", tenant_reference=acme, user_reference="annie"),
        call("four", tenant_reference=acme, user_reference=str(people.acme_user.pk)),
    )
    body = api(people.platform_admin, "unknown-names").json()
    named, unnamed = body["results"]
    assert named == {
        "kind": "tenant",
        "text": "Initech",
        "connection_id": bare_connection.pk,
        "connection": "bare",
        "tenant_id": None,
        "tenant": "",
        "runs": 2,
        "cost_usd": "0.120000000000",
        "first_seen": "2026-11-10T12:00:00Z",
        "last_seen": "2026-11-10T13:00:00Z",
    }
    assert (unnamed["kind"], unnamed["text"], unnamed["tenant_id"], unnamed["tenant"]) == (
        "user",
        "annie",
        acme,
        "Acme",
    )
    assert len(api(people.platform_admin, "unknown-names", limit="1").json()["results"]) == 1
