"""How large amounts can be: refused where they are entered, and never in the way of others."""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError
from django.db import IntegrityError, transaction
from hypothesis import given
from hypothesis import strategies as st

from pricing import lists
from pricing.bounds import LARGEST_TRACE_CREDITS, LARGEST_TRACE_USD
from pricing.engine import ObservationUsage, PricedTrace, PricingEngine, TraceUsage, charge_for
from pricing.models import IN_LIST, ModelPrice, PricingTier, TierRate
from pricing.price_book import PriceBook
from pricing.price_csv import PriceListError, import_prices
from pricing.prices import Assignment
from tests.conftest import LONG_AGO, NOON, People
from tests.pricing.test_engine import NOW, TENANT, price, rate

D = Decimal
STORABLE = st.integers(1, 10**18 - 1)


@pytest.mark.django_db
class TestEntering:
    @pytest.mark.parametrize(
        ("name", "amount", "limit"),
        [
            ("credits_per_usd", "1000000.000001", "1,000,000"),
            ("pricing_multiplier", "999999999999", "100"),
            ("minimum_credits_per_trace", "10000001", "10,000,000"),
            ("maximum_credits_per_trace", "10000001", "10,000,000"),
            ("grace_credits", "1000000001", "1,000,000,000"),
        ],
    )
    def test_a_rate_is_refused_with_its_value_and_the_limit(
        self, tiers: dict[str, PricingTier], name: str, amount: str, limit: str
    ) -> None:
        terms = {"credits_per_usd": D(1), "pricing_multiplier": D(1), name: D(amount)}
        wrong = TierRate(tier=tiers["Starter"], valid_from=NOON, **terms)
        with pytest.raises(ValidationError, match=f"{amount} is too large: at most {limit} is"):
            lists.enter_rate(wrong, None)
        # Nor past the form, into the table.
        with pytest.raises(IntegrityError), transaction.atomic():
            wrong.save()

    def test_the_largest_that_is_possible_is_taken(self, tiers: dict[str, PricingTier]) -> None:
        largest = TierRate(
            tier=tiers["Starter"],
            valid_from=NOON,
            credits_per_usd=D(1_000_000),
            pricing_multiplier=D(100),
            maximum_credits_per_trace=D(10_000_000),
            grace_credits=D(1_000_000_000),
        )
        assert lists.enter_rate(largest, None).pk

    @pytest.mark.parametrize("amount", ["500001", "1_0", "NaN", "12x"])
    def test_a_csv_with_an_impossible_price_is_refused_by_name(self, amount: str) -> None:
        with pytest.raises(PriceListError, match=amount):
            import_prices(f"model,valid_from,input\nm,2026-01-01,{amount}\n", None)
        assert not ModelPrice.objects.exists()

    @pytest.mark.parametrize(
        "change",
        [
            {"credits_per_usd": "1e30"},
            {"credits_per_usd": "1_000"},
            {"pricing_multiplier": 999999999999},
            {"default_credits": "1000000001"},
            {"default_credits_per_month": "1000000001"},
            {"minimum_credits_per_trace": "10000001"},
            {"grace_credits": "0.0000001"},
        ],
    )
    def test_a_directory_with_an_impossible_tier_is_refused_by_name(
        self, change: dict[str, object], tmp_path: Path, command: Callable[..., str]
    ) -> None:
        tier = {"name": "Pro", "credits_per_usd": "1", "pricing_multiplier": "1", **change}
        file = tmp_path / "directory.json"
        file.write_text(json.dumps({"tiers": [tier]}))
        (name,) = change
        with pytest.raises(CommandError, match=f"“Pro”: {name} is"):
            command("load_directory", str(file))
        assert not PricingTier.objects.filter(name="Pro").exists()


@pytest.mark.django_db
class TestATenantsOwnPrice:
    """Two dated prices of one tenant and model."""

    def test_the_next_one_ends_the_one_before(self, people: People) -> None:
        for months in (0, 1):
            price = ModelPrice(
                model="m",
                tenant=people.acme,
                valid_from=LONG_AGO + timedelta(days=30 * months),
                input=D(1 + months),
            )
            lists.check_price(price)
            lists.enter_price(price, None)
        first, second = ModelPrice.objects.filter(IN_LIST).order_by("valid_from")
        assert (first.valid_until, first.tenant) == (second.valid_from, people.acme)

    def test_a_csv_has_both(self, people: People) -> None:
        text = "tenant,model,valid_from,input\nacme,m,2026-01-01,1\nacme,m,2026-02-01,2\n"
        assert import_prices(text, None).entered == 2
        assert import_prices(text, None).unchanged in (1, 2)


@given(
    cost=st.integers(0, 10**17),
    per_usd=STORABLE,
    multiplier=STORABLE,
    maximum=st.none() | st.integers(1, 10**18 - 1),
)
def test_no_charge_is_more_than_can_be_stored_whatever_the_rate(
    cost: int, per_usd: int, multiplier: int, maximum: int | None
) -> None:
    terms = [str(D(one).scaleb(-6)) for one in (per_usd, multiplier)]
    limit = None if maximum is None else str(D(maximum).scaleb(-6))
    charge = charge_for(cost, rate(*terms, maximum=limit))
    if charge.credits is None or charge.billed_cost_usd is None:
        assert "no run is charged more than" in charge.set_aside
        return
    assert charge.credits <= LARGEST_TRACE_CREDITS
    assert charge.billed_cost_usd <= LARGEST_TRACE_USD


def test_a_cost_beyond_all_runs_is_unknown_and_says_why() -> None:
    book = PriceBook(
        platform_prices=[price(per_million="499999")],
        rates={1: [rate()]},
        platform_tiers=[Assignment(LONG_AGO, 1)],
    )

    def priced(count: int) -> PricedTrace:
        usage = ObservationUsage("m", {"input": count}, None, NOW)
        return PricingEngine(book).price(TraceUsage(TENANT, TENANT, NOW, NOW, [usage]))

    dear, fine = priced(10**9), priced(10)
    assert (dear.cost_picousd, dear.charge.credits, dear.costs[0].source) == (
        None,
        None,
        "unpriced",
    )
    assert "Its cost would be 499,999,000.00 USD" in dear.set_aside
    assert "look at the price of “m”" in dear.set_aside
    assert (fine.set_aside, fine.cost_picousd) == ("", 4_999_990_000_000)
