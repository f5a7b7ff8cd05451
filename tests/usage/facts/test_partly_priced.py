"""A partial cost is not a cost: what Langfuse leaves out is priced by our own sources, or said to
have no price (docs/pricing.md, A cost).
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from pricing import lists
from pricing.engine import Cost, CostSource, ObservationUsage, PricingEngine
from pricing.models import ModelPrice
from pricing.price_book import PriceBook
from pricing.prices import Precedence, Price, RateCard
from pricing.units import UnitKind
from tests.conftest import LONG_AGO, NOON, People
from tests.pricing.test_engine import Shipped
from usage.analytics.unpriced import unpriced_models
from usage.books import verify_books
from usage.langfuse.wire import decode_page
from usage.models import LangfuseConnection, Observation, Trace

D = Decimal
USAGE = {"input": 600, "input_cache_read": 400, "output": 50, "output_reasoning": 150}
USAGE |= {"total": 1200}
ROW = {
    "id": "o1",
    "traceId": "t1",
    "startTime": "2026-11-10T12:00:00.000Z",
    "type": "GENERATION",
    "level": "DEFAULT",
    "model": "acme-7b",
}


def step_of(usage: dict[str, Any], costs: dict[str, Any]) -> Any:
    row = {**ROW, "usageDetails": usage, "costDetails": costs, "parentObservationId": "p1"}
    page = decode_page(msgspec.json.encode({"data": [row], "meta": {}}))
    (one,) = page.observations
    return one.step


@pytest.mark.parametrize(
    ("costs", "uncosted"),
    [
        ({"input": 0.1, "output": 0.2, "total": 0.3}, ("input_cache_read", "output_reasoning")),
        ({"input": 0.1, "output": 0.2}, ("input_cache_read", "output_reasoning")),
        ({**dict.fromkeys(USAGE, 0.1), "total": 0.4}, ()),
        ({**dict.fromkeys(USAGE, 0), "input_cache_read": None}, ("input_cache_read",)),
        ({"total": 0.3}, ()),
        ({"input": 0.1, "output": 0.2, "total": 0.9}, ()),
        ({}, ()),
    ],
)
def test_units_without_a_cost_are_told_from_a_cost_of_all(
    costs: dict[str, Any], uncosted: tuple[str, ...]
) -> None:
    step = step_of(USAGE, costs)
    assert (step.uncosted, step.parent_id) == (uncosted, "p1")


def test_units_of_0_need_no_cost() -> None:
    costs = {"input": 0.1, "total": 0.1}
    assert step_of({"input": 5, "input_cache_read": 0, "total": 5}, costs).uncosted == ()


CARD = RateCard.of(
    {UnitKind.INPUT: D(10), UnitKind.CACHED_INPUT: D(1), UnitKind.OUTPUT: D(20)}
    | {UnitKind.REQUEST: D(1_000_000)}
)
LEFT_OUT = D("0.0004") + D("0.003")


def cost_of(book: PriceBook, uncosted: tuple[str, ...], usage: dict[str, int] = USAGE) -> Cost:
    observation = ObservationUsage("m", usage, 10**10, NOON, uncosted)
    return PricingEngine(book).cost_of(None, observation)


@pytest.mark.parametrize(
    ("book", "cost", "source", "price_id"),
    [
        (
            PriceBook(platform_prices=[Price(3, "m", CARD, precedence=Precedence.FALLBACK)]),
            D("0.01") + LEFT_OUT,
            CostSource.LANGFUSE_AND_PRICE,
            3,
        ),
        (
            PriceBook(shipped_books=[Shipped("10")]),
            D("0.01") + D("0.0055"),
            CostSource.LANGFUSE_AND_BOOK,
            99,
        ),
        (
            PriceBook(platform_prices=[Price(3, "m", RateCard.of({UnitKind.INPUT: D(1)}))]),
            D("0.01"),
            CostSource.PARTLY_PRICED,
            None,
        ),
        (PriceBook(), D("0.01"), CostSource.PARTLY_PRICED, None),
    ],
)
def test_what_is_left_out_is_priced_by_our_own_sources(
    book: PriceBook, cost: Decimal, source: CostSource, price_id: int | None
) -> None:
    found = cost_of(book, ("input_cache_read", "output_reasoning"))
    assert (found.cost_usd, found.source, found.price_id) == (cost, source, price_id)


def test_a_price_before_langfuses_is_of_all_units() -> None:
    card = RateCard.of({UnitKind.INPUT: D(10), UnitKind.OUTPUT: D(20)})
    found = cost_of(PriceBook(platform_prices=[Price(3, "m", card)]), ("input_cache_read",))
    assert (found.cost_usd, found.source) == (D("0.014"), CostSource.PLATFORM_PRICE)


def test_what_another_units_cost_covers_is_not_left_out() -> None:
    inside = {"input": 60, "output": 50, "reasoning_tokens": 20, "total": 130}
    found = cost_of(PriceBook(), ("reasoning_tokens",), inside)
    assert found == Cost(10**10, CostSource.LANGFUSE)
    searches = {"input": 60, "web_search_requests": 2, "total": 62}
    found = cost_of(PriceBook(), ("web_search_requests",), searches)
    assert found == Cost(10**10, CostSource.PARTLY_PRICED)
    seconds = {"input": 60, "seconds": 2, "total": 62}
    found = cost_of(PriceBook(), ("seconds",), seconds)
    assert found == Cost(10**10, CostSource.LANGFUSE)


@pytest.mark.django_db
def test_it_is_listed_counted_and_completed_as_soon_as_there_is_a_price(
    people: People,
    use: Callable[..., None],
    api: Callable[..., Any],
    bare_connection: LangfuseConnection,
    django_capture_on_commit_callbacks: Any,
) -> None:
    uncosted = ("input_cache_read", "output_reasoning")
    use(
        people.acme_user,
        "0.01",
        model="acme-7b",
        usage_details=USAGE,
        uncosted=uncosted,
        type="GENERATION",
    )
    period = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
    body = api(people.platform_admin, "platform/stats", **period).json()
    assert (body["partly_priced_observations"], body["unpriced_observations"]) == (1, 0)
    assert (body["total_cost_usd"], body["metered_calls"]) == ("0.010000000000", 1)
    (found,) = unpriced_models()
    assert (found.unpriced_observations, found.partly_priced_observations) == (0, 1)
    assert Trace.objects.get().credits == D("1.9")
    assert verify_books() == []
    price = {"model": "acme-7b", "valid_from": LONG_AGO, "precedence": "fallback"}
    price |= {"input": D(10), "output": D(20)}
    with django_capture_on_commit_callbacks(execute=True):
        lists.enter_price(ModelPrice(**price), people.platform_admin)
    observation = Observation.objects.get(cost_source="langfuse_and_price")
    assert (observation.cost_usd, unpriced_models()) == (D("0.017"), [])
    assert Trace.objects.get().credits == D("3.23")
    explained = api(people.platform_admin, f"traces/{observation.trace_id}/explanation").json()
    (step,) = explained["observations"]
    assert [(item["kind"], item["units"]) for item in step["line_items"]] == [
        ("cached_input", 400),
        ("reasoning", 150),
    ]
    assert (step["langfuse_cost_usd"], step["cost_usd"]) == ("0.010000000000", "0.017000000000")
    assert verify_books() == []


@pytest.mark.django_db
def test_usage_that_does_not_add_up_is_marked_on_its_step(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    usage = {"input": 10, "input_cached_tokens": 40, "output": 5, "total": 15}
    use(people.acme_user, "0.01", usage_details=usage)
    use(people.acme_user, "0.01")
    (marked,) = Observation.objects.exclude(usage_doubt="")
    tokens = marked.input_tokens, marked.output_tokens, marked.total_tokens
    assert (marked.usage_doubt, tokens) == ("more_than_total", (50, 5, 15))
    explained = api(people.platform_admin, f"traces/{marked.trace_id}/explanation").json()
    assert [one["usage_doubt"] for one in explained["observations"]] == [
        "More tokens than its own total says. Langfuse's cost is far from the price lists'"
    ]
