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

from pricing.conditions import context_of
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


NOT_IN_PACKAGE = "the package doesn't know what such calls of this model cost"
PER_REQUEST = "Perplexity takes a fee for a request, which the table leaves out or takes a search"
SEARCH = "the package has the price of OpenAI's tool, the table that of its preview"
REASONS = {
    ("deepseek-ai/DeepSeek-V3", ""): "the name doesn't tell who served it",
    ("accounts/fireworks/models/deepseek-v3", ""): "the package no longer lists it",
    ("qwen-plus", ""): "the package has no prices of Alibaba's",
    ("magistral-medium-latest", ""): "retired: the table has its successor's price",
    ("perplexity/sonar", ""): PER_REQUEST,
    ("sonar-pro", ""): PER_REQUEST,
    ("perplexity/sonar-reasoning-pro", ""): PER_REQUEST,
    ("openai/gpt-4o-mini", "websearch x3"): SEARCH,
    ("gpt-4o-mini-2024-07-18", "websearch x3"): SEARCH,
    ("openai/gpt-4.1", "websearch x3"): SEARCH,
    ("gpt-4.1-mini", "websearch x3"): SEARCH,
    ("azure/gpt-5", "websearch x3"): "the package has OpenAI's price, the table Microsoft's",
    ("", "flex"): NOT_IN_PACKAGE,
    ("", "priority"): NOT_IN_PACKAGE,
    ("", "websearch x3"): NOT_IN_PACKAGE,
}
"""Why the book is not right, by model and case; "" is any."""


def results() -> Iterator[Result]:
    """Every case, priced by the shipped book."""
    engine = PricingEngine(PriceBook(shipped_books=[ShippedPrices(installed)]))
    for case in msgspec.json.decode(CASES.read_bytes(), type=list[Case]):
        usage = ObservationUsage(case.model, case.usage, None, AT, context=context_of(case.context))
        found = engine.cost_of(None, usage).cost_usd
        verdict = _verdict(found, case.cost_usd)
        yield Result(case, found, verdict, "" if verdict == "right" else _reason(case))


def _verdict(found: Decimal | None, expected: Decimal) -> str:
    if found is None:
        return "unpriced"
    return "right" if abs(found - expected) * 100 <= WITHIN_PERCENT * expected else "otherwise"


def _reason(case: Case) -> str:
    keys = (case.model, case.case), (case.model, ""), ("", case.case)
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
