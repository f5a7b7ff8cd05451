"""Other terms for real usage: another tier, another model's prices.

Pure; a scenario is priced by the engine as everything is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from pricing.engine import ObservationUsage, TraceUsage
from pricing.price_book import PriceBook
from pricing.prices import EVER, NEVER, Assignment


@dataclass(frozen=True, slots=True)
class Scenario:
    """What would be otherwise.

    ``tier_id``: everybody had this tier. ``models``: usage of a model had been another's, at the
    prices of ``as_of``.
    """

    name: str
    as_of: datetime
    tier_id: int | None = None
    models: Mapping[str, str] = field(default_factory=dict)

    def book(self, book: PriceBook) -> PriceBook:
        """The book as it would be.

        A tier whose first rate began after the usage is taken to have had that rate before, too.
        """
        if self.tier_id is None:
            return book
        rates = [
            replace(rate, recorded_at=EVER)
            for rate in book.rates.get(self.tier_id, ())
            if rate.withdrawn_at == NEVER
        ]
        if rates:
            rates[-1] = replace(rates[-1], valid_from=EVER)
        everybody = [Assignment(EVER, self.tier_id)]
        return replace(
            book,
            rates={self.tier_id: rates},
            user_tiers={},
            tenant_tiers={},
            platform_tiers=everybody,
        )

    def usage(self, trace: TraceUsage) -> TraceUsage:
        """The usage as it would be: what another model would have used is taken to be the same, and
        what Langfuse said it cost is not.
        """
        if not self.models or not any(one.model in self.models for one in trace.observations):
            return trace
        return msgspec.structs.replace(
            trace, observations=[self._observation(one) for one in trace.observations]
        )

    def _observation(self, usage: ObservationUsage) -> ObservationUsage:
        other = self.models.get(usage.model)
        return (
            usage
            if other is None
            else ObservationUsage(
                other,
                usage.usage_details,
                None,
                self.as_of,
                is_call=usage.is_call,
                context=usage.context,
            )
        )
