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


def test_alerts_tell_of_each_budget_by_itself(rich: People, use: Use) -> None:
    budget(rich.acme, 40, is_hard=False)
    budget(rich.acme, 47, period="day", user=rich.acme_user, is_hard=False)
    budget(rich.acme, 30, model="gpt-4o", period="week")
    use(rich.acme_user, "0.2", NOW - HOUR)
    evaluate_all(NOW)
    told = Alert.objects.filter(budget__isnull=False, is_sent=True).order_by("threshold")
    assert [one.message for one in told] == [
        "ann has used 81% of today's 47.00 credits; runs go on.",
        "Acme has used 95% of this month's 40.00 credits; runs go on.",
        "Acme's model gpt-4o has used 127% of this week's 30.00 credits; new runs are refused.",
    ]
    assert evaluate_all(NOW) == 0


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
