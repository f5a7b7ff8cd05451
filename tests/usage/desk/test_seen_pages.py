"""Those seen in usage over HTTP: made to enter from a preset, listed, merged and entered by a click
that first says what moves; and who sees them.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal as D
from typing import Any

import httpx
import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection as database
from django.db import connections
from django.test import Client
from django.urls import reverse

from credits.grants import NewGrant, give
from credits.models import Account, Grant
from kluisz_analytics.tenants.models import Tenant, User
from tests.conftest import SECRET_KEY, People, RunningSandbox
from tests.usage.desk.test_attribution import make, store
from tests.usage.desk.test_attribution_pages import ADD, asked, text_of
from tests.usage.desk.test_seen import credits_of, entering, owners, run, seen
from usage.books import verify_books
from usage.desk import attribution
from usage.desk.presets import PRESETS
from usage.facts.attribution import attribute_known
from usage.langfuse.sandbox.producers import exports_as_if_at
from usage.models import AttributionRule, AttributionRules, LangfuseConnection, Trace
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
TRANSACTIONAL = pytest.mark.django_db(transaction=True, serialized_rollback=True)


@pytest.fixture
def root(people: People, client: Client) -> Client:
    client.force_login(people.platform_admin)
    return client


@pytest.fixture
def team(people: People, bare_connection: LangfuseConnection) -> Tenant:
    """A tenant seen in usage, with two users."""
    make(bare_connection, entering())
    store(bare_connection, run("one", who="annie"), run("two", who="bo"), run("three"))
    attribute_known(bare_connection)
    return Tenant.objects.get(seen_as="Team 7")


def page(root: Client, **asked: str) -> str:
    return text_of(root.get(reverse("admin:usage_seeninusage"), asked))


def choose(root: Client, row: Any, to: str, **fields: str) -> str:
    kind = "user" if isinstance(row, User) else "tenant"
    sent = {"kind": kind, "seen": str(row.pk), "to": to, **fields}
    return text_of(root.post(reverse("admin:usage_seeninusage"), sent, follow=True))


def yes(root: Client, row: Any, to: str) -> str:
    return choose(root, row, to, confirmed="yes")


def test_they_are_listed_with_what_they_used_and_can_be_looked_for(
    root: Client, team: Tenant
) -> None:
    shown = page(root)
    assert all(f"<b>{name}</b>" in shown for name in ("Team 7", "annie", "bo"))
    assert "teams" in shown, "the rules that entered them"
    found = page(root, text="ann")
    assert "<b>annie</b>" in found
    assert "<b>bo</b>" not in found
    assert "Nobody." in page(root, standing="merged")
    assert "Team 7 (seen in usage)" in text_of(root.get("/admin/tenants/tenant/?seen=seen"))
    assert "annie (seen in usage" in text_of(root.get("/admin/tenants/user/?seen=seen"))
    assert "annie (seen in usage" not in text_of(root.get("/admin/tenants/user/?seen="))


def test_a_click_says_what_moves_and_moves_it_when_it_is_confirmed(
    root: Client, people: People, team: Tenant, bare_connection: LangfuseConnection
) -> None:
    shown = choose(root, team, "acme")
    assert "Merge into Acme" in shown
    assert "<dd>3</dd>" in shown
    assert seen()["Team 7"] == "seen", "nothing is done by asking"
    said = yes(root, team, "ACME")
    assert "“Team 7” is Acme: 3 runs moved." in said
    assert owners() == {"one": ("acme", "annie"), "two": ("acme", "bo"), "three": ("acme", "")}
    annie = User.objects.get(seen_as="annie", tenant=people.acme)
    yes(root, annie, "ann")
    assert owners()["one"] == ("acme", "ann")
    assert Trace.objects.get(langfuse_trace_id="one").credits == D("11.4")
    assert credits_of() == {"ann": D("-11.4")}
    assert verify_books() == []
    assert "Merged into ann." in {one.change_message for one in LogEntry.objects.all()}
    merged = page(root, standing="merged")
    assert "Merged: ann" in merged
    # What comes later, and again, is theirs too.
    store(bare_connection, run("four", who="Annie"), run("one", who="annie"))
    assert owners()["four"] == ("acme", "ann")
    attribute_known(bare_connection)
    assert verify_books() == []


def test_one_is_entered_as_it_is(
    root: Client, team: Tenant, bare_connection: LangfuseConnection
) -> None:
    annie = User.objects.get(seen_as="annie")
    assert "Its tenant is seen in usage, too" in yes(root, annie, "")
    assert "Its usage stays its own" in choose(root, team, "")
    assert "“Team 7” is entered as Team 7." in yes(root, team, "")
    assert "“annie” is entered as annie." in yes(root, annie, "")
    annie.refresh_from_db()
    assert (annie.username, annie.is_active, annie.seen) == ("annie", True, "")
    store(bare_connection, run("four", who="annie"))
    assert owners()["four"] == (Tenant.objects.get(name="Team 7").slug, "annie")
    assert verify_books() == []


@pytest.mark.parametrize(
    ("who", "to", "says"),
    [
        ("annie", "ann", "merge the tenants first"),
        ("annie", "nobody", "There is no user “nobody”"),
        ("Team 7", "nobody", "There is no tenant “nobody”"),
        ("Team 7", "{itself}", "seen in usage itself"),
    ],
)
def test_what_cant_be_merged_is_said(
    root: Client, team: Tenant, who: str, to: str, says: str
) -> None:
    model = Tenant if who == team.seen_as else User
    row = model._default_manager.get(seen_as=who)
    assert says in yes(root, row, to.format(itself=team.slug))
    assert seen()[who] == "seen"


def test_what_was_given_credits_is_not_merged_before_they_are_taken_back(
    root: Client, people: People, team: Tenant
) -> None:
    annie = User.objects.get(seen_as="annie")
    give([NewGrant(annie, D(5), Grant.Source.MANUAL, "key", "a gift")])
    assert "void its grants first" in yes(root, team, "acme")
    assert owners()["one"] == ("Team 7", "annie")


@pytest.mark.parametrize("who", ["acme_admin", "acme_user", "service"])
def test_they_are_the_platforms_until_somebody_of_them_has_a_login(
    client: Client, people: People, team: Tenant, who: str
) -> None:
    user: User = getattr(people, who)
    user.is_staff = True
    user.save()
    client.force_login(user)
    assert client.get(reverse("admin:usage_seeninusage")).status_code == 403
    assert client.post(reverse("admin:usage_seeninusage"), {"kind": "user"}).status_code == 403
    annie = User.objects.get(seen_as="annie")
    for path in (f"tenant/{team.pk}/stats", f"user/{annie.pk}/stats"):
        assert client.get(f"/api/v2/analytics/{path}").status_code in (403, 404)
    assert "Team 7" not in text_of(client.get("/api/v2/analytics/top-users"))
    assert "annie" not in text_of(client.get("/api/v2/analytics/traces"))


def test_nobody_logs_in_as_one_nor_changes_it_in_the_admin(
    root: Client, people: People, team: Tenant
) -> None:
    annie = User.objects.get(seen_as="annie")
    assert not Client().login(username=annie.username, password="")
    address = reverse("admin:tenants_user_change", args=[annie.pk])
    assert "Save" not in text_of(root.get(address))
    assert root.post(address, {"username": "x", "is_active": "on"}).status_code == 403
    assert not Account.objects.filter(user=annie, allocated__gt=0).exists()


def test_a_preset_can_enter_whom_nobody_knows(
    root: Client, bare_connection: LangfuseConnection
) -> None:
    shown = text_of(root.get(reverse(ADD), {"preset": "litellm", "enters": "on"}))
    assert 'name="rules-0-enters"' in shown
    ticked = re.findall(r'name="rules-(\d+)-enters"[^>]*\schecked>', shown)
    of_somebody = [one["gives"] in ("tenant", "user") for one in PRESETS["litellm"].rules]
    assert len(ticked) == sum(of_somebody)
    store(bare_connection, run("one", "new", "x"))
    sent = asked(bare_connection, enters_a_day="1", **{"rules-0-enters": "on"})
    before = text_of(root.post(reverse(ADD), {**sent, "preview": "yes"}))
    assert "1 + 0" in before
    assert "at most 1 a day" in before
    assert not seen()
    root.post(reverse(ADD), {**sent, "begin": "yes"})
    assert AttributionRules.objects.get().enters_a_day == 1
    assert owners() == {"one": ("new", "")}


@TRANSACTIONAL
def test_of_an_unknown_gateway_there_are_tenants_and_users_after_the_first_sync(
    sandbox: RunningSandbox, connection: LangfuseConnection
) -> None:
    rules = [
        AttributionRule(enters=fields["gives"] in ("tenant", "user"), **fields)
        for fields in PRESETS["litellm"].rules
    ]
    attribution.advance(
        attribution.begin(connection, rules, name="litellm", reason="as agreed", by=None)
    )
    for export in exports_as_if_at("litellm-proxy", datetime.now(UTC)):
        httpx.post(
            f"{sandbox.url}/api/public/otel/v1/traces",
            content=export.SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
            auth=(sandbox.sandbox.public_key, SECRET_KEY),
        ).raise_for_status()
    sync_connection(connection)
    # One of the runs names no tenant.
    assert sorted(owners().values()) == [("", ""), ("acme", "ann")]
    assert verify_books() == []


@pytest.mark.skipif(
    database.vendor != "postgresql", reason="several workers write at once: PostgreSQL only"
)
@TRANSACTIONAL
def test_two_workers_at_once_enter_each_once_and_no_more_than_the_bound(
    connection: LangfuseConnection,
) -> None:
    make(connection, entering(), enters_a_day=30)
    batch = [run(f"r{at}", f"team {at % 5}", f"user {at}") for at in range(40)]
    store(connection, *batch)
    barrier = threading.Barrier(3, timeout=20)

    def enter(_: int) -> None:
        try:
            barrier.wait()
            attribute_known(connection)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as workers:
        assert list(workers.map(enter, range(3))) == [None] * 3
    assert len(seen()) == 30
    attribute_known(connection)
    assert len(seen()) == 30
    assert sum(user != "" for _, user in owners().values()) == 25
    assert verify_books() == []
