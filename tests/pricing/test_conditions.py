"""How a call was asked, and of which calls a price is (docs/pricing.md, Conditions)."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from pricing.conditions import Conditions, context_of, terms_of
from pricing.engine import ObservationUsage, PricingEngine
from pricing.price_book import PriceBook
from pricing.price_texts import per_million
from pricing.prices import Price, RateCard
from pricing.units import UnitKind

D = Decimal
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
PLAIN = Price(1, "m", RateCard.of({UnitKind.INPUT: D(10), UnitKind.OUTPUT: D(20)}))


@pytest.mark.parametrize(
    ("parameters", "context"),
    [
        ({"processing": "batch"}, "processing=batch"),
        ({"service_tier": "flex", "temperature": 0.2}, "service_tier=flex"),
        ({"serviceTier": "PRIORITY"}, "service_tier=priority"),
        # As Anthropic's answers say it.
        ({"service_tier": "batch"}, "processing=batch"),
        ({"speed": "fast", "service_tier": "flex"}, "service_tier=flex speed=fast"),
        ({"service_tier": "auto"}, ""),
        ({"service_tier": "default", "speed": "standard"}, ""),
        ({"service_tier": None, "processing": 7, "speed": "a b"}, ""),
        ({"service_tier": "x" * 50}, ""),
        ({}, ""),
        ("service_tier=flex", ""),
        (["flex"], ""),
    ],
)
def test_a_context_is_what_parameters_say_of_the_price(parameters: Any, context: str) -> None:
    assert context_of(parameters) == context


def test_the_names_of_units_say_the_tier_too() -> None:
    assert terms_of("", ("input", "input_flex", "input_flex_cache_read")) == {
        "service_tier": "flex"
    }
    assert terms_of("service_tier=priority", ("input_flex",)) == {"service_tier": "priority"}
    assert terms_of("", ("input", "inflexible")) == {}


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (" service_tier=flex,processing=batch ", "processing=batch service_tier=flex"),
        ("input>200000 Region=EU", "region=eu input>200000"),
        ("time=22:30-06:00", "time=22:30-06:00"),
    ],
)
def test_conditions_have_one_form(text: str, canonical: str) -> None:
    found = Conditions.parsed(text)
    assert str(found) == canonical
    assert Conditions.parsed(canonical) == found


@pytest.mark.parametrize(
    "text",
    [
        *("flex", "tier=flex", "service_tier=", "service_tier=default", "time=25:00-06:00"),
        *("time=6-8", "input>many", "input>-1", "input=5", "region>5", "input>9999999999"),
        *("region=eu region=us", "input>1 input>2"),
    ],
)
def test_what_is_no_condition_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no condition|stands in it twice"):
        Conditions.parsed(text)


def price_of(conditions: str, **usage: Any) -> str:
    """By which price a call is priced, the plain one or one with conditions."""
    found = Conditions.parsed(conditions)
    card = RateCard.of({UnitKind.INPUT: D(1)}, above_input_tokens=found.above_input_tokens)
    prices = [Price(1, "gpt-4o", PLAIN.card), Price(2, "gpt-4o", card, conditions=found)]
    asked = {"model": "gpt-4o", "usage_details": {"input": 1_000_000}, "started_at": NOON, **usage}
    engine = PricingEngine(PriceBook(platform_prices=prices))
    number = engine.cost_of(None, ObservationUsage(langfuse_picousd=None, **asked)).price_id
    return {1: "plain", 2: "conditional"}[number or 0]


@pytest.mark.parametrize(
    ("conditions", "usage", "by"),
    [
        ("service_tier=flex", {"context": "service_tier=flex"}, "conditional"),
        ("service_tier=flex", {"context": "service_tier=priority"}, "plain"),
        ("service_tier=flex", {}, "plain"),
        ("service_tier=flex", {"context": "processing=batch service_tier=flex"}, "conditional"),
        ("service_tier=flex processing=batch", {"context": "service_tier=flex"}, "plain"),
        ("service_tier=flex", {"usage_details": {"input": 1, "input_flex": 9}}, "conditional"),
        ("region=eu", {"model": "azure/eu/gpt-4o"}, "conditional"),
        ("region=us", {"model": "azure/eu/gpt-4o"}, "plain"),
        ("input>1000000", {}, "plain"),
        ("input>999999", {}, "conditional"),
        ("time=11:00-12:00", {}, "plain"),
        ("time=12:00-13:00", {}, "conditional"),
        ("time=22:00-12:01", {}, "conditional"),
        ("time=22:00-12:00", {}, "plain"),
        ("time=22:00-06:00", {"started_at": NOON + timedelta(hours=11)}, "conditional"),
    ],
)
def test_a_price_is_of_the_calls_that_its_conditions_say(
    conditions: str, usage: dict[str, Any], by: str
) -> None:
    assert price_of(conditions, **usage) == by


def test_of_several_that_hold_the_closest_is_taken() -> None:
    texts = ["input>10", "input>20", "service_tier=flex input>10", "service_tier=flex"]
    prices = []
    for number, text in enumerate(texts):
        found = Conditions.parsed(text)
        card = RateCard.of({UnitKind.INPUT: D(1)}, above_input_tokens=found.above_input_tokens)
        prices.append(Price(10 + number, "m", card, conditions=found))
    engine = PricingEngine(PriceBook(platform_prices=[PLAIN, *prices]))

    def by(count: int, context: str = "") -> int | None:
        usage = ObservationUsage("m", {"input": count}, None, NOON, context=context)
        return engine.cost_of(None, usage).price_id

    assert (by(5), by(15), by(25)) == (1, 10, 11)
    assert (by(5, "service_tier=flex"), by(25, "service_tier=flex")) == (13, 12)


@pytest.mark.parametrize(
    ("text", "usd"),
    [
        ("2.5", "2.5"),
        ("10/thousand", "10000"),
        ("10 / 1000", "10000"),
        ("1.50/one", "1500000"),
        ("1.5/1", "1500000"),
        ("3/million", "3"),
    ],
)
def test_a_price_is_written_for_a_million_or_for_so_many(text: str, usd: str) -> None:
    assert per_million(text) == D(usd)


@pytest.mark.parametrize("text", ["x", "1/", "/1", "1/dozen", "1_0", "1_0/one", "1/1/1", "nan"])
def test_what_is_no_price_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"1\.50/one"):
        per_million(text)


def test_a_request_can_cost_a_dollar_and_a_half() -> None:
    card = RateCard.of({UnitKind.REQUEST: per_million("1.50/one"), UnitKind.INPUT: D(0)})
    engine = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)]))
    cost = engine.cost_of(None, ObservationUsage("m", {"input": 7}, None, NOON))
    assert cost.cost_usd == D("1.5")


def test_units_that_nobody_knows_have_a_price_by_their_names() -> None:
    card = RateCard.of(
        {UnitKind.INPUT: D(1), UnitKind.OTHER: per_million("0.01/one")},
        other_units="tool_* sandboxes",
    )
    engine = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)]))

    def cost(**usage: int) -> Decimal | None:
        return engine.cost_of(None, ObservationUsage("m", usage, None, NOON)).cost_usd

    assert cost(input=1_000_000, tool_runs=3, sandboxes=1, others=9) == D("1.04")
    assert cost(tool_runs=3) == D("0.03")
    assert cost(input=1_000_000) == D(1)
    # What is known keeps its own price.
    assert cost(input=1_000_000, output=1) is None


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ({"input": 1_000_000, "web_search_requests": 2}, "1.02"),
        ({"input": 1_000_000, "server_tool_use_web_search_requests": 2}, "1.02"),
        # One count under two names.
        ({"input": 1_000_000, "web_searches": 2, "web_search_requests": 2}, "1.02"),
        ({"seconds": 10}, "0.001"),
        ({"characters": 1000}, "0.015"),
        ({"pages": 3}, "0.006"),
        ({"search_units": 4}, "0.008"),
        ({"file_search_calls": 4}, "0.01"),
        # Beside tokens what they measure is no more.
        ({"input": 1_000_000, "pages_processed": 3}, "1.006"),
    ],
)
def test_units_that_are_no_tokens_have_prices(usage: dict[str, int], usd: str) -> None:
    prices = {
        UnitKind.INPUT: "1",
        UnitKind.WEB_SEARCH: "10/thousand",
        UnitKind.STORAGE_SEARCH: "2.5/thousand",
        UnitKind.SECONDS: "0.0001/one",
        UnitKind.CHARACTERS: "15",
        UnitKind.PAGES: "2/thousand",
        UnitKind.SEARCH_UNITS: "2/thousand",
    }
    card = RateCard.of({kind: per_million(text) for kind, text in prices.items()})
    engine = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)]))
    assert engine.cost_of(None, ObservationUsage("m", usage, None, NOON)).cost_usd == D(usd)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"input": 1_000_000, "seconds": 9}, D(1)),
        ({"seconds": 9}, None),
        ({"input": 1_000_000, "web_search_requests": 1}, None),
    ],
)
def test_what_has_no_price_is_free_beside_tokens_only_where_tokens_measure_it(
    usage: dict[str, int], cost: Decimal | None
) -> None:
    card = RateCard.of({UnitKind.INPUT: D(1)})
    engine = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)]))
    assert engine.cost_of(None, ObservationUsage("m", usage, None, NOON)).cost_usd == cost


def test_a_requests_price_includes_its_searches_where_they_have_none() -> None:
    card = RateCard.of({UnitKind.INPUT: D(1), UnitKind.REQUEST: per_million("5/thousand")})
    engine = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)]))
    usage = {"input": 1_000_000, "num_search_queries": 3}
    found = engine.cost_of(None, ObservationUsage("m", usage, None, NOON))
    assert found.cost_usd == D("1.005")
