"""People first seen in usage: entered by rules, within a bound, and merged with who they are."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal as D
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import transaction
from django.db.models import F

from credits.models import Account, Grant
from kluisz_analytics.tenants.models import Tenant, TenantAlias, User, UserAlias
from pricing.models import PricingTier
from tests.conftest import NOON, People
from tests.usage.desk.test_attribution import call, everything, make, rule, store, unmake
from usage.books import verify_books
from usage.desk.unknown import unknown_names
from usage.facts.attribution import attribute_known
from usage.langfuse.wire import ReceivedObservation
from usage.models import AttributionRule, LangfuseConnection, Trace
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db


def entering(**fields: Any) -> list[AttributionRule]:
    """Rules that enter whom nobody knows."""
    return [
        rule("tenant", "metadata", "team", enters=True, **fields),
        rule("user", "metadata", "who", finds_by="id,email,alias", enters=True, **fields),
    ]


def run(trace_id: str, team: str = "Team 7", who: str = "", **fields: Any) -> ReceivedObservation:
    evidence = {"team": team, **({"who": who} if who else {})}
    return call(trace_id, evidence=evidence, **fields)


def owners() -> dict[str, tuple[str, str]]:
    """Whose each run is, by what runs call them where they are seen in usage."""
    rows = Trace.objects.select_related("tenant", "user")
    return {
        row.langfuse_trace_id: (
            (row.tenant.seen_as if row.tenant.seen else row.tenant.slug) if row.tenant else "",
            (row.user.seen_as if row.user.seen else row.user.username) if row.user else "",
        )
        for row in rows
    }


def seen() -> dict[str, str]:
    rows = (*Tenant.objects.exclude(seen_as=""), *User.objects.exclude(seen_as=""))
    return {row.seen_as: row.seen for row in rows}


def credits_of() -> dict[str, D]:
    rows = Account.objects.annotate(name=F("user__seen_as"), login=F("user__username"))
    return {row.name or row.login: row.balance for row in rows if row.balance}


def test_on_the_first_day_there_are_numbers_by_person(
    people: People, bare_connection: LangfuseConnection
) -> None:
    tier = PricingTier.objects.get(name="Professional")
    make(bare_connection, entering(tier=tier))
    store(bare_connection, run("one", who="ann@team7.example"), run("two", who="Bo"), run("three"))
    assert owners()["one"] == ("", "")
    attribute_known(bare_connection)
    assert owners() == {
        "one": ("Team 7", "ann@team7.example"),
        "two": ("Team 7", "Bo"),
        "three": ("Team 7", ""),
    }
    ann = User.objects.get(seen_as="ann@team7.example")
    assert str(ann.tenant) == "Team 7 (seen in usage)"
    assert str(ann).startswith("ann@team7.example (seen in usage ")
    assert not ann.is_active
    assert not ann.has_usable_password()
    assert credits_of() == {"ann@team7.example": D("-11.4"), "Bo": D("-11.4")}
    assert not Grant.objects.filter(account__user__seen_as__gt="").exists()
    assert verify_books() == []
    before = everything()
    attribute_known(bare_connection)
    assert everything() == before
    assert User.objects.exclude(seen_as="").count() == 2


def test_undone_all_is_as_before_and_nobody_is_found_by_what_was_entered(
    people: People, bare_connection: LangfuseConnection
) -> None:
    Tenant.objects.update(finds_users_by_email=True, finds_users_by_username=True)
    store(
        bare_connection,
        run("one", who="cy"),
        run("two", "acme", who="cy"),
        call("ours", user_reference="cy", tenant_reference="Team 7"),
        call("acmes", user_reference="cy", tenant_reference=str(people.acme.pk)),
    )
    before = everything()
    together = make(bare_connection, entering())
    assert owners()["one"] == ("Team 7", "cy")
    assert owners()["two"] == ("acme", "cy")
    assert owners()["ours"] == ("", "")
    assert owners()["acmes"] == ("acme", "")
    unmake(together)
    attribute_known(bare_connection)
    assert everything() == before
    assert verify_books() == []


def test_rules_that_do_not_enter_leave_it_as_named_and_not_known(
    people: People, bare_connection: LangfuseConnection
) -> None:
    quiet = [rule("tenant", "metadata", "team"), rule("user", "metadata", "who", finds_by="id")]
    make(bare_connection, quiet)
    store(bare_connection, run("one", who="cy"))
    attribute_known(bare_connection)
    assert owners() == {"one": ("", "")}
    assert [one.text for one in unknown_names()] == ["Team 7"]
    assert seen() == {}


def test_no_more_than_the_bound_are_entered_in_a_day_those_with_the_most_runs_first(
    people: People, bare_connection: LangfuseConnection
) -> None:
    make(bare_connection, entering(), enters_a_day=3)
    flood = [run(f"f{at}", f"random {at}", f"nobody {at}") for at in range(20)]
    store(bare_connection, *flood, *(run(f"r{at}", "Real", "Rea") for at in range(3)))
    attribute_known(bare_connection)
    entered = seen()
    assert len(entered) == 3
    assert {"Real", "Rea"} <= entered.keys()
    attribute_known(bare_connection)
    assert seen() == entered
    waiting = [one.text for one in unknown_names()]
    assert len(waiting) == 20
    # Another day.
    day = timedelta(days=1)
    Tenant.objects.update(created_at=F("created_at") - day)
    User.objects.update(date_joined=F("date_joined") - day)
    attribute_known(bare_connection)
    assert len(seen()) == 6
    assert verify_books() == []


def test_where_runs_name_no_tenant_users_are_entered_in_the_connections(
    people: People, bare_connection: LangfuseConnection
) -> None:
    make(bare_connection, entering())
    store(bare_connection, call("one", evidence={"who": "cy"}))
    attribute_known(bare_connection)
    assert owners() == {"one": ("", "")}
    bare_connection.tenant = people.acme
    bare_connection.save()
    store(bare_connection, call("two", evidence={"who": "cy"}))
    attribute_known(bare_connection)
    assert owners()["two"] == ("acme", "cy")
    assert verify_books() == []


def directory_file(tmp_path: Path, **document: Any) -> None:
    path = tmp_path / "directory.json"
    path.write_text(json.dumps(document))
    call_command("load_directory", path, verbosity=0)


R = "4be2fac9-d3c7-50d7-aa40-e4a676461eb2"
ANN = "db6cd388-0abf-538a-8503-dd3358d93458"


def seven(**user: Any) -> dict[str, Any]:
    """A directory that knows the team and one of its users."""
    return {
        "tenants": [{"id": R, "name": "Seven", "slug": "team-seven"}],
        "users": [
            {"id": ANN, "username": "annie", "email": "Ann@x.example", "tenant": "team-seven"}
            | user
        ],
    }


def by_name() -> list[AttributionRule]:
    return [
        rule("tenant", "metadata", "team", finds_by="id,slug,alias", enters=True),
        rule("user", "metadata", "who", finds_by="id,email,alias", enters=True),
    ]


def team_seven() -> list[ReceivedObservation]:
    return [
        run("one", "team-seven", "ann@x.example"),
        run("two", "Team-Seven", "b77"),
        run("three", "team-seven"),
        run("four", "team-seven", R),
    ]


@pytest.mark.parametrize("order", ["usage, import", "import, usage", "half, import, half"])
def test_an_import_merges_whom_it_brings_and_in_any_order_it_is_the_same(
    people: People, bare_connection: LangfuseConnection, tmp_path: Path, order: str
) -> None:
    make(bare_connection, by_name(), enters_a_day=4)
    for what in order.split(", "):
        if what == "import":
            directory_file(tmp_path, **seven(tier="Professional"))
        else:
            come = team_seven()
            store(bare_connection, *(come[:2] if what == "half" else come))
            attribute_known(bare_connection)
    store(bare_connection, *team_seven())
    for _ in range(2):
        attribute_known(bare_connection)
    assert owners() == {
        "one": ("team-seven", "annie"),
        "two": ("team-seven", "b77"),
        "three": ("team-seven", ""),
        "four": ("team-seven", R),
    }
    b77 = User.objects.get(seen_as="b77", tenant=R)
    assert b77.seen == "seen", "whoever the import did not bring stays, in the real tenant"
    assert Trace.objects.get(langfuse_trace_id="two").user == b77
    assert credits_of() == {"annie": D("9988.6")}
    assert verify_books() == []


def test_who_is_known_no_more_is_seen_again(
    people: People, bare_connection: LangfuseConnection
) -> None:
    make(bare_connection, entering())
    store(bare_connection, run("one", who="annie"), run("two", "acme", "annie"))
    attribute_known(bare_connection)
    before = everything("priced_as_of")
    tenant_alias = TenantAlias.objects.create(tenant=people.acme, name="team 7")
    alias = UserAlias.objects.create(tenant=people.acme, user=people.acme_user, name="Annie")
    attribute_known(bare_connection)
    assert owners() == {"one": ("acme", "ann"), "two": ("acme", "ann")}
    assert set(seen().values()) == {"known"}
    assert verify_books() == []
    alias.delete()
    attribute_known(bare_connection)
    assert owners() == {"one": ("acme", "annie"), "two": ("acme", "annie")}
    tenant_alias.delete()
    attribute_known(bare_connection)
    assert owners() == {"one": ("Team 7", "annie"), "two": ("acme", "annie")}
    assert everything("priced_as_of") == before
    assert verify_books() == []


def test_in_whatever_order_usage_names_and_syncs_come_the_books_are_the_same(
    people: People, bare_connection: LangfuseConnection
) -> None:
    make(bare_connection, entering(tier=PricingTier.objects.get(name="Starter")))
    later = NOON + timedelta(minutes=1)

    def stores(*steps: ReceivedObservation) -> Callable[[], None]:
        return lambda: store(bare_connection, *steps)

    def alias() -> None:
        UserAlias.objects.create(tenant=people.acme, user=people.acme_user, name="x-1")

    def tenant_alias() -> None:
        TenantAlias.objects.create(tenant=people.acme, name="Team 7")

    events = [
        stores(run("a", who="x-1"), run("b", "acme", "x-1")),
        stores(run("a", who="x-1"), run("c", "acme", "X-1"), run("d", who="x-2")),
        stores(run("e", "other", "x-2")),
        stores(run("e", "acme", "x-2", received_at=later), run("f", "other", "x-1")),
        alias,
        tenant_alias,
        lambda: attribute_known(bare_connection),
        lambda: attribute_known(bare_connection),
    ]
    found = []
    for order in islice(permutations(events), 0, None, 12_000):
        with transaction.atomic():
            for event in order:
                event()
            for _ in range(2):
                attribute_known(bare_connection)
            assert verify_books() == []
            traces = Trace.objects.order_by("pk")
            found.append(
                (
                    owners(),
                    list(traces.values_list("tenant", "user", "credits", "cost_usd")),
                    {pk: name for name, pk in credits_of().items()},
                )
            )
            transaction.set_rollback(True)
    assert found[0][0] == {
        **dict.fromkeys("abc", ("acme", "ann")),
        **dict.fromkeys("de", ("acme", "x-2")),
        "f": ("other", "x-1"),
    }
    assert all(one == found[0] for one in found)


def test_a_name_that_a_lower_rule_knows_enters_nobody(
    people: People, bare_connection: LangfuseConnection
) -> None:
    rules = [
        rule("tenant", "metadata", "team", enters=True),
        rule("tenant", "metadata", "org", enters=True),
        rule("user", "metadata", "who", finds_by="id,alias", enters=True),
        rule("user", "user_id", finds_by="name"),
    ]
    make(bare_connection, rules)
    known = {"team": "new team", "org": "acme", "who": "x"}
    store(
        bare_connection,
        call("known", evidence=known, user_reference="ann"),
        call("org", evidence={"org": "new org"}),
        call("waits", evidence={"team": "other team", "org": "new org"}),
    )
    attribute_known(bare_connection)
    assert owners()["known"] == ("acme", "ann")
    assert owners()["org"] == ("new org", "")
    assert owners()["waits"] == ("other team", "")
    store(bare_connection, call("again", evidence={"team": "new team"}))
    attribute_known(bare_connection)
    assert owners()["again"] == ("new team", "")
    store(bare_connection, call("known", evidence={**known, "more": "x"}, user_reference="ann"))
    assert owners()["known"] == ("acme", "ann"), "whoever came first"
    assert verify_books() == []


def test_steps_that_name_several_unknown_are_disputed_unless_the_rule_says_who_wins(
    people: People, bare_connection: LangfuseConnection
) -> None:
    steps = [
        run("one", "x", step_id="a", is_root=True),
        run("one", "y", step_id="b"),
    ]
    store(bare_connection, *steps)
    together = make(bare_connection, [rule("tenant", "metadata", "team", enters=True)])
    assert seen() == {"x": "seen", "y": "seen"}
    assert Trace.objects.get().dispute == "steps_disagree"
    unmake(together)
    make(bare_connection, [rule("tenant", "metadata", "team", enters=True, wins="root")])
    assert owners() == {"one": ("x", "")}
    assert verify_books() == []


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"gives": "flow", "enters": True, "finds_by": "id"}, "Only tenants and users"),
        ({"source": "constant", "path": "", "value": "x", "enters": True}, "write who"),
    ],
)
def test_what_cant_enter_anybody_is_refused(
    bare_connection: LangfuseConnection, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        make(
            bare_connection,
            [rule(**{"gives": "tenant", "source": "metadata", "path": "t", **fields})],
        )


def test_a_flow_counted_by_what_it_is_called_is_the_directorys_once_it_has_one(
    people: People, bare_connection: LangfuseConnection, tmp_path: Path
) -> None:
    by_agent = rule("flow", "metadata", "agent", finds_by="name,id")
    make(bare_connection, [rule("tenant", "metadata", "team"), by_agent])
    told = {"team": "acme", "agent": "Support bot"}
    store(bare_connection, call("one", evidence=told), call("other", evidence={"team": "acme"}))
    store(bare_connection, call("two", evidence={**told, "agent": "support BOT"}))
    build_rollups()
    assert attribute_known(bare_connection).traces_changed == 0
    flow = {"id": ANN, "name": "support bot", "project": str(people.project.pk)}
    directory_file(tmp_path, flows=[flow])
    flows = dict(Trace.objects.values_list("langfuse_trace_id", "flow_id"))
    assert flows == {"one": ANN, "two": ANN, "other": ""}
    assert attribute_known(bare_connection).traces_changed == 0
    build_rollups()
    assert verify_books() == []
