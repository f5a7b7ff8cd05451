"""How many prices are right? `make bench-prices` (docs/benchmarks.md).

The shipped book, asked as the engine asks it, beside a public table's figures for usage of models
by the names that stand in traces (tests/fixtures/usage): a reference, not the truth. Right is what
differs by no more than 1%; of what is not, the reason is said here. Needs no database.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec

from pricing.engine import ObservationUsage, PricingEngine
from pricing.price_book import PriceBook
from pricing.shipped_book import ShippedPrices, installed

CASES = Path(__file__).parents[1] / "tests" / "fixtures" / "usage" / "prices.json"
AT = datetime(2026, 11, 15, 12, tzinfo=UTC)
WITHIN_PERCENT = 1


class Case(msgspec.Struct):
    """Usage of a model, and what it costs by the table; ``context``: how it was asked."""

    model: str
    case: str
    kind: str
    usage: dict[str, int]
    cost_usd: Decimal
    context: dict[str, str]
    provider: str


class Result(NamedTuple):
    """A case beside what the book comes to: right, otherwise or unpriced; "" for no reason."""

    case: Case
    found_usd: Decimal | None
    verdict: str
    reason: str


REASONS = {
    ("ft:gpt-4.1-2025-04-14:acme:x:abc", ""): "the package has no price for it fine-tuned",
    ("ft:gpt-4o-mini-2024-07-18:acme::abc", "cached"): "the package has no price for cached tokens",
    ("deepseek-ai/DeepSeek-V3", ""): "the name doesn't tell who served it",
    ("accounts/fireworks/models/deepseek-v3", ""): "the package no longer lists it",
    ("qwen-plus", ""): "the package has no prices of Alibaba's",
    ("mistral-large-latest", ""): "the package has the price of a former version",
    ("mistral/mistral-large-latest", ""): "the package has the price of a former version",
    ("codestral-latest", ""): "the package has no price for cached tokens",
    ("mistral/codestral-latest", ""): "the package has no price for cached tokens",
    ("magistral-medium-latest", ""): "the package has the price of a former version",
    ("deepseek/deepseek-chat", ""): "the package has former prices, by the time of day",
    ("deepseek-reasoner", ""): "the package has former prices, by the time of day",
    ("perplexity/sonar", ""): "the table leaves out what Perplexity takes for each request",
    ("sonar-pro", ""): "the table leaves out what Perplexity takes for each request",
    ("perplexity/sonar-reasoning-pro", ""): (
        "the table leaves out what Perplexity takes for each request"
    ),
    ("", "batch"): "how a call was asked is not read",
    ("", "flex"): "how a call was asked is not read",
    ("", "priority"): "how a call was asked is not read",
    ("", "websearch x3"): "searches have no price",
}
"""Why the book is not right, by model and case; "" is any."""


def results() -> Iterator[Result]:
    """Every case, priced by the shipped book."""
    engine = PricingEngine(PriceBook(shipped_books=[ShippedPrices(installed)]))
    for case in msgspec.json.decode(CASES.read_bytes(), type=list[Case]):
        usage = ObservationUsage(case.model, case.usage, None, AT)
        found = engine.cost_of(None, usage).cost_usd
        verdict = _verdict(found, case.cost_usd)
        yield Result(case, found, verdict, "" if verdict == "right" else _reason(case))


def _verdict(found: Decimal | None, expected: Decimal) -> str:
    if found is None:
        return "unpriced"
    return "right" if abs(found - expected) * 100 <= WITHIN_PERCENT * expected else "otherwise"


def _reason(case: Case) -> str:
    keys = (case.model, case.case), ("", case.case), (case.model, "")
    return next((REASONS[key] for key in keys if key in REASONS), "")


def main() -> None:
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[tuple[str, str, str]] = Counter()
    for one in results():
        counts[one.case.kind][one.verdict] += 1
        if one.verdict != "right":
            reasons[one.case.kind, one.verdict, one.reason or f"? {one.case.model}"] += 1
    for kind, found in counts.items():
        of, right = found.total(), found["right"]
        print(
            f"{kind + ' cases':18} {right} of {of} right ({100 * right / of:.1f}%),"
            f" {found['otherwise']} otherwise, {found['unpriced']} unpriced"
        )
    for (kind, verdict, reason), count in sorted(reasons.items()):
        print(f"  {count:4} {kind}, {verdict}: {reason}")


if __name__ == "__main__":
    main()
