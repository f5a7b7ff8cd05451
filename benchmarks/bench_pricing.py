"""How fast is the pricing engine? `make bench-pricing` (docs/benchmarks.md).

The batch form of the engine, which finds prices, tiers and rates and rounds credits, beside
``genai_prices.calc_price`` called for each of the same observations, which computes the cost alone;
in turn, several times, in one process. Both use the installed package's prices as they are, and the
totals have to be equal. Needs no database.
"""

import argparse
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from statistics import median
from uuid import UUID

from genai_prices import Usage, calc_price
from genai_prices.data import providers

from kluisz_analytics.scales import USD_PLACES, from_scaled
from pricing.engine import ObservationUsage, PricingEngine, TraceUsage
from pricing.price_book import PriceBook
from pricing.prices import LATEST, Assignment, Price, RateCard, TierRate
from pricing.shipped_book import ShippedPrices
from pricing.units import UnitKind

START = datetime(2026, 8, 1, tzinfo=UTC)
MODELS = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-5",
    "gpt-5-mini",
    "o3",
    "o4-mini",
    "claude-sonnet-4-5",
    "claude-haiku-4-5",
    "claude-opus-4-1",
    "claude-3-5-haiku-latest",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.0-flash",
    "deepseek-chat",
    "mistral-large-latest",
    "command-r-plus",
    "grok-3",
    "gpt-4-turbo",
]
TENANTS, USERS = 1_000, 50_000
OBSERVATIONS_A_TRACE = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    traces = made_traces(options.observations // OBSERVATIONS_A_TRACE)
    observations = [one for trace in traces for one in trace.observations]
    usages = [as_package_usage(one) for one in observations]
    ours, theirs = [], []
    for _ in range(options.rounds):
        seconds, cost = timed(lambda: engine_total(traces))
        ours.append(len(observations) / seconds)
        seconds, package_cost = timed(lambda: package_total(observations, usages))
        theirs.append(len(observations) / seconds)
        assert cost == package_cost, f"The totals differ: {cost} and {package_cost}."
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    print(
        f"{len(observations):,} observations in {len(traces):,} traces, {len(MODELS)} models; equal"
        f" totals: {cost} USD"
    )
    print(f"batch engine: cost and credits   {median(ours):12,.0f} a second")
    print(f"calc_price:   cost               {median(theirs):12,.0f} a second")
    print(
        f"ratio                            {median(ratios):12.1f} (at least 25; rounds"
        f" {', '.join(f'{ratio:.1f}' for ratio in ratios)})"
    )


def made_traces(count: int) -> list[TraceUsage]:
    """Runs of many tenants and users over 90 days, in the forms of OpenAI's and Anthropic's usage
    as Langfuse has them.
    """
    chosen = random.Random(7)  # noqa: S311  (seeded on purpose)
    traces = []
    for _ in range(count):
        tenant, user = chosen.randrange(TENANTS), chosen.randrange(USERS)
        started_at = START + timedelta(seconds=chosen.randrange(90 * 86_400))
        observations = [
            ObservationUsage(
                model := chosen.choice(MODELS), made_usage(chosen, model), None, started_at
            )
            for _ in range(OBSERVATIONS_A_TRACE)
        ]
        traces.append(
            TraceUsage(UUID(int=tenant + 1), UUID(int=user + 1), started_at, LATEST, observations)
        )
    return traces


def made_usage(chosen: random.Random, model: str) -> dict[str, int]:
    plain, cached, output = (
        chosen.randrange(1, 6_000),
        chosen.randrange(4_000),
        chosen.randrange(1, 1_500),
    )
    if model.startswith("claude"):
        return {
            "input": plain,
            "output": output,
            "cache_read_input_tokens": cached,
            "total": plain + output + cached,
        }
    if chosen.random() < 0.5:
        return {"input": plain, "output": output, "total": plain + output}
    return {
        "input": plain,
        "input_cached_tokens": cached,
        "output": output,
        "total": plain + cached + output,
    }


def as_package_usage(usage: ObservationUsage) -> Usage:
    """The same for the package, which counts cached tokens inside the input.

    Made outside of what is timed.
    """
    details = usage.usage_details
    cached = details.get("input_cached_tokens", 0) + details.get("cache_read_input_tokens", 0)
    return Usage(
        input_tokens=details["input"] + cached,
        cache_read_tokens=cached,
        output_tokens=details["output"],
    )


def price_book() -> PriceBook:
    """The installed book, with dated rates of three tiers, a tier for every user, and lists that
    are for other models.
    """
    others = [
        Price(number, f"own-model-{number}", RateCard.of({UnitKind.INPUT: Decimal(1)}))
        for number in range(50)
    ]
    return PriceBook(
        platform_prices=others,
        tenant_prices={UUID(int=number + 1): others[:2] for number in range(0, TENANTS, 50)},
        shipped_books=[ShippedPrices(lambda: providers)],
        rates={
            tier: [
                TierRate(
                    10 * tier + 1, START + timedelta(days=45), Decimal(per_usd), Decimal("0.95")
                ),
                TierRate(10 * tier, START, Decimal(per_usd), Decimal("1.00")),
            ]
            for tier, per_usd in ((1, "100"), (2, "200"), (3, "500"))
        },
        user_tiers={
            UUID(int=number + 1): [Assignment(START, 1 + number % 3)] for number in range(USERS)
        },
    )


def engine_total(traces: list[TraceUsage]) -> Decimal:
    """With a fresh engine: finding which price is for which model is part of the work."""
    engine = PricingEngine(BOOK)
    return from_scaled(
        sum(priced.cost_picousd or 0 for priced in engine.price_all(traces)), USD_PLACES
    )


def package_total(observations: list[ObservationUsage], usages: list[Usage]) -> Decimal:
    prices = (
        calc_price(usage, model_ref=one.model, genai_request_timestamp=one.started_at).total_price
        for one, usage in zip(observations, usages, strict=True)
    )
    return sum(prices, Decimal(0)).quantize(Decimal("0.000000000001"))


def timed(work: Callable[[], Decimal]) -> tuple[float, Decimal]:
    began = time.perf_counter()
    total = work()
    return time.perf_counter() - began, total


BOOK = price_book()

if __name__ == "__main__":
    main()
