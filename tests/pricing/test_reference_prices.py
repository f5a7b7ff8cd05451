"""The shipped book beside LiteLLM's public table of 15 November 2026, by the names that stand in
traces: a reference, not the truth.
"""

import json
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from pricing.engine import ObservationUsage, PricingEngine
from pricing.price_book import PriceBook
from pricing.shipped_book import ShippedPrices, installed

CASES = Path(__file__).parents[1] / "fixtures" / "usage" / "prices.json"
AT = datetime(2026, 11, 15, 12, tzinfo=UTC)

UNPRICED = {
    "ft:gpt-4.1-2025-04-14:acme:x:abc": "the package has no price for it fine-tuned",
    "deepseek-ai/DeepSeek-V3": "the name doesn't tell who served it",
    "accounts/fireworks/models/deepseek-v3": "the package no longer lists it",
    "qwen-plus": "the package has no prices of Alibaba's",
}
OTHERWISE = {
    "ft:gpt-4o-mini-2024-07-18:acme::abc": "the package has no price for its cached tokens",
    "mistral-large-latest": "the package has the price of a former version",
    "mistral/mistral-large-latest": "the package has the price of a former version",
    "codestral-latest": "the package has no price for cached tokens",
    "mistral/codestral-latest": "the package has no price for cached tokens",
    "magistral-medium-latest": "the package has the price of a former version",
    "deepseek/deepseek-chat": "the package has former prices, by the time of day",
    "deepseek-reasoner": "the package has former prices, by the time of day",
    "perplexity/sonar": "the table leaves out what Perplexity takes for each request",
    "sonar-pro": "the table leaves out what Perplexity takes for each request",
    "perplexity/sonar-reasoning-pro": "the table leaves out what Perplexity takes for each request",
}
"""Where the package's price is another than the table's by more than 1%, and why."""


def test_the_shipped_book_is_right_for_names_as_they_stand_in_traces() -> None:
    engine = PricingEngine(PriceBook(shipped_books=[ShippedPrices(installed)]))
    results: Counter[str] = Counter()
    unexplained = []
    for case in json.loads(CASES.read_text()):
        if case["kind"] != "token":
            continue
        usage = ObservationUsage(case["model"], case["usage"], None, AT)
        found, expected = engine.cost_of(None, usage).cost_usd, Decimal(case["cost_usd"])
        if found is None:
            results["unpriced"] += 1
            known = UNPRICED
        elif abs(found - expected) * 100 <= expected:
            results["right"] += 1
            continue
        else:
            results["otherwise"] += 1
            known = OTHERWISE
        if case["model"] not in known:
            unexplained.append((case["model"], case["case"], found, expected))
    assert unexplained == []
    assert results["right"] >= 172, results
