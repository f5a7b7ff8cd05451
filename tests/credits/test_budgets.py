"""Budgets: what counts against them, for whom and when, and that nothing gets past a hard one."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.conf import settings
from django.db import connection as database
from django.utils import timezone
from rest_framework.test import APIClient

from credits import grants
from credits.alerts import evaluate_all
from credits.grants import NewGrant
from credits.models import Alert, Grant, Hold, TenantBudget
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier
from tests.conftest import People
from usage.books import verify_books
from usage.facts.disputes import settle, undo
from usage.facts.owner import Outcome
from usage.models import Trace

pytestmark = pytest.mark.django_db
D = Decimal
# After the tiers' rates are recorded, which is now: what is entered later prices nothing before.
NOW = datetime(2037, 6, 10, 12, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)
Gate = Callable[..., Any]
Use = Callable[..., None]
DOLLAR = D(190)
"""Credits of Ann's and of Bob's tier."""


@pytest.fixture(autouse=True)
def clock() -> Iterator[Callable[[datetime], None]]:
    moment = [NOW]
    with mock.patch.object(timezone, "now", side_effect=lambda: moment[0]):
        yield lambda now: moment.__setitem__(0, now)


@pytest.fixture
def rich(people: People) -> People:
    """Credits are not what refuses anybody here."""
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
    for user in (people.acme_user, people.acme_colleague, people.globex_user):
        start = NOW - timedelta(days=40)
        grants.grant(NewGrant(user, D(10**6), Grant.Source.MANUAL, str(user.pk), starts_at=start))
    return people


@pytest.fixture
def gate(people: People) -> Gate:
    """Asks for a hold as the flow engine does: the answer's status and body."""
    client = APIClient()
    client.force_authenticate(people.service)

    def ask(user: User, credits: object, path: str = "holds", **more: Any) -> Any:
        body = {"user_id": str(user.pk), "trace_id": uuid.uuid4().hex, "credits": str(credits)}
        return client.post(f"/api/v2/credits/{path}", {**body, **more}, format="json")

    return ask


def budget(tenant: Tenant, amount: object, **fields: Any) -> TenantBudget:
    return TenantBudget.objects.create(
        **{"tenant": tenant, "unit": "credits", "is_hard": True, "amount": amount, **fields}
    )


def test_ten_holds_of_forty_do_not_pass_a_budget_of_150(rich: People, gate: Gate) -> None:
    limit = budget(rich.acme, 150)
    users = [rich.acme_user, rich.acme_colleague] * 5
    answers = [gate(user, 40) for user in users]
    assert [one.status_code for one in answers] == [201] * 3 + [402] * 7
    refused = answers[-1].json()
    assert refused["errors"][0]["code"] == "budget_exhausted"
    assert refused["errors"][0]["detail"] == (
        "Acme has 30.00 credits left of this month's 150.00 credits, and the run requires 40.00"
        " credits. Runs that are under way hold 120.00 credits."
    )
    assert refused["budget"] == {
        "id": limit.pk,
        "kind": "tenant",
        "period": "month",
        "unit": "credits",
        "amount": "150.000000",
        "used": "0.000000",
        "held": "120.000000",
    }
    assert gate(rich.acme_user, 40, "check").status_code == 402
    assert gate(rich.acme_user, 30).status_code == 201
    assert gate(rich.globex_user, 40).status_code == 201


def test_too_few_credits_name_no_budget(rich: People, gate: Gate) -> None:
    assert gate(rich.acme_user, 10**7).json()["budget"] is None


def test_budgets_are_listed_with_what_is_used_and_held_now(
    rich: People, gate: Gate, use: Use
) -> None:
    ann, bob = rich.acme_user, rich.acme_colleague
    of_tenant = budget(rich.acme, 150, is_hard=False)
    of_ann = budget(rich.acme, 90, user=ann, period="day")
    of_bob = budget(rich.acme, 1, user=bob, unit="usd")
    of_flow = budget(rich.acme, 100, flow_id="F1", period="week")
    of_globex = budget(rich.globex, 70, model="gpt-5")
    use(ann, "0.06", NOW)
    gate(ann, 40, flow_id="F1")
    gate(bob, 19)

    def listed(user: User, **query: Any) -> dict[int, dict[str, Any]]:
        client = APIClient()
        client.force_authenticate(user)
        answer = client.get("/api/v2/credits/budgets", query)
        assert answer.status_code == 200, answer.content
        return {row["id"]: row for row in answer.json()["results"]}

    stored = list(TenantBudget.objects.order_by("pk").values())
    everything = listed(rich.platform_admin)
    assert [*everything] == [of_globex.pk, of_flow.pk, of_bob.pk, of_ann.pk, of_tenant.pk]
    amounts = ("kind", "username", "used", "held", "left")
    assert {pk: tuple(row[name] for name in amounts) for pk, row in everything.items()} == {
        of_tenant.pk: ("tenant", "", "11.400000", "59.000000", "79.600000"),
        of_ann.pk: ("user", "ann", "11.400000", "40.000000", "38.600000"),
        of_bob.pk: ("user", "bob", "0.000000", "0.100000", "0.900000"),
        of_flow.pk: ("flow", "", "0.000000", "40.000000", "60.000000"),
        of_globex.pk: ("model", "", "0.000000", "0.000000", "70.000000"),
    }
    day = everything[of_ann.pk]
    assert (day["period"], day["period_start"], day["period_end"]) == (
        "day",
        "2037-06-09T22:00:00Z",
        "2037-06-10T22:00:00Z",
    )
    assert listed(rich.acme_admin).keys() == everything.keys() - {of_globex.pk}
    assert listed(ann).keys() == {of_ann.pk}
    assert listed(rich.globex_user) == {}
    for query, found in (
        ({"tenant_id": str(rich.globex.pk)}, {of_globex.pk}),
        ({"user_id": [str(ann.pk), str(bob.pk)]}, {of_ann.pk, of_bob.pk}),
        ({"period": ["day", "week"]}, {of_ann.pk, of_flow.pk}),
        ({"is_hard": "false"}, {of_tenant.pk}),
    ):
        assert listed(rich.platform_admin, **query).keys() == found
    assert list(TenantBudget.objects.order_by("pk").values()) == stored, "asking stores nothing"


def test_the_list_of_budgets_goes_on_page_by_page_and_downloads(rich: People) -> None:
    for amount in (1, 2, 3):
        budget(rich.acme, amount, model=f"m{amount}")
    client = APIClient()
    client.force_authenticate(rich.acme_admin)
    first = client.get("/api/v2/credits/budgets", {"limit": 2}).json()
    rest = client.get(first["next"]).json()
    assert [row["model"] for row in (*first["results"], *rest["results"])] == ["m3", "m2", "m1"]
    answer = client.get("/api/v2/credits/budgets", {"format": "csv"})
    header, *lines = answer.getvalue().decode().splitlines()
    assert header.startswith("id,kind,tenant_id,tenant,user_id,username,flow_id,model,period,unit")
    assert len(lines) == 3
    for wrong in ({"period": "year"}, {"user_id": "nobody"}, {"is_hard": "perhaps"}):
        assert client.get("/api/v2/credits/budgets", wrong).status_code == 400


def test_of_a_user_who_has_left_there_is_no_name(rich: People) -> None:
    budget(rich.acme, 5, user=rich.acme_colleague)
    User.objects.filter(pk=rich.acme_colleague.pk).update(tenant=rich.globex)
    for who, seen in (("acme_admin", ""), ("platform_admin", "bob"), ("acme_colleague", None)):
        client = APIClient()
        client.force_authenticate(User.objects.get(pk=getattr(rich, who).pk))
        rows = client.get("/api/v2/credits/budgets").json()["results"]
        assert [(row["username"], row["user_id"] is None) for row in rows] == (
            [] if seen is None else [(seen, not seen)]
        )


SCOPES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"user": "acme_user"}, {}, {"user": "acme_colleague"}),
    ({"flow_id": "F1"}, {"flow_id": "F1"}, {"flow_id": "F2"}),
    ({"model": "gpt-5"}, {"model": "gpt-5"}, {"model": "gpt-4o"}),
    ({"period": "day"}, {}, {"later": timedelta(hours=14)}),
    ({"period": "week"}, {}, {"later": timedelta(days=5)}),
    ({"period": "month"}, {}, {"later": timedelta(days=21)}),
]


@pytest.mark.parametrize(("scope", "same", "other"), SCOPES, ids=str)
def test_each_kind_counts_what_was_used_and_what_is_held_of_its_own(
    rich: People, gate: Gate, use: Use, clock: Any, scope: Any, same: Any, other: Any
) -> None:
    if "user" in scope:
        scope = {**scope, "user": getattr(rich, scope["user"])}
    budget(rich.acme, 100, **scope)
    # What is used is of the same user, flow, model, day, week and month; 38 credits.
    more = {"flow": same.get("flow_id", ""), "model": same.get("model", "gpt-4o")}
    use(rich.acme_user, "0.2", NOW - HOUR, **more)
    assert gate(rich.acme_user, 40, **same).status_code == 201
    refused = gate(rich.acme_user, "22.000001", **same)
    assert refused.status_code == 402
    assert refused.json()["budget"]["used"] == "38.000000"
    assert refused.json()["budget"]["held"] == "40.000000"
    assert gate(rich.acme_user, 22, **same).status_code == 201
    asks = {key: value for key, value in other.items() if key not in ("later", "user")}
    clock(NOW + other.get("later", timedelta(0)))
    user = getattr(rich, other.get("user", "acme_user"))
    assert gate(user, 100, **asks).status_code == 201


def test_of_several_budgets_each_has_to_have_room(rich: People, gate: Gate) -> None:
    budget(rich.acme, 100)
    budget(rich.acme, 60, period="day")
    budget(rich.acme, 30, flow_id="f")
    budget(rich.acme, 10, flow_id="f", is_hard=False)
    assert gate(rich.acme_user, 31, flow_id="f").json()["budget"]["kind"] == "flow"
    assert gate(rich.acme_user, 30, flow_id="f").status_code == 201
    assert gate(rich.acme_user, 31).json()["budget"]["period"] == "day"
    assert gate(rich.acme_user, 30).status_code == 201
    day, month = (TenantBudget.objects.get(period=one, flow_id="") for one in ("day", "month"))
    assert (day.held, month.held) == (60, 60)


def test_what_is_charged_is_used_and_no_longer_held(rich: People, gate: Gate, use: Use) -> None:
    limit = budget(rich.acme, 100)
    run = uuid.uuid4().hex
    assert gate(rich.acme_user, 60, trace_id=run).status_code == 201
    use(rich.acme_user, "0.1", NOW, trace_id=run)
    assert gate(rich.acme_user, "81.000001").status_code == 402
    assert gate(rich.acme_user, 81).status_code == 201
    limit.refresh_from_db()
    assert (limit.used, limit.held) == (19, 81)


def test_a_run_that_used_more_than_was_reserved_holds_more(rich: People, gate: Gate) -> None:
    budget(rich.acme, 150)
    first = gate(rich.acme_user, 40).json()["id"]
    client = APIClient()
    client.force_authenticate(rich.service)
    client.post(f"/api/v2/credits/holds/{first}/settle", {"credits": "100"}, format="json")
    assert [gate(rich.acme_user, 40).status_code for _ in range(2)] == [201, 402]


def test_what_is_released_or_has_expired_is_free(rich: People, gate: Gate, clock: Any) -> None:
    budget(rich.acme, 100)
    first, _ = (gate(rich.acme_user, 50, ttl_seconds=600).json()["id"] for _ in range(2))
    assert gate(rich.acme_user, 50).status_code == 402
    client = APIClient()
    client.force_authenticate(rich.service)
    client.post(f"/api/v2/credits/holds/{first}/release")
    assert [gate(rich.acme_user, 50).status_code for _ in range(2)] == [201, 402]
    clock(NOW + timedelta(minutes=11))
    assert [gate(rich.acme_user, 50).status_code for _ in range(2)] == [201, 402]


def test_one_in_usd_counts_what_holds_are_of_provider_cost(
    rich: People, gate: Gate, use: Use
) -> None:
    budget(rich.acme, 2, unit="usd")
    use(rich.acme_user, "0.5", NOW - HOUR)
    assert gate(rich.acme_user, DOLLAR).status_code == 201
    refused = gate(rich.acme_user, DOLLAR / 2 + 1).json()["budget"]
    assert (refused["used"], refused["held"]) == ("0.500000", "1.000000")
    assert gate(rich.acme_user, DOLLAR / 2).status_code == 201


def test_a_day_begins_at_midnight_where_the_tenant_is(rich: People, gate: Gate, use: Use) -> None:
    """In India in the middle of an hour of UTC: what is used just before is yesterday's."""
    midnight = datetime(2037, 6, 9, 18, 30, tzinfo=UTC)
    limit = budget(rich.globex, 10**5, period="day")
    for moment in (-timedelta(seconds=1), timedelta(0)):
        use(rich.globex_user, "1", midnight + moment)
    assert gate(rich.globex_user, 1).status_code == 201
    limit.refresh_from_db()
    assert limit.period_start == midnight
    one = Hold.objects.get()
    assert (limit.used, limit.held) == (rich_rate(rich.globex_user), one.credits)


def rich_rate(user: User) -> Decimal:
    from pricing.tiers import credits_for, tiers_of

    credits = credits_for(tiers_of([user], NOW)[user.pk], D(1), NOW)
    assert credits is not None
    return credits


def test_a_run_that_turns_out_to_be_of_another_flow_counts_there(
    rich: People, gate: Gate, use: Use
) -> None:
    """Its user's numbers are the same as before."""
    first, second = (budget(rich.acme, 190, flow_id=name) for name in ("f1", "f2"))
    use(rich.acme_user, "1", NOW - HOUR, flow="f1", trace_id="t")
    assert gate(rich.acme_user, 1, flow_id="f1").status_code == 402
    later = {"received_at": NOW + HOUR}
    use(rich.acme_user, "1", NOW - HOUR, flow="f2", trace_id="t", **later)
    evaluate_all(NOW)
    for one in (first, second):
        one.refresh_from_db()
    assert first.used + second.used == 190


def test_a_user_who_moves_leaves_the_month_where_it_was(rich: People, gate: Gate, use: Use) -> None:
    limit = budget(rich.acme, 100)
    use(rich.acme_user, "0.2", NOW - HOUR)
    User.objects.filter(pk=rich.acme_user.pk).update(tenant=rich.globex)
    evaluate_all(NOW)
    limit.refresh_from_db()
    assert limit.used == 38
    assert gate(rich.acme_colleague, 63).status_code == 402


def test_what_has_no_user_is_known_to_the_gate_as_soon_as_it_is_stored(
    rich: People, gate: Gate, use: Use
) -> None:
    """A webhook's run: of a tenant, and of nobody."""
    budget(rich.acme, 1, unit="usd")
    assert gate(rich.acme_user, 1).status_code == 201
    use(None, "1", NOW - HOUR, tenant_reference=str(rich.acme.pk))
    assert gate(rich.acme_user, 1).status_code == 402


SETTLED: list[tuple[Outcome | None, tuple[int, ...], tuple[int, ...]]] = [
    # What counts then against budgets of Acme (all, its flow, its model), and of Globex (all, its
    # user).
    (None, (0, 0, 0), (0, 0)),
    (Outcome.LEFT_OUT, (0, 0, 0), (0, 0)),
    (Outcome.NAMED_TENANT, (1, 1, 1), (0, 0)),
    (Outcome.USERS_TENANT, (0, 0, 0), (1, 1)),
]


@pytest.mark.parametrize(("outcome", "of_acme", "of_globex"), SETTLED)
def test_a_disputed_run_uses_nobodys_budget_until_it_is_settled(
    rich: People, gate: Gate, use: Use, outcome: Outcome | None, of_acme: Any, of_globex: Any
) -> None:
    """Any writer of traces can name a tenant with a user who is not of it."""
    acme = [
        budget(rich.acme, 1, unit="usd", **more)
        for more in ({}, {"flow_id": "f1"}, {"model": "gpt-4o"})
    ]
    globex = [
        budget(rich.globex, 1, unit="usd", **more) for more in ({}, {"user": rich.globex_user})
    ]
    for number in range(5):
        foreign = User(pk=rich.globex_user.pk, tenant=rich.acme)
        use(foreign, "0.2", NOW - HOUR, flow="f1", trace_id=f"foreign{number}")
    traces = [pk.hex for pk in Trace.objects.values_list("pk", flat=True)]
    if outcome is not None:
        settle(traces, outcome, rich.platform_admin)
    evaluate_all(NOW)
    for budgets, counts in ((acme, of_acme), (globex, of_globex)):
        for one, count in zip(budgets, counts, strict=True):
            one.refresh_from_db()
            assert one.used == count, one
    status = 402 if any(of_acme) else 201
    assert gate(rich.acme_user, 1, flow_id="f1", model="gpt-4o").status_code == status
    assert gate(rich.globex_user, 1).status_code == (402 if any(of_globex) else 201)
    client = APIClient()
    days = {"start_date": "2037-06-01", "end_date": "2037-06-30"}
    for admin, counts in ((rich.acme_admin, of_acme), (rich.globex_admin, of_globex)):
        client.force_authenticate(admin)
        stats = client.get(f"/api/v2/analytics/tenant/{admin.tenant_id}/stats", days).json()
        assert stats["total_traces"] == 5 * counts[0], admin
        assert D(stats["total_cost_usd"]) == counts[0]
    if outcome is not None:
        undo(traces, rich.platform_admin)
        assert gate(rich.acme_user, 1).status_code == 201
        evaluate_all(NOW)
    assert verify_books() == []


def test_alerts_tell_of_each_budget_by_itself(rich: People, use: Use) -> None:
    budget(rich.acme, 40, is_hard=False)
    budget(rich.acme, 47, period="day", user=rich.acme_user, is_hard=False)
    budget(rich.acme, 30, model="gpt-4o", period="week")
    use(rich.acme_user, "0.2", NOW - HOUR)
    evaluate_all(NOW)
    told = Alert.objects.filter(budget__isnull=False, is_sent=True).order_by("threshold")
    assert [one.message for one in told] == [
        "ann has used 80% of today's 47.00 credits; runs go on.",
        "Acme has used 95% of this month's 40.00 credits; runs go on.",
        "Acme's model gpt-4o has used 126% of this week's 30.00 credits; new runs are refused.",
    ]
    assert evaluate_all(NOW) == 0


def test_what_is_told_of_a_flow_names_it_and_rounds_nothing_up(
    rich: People, use: Use, gate: Gate
) -> None:
    budget(rich.acme, D("38.1"), flow_id=str(rich.flow.pk))
    budget(rich.acme, D("38.1"), flow_id="no-flow-of-the-directory", is_hard=False)
    for flow in (str(rich.flow.pk), "no-flow-of-the-directory"):
        use(rich.acme_user, "0.2", NOW - HOUR, flow=flow)
    evaluate_all(NOW)
    told = Alert.objects.filter(budget__isnull=False, is_sent=True).order_by("pk")
    assert {one.message for one in told} == {
        "Acme's flow Triage has used 99% of this month's 38.10 credits; runs go on.",
        "Acme's flow no-flow-of-the-directory has used 99% of this month's 38.10 credits;"
        " runs go on.",
    }
    refused = gate(rich.acme_user, 1, flow_id=str(rich.flow.pk)).json()["errors"][0]["detail"]
    assert refused.startswith("Acme's flow Triage has 0.1 credits left")


# --- Many at once ---------------------------------------------------------------------------------


def worker(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.credits.budget_worker", *arguments]
    return subprocess.Popen(
        command, cwd=settings.BASE_DIR, env=env, stdout=subprocess.PIPE, text=True
    )


def told(process: subprocess.Popen[str]) -> Any:
    out, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.mark.skipif(database.vendor != "postgresql", reason="several processes at once: PostgreSQL")
@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_however_many_processes_reserve_no_hard_budget_is_overspent() -> None:
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + database.settings_dict["NAME"]
    env = {**os.environ, "DATABASE_URL": url}
    told(worker(env, "setup"))
    at_once = [worker(env, "work", str(seed), "250") for seed in range(4)]
    try:
        ended = [told(one) for one in at_once]
    finally:
        for one in at_once:
            one.kill()
    assert sum(one["granted"] for one in ended) > 40
    assert sum(one["refused"] for one in ended) > 40
    assert sum(one["charged"] for one in ended) > 20
    found = told(worker(env, "verify"))
    assert found["findings"] == []
    for name, numbers in found["budgets"].items():
        assert D(numbers["used"]) + D(numbers["held"]) <= D(numbers["amount"]), name
        assert D(numbers["used"]) > 0, name
