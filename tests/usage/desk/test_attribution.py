"""Attribution rules over stored usage: made, undone to the last place, whatever comes when."""

from datetime import timedelta
from decimal import Decimal as D
from itertools import permutations
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import transaction
from django.test import Client

from credits.models import Account
from kluisz_analytics.tenants.models import TenantAlias, User, UserAlias
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.desk import attribution
from usage.desk.attribution_preview import preview
from usage.facts.apply import apply_received
from usage.facts.attribution import attribute_known
from usage.langfuse.wire import ReceivedObservation
from usage.models import (
    AttributionRule,
    AttributionRules,
    LangfuseConnection,
    Observation,
    ReceivedTrace,
    Trace,
)

pytestmark = pytest.mark.django_db
CALL = {"model": "gpt-4o", "usage_details": {"input": 1000}, "cost_usd": D("0.06")}


def store(connection: LangfuseConnection, *steps: ReceivedObservation) -> None:
    with transaction.atomic():
        apply_received(connection, steps)


def call(trace_id: str, step_id: str = "call", **fields: Any) -> ReceivedObservation:
    return received(step_id, trace_id, type="GENERATION", **CALL, **fields)


def rule(gives: str, source: str, path: str = "", **fields: Any) -> AttributionRule:
    return AttributionRule(
        **{"gives": gives, "source": source, "path": path, "finds_by": "id,slug,alias", **fields}
    )


def by_team(**fields: Any) -> list[AttributionRule]:
    return [
        rule("tenant", "metadata", "team", **fields),
        rule("user", "metadata", "who", finds_by="id,name,email,alias"),
    ]


def make(
    connection: LangfuseConnection, rules: list[AttributionRule], **fields: Any
) -> AttributionRules:
    fields = {"name": "teams", "reason": "as agreed", "by": None, **fields}
    together = attribution.begin(connection, rules, **fields)
    attribution.advance(together)
    assert together.state == "applied"
    return together


def unmake(together: AttributionRules) -> None:
    attribution.undo(together)
    attribution.advance(together)
    assert together.state == "undone"


def owners() -> dict[str, tuple[str, str]]:
    return {
        trace.langfuse_trace_id: (
            trace.tenant.slug if trace.tenant else "",
            trace.user.username if trace.user else "",
        )
        for trace in Trace.objects.select_related("tenant", "user")
    }


def everything(*but: str) -> list[Any]:
    """Facts, what is said, and balances, to the last place."""
    return [
        [
            {name: value for name, value in row.items() if name not in but}
            for row in Trace.objects.order_by("pk").values()
        ],
        list(ReceivedTrace.objects.order_by("pk").values()),
        [
            {name: value for name, value in row.items() if name != "id"}
            for row in Observation.objects.order_by("trace_id", "langfuse_observation_id").values()
        ],
        {one.pk: one.balance for one in Account.objects.all() if one.balance},
    ]


def test_rules_find_the_owner_of_what_is_stored_and_undone_all_is_as_before(
    people: People, bare_connection: LangfuseConnection
) -> None:
    ann = people.acme_user
    store(
        bare_connection,
        call("one", evidence={"team": "acme", "who": ann.email or ann.username}),
        call("two", evidence={"team": "ACME"}, flow_id="f"),
        call("three", evidence={"team": "nobody", "who": ann.username}),
        call("own", tenant_reference=str(people.globex.pk)),
    )
    before = everything()
    together = make(bare_connection, by_team())
    assert owners() == {
        "one": ("acme", ann.username),
        "two": ("acme", ""),
        "three": ("", ""),
        "own": ("globex", ""),
    }
    one = Trace.objects.get(langfuse_trace_id="one")
    assert one.credits is not None
    assert one.credits > 0
    assert Trace.objects.get(langfuse_trace_id="three").tenant_reference == "nobody"
    assert (together.traces_done, together.traces_changed) == (4, 3)
    assert together.credits_difference > 0
    assert verify_books() == []
    unmake(together)
    assert everything() == before
    assert verify_books() == []


def arrivals(ann: User) -> list[ReceivedObservation]:
    later = NOON + timedelta(minutes=1)
    return [
        call("one", "a", evidence={"team": "acme"}),
        call("one", "b", evidence={"who": ann.username}),
        call("two", "a", evidence={"team": "globex"}, received_at=NOON),
        call("two", "a", evidence={"team": "acme"}, received_at=later),
        call("three", "a", is_root=True, evidence={"team": "acme"}),
        call("three", "b", evidence={"team": "globex"}),
    ]


@pytest.mark.parametrize("at", range(4))
def test_whatever_comes_when_it_is_the_same(
    people: People, bare_connection: LangfuseConnection, at: int
) -> None:
    """Usage before, while and after the rules are made, in any order, and again."""
    come = arrivals(people.acme_user)
    orders = list(permutations(come))
    for step in orders[at * 171][: at + 1]:
        store(bare_connection, step)
    make(bare_connection, by_team())
    for step in orders[at * 171][at + 1 :]:
        store(bare_connection, step)
    store(bare_connection, *come)
    assert owners() == {
        "one": ("acme", people.acme_user.username),
        "two": ("acme", ""),
        "three": ("", ""),
    }
    assert Trace.objects.get(langfuse_trace_id="three").dispute == "steps_disagree"
    assert verify_books() == []


def test_rules_hold_from_a_date_on(people: People, bare_connection: LangfuseConnection) -> None:
    hour = timedelta(hours=1)
    for name, start in (("early", NOON - hour), ("late", NOON)):
        store(bare_connection, call(name, evidence={"team": "acme"}, start_time=start))
    together = make(bare_connection, by_team(), since=NOON)
    assert owners() == {"early": ("", ""), "late": ("acme", "")}
    assert together.traces_done == 1
    attribution.end(together, NOON + hour)
    store(bare_connection, call("after", evidence={"team": "acme"}, start_time=NOON + hour))
    store(bare_connection, call("before", evidence={"team": "acme"}, start_time=NOON))
    assert owners()["after"] == ("", "")
    assert owners()["before"] == ("acme", "")
    with pytest.raises(ValueError, match="can't be ended"):
        attribution.end(together)


def test_of_several_the_lowest_position_is_asked_first(
    people: People, bare_connection: LangfuseConnection
) -> None:
    store(bare_connection, call("one", evidence={"team": "acme"}))
    always = [rule("tenant", "constant", value="globex")]
    make(bare_connection, always, position=5)
    assert owners() == {"one": ("globex", "")}
    first = make(bare_connection, by_team(), position=1)
    assert owners() == {"one": ("acme", "")}
    unmake(first)
    assert owners() == {"one": ("globex", "")}


def test_who_becomes_known_later_has_its_usage(
    people: People, bare_connection: LangfuseConnection
) -> None:
    store(
        bare_connection,
        call("team", evidence={"team": "Team 7", "who": "annie"}),
        call("ours", tenant_reference="team 7"),
    )
    make(bare_connection, by_team())
    assert attribute_known(bare_connection).traces_changed == 0
    alias = TenantAlias.objects.create(tenant=people.acme, name="team 7")
    attribute_known(bare_connection)
    assert owners() == {"team": ("acme", ""), "ours": ("acme", "")}
    UserAlias.objects.create(tenant=people.acme, user=people.acme_user, name="Annie")
    attribute_known(bare_connection)
    assert owners()["team"] == ("acme", people.acme_user.username)
    assert verify_books() == []
    alias.delete()
    attribute_known(bare_connection)
    assert owners() == {"team": ("", ""), "ours": ("", "")}
    assert verify_books() == []


def test_without_rules_an_alias_of_a_tenant_names_it(
    people: People, bare_connection: LangfuseConnection
) -> None:
    store(bare_connection, call("one", tenant_reference="Team 7"))
    TenantAlias.objects.create(tenant=people.acme, name="team 7")
    attribute_known(bare_connection)
    assert owners() == {"one": ("acme", "")}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"path": ""}, "Metadata has a path"),
        ({"source": "tag"}, "Metadata has a path"),
        ({"value": "x"}, "has a value"),
        ({"pattern": "(?P<tenant>(a+)+)"}, "repeat single characters"),
        ({"pattern": "team:.*"}, "which part"),
        ({"finds_by": "email"}, "write one or more of id, slug, name, alias"),
        ({"finds_by": ""}, "cannot be blank"),
        ({"table": "[1]"}, "JSON map"),
        ({"table": '{"a": ""}'}, "is empty"),
        ({"gives": "nobody"}, "valid choice"),
    ],
)
def test_what_is_no_rule_is_refused(
    bare_connection: LangfuseConnection, fields: dict[str, Any], says: str
) -> None:
    bad = rule(**{"gives": "tenant", "source": "metadata", "path": "team", **fields})
    with pytest.raises(ValidationError, match=says):
        make(bare_connection, [bad])
    assert not AttributionRules.objects.exists()


@pytest.mark.parametrize(
    ("rules", "fields", "says"),
    [
        (0, {}, "write 1 to 40"),
        (1, {"reason": " "}, "Say why"),
        (1, {"name": " "}, "what the rules are called"),
        (1, {"since": NOON, "until": NOON}, "not after the beginning"),
    ],
)
def test_rules_have_a_reason_a_name_and_an_order_of_time(
    bare_connection: LangfuseConnection, rules: int, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        make(bare_connection, by_team()[:rules], **fields)
    assert not AttributionRules.objects.exists()


def test_a_dispute_of_steps_is_settled_by_the_rule_only(
    people: People, bare_connection: LangfuseConnection
) -> None:
    store(bare_connection, *arrivals(people.acme_user)[4:])
    first = make(bare_connection, by_team())
    assert Trace.objects.get().dispute == "steps_disagree"
    unmake(first)
    assert Trace.objects.get().dispute == ""
    make(bare_connection, by_team(wins="root"))
    assert owners() == {"three": ("acme", "")}


def test_the_preview_says_what_making_the_rules_changes(
    people: People, bare_connection: LangfuseConnection
) -> None:
    ann, gus = people.acme_user, people.globex_user
    store(
        bare_connection,
        call("gains", evidence={"team": "acme", "who": ann.username}),
        call("gains-a-tenant", evidence={"team": "acme"}),
        call("changes", evidence={"team": "acme"}, user_reference=str(gus.pk)),
        call("is-disputed", evidence={"team": "acme"}, user_reference=str(gus.pk)),
        call("stays", tenant_reference=str(people.globex.pk)),
        call("names", evidence={"app": "other"}, user_reference=str(ann.pk), flow_id="f"),
        call("unknown", evidence={"team": "nobody"}),
    )
    rules = [*by_team(), rule("flow", "metadata", "app", finds_by="id")]
    before = everything()
    together = AttributionRules(connection=bare_connection, name="teams", reason="r")
    found = preview(together, rules)
    assert everything() == before, "nothing is changed"
    assert (found.traces, found.gained, found.changed, found.lost) == (7, 2, 0, 2)
    assert (found.disputed, found.named_otherwise) == (2, 1)
    moved = {
        key: (one.traces_less, one.traces_more, one.cost_usd, one.credits)
        for key, one in found.moved.items()
    }
    cost = CALL["cost_usd"]
    assert moved == {
        (None, None): (2, 2, D(0), D(0)),
        (people.acme.pk, ann.pk): (0, 1, cost, D("11.4")),
        (people.acme.pk, None): (0, 1, cost, D(0)),
        (people.globex.pk, gus.pk): (2, 0, -2 * cost, D("-22.8")),
    }
    assert len(found.samples) == found.traces_changed
    sums = {tenant: D(0) for tenant in ("", "acme", "globex")}
    for trace in Trace.objects.select_related("tenant"):
        sums[trace.tenant.slug if trace.tenant else ""] -= trace.credits or 0
    made = make(bare_connection, rules)
    for trace in Trace.objects.select_related("tenant"):
        sums[trace.tenant.slug if trace.tenant else ""] += trace.credits or 0
    assert made.credits_difference == sum(one.credits for one in found.moved.values())
    assert sums["acme"] == D("11.4")
    assert sums["globex"] == D("-22.8")


def test_runs_whose_steps_disagree_are_listed_and_cant_be_settled(
    people: People, bare_connection: LangfuseConnection, client: Client
) -> None:
    store(bare_connection, *arrivals(people.acme_user)[4:])
    make(bare_connection, by_team())
    client.force_login(people.platform_admin)
    (run,) = client.get("/api/v2/analytics/disputes").json()["results"]
    assert (run["dispute"], run["tenant_name"], run["user_id"]) == ("steps_disagree", "Acme", None)
    assert "its steps disagree" in client.get("/admin/usage/disputedtrace/").content.decode()
    settle = f"/api/v2/analytics/disputes/{run['trace_id']}/settle"
    answer = client.post(settle, {"outcome": "left_out"}, content_type="application/json")
    assert answer.status_code == 400
    assert "who wins" in answer.content.decode()
    assert verify_books() == []


def test_newer_versions_of_a_step_say_whose_the_run_is(
    people: People, bare_connection: LangfuseConnection
) -> None:
    """A step that said whose the run was, replaced by one that says nothing, and the contrary."""
    make(bare_connection, by_team())
    later = NOON + timedelta(minutes=1)
    store(bare_connection, call("one", evidence={"team": "acme"}))
    store(bare_connection, call("one", received_at=later))
    assert owners() == {"one": ("", "")}
    again = call("one", evidence={"team": "globex"}, received_at=later + timedelta(minutes=1))
    store(bare_connection, again)
    assert owners() == {"one": ("globex", "")}
    assert verify_books() == []
