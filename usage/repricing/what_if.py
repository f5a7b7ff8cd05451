"""What a period's real usage would have come to on other terms, for each tenant, side by side.

Reads only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, from_scaled
from pricing.book import load_price_book
from pricing.engine import CostSource, PricedTrace, PricingEngine
from pricing.scenario import Scenario
from usage.repricing.stored import StoredTrace, stored_traces
from usage.sync.store import load_repriced


@dataclass(slots=True)
class Totals:
    """A tenant's totals on some terms: picousd and microcredits.

    ``unpriced``: observations whose cost would be unknown.
    """

    cost_picousd: int = 0
    billed_picousd: int = 0
    microcredits: int = 0
    unpriced: int = 0

    @property
    def cost_usd(self) -> Decimal:
        return from_scaled(self.cost_picousd, USD_PLACES)

    @property
    def billed_cost_usd(self) -> Decimal:
        return from_scaled(self.billed_picousd, USD_PLACES)

    @property
    def credits(self) -> Decimal:
        return from_scaled(self.microcredits, CREDIT_PLACES)

    def add(self, other: "Totals") -> None:
        self.cost_picousd += other.cost_picousd
        self.billed_picousd += other.billed_picousd
        self.microcredits += other.microcredits
        self.unpriced += other.unpriced


@dataclass(slots=True)
class Comparison:
    """A tenant's usage as it was priced, and in each scenario in their order.

    ``tenant_id`` is None for usage of nobody known.
    """

    tenant_id: UUID | None
    traces: int = 0
    actual: Totals = field(default_factory=Totals)
    scenarios: list[Totals] = field(default_factory=list)

    def add(self, other: "Comparison") -> None:
        self.traces += other.traces
        self.actual.add(other.actual)
        for mine, theirs in zip(self.scenarios, other.scenarios, strict=True):
            mine.add(theirs)


def what_if(
    start: datetime, end: datetime, scenarios: Sequence[Scenario], tenant_id: UUID | None = None
) -> list[Comparison]:
    """The tenants with usage in the period, those with the most credits first."""
    book = load_price_book(load_repriced())
    engines = [PricingEngine(scenario.book(book)) for scenario in scenarios]
    comparisons: dict[UUID | None, Comparison] = {}
    for stored in stored_traces(start, end, tenant_id):
        usage = stored.usage
        owner = usage.tenant_id if usage.user_id is not None else None
        comparison = comparisons.get(owner)
        if comparison is None:
            comparison = comparisons[owner] = Comparison(
                owner, scenarios=[Totals() for _ in scenarios]
            )
        comparison.traces += 1
        _add_stored(comparison.actual, stored)
        for totals, scenario, engine in zip(comparison.scenarios, scenarios, engines, strict=True):
            _add_priced(totals, engine.price(scenario.usage(usage)))
    return sorted(
        comparisons.values(), key=lambda one: (-one.actual.microcredits, str(one.tenant_id))
    )


def total_of(comparisons: Sequence[Comparison]) -> Comparison:
    """All tenants together."""
    total = Comparison(
        None, scenarios=[Totals() for _ in (comparisons[0].scenarios if comparisons else [])]
    )
    for comparison in comparisons:
        total.add(comparison)
    return total


def _add_stored(totals: Totals, stored: StoredTrace) -> None:
    totals.cost_picousd += stored.cost_picousd or 0
    totals.billed_picousd += stored.billed_picousd or 0
    totals.microcredits += stored.microcredits or 0
    totals.unpriced += sum(cost is None for cost in stored.costs)


def _add_priced(totals: Totals, priced: PricedTrace) -> None:
    totals.cost_picousd += priced.cost_picousd or 0
    totals.billed_picousd += priced.charge.billed_picousd or 0
    totals.microcredits += priced.charge.microcredits or 0
    totals.unpriced += sum(cost.source is CostSource.UNPRICED for cost in priced.costs)
