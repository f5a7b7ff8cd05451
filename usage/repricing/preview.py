"""What a repricing would change, by tenant, user and model: the dry run. Reads only."""

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from pricing.book import load_price_book
from pricing.engine import CostSource, PricedTrace, PricingEngine
from pricing.price_book import Repriced
from usage.facts.store import load_repriced
from usage.repricing.stored import StoredTrace, stored_traces


class DifferenceKey(NamedTuple):
    """Whose usage of which model; the tenant and the user are None where they are unknown."""

    tenant_id: UUID | None
    user_id: UUID | None
    model: str


@dataclass(slots=True)
class Difference:
    """What usage comes to now and would come to, in USD (picousd) and credits (microcredits);
    unknown counts as nothing.
    """

    observations: int = 0
    cost_before: int = 0
    cost_after: int = 0
    credits_before: int = 0
    credits_after: int = 0

    def add(
        self, cost_before: int, cost_after: int, credits_before: int, credits_after: int
    ) -> None:
        self.observations += 1
        self.cost_before += cost_before
        self.cost_after += cost_after
        self.credits_before += credits_before
        self.credits_after += credits_after

    def __iadd__(self, other: "Difference") -> "Difference":
        self.observations += other.observations
        self.cost_before += other.cost_before
        self.cost_after += other.cost_after
        self.credits_before += other.credits_before
        self.credits_after += other.credits_after
        return self

    @property
    def cost_usd(self) -> Decimal:
        """What it would cost more, USD at twelve places."""
        return from_scaled(self.cost_after - self.cost_before, USD_PLACES)

    @property
    def credits(self) -> Decimal:
        """What it would be charged more, credits at six places."""
        return from_scaled(self.credits_after - self.credits_before, CREDIT_PLACES)


@dataclass(frozen=True, slots=True)
class Preview:
    """What a repricing would change. ``differences`` holds only what differs."""

    traces: int
    traces_changed: int
    differences: dict[DifferenceKey, Difference]

    @property
    def total(self) -> Difference:
        total = Difference()
        for difference in self.differences.values():
            total += difference
        return total


def preview(start: datetime, end: datetime, tenant_id: UUID | None = None) -> Preview:
    """What would change if the period, of one tenant or of all, were priced with the lists as they
    are now.
    """
    book = load_price_book(load_repriced())
    engine = PricingEngine(
        replace(book, repriced=[*book.repriced, Repriced(start, end, book.loaded_at, tenant_id)])
    )
    differences: dict[DifferenceKey, Difference] = {}
    traces = changed = 0
    for stored in stored_traces(start, end, tenant_id):
        traces += 1
        priced = engine.price(stored.usage)
        if _differs(stored, priced):
            changed += 1
            _add(differences, stored, priced)
    return Preview(
        traces,
        changed,
        {key: one for key, one in differences.items() if one.cost_usd or one.credits},
    )


def _differs(stored: StoredTrace, priced: PricedTrace) -> bool:
    if (stored.cost_picousd, stored.microcredits) != (
        priced.cost_picousd,
        priced.charge.microcredits,
    ):
        return True
    return any(
        before != cost.picousd for before, cost in zip(stored.costs, priced.costs, strict=True)
    )


def _add(
    differences: dict[DifferenceKey, Difference], stored: StoredTrace, priced: PricedTrace
) -> None:
    usage = stored.usage
    after = {at: credits for at, _, credits in priced.parts()}
    if not usage.observations:
        # A trace without usage has no model; a tier's minimum may charge it.
        one = differences.setdefault(
            DifferenceKey(usage.tenant_id, usage.user_id, ""), Difference()
        )
        one.add(0, 0, stored.microcredits or 0, after.get(0, 0))
    for at, observation in enumerate(usage.observations):
        cost = priced.costs[at]
        cost_after = 0 if cost.source is CostSource.NO_USAGE else cost.picousd or 0
        one = differences.setdefault(
            DifferenceKey(usage.tenant_id, usage.user_id, observation.model), Difference()
        )
        one.add(stored.costs[at] or 0, cost_after, stored.credits[at] or 0, after.get(at, 0))
