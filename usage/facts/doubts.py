"""Compares what Langfuse says that a trace's calls cost with the price lists, and bills what was
ruled. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec

from kluisz_analytics.scales import USD_PLACES, to_scaled
from pricing.engine import WITHOUT_USAGE, CostSource, ObservationUsage, PricingEngine
from pricing.units import NO_TOKENS, Doubt, count_tokens
from usage.facts.decided import BilledStep
from usage.facts.findings import Finding, Rulings, Takes, finding_of
from usage.langfuse.wire import StepVersion


class Doubted(NamedTuple):
    """A call of which two costs are known, or a cost of 0: which one is counted, and ours."""

    finding: Finding
    takes: Takes
    ours_picousd: int | None
    langfuse_picousd: int


@dataclass(frozen=True, slots=True)
class Doubts:
    """Of one trace: with whose lists, of when, and by which rulings."""

    engine: PricingEngine
    tenant_id: UUID | None
    started_at: datetime
    priced_as_of: datetime
    rulings: Rulings
    key: str

    def settled(
        self, using: Sequence[StepVersion], usages: list[ObservationUsage]
    ) -> tuple[list[ObservationUsage], Mapping[int, Doubted]]:
        """The usages as they are to be priced, and those in doubt by their place."""
        doubted: dict[int, Doubted] = {}
        for at, usage in enumerate(usages):
            if usage.langfuse_picousd is None or usage.uncosted or not usage.usage_details:
                continue
            one = self._doubted(using[at], usage, usage.langfuse_picousd)
            if one is not None:
                doubted[at] = one
                if one.takes is Takes.PRICE_BOOK:
                    usages[at] = without_langfuse(usage)
        return usages, doubted

    def _doubted(
        self, step: StepVersion, usage: ObservationUsage, langfuse_picousd: int
    ) -> Doubted | None:
        ours = self._ours(usage)
        tokens = 0 if langfuse_picousd else count_tokens(usage.usage_details).total
        finding = finding_of(langfuse_picousd, ours, tokens, self.rulings.ratio_percent)
        if finding is Finding.NONE:
            return None
        takes = self.rulings.takes(finding, step.model, (self.key, step.observation_id))
        if takes is Takes.PRICE_BOOK and ours is None:
            takes = Takes.AS_USUAL
        return Doubted(finding, takes, ours, langfuse_picousd)

    def _ours(self, usage: ObservationUsage) -> int | None:
        known_at = self.priced_as_of
        if self.engine.book.repriced:
            known_at = self.engine.book.knowledge(known_at, self.tenant_id, self.started_at)
        return self.engine.cost_of(self.tenant_id, without_langfuse(usage), known_at).picousd

    def mark(
        self, billed: Sequence[BilledStep], doubted: Mapping[int, Doubted], sums: Mapping[str, str]
    ) -> int:
        """Say on the billed steps what is in doubt and what was ruled; returns of how many nothing
        was.
        """
        for at, one in doubted.items():
            step = billed[at]
            is_ours = one.takes is Takes.PRICE_BOOK
            if is_ours or step.cost_source is CostSource.LANGFUSE:
                step.finding, step.takes = one.finding, one.takes
                step.other_cost_picousd = one.langfuse_picousd if is_ours else one.ours_picousd
        undecided = 0
        for step in billed:
            if step.version.observation_id in sums:
                step.finding, step.takes, step.other_cost_picousd = Finding.SUM, Takes.BOTH, 0
            if step.doubt is not Doubt.NONE and step.finding is Finding.NONE:
                version = step.version
                step.takes = self.rulings.takes(
                    Finding.UNITS, version.model, (self.key, version.observation_id)
                )
            undecided += step.is_undecided
        return undecided

    def counted_elsewhere(
        self, steps: Sequence[StepVersion], repeated: Mapping[str, str]
    ) -> list[BilledStep]:
        """The steps whose usage is counted in another one: they cost nothing here."""
        if not repeated:
            return []
        return [
            self._counted_elsewhere(step, repeated[step.observation_id])
            for step in steps
            if step.observation_id in repeated
        ]

    def _counted_elsewhere(self, step: StepVersion, other: str) -> BilledStep:
        langfuse = None if step.cost_usd is None else to_scaled(step.cost_usd, USD_PLACES)
        usage = ObservationUsage(
            step.model, step.usage_details, langfuse, step.start_time, step.uncosted
        )
        cost = self.engine.cost_of(self.tenant_id, usage, self.priced_as_of)
        return BilledStep(
            step,
            NO_TOKENS,
            langfuse,
            None,
            WITHOUT_USAGE,
            finding=Finding.SUM,
            other_cost_picousd=cost.picousd,
            takes=self.rulings.takes(Finding.SUM, step.model, (self.key, step.observation_id)),
            counted_in=other,
        )


def without_langfuse(usage: ObservationUsage) -> ObservationUsage:
    """As if Langfuse had said no cost."""
    return msgspec.structs.replace(usage, langfuse_picousd=None, uncosted=())
