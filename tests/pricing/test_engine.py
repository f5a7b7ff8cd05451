"""The pricing engine: the worked examples of domain.md, the order of sources, and what must hold
for any input.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kluisz_analytics.scales import EXACT, to_scaled
from pricing.conditions import Conditions
from pricing.engine import (
    Charge,
    Cost,
    CostSource,
    ObservationUsage,
    PricingEngine,
    TraceUsage,
    charge_for,
    split,
)
from pricing.model_names import ModelName
from pricing.price_book import PriceBook, Repriced
from pricing.prices import EVER, LATEST, NEVER, Assignment, Precedence, Price, RateCard, TierRate
from pricing.units import COUNTED_AS, PLAIN_KIND, UnitKind, units_of

THEN = datetime(2026, 1, 1, tzinfo=UTC)
NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TENANT = UUID(int=7)
D = Decimal


def rate(
    per_usd: str = "200",
    multiplier: str = "0.95",
    minimum: str | None = None,
    maximum: str | None = None,
) -> TierRate:
    return TierRate(
        1,
        THEN,
        D(per_usd),
        D(multiplier),
        D(minimum) if minimum else None,
        D(maximum) if maximum else None,
    )


def price(model: str = "m", per_million: str = "2", key: int = 1, **fields: object) -> Price:
    card = RateCard.of({UnitKind.INPUT: D(per_million), UnitKind.OUTPUT: D(per_million)})
    return Price(key, model, card, **{"valid_from": THEN, **fields})  # type: ignore[arg-type]


def cost_of(
    book: PriceBook,
    usage: Mapping[str, int],
    *,
    langfuse: str | None = None,
    at: datetime = NOW,
    known: datetime = LATEST,
) -> Cost:
    langfuse_picousd = None if langfuse is None else to_scaled(D(langfuse), 12)
    return PricingEngine(book).cost_of(
        TENANT, ObservationUsage("m", usage, langfuse_picousd, at), known
    )


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
def test_a_charge_is_cost_times_multiplier_times_credits_a_dollar(
    cost: str, tier_rate: TierRate, billed: str, credits: str
) -> None:
    charge = charge_for(to_scaled(D(cost), 12), tier_rate)
    assert (charge.billed_cost_usd, charge.credits, charge.rate) == (
        D(billed),
        D(credits),
        tier_rate,
    )


def test_a_hundred_traces_of_six_cents_are_1140_credits() -> None:
    assert (
        sum(
            (charge_for(to_scaled(D("0.06"), 12), rate()).credits or D(0) for _ in range(100)), D(0)
        )
        == 1140
    )


def test_an_unknown_cost_or_tier_is_no_charge_not_a_charge_of_zero() -> None:
    assert charge_for(None, rate()) == Charge(None, None, rate())
    assert charge_for(60_000_000_000, None) == Charge(None, None, None)


class Shipped:
    """A shipped book that has one price for everything."""

    def __init__(
        self,
        per_million: str,
        recorded_at: datetime = EVER,
        withdrawn_at: datetime = NEVER,
        key: int = 99,
    ) -> None:
        self.id, self.recorded_at, self.withdrawn_at = key, recorded_at, withdrawn_at
        self.card = RateCard.of({UnitKind.INPUT: D(per_million), UnitKind.OUTPUT: D(per_million)})

    def card_at(self, name: ModelName, moment: datetime, terms: Mapping[str, str]) -> RateCard:
        return self.card

    def cards(
        self, name: ModelName, terms: Mapping[str, str]
    ) -> list[tuple[datetime, datetime, RateCard]]:
        return [(EVER, NEVER, self.card)]


FALLBACK = price(per_million="4", precedence=Precedence.FALLBACK, key=13)
ALL_SOURCES = PriceBook(
    tenant_prices={TENANT: [price(per_million="1", key=11)]},
    platform_prices=[price(per_million="2", key=12), FALLBACK],
    shipped_books=[Shipped("8")],
)


@pytest.mark.parametrize(
    ("book", "langfuse", "source", "price_id", "cost"),
    [
        (ALL_SOURCES, "0.07", CostSource.TENANT_PRICE, 11, "0.0015"),
        (replace(ALL_SOURCES, tenant_prices={}), "0.07", CostSource.PLATFORM_PRICE, 12, "0.003"),
        (
            replace(ALL_SOURCES, tenant_prices={}, platform_prices=[FALLBACK]),
            "0.07",
            CostSource.LANGFUSE,
            None,
            "0.07",
        ),
        (
            replace(ALL_SOURCES, tenant_prices={}, platform_prices=[FALLBACK]),
            None,
            CostSource.FALLBACK_PRICE,
            13,
            "0.006",
        ),
        (
            replace(ALL_SOURCES, tenant_prices={}, platform_prices=[]),
            None,
            CostSource.PRICE_BOOK,
            99,
            "0.012",
        ),
        (PriceBook(), None, CostSource.UNPRICED, None, None),
    ],
)
def test_the_first_source_that_applies_is_it(
    book: PriceBook,
    langfuse: str | None,
    source: CostSource,
    price_id: int | None,
    cost: str | None,
) -> None:
    found = cost_of(book, {"input": 1000, "output": 500, "total": 1500}, langfuse=langfuse)
    assert (found.source, found.price_id, found.cost_usd) == (
        source,
        price_id,
        None if cost is None else D(cost),
    )


def test_without_usage_there_is_nothing_to_price() -> None:
    for book in (PriceBook(), ALL_SOURCES):
        for usage in ({}, {"input": 0, "total": 0}):
            assert cost_of(book, usage).source is CostSource.NO_USAGE


def test_a_free_model_costs_zero_and_an_unknown_one_nothing_known() -> None:
    assert cost_of(PriceBook(), {"input": 10, "total": 10}, langfuse="0").cost_usd == 0
    assert cost_of(PriceBook(), {"input": 10, "total": 10}).cost_usd is None
    assert (
        cost_of(
            PriceBook(platform_prices=[price(per_million="0")]), {"input": 10, "total": 10}
        ).cost_usd
        == 0
    )


def test_a_kind_that_a_price_does_not_know_is_not_given_away() -> None:
    only_input = PriceBook(platform_prices=[Price(1, "m", RateCard.of({UnitKind.INPUT: D(2)}))])
    assert cost_of(only_input, {"input": 10, "output": 0, "total": 10}).cost_usd == D("0.00002")
    assert (
        cost_of(only_input, {"input": 10, "output": 1, "total": 11}).source is CostSource.UNPRICED
    )


def test_a_request_and_images_have_prices_of_their_own() -> None:
    book = PriceBook(
        platform_prices=[
            Price(1, "m", RateCard.of({UnitKind.IMAGES: D(40_000), UnitKind.REQUEST: D(1000)}))
        ]
    )
    assert cost_of(book, {"images": 2}).cost_usd == D("0.081")
    assert cost_of(book, {"images": 2, "requests": 3}).cost_usd == D("0.083")
    assert cost_of(book, {"images": 2, "requests": 0}).cost_usd == D("0.081"), (
        "what was called was a request"
    )
    without = PriceBook(platform_prices=[Price(1, "m", RateCard.of({UnitKind.IMAGES: D(40_000)}))])
    assert cost_of(without, {"images": 2, "requests": 3}).cost_usd == D("0.08"), (
        "a request is free unless it has a price"
    )


@pytest.mark.parametrize("zone_hours", [0, 14])
def test_at_a_date_border_each_usage_has_the_price_and_the_rate_of_its_own_time(
    zone_hours: int,
) -> None:
    border = datetime(2026, 11, 1, tzinfo=UTC) - timedelta(hours=zone_hours)
    book = PriceBook(
        platform_prices=[
            price(per_million="9", valid_from=border, key=2),
            price(per_million="2", valid_until=border, key=1),
        ],
        rates={1: [TierRate(2, border, D(300), D(1)), TierRate(1, THEN, D(200), D(1))]},
        platform_tiers=[Assignment(THEN, 1)],
    )
    for moment, expected in ((border - timedelta(microseconds=1), 1), (border, 2)):
        assert cost_of(book, {"input": 1}, at=moment).price_id == expected
        tier_rate = book.rate_for(None, None, moment)
        assert tier_rate is not None
        assert tier_rate.id == expected


def test_an_exact_name_goes_before_a_pattern_and_a_pattern_has_to_match_the_whole_name() -> None:
    pattern = price("m.*", per_million="9", key=2, is_pattern=True, valid_from=NOW - HOUR)
    assert cost_of(PriceBook(platform_prices=[pattern, price(key=1)]), {"input": 1}).price_id == 1
    assert cost_of(PriceBook(platform_prices=[pattern]), {"input": 1}).price_id == 2
    assert not price("gpt-4", is_pattern=True).fits("gpt-4o")
    assert price("gpt-4.*", is_pattern=True).fits("gpt-4o")
    assert cost_of(PriceBook(platform_prices=[price("m.*")]), {"input": 1}).price_id is None


class TestLateEntries:
    """What is entered late for a past date changes nothing until it is repriced."""

    late = PriceBook(
        platform_prices=[
            price(per_million="2", key=1, withdrawn_at=NOW + HOUR),
            price(per_million="9", key=2, recorded_at=NOW + HOUR),
        ]
    )

    def test_usage_that_was_priced_before_keeps_its_price(self) -> None:
        assert cost_of(self.late, {"input": 1}, known=NOW).price_id == 1
        assert cost_of(self.late, {"input": 1}, known=NOW + HOUR).price_id == 2

    def test_usage_that_comes_later_has_the_price_that_was_known_at_its_own_time(self) -> None:
        assert cost_of(self.late, {"input": 1}, at=NOW + 2 * HOUR, known=NOW).price_id == 2

    def test_usage_that_nothing_could_price_takes_the_first_price_after_and_keeps_it(self) -> None:
        first = price(per_million="5", key=3, recorded_at=NOW + HOUR, withdrawn_at=NOW + 2 * HOUR)
        second = price(per_million="6", key=4, recorded_at=NOW + 2 * HOUR)
        assert (
            cost_of(PriceBook(platform_prices=[first, second]), {"input": 1}, known=NOW).price_id
            == 3
        )

    def test_a_new_state_of_the_shipped_book_is_for_what_comes_after(self) -> None:
        book = PriceBook(
            shipped_books=[
                Shipped("1", withdrawn_at=NOW, key=1),
                Shipped("2", recorded_at=NOW, key=2),
            ]
        )
        assert [
            cost_of(book, {"input": 1}, at=THEN, known=known).price_id
            for known in (NOW - HOUR, NOW)
        ] == [1, 2]

    @pytest.mark.parametrize(
        ("repriced", "expected"),
        [
            (Repriced(NOW, NOW + HOUR, NOW + 2 * HOUR), 2),
            (Repriced(NOW - HOUR, NOW, NOW + 2 * HOUR), 1),
            (Repriced(NOW, NOW + HOUR, NOW + 2 * HOUR, TENANT), 2),
            (Repriced(NOW, NOW + HOUR, NOW + 2 * HOUR, uuid4()), 1),
            (Repriced(NOW, NOW + HOUR, NOW), 1),
        ],
    )
    def test_a_repriced_period_has_the_prices_as_of_then(
        self, repriced: Repriced, expected: int
    ) -> None:
        engine = PricingEngine(replace(self.late, repriced=[repriced]))
        trace = TraceUsage(TENANT, None, NOW, NOW, [ObservationUsage("m", {"input": 1}, None, NOW)])
        assert engine.price(trace).costs[0].price_id == expected


def test_the_tier_is_the_users_else_the_tenants_else_the_platforms() -> None:
    user = uuid4()
    book = PriceBook(
        rates={number: [TierRate(number, THEN, D(number), D(1))] for number in (1, 2, 3)},
        user_tiers={user: [Assignment(NOW, 1)]},
        tenant_tiers={TENANT: [Assignment(THEN, 2)]},
        platform_tiers=[Assignment(THEN, 3)],
    )
    found = [
        book.rate_for(who, where, when)
        for who, where, when in ((user, TENANT, NOW), (user, TENANT, THEN), (uuid4(), None, NOW))
    ]
    assert [one.id if one else None for one in found] == [1, 2, 3]
    assert PriceBook().rate_for(user, TENANT, NOW) is None


def test_a_kind_without_a_price_of_its_own_costs_as_its_plain_kind() -> None:
    card = RateCard.of(
        {
            UnitKind.INPUT: D(10),
            UnitKind.CACHED_INPUT: D(1),
            UnitKind.CACHE_WRITE: D(12),
            UnitKind.OUTPUT: D(20),
        }
    )
    million = 10**6
    kinds = [
        UnitKind.INPUT,
        UnitKind.CACHED_INPUT,
        UnitKind.CACHE_WRITE_1H,
        UnitKind.INPUT_AUDIO,
        UnitKind.REASONING,
    ]
    assert card.picousd(dict.fromkeys(kinds, million)) == to_scaled(D(10 + 1 + 12 + 10 + 20), 12)


def test_the_lines_of_a_cost_come_to_it() -> None:
    card = RateCard.of({UnitKind.INPUT: D("2.5"), UnitKind.OUTPUT: D(10), UnitKind.REQUEST: D(5)})
    items = card.line_items({UnitKind.INPUT: 1000, UnitKind.REASONING: 7})
    assert [
        (item.kind.value, item.units, item.usd_per_million, item.amount_usd) for item in items
    ] == [
        ("input", 1000, D("2.5"), D("0.0025")),
        ("reasoning", 7, D(10), D("0.00007")),
        ("request", 1, D(5), D("0.000005")),
    ]


def test_a_float_never_becomes_money() -> None:
    for usage in (
        {"input": 1.5, "total": 1.5},
        {"input": 1, "input_cached_tokens": 0.5, "total": 1},
    ):
        with pytest.raises(TypeError, match="not an integer"):
            cost_of(ALL_SOURCES, usage)  # type: ignore[arg-type]


costs = st.integers(0, 10**16)


@given(st.lists(costs, min_size=1, max_size=12), st.integers(0, 10**11))
def test_parts_sum_to_the_whole_whatever_the_weights(weights: list[int], amount: int) -> None:
    parts = split(amount, weights)
    assert sum(parts) == amount
    assert all(part >= 0 for part in parts)


@given(
    costs,
    st.decimals(min_value="0.000001", max_value=5, places=6),
    st.decimals(min_value="0.000001", max_value=1000, places=6),
)
def test_credits_are_rounded_once_half_up(cost: int, multiplier: Decimal, per_usd: Decimal) -> None:
    charge = charge_for(cost, TierRate(1, THEN, per_usd, multiplier))
    exact = EXACT.multiply(EXACT.multiply(D(cost).scaleb(-12), multiplier), per_usd)
    assert charge.credits == exact.quantize(D("0.000001"), ROUND_HALF_UP, EXACT)
    assert isinstance(charge.microcredits, int)
    assert isinstance(charge.billed_picousd, int)


KEYS = [
    "input",
    "output",
    "input_cached_tokens",
    "cache_creation_input_tokens",
    "output_reasoning_tokens",
    "images",
    "requests",
    "web_search_requests",
    "seconds",
    "input_flex",
    "own",
    "total",
]
CONTEXTS = ["", "processing=batch", "service_tier=flex", "processing=batch service_tier=flex"]
CONDITIONS = [
    *("", "", "processing=batch", "service_tier=flex", "service_tier=flex input>1000000"),
    *("time=12:30-14:30", "time=15:00-13:00 processing=batch", "region=eu", "input>50000"),
]
"""NOW is noon."""
moments = st.sampled_from([NOW + step * HOUR for step in range(6)])
amounts = st.decimals(min_value=0, max_value=100, places=6)
cards = st.dictionaries(st.sampled_from(list(UnitKind)), amounts, min_size=1).map(RateCard.of)
usages = st.builds(
    ObservationUsage,
    st.sampled_from(["m", "m-large", "other", ""]),
    st.dictionaries(st.sampled_from(KEYS), st.integers(0, 10**7), max_size=6),
    st.none() | costs,
    moments,
    context=st.sampled_from(CONTEXTS),
)
owners = st.sampled_from([None, TENANT, UUID(int=8)])
traces = st.builds(
    TraceUsage,
    owners,
    st.sampled_from([None, UUID(int=1), UUID(int=2)]),
    moments,
    moments,
    st.lists(usages, max_size=5),
)


def conditional(conditions: str, other_units: str, card: RateCard, **fields: Any) -> Price:
    found = Conditions.parsed(conditions)
    card = replace(card, above_input_tokens=found.above_input_tokens, other_units=other_units)
    return Price(conditions=found, card=card, **fields)


@st.composite
def books(draw: st.DrawFn) -> PriceBook:
    def prices(first_id: int) -> list[Price]:
        built = st.builds(
            conditional,
            conditions=st.sampled_from(CONDITIONS),
            other_units=st.sampled_from(["", "own", "o*"]),
            id=st.just(0),
            model=st.sampled_from(["m", "m.*", "other"]),
            card=cards,
            valid_from=moments,
            valid_until=moments | st.just(NEVER),
            precedence=st.sampled_from(Precedence),
            is_pattern=st.booleans(),
            recorded_at=moments | st.just(EVER),
            withdrawn_at=moments | st.just(NEVER),
        )
        return [
            replace(one, id=first_id + at)
            for at, one in enumerate(draw(st.lists(built, max_size=4)))
        ]

    rates = st.builds(
        TierRate,
        st.integers(1, 9),
        moments,
        st.decimals(min_value="0.01", max_value=1000, places=6),
        st.decimals(min_value="0.01", max_value=2, places=6),
        st.none() | st.decimals(min_value=0, max_value=5, places=6),
        st.none() | st.decimals(min_value=5, max_value=50, places=6),
        st.just(EVER) | moments,
    )
    newest_first = draw(
        st.lists(rates, max_size=3).map(
            lambda found: sorted(found, key=lambda one: one.valid_from, reverse=True)
        )
    )
    return PriceBook(
        tenant_prices={TENANT: prices(100)},
        platform_prices=prices(200),
        shipped_books=draw(
            st.sampled_from(
                [
                    [],
                    [Shipped("3")],
                    [Shipped("3", withdrawn_at=NOW), Shipped("4", recorded_at=NOW, key=98)],
                ]
            )
        ),
        rates={1: newest_first},
        user_tiers={UUID(int=1): [Assignment(draw(moments), 1)]},
        platform_tiers=draw(st.sampled_from([[], [Assignment(EVER, 1)]])),
        repriced=draw(st.sampled_from([[], [Repriced(NOW, NOW + 3 * HOUR, NOW + 2 * HOUR)]])),
    )


@given(books(), st.lists(traces, max_size=8))
def test_the_batch_form_equals_the_single_form(book: PriceBook, many: list[TraceUsage]) -> None:
    assert list(PricingEngine(book).price_all(many)) == [
        PricingEngine(book).price(trace) for trace in many
    ]


@given(books(), traces, st.randoms())
def test_pricing_is_additive_and_independent_of_order(
    book: PriceBook, trace: TraceUsage, random: object
) -> None:
    engine = PricingEngine(book)
    whole = engine.price(trace)
    alone = [
        engine.price(msgspec.structs.replace(trace, observations=[one])).costs[0]
        for one in trace.observations
    ]
    assert whole.costs == alone
    known = [
        cost.picousd
        for cost in alone
        if cost.picousd is not None and cost.source is not CostSource.NO_USAGE
    ]
    is_unknown = not known and any(cost.source is CostSource.UNPRICED for cost in alone)
    assert whole.cost_picousd == (None if is_unknown else sum(known))
    shuffled = list(trace.observations)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = engine.price(msgspec.structs.replace(trace, observations=shuffled))
    assert (other.cost_picousd, other.charge) == (whole.cost_picousd, whole.charge)
    if whole.charge.microcredits is not None:
        assert sum(credits for _, _, credits in whole.parts()) == whole.charge.microcredits
        assert sum(billed for _, billed, _ in whole.parts()) == whole.charge.billed_picousd


@given(books(), traces)
def test_no_input_makes_a_float_out_of_money(book: PriceBook, trace: TraceUsage) -> None:
    priced = PricingEngine(book).price(trace)
    for cost in priced.costs:
        assert cost.picousd is None or type(cost.picousd) is int
        assert cost.cost_usd is None or type(cost.cost_usd) is Decimal
    for amount in (priced.charge.billed_cost_usd, priced.charge.credits):
        assert amount is None or type(amount) is Decimal


@given(cards, usages)
def test_a_cost_is_units_times_prices_rounded_once(card: RateCard, usage: ObservationUsage) -> None:
    """Against the same written down plainly, in Decimal."""
    usage = msgspec.structs.replace(usage, model="m", langfuse_picousd=None)
    cost = PricingEngine(PriceBook(platform_prices=[Price(1, "m", card)])).cost_of(None, usage)
    units = units_of(usage.usage_details)

    def unit_price(kind: UnitKind) -> int | None:
        if kind in card.usd_per_million:
            return card.usd_per_million[kind]
        if kind in (UnitKind.REQUEST, UnitKind.OTHER):
            return 0
        if kind is UnitKind.WEB_SEARCH:
            return 0 if UnitKind.REQUEST in card.usd_per_million else None
        if kind is UnitKind.SECONDS:
            return 0 if COUNTED_AS.keys() & units.keys() else None
        return unit_price(PLAIN_KIND[kind]) if kind in PLAIN_KIND else None

    if not units or any(unit_price(kind) is None for kind in units):
        assert cost.picousd is None or cost.source is CostSource.NO_USAGE
        return
    per_request = 0 if UnitKind.REQUEST in units else card.usd_per_million.get(UnitKind.REQUEST, 0)
    total = D(sum(count * (unit_price(kind) or 0) for kind, count in units.items()) + per_request)
    assert cost.cost_usd == EXACT.scaleb(total, -18).quantize(
        D("0.000000000001"), ROUND_HALF_UP, EXACT
    )


@given(usages)
def test_units_are_never_more_than_what_was_counted(usage: ObservationUsage) -> None:
    units = units_of(usage.usage_details)
    assert all(count > 0 for count in units.values())
    assert sum(units.values()) <= sum(usage.usage_details.values())
