"""What a period's real usage would have come to on other terms; nothing is written."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from pricing import lists
from pricing.models import ModelPrice, PricingTier, TierAssignment, TierRate
from pricing.scenario import Scenario
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.sync.test_sync import state
from usage.repricing.what_if import UnknownModel, total_of, what_if

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("usage")]
D = Decimal
PERIOD = (NOON - timedelta(days=1), NOON + timedelta(days=1))


@pytest.fixture
def usage(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    use(people.acme_colleague, "0.04", model="gpt-5")
    use(people.globex_user, "1")
    use(None, "0.25")
    use(people.globex_user, "1", NOON + timedelta(days=2))


def scenario(**fields: Any) -> Scenario:
    return Scenario("other", timezone.now(), **fields)


def test_another_tier_for_everybody(people: People, tiers: dict[str, PricingTier]) -> None:
    before = state()
    found = what_if(
        *PERIOD, [scenario(tier_id=tiers["Starter"].pk), scenario(tier_id=tiers["Enterprise"].pk)]
    )
    assert [(one.tenant_id, one.traces) for one in found] == [
        (people.globex.pk, 1),
        (people.acme.pk, 2),
        (None, 1),
    ]
    assert [
        [one.actual.credits, *(totals.credits for totals in one.scenarios)] for one in found
    ] == [
        [D(190), D(100), D(450)],
        [D(19), D(10), D(45)],
        [D(0), D(0), D(0)],
    ]
    assert total_of(found).scenarios[1].billed_cost_usd == D("0.99")
    assert state() == before


def test_another_models_prices(people: People) -> None:
    """15 tokens of gpt-4o, priced by the list as another model."""
    lists.enter_price(
        ModelPrice(model="own", valid_from=timezone.now(), input=D(1000), output=D(2000)), None
    )
    globex, acme, nobody = what_if(*PERIOD, [scenario(models={"gpt-4o": "own"})])
    (own,) = acme.scenarios
    assert (own.cost_usd, own.credits, own.unpriced) == (D("0.06"), D("11.4"), 0)
    assert globex.scenarios[0].cost_usd == D("0.02")
    assert nobody.scenarios[0].cost_usd == D("0.02")


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"gpt-4oo": "gpt-5"}, "No call in this period was of a model “gpt-4oo”. Is it “gpt-4o”"),
        ({"GPT-5": "gpt-4o"}, "No call in this period was of a model “GPT-5”. Is it “gpt-5”"),
        ({"gpt-4o": "gtp-5-mini"}, "no price for a model “gtp-5-mini” today. Is it “gpt-5-mini”"),
        ({"gpt-4o": "qqqqqqqqq"}, "There is no price for a model “qqqqqqqqq” today."),
        ({"gpt-4o": "acme-0wn"}, "Is it “acme-own”"),
    ],
)
def test_a_mistyped_model_is_refused_with_the_nearest_names(
    people: People, models: dict[str, str], message: str
) -> None:
    own = ModelPrice(model="acme-own", tenant=people.acme, valid_from=LONG_AGO, input=D(1))
    lists.enter_price(own, None)
    with pytest.raises(UnknownModel, match=re.escape(message)):
        what_if(*PERIOD, [scenario(models=models)])
    assert what_if(*PERIOD, [scenario(models={"gpt-4o": "acme-own"})], people.acme.pk)


def test_a_tier_whose_rate_began_later_is_taken_to_have_had_it_before() -> None:
    tier = PricingTier.objects.create(name="New")
    TierRate.objects.create(
        tier=tier,
        valid_from=NOON + timedelta(days=9),
        credits_per_usd=D(10),
        pricing_multiplier=D(1),
    )
    assert total_of(what_if(*PERIOD, [scenario(tier_id=tier.pk)])).scenarios[0].credits == D(11)


def test_as_it_was_a_scenario_without_a_difference_comes_to_the_same(
    people: People, tiers: dict[str, PricingTier]
) -> None:
    lists.assign_tier(
        TierAssignment(tier=tiers["Starter"], user=people.acme_user, valid_from=LONG_AGO), None
    )
    for one in what_if(*PERIOD, [scenario()]):
        assert one.scenarios == [one.actual]


def test_one_tenant_alone(people: People, tiers: dict[str, PricingTier]) -> None:
    found = what_if(*PERIOD, [scenario(tier_id=tiers["Starter"].pk)], people.acme.pk)
    assert [one.tenant_id for one in found] == [people.acme.pk]


def test_a_hundred_runs_take_as_many_queries_as_four(
    use: Callable[..., None], people: People, django_assert_num_queries: Any
) -> None:
    for _ in range(96):
        use(people.acme_user, "0.01")
    with django_assert_num_queries(5 + 1 + 3):
        assert sum(one.traces for one in what_if(*PERIOD, [scenario()])) == 100


def test_an_empty_period_has_no_rows() -> None:
    assert (
        what_if(
            datetime(2020, 1, 1, tzinfo=NOON.tzinfo),
            datetime(2020, 1, 2, tzinfo=NOON.tzinfo),
            [scenario()],
        )
        == []
    )
