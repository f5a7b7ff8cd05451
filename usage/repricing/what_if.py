"""What a period's real usage would have come to on other terms, for each tenant, side by side.

Reads only.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from difflib import get_close_matches
from uuid import UUID

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from pricing.book import load_price_book
from pricing.engine import CostSource, PricedTrace, PricingEngine
from pricing.scenario import Scenario
from usage.facts.store import load_repriced
from usage.repricing.stored import StoredTrace, stored_traces

NAMES_SHOWN = 3


class UnknownModel(ValueError):
    """A scenario names a model that nothing of the period used (``is_of_usage``), or that has no
    price. The message names the nearest that there are.
    """

    def __init__(self, message: str, *, is_of_usage: bool) -> None:
        super().__init__(message)
        self.is_of_usage = is_of_usage


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
    """The tenants with usage in the period, those with the most credits first.

    Raises UnknownModel for a model that a scenario names by mistake.
    """
    book = load_price_book(load_repriced())
    engines = [PricingEngine(scenario.book(book)) for scenario in scenarios]
    for scenario, engine in zip(scenarios, engines, strict=True):
        _check_prices(scenario, engine, tenant_id)
    used: set[str] = set()
    comparisons: dict[UUID | None, Comparison] = {}
    for stored in stored_traces(start, end, tenant_id):
        usage = stored.usage
        owner = usage.tenant_id
        comparison = comparisons.get(owner)
        if comparison is None:
            comparison = comparisons[owner] = Comparison(
                owner, scenarios=[Totals() for _ in scenarios]
            )
        comparison.traces += 1
        used.update(one.model for one in usage.observations)
        _add_stored(comparison.actual, stored)
        for totals, scenario, engine in zip(comparison.scenarios, scenarios, engines, strict=True):
            _add_priced(totals, engine.price(scenario.usage(usage)))
    for scenario in scenarios:
        _check_usage(scenario, used)
    return sorted(
        comparisons.values(), key=lambda one: (-one.actual.microcredits, str(one.tenant_id))
    )


def _check_prices(scenario: Scenario, engine: PricingEngine, tenant_id: UUID | None) -> None:
    owners = [tenant_id] if tenant_id is not None else [None, *engine.book.tenant_prices]
    for model in scenario.models.values():
        if not any(
            engine.is_priceable(owner, model, scenario.as_of, scenario.as_of, connection_id)
            for owner in owners
            for connection_id in (None, *engine.book.connections)
        ):
            nearest = _nearest(model, engine.book.model_names())
            raise UnknownModel(
                f"There is no price for a model “{model}” today.{nearest}", is_of_usage=False
            )


def _check_usage(scenario: Scenario, used: set[str]) -> None:
    for model in scenario.models:
        if model not in used:
            raise UnknownModel(
                f"No call in this period was of a model “{model}”.{_nearest(model, used)}",
                is_of_usage=True,
            )


def _nearest(model: str, names: Iterable[str]) -> str:
    """The names that it could have been meant to be, as the end of a message."""
    known = {name.casefold(): name for name in names if name}
    found = get_close_matches(model.casefold(), known, NAMES_SHOWN, cutoff=0.5)
    return f" Is it {' or '.join(f'“{known[name]}”' for name in found)}?" if found else ""


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
    totals.unpriced += sum(
        cost is None and not usage.is_call
        for cost, usage in zip(stored.costs, stored.usage.observations, strict=True)
    )


def _add_priced(totals: Totals, priced: PricedTrace) -> None:
    totals.cost_picousd += priced.cost_picousd or 0
    totals.billed_picousd += priced.charge.billed_picousd or 0
    totals.microcredits += priced.charge.microcredits or 0
    totals.unpriced += sum(cost.source is CostSource.UNPRICED for cost in priced.costs)
