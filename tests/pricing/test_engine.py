"""The pricing engine: the worked examples of domain.md, the order of sources, and what must hold for any input."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.engine import (
    Assignment,
    Charge,
    CostSource,
    Precedence,
    Price,
    PriceBook,
    TierRate,
    charge_for,
    cost_of,
    split,
)
from pricing.shipped_book import shipped_price
from pricing.units import UnitKind

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
TENANT = uuid4()
D = Decimal


def rate(per_usd: str = "200", multiplier: str = "0.95", minimum: str | None = None, maximum: str | None = None) -> TierRate:
    return TierRate(1, THEN, D(per_usd), D(multiplier), D(minimum) if minimum else None, D(maximum) if maximum else None)


def price(
    pattern: str = "m", per_million: str = "2", since: datetime = THEN, precedence: Precedence = Precedence.REPLACES, key: int = 1
) -> Price:
    return Price(key, re.compile(pattern), since, None, {UnitKind.INPUT: D(per_million), UnitKind.OUTPUT: D(per_million)}, precedence)


@pytest.mark.parametrize(
    ("cost", "tier_rate", "billed", "credits"),
    [
        ("0.06", rate(), "0.057", "11.4"),
        ("0.0006", rate(), "0.00057", "0.114"),
        ("0.06", rate("100", "1.00"), "0.06", "6"),
        ("0.06", rate("500", "0.90"), "0.054", "27"),
        ("0", rate(), "0", "0"),
        ("0.0000000025", rate("200", "1"), "0.0000000025", "0.000001"),
        ("0.00000000249", rate("200", "1"), "0.00000000249", "0"),
        ("0.06", rate(minimum="20"), "0.057", "20"),
        ("0.06", rate(maximum="5"), "0.057", "5"),
        ("0", rate(minimum="1"), "0", "1"),
    ],
)
def test_a_charge_is_cost_times_multiplier_times_credits_a_dollar(cost: str, tier_rate: TierRate, billed: str, credits: str) -> None:
    assert charge_for(D(cost), tier_rate) == Charge(D(billed), D(credits), 1)


def test_a_hundred_traces_of_six_cents_are_1140_credits() -> None:
    assert sum((charge_for(D("0.06"), rate()).credits or D(0) for _ in range(100)), D(0)) == 1140


def test_an_unknown_cost_or_tier_is_no_charge_not_a_charge_of_zero() -> None:
    assert charge_for(None, rate()) == Charge(None, None, 1)
    assert charge_for(D("0.06"), None) == Charge(None, None, None)


ALL_SOURCES = PriceBook(
    tenant_prices={TENANT: [price(per_million="1", key=11)]},
    platform_prices=[price(per_million="2", key=12), price(per_million="4", precedence=Precedence.FALLBACK, key=13)],
    shipped_price=lambda model, units, moment: D("0.5"),
)


@pytest.mark.parametrize(
    ("without", "source", "cost"),
    [
        ([], CostSource.TENANT_PRICE, "0.0015"),
        (["tenant_prices"], CostSource.PLATFORM_PRICE, "0.003"),
        (["tenant_prices", "platform_prices"], CostSource.LANGFUSE, "0.07"),
        (["tenant_prices", "replacing", "langfuse"], CostSource.FALLBACK_PRICE, "0.006"),
        (["tenant_prices", "platform_prices", "langfuse"], CostSource.PRICE_BOOK, "0.5"),
        (["tenant_prices", "platform_prices", "langfuse", "shipped_price"], CostSource.UNPRICED, None),
    ],
)
def test_the_first_source_that_applies_is_it(without: list[str], source: CostSource, cost: str | None) -> None:
    book = PriceBook(
        tenant_prices={} if "tenant_prices" in without else ALL_SOURCES.tenant_prices,
        platform_prices=()
        if "platform_prices" in without
        else [one for one in ALL_SOURCES.platform_prices if "replacing" not in without or one.precedence is Precedence.FALLBACK],
        shipped_price=None if "shipped_price" in without else ALL_SOURCES.shipped_price,
    )
    found = cost_of(
        book,
        tenant_id=TENANT,
        model="m",
        usage_details={"input": 1000, "output": 500, "total": 1500},
        langfuse_cost_usd=None if "langfuse" in without else D("0.07"),
        started_at=NOW,
    )
    assert (found.source, found.cost_usd) == (source, None if cost is None else D(cost))


def test_without_usage_there_is_nothing_to_price() -> None:
    for usage in ({}, {"input": 0, "total": 0}):
        found = cost_of(PriceBook(), tenant_id=None, model="m", usage_details=usage, langfuse_cost_usd=None, started_at=NOW)
        assert found.source is CostSource.NO_USAGE


def test_a_free_model_costs_zero_and_an_unknown_one_nothing_known() -> None:
    usage = {"input": 10, "total": 10}
    assert cost_of(PriceBook(), tenant_id=None, model="m", usage_details=usage, langfuse_cost_usd=D(0), started_at=NOW).cost_usd == 0
    assert cost_of(PriceBook(), tenant_id=None, model="m", usage_details=usage, langfuse_cost_usd=None, started_at=NOW).cost_usd is None


def test_the_price_and_the_rate_are_those_of_the_usages_own_time() -> None:
    later = NOW + timedelta(hours=1)
    book = PriceBook(
        platform_prices=[price(per_million="9", since=later, key=2), price(per_million="2", key=1)],
        rates={1: [TierRate(2, later, D(300), D(1)), TierRate(1, THEN, D(200), D(1))]},
        platform_tiers=[Assignment(THEN, 1)],
    )
    for moment, expected_price, expected_rate in ((later - timedelta(microseconds=1), 1, 1), (later, 2, 2)):
        found = cost_of(book, tenant_id=None, model="m", usage_details={"input": 1}, langfuse_cost_usd=None, started_at=moment)
        assert found.price_id == expected_price
        tier_rate = book.rate_for(None, None, moment)
        assert tier_rate is not None
        assert tier_rate.id == expected_rate


def test_the_tier_is_the_users_else_the_tenants_else_the_platforms() -> None:
    user = uuid4()
    rates = {number: [TierRate(number, THEN, D(number), D(1))] for number in (1, 2, 3)}
    book = PriceBook(
        rates=rates,
        user_tiers={user: [Assignment(NOW, 1)]},
        tenant_tiers={TENANT: [Assignment(THEN, 2)]},
        platform_tiers=[Assignment(THEN, 3)],
    )
    found = [book.rate_for(who, where, when) for who, where, when in ((user, TENANT, NOW), (user, TENANT, THEN), (uuid4(), None, NOW))]
    assert [one.id if one else None for one in found] == [1, 2, 3]
    assert PriceBook().rate_for(user, TENANT, NOW) is None


def test_a_pattern_has_to_match_the_whole_name() -> None:
    assert not price("gpt-4").is_for("gpt-4o")
    assert price("gpt-4.*").is_for("gpt-4o")


def test_a_kind_without_a_price_of_its_own_costs_as_its_plain_kind() -> None:
    own = Price(1, re.compile("m"), THEN, None, {UnitKind.INPUT: D(10), UnitKind.CACHED_INPUT: D(1), UnitKind.OUTPUT: D(20)})
    assert own.cost({UnitKind.INPUT: 10**6, UnitKind.CACHED_INPUT: 10**6, UnitKind.CACHE_WRITE: 10**6, UnitKind.REASONING: 10**6}) == 41


def test_the_shipped_book_knows_common_models_and_no_invented_ones() -> None:
    assert shipped_price("gpt-4o", {UnitKind.INPUT: 1_000_000}, NOW) == D("2.5")
    assert shipped_price("acme-llm-7b-nobody-knows", {UnitKind.INPUT: 1}, NOW) is None


costs = st.decimals(min_value=0, max_value=10_000, places=12)


@given(st.lists(costs, min_size=1, max_size=12), st.decimals(min_value=0, max_value=100_000, places=6))
def test_parts_sum_to_the_whole_whatever_the_weights(weights: list[Decimal], amount: Decimal) -> None:
    parts = split(amount, weights, 6)
    assert sum(parts) == amount
    assert all(part >= 0 for part in parts)
    assert all(part == round(part, 6) for part in parts)


@given(costs, st.decimals(min_value="0.000001", max_value=5, places=6), st.decimals(min_value="0.000001", max_value=1000, places=6))
def test_money_is_decimal_and_rounded_once_half_up(cost: Decimal, multiplier: Decimal, per_usd: Decimal) -> None:
    charge = charge_for(cost, TierRate(1, THEN, per_usd, multiplier))
    assert isinstance(charge.credits, Decimal)
    assert isinstance(charge.billed_cost_usd, Decimal)
    assert abs(charge.credits - cost * multiplier * per_usd) <= D("0.0000005")
