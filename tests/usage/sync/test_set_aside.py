"""A run that would come to more than any run can is set aside with its reason; everything else goes
on, whoever it belongs to.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from credits.models import Account
from pricing import lists
from pricing.models import IN_LIST, ModelPrice, PricingTier, TierAssignment, TierRate
from pricing.scenario import Scenario
from tests.conftest import LONG_AGO, People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned, row, sync
from usage.analytics.explain import explain
from usage.books import verify_books
from usage.facts.unpriced import price_unpriced
from usage.models import LangfuseConnection, Repricing, Trace
from usage.repricing import repricing as service
from usage.repricing.preview import preview
from usage.repricing.what_if import what_if

pytestmark = pytest.mark.django_db
D = Decimal
PERIOD = (MOMENT - timedelta(hours=2), MOMENT + timedelta(hours=2))
DEAREST = {"credits_per_usd": D(1_000_000), "pricing_multiplier": D(100)}


def rated(name: str, **terms: Decimal) -> PricingTier:
    tier = PricingTier.objects.create(name=name)
    TierRate.objects.create(tier=tier, valid_from=LONG_AGO, **terms)
    return tier


@pytest.fixture
def absurd_tier(people: People) -> PricingTier:
    """Globex's: as dear as any can be."""
    tier = rated("Absurd", **DEAREST)
    given = TierAssignment(user=people.globex_user, tier=tier, valid_from=LONG_AGO)
    lists.assign_tier(given, None)
    return tier


def run_of_globex(people: People, **fields: Any) -> list[dict[str, Any]]:
    metadata = {"tenant_id": str(people.globex.pk)}
    user = {"userId": str(people.globex_user.pk), "metadata": metadata}
    root = row("root2", trace_id="t2", isRootObservation=True, **user)
    return [root, call("c2", **{"cost": 2_000.0, "traceId": "t2", **fields})]


@pytest.fixture
def synced(connection: LangfuseConnection, sandbox: RunningSandbox) -> Callable[..., None]:
    def add(*rows: dict[str, Any]) -> None:
        sandbox.store.add(list(rows))
        sync(connection)

    return add


def run(name: str) -> Trace:
    return Trace.objects.get(langfuse_trace_id=name)


def test_an_absurd_rate_sets_its_own_runs_aside_and_nobody_elses(
    synced: Callable[..., None], people: People, absurd_tier: PricingTier
) -> None:
    synced(owned(people), call("c1", 0.06), *run_of_globex(people))
    assert (run("t1").credits, run("t1").set_aside) == (D("11.4"), "")
    absurd = run("t2")
    # Its cost is known, and counted; what it would be charged is not.
    assert (absurd.cost_usd, absurd.credits, absurd.billed_cost_usd) == (D(2000), None, None)
    assert "200,000,000,000.00 credits for 200,000.00 USD billed" in absurd.set_aside
    assert absurd.set_aside in explain(absurd, people.platform_admin).why_no_credits
    assert Account.objects.filter(user=people.acme_user).get().used == D("11.4")
    assert not Account.objects.filter(user=people.globex_user, used__gt=0).exists()


def test_an_absurd_price_leaves_the_cost_unknown_until_it_is_corrected(
    synced: Callable[..., None], people: People, connection: LangfuseConnection
) -> None:
    wrong = lists.enter_price(
        ModelPrice(model="own", valid_from=LONG_AGO, input=D(400_000), output=D(1)), None
    )
    many = {"input": 10**9, "total": 10**9}
    absurd = run_of_globex(people, cost=None, model="own", usageDetails=many)
    synced(owned(people), call("c1", 0.06), *absurd)
    assert (run("t1").credits, run("t2").cost_usd, run("t2").credits) == (D("11.4"), None, None)
    assert (run("t2").unpriced_observations, run("t2").priced_observations) == (1, 0)
    assert "400,000,000.00 USD" in run("t2").set_aside
    assert "look at the price of “own”" in run("t2").set_aside
    # Trying to price what waits for a price changes nothing and fails nothing.
    assert price_unpriced(connection).traces_changed == 0
    right = ModelPrice(model="own", valid_from=LONG_AGO, input=D("0.4"), output=D(1))
    lists.enter_price(right, None, replaces=wrong)
    service.advance(service.begin(*PERIOD, reason="a typo", by=people.platform_admin))
    assert (run("t2").set_aside, run("t2").cost_usd) == ("", D(400))
    assert verify_books() == []


def test_repricing_sets_aside_only_what_became_absurd(
    synced: Callable[..., None], people: People
) -> None:
    synced(owned(people), call("c1", 0.06), *run_of_globex(people))
    charged = run("t2").credits
    assert charged == D(380_000)
    tier = PricingTier.objects.get(name="Professional")
    lists.enter_rate(TierRate(tier=tier, valid_from=LONG_AGO, **DEAREST), None)
    shown = preview(*PERIOD)
    assert (shown.traces, shown.traces_changed) == (2, 2)
    repricing = service.begin(*PERIOD, reason="a slip", by=people.platform_admin)
    service.advance(repricing)
    assert repricing.state == Repricing.State.APPLIED
    assert (run("t1").credits, run("t2").credits) == (D(6_000_000), None)
    assert run("t2").set_aside
    assert verify_books() == []
    service.undo(repricing)
    service.advance(repricing)
    assert (run("t2").credits, run("t2").set_aside) == (charged, "")
    assert verify_books() == []


def test_a_scenario_that_is_absurd_for_one_run_is_shown_for_all_others(
    synced: Callable[..., None], people: People
) -> None:
    synced(owned(people), call("c1", 0.06), *run_of_globex(people))
    dear = rated("Dear", **DEAREST)
    found = what_if(*PERIOD, [Scenario("dear", timezone.now(), tier_id=dear.pk)])
    by_tenant = {one.tenant_id: one.scenarios[0].credits for one in found}
    assert by_tenant == {people.acme.pk: D(6_000_000), people.globex.pk: D(0)}


def test_an_operator_finds_what_was_set_aside(
    synced: Callable[..., None], people: People, absurd_tier: PricingTier
) -> None:
    synced(owned(people), call("c1", 0.06), *run_of_globex(people))
    client = Client()
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_unpricedusage")).content.decode()
    assert "1 run set aside" in page
    found = client.get(reverse("admin:usage_trace_changelist"), {"set_aside": "yes"})
    assert [one.langfuse_trace_id for one in found.context["cl"].result_list] == ["t2"]
    assert TierRate.objects.filter(IN_LIST, tier=absurd_tier).exists()


def test_more_costs_than_a_call_can_have_are_set_aside(
    synced: Callable[..., None], people: People
) -> None:
    costs = {f"unit{number}": 10_000.0 for number in range(1_000)}
    synced(owned(people), call("c1", 0.06), call("c3", None, traceId="t3", costDetails=costs))
    assert run("t1").credits == D("11.4")
    assert not Trace.objects.filter(langfuse_trace_id="t3").exists()
