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
from pricing.engine import WITHOUT_USAGE, Cost, CostSource, ObservationUsage, PricingEngine
from pricing.own_total import CONTRADICTED, by_own_total
from pricing.units import NO_TOKENS, Doubt, count_tokens, counted
from usage.facts.decided import BilledStep
from usage.facts.findings import Finding, Rulings, Takes, finding_of
from usage.langfuse.wire import StepVersion

IN_PLACE_OF_LANGFUSES = (CostSource.TENANT_PRICE, CostSource.PLATFORM_PRICE)
"""Where one of these applies, Langfuse's cost counts nowhere, and nobody asks how far it is off."""


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
    connection_id: int
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
        if self.rulings.take_totals:
            for at, usage in enumerate(usages):
                if at not in doubted:
                    usages[at] = self._by_own_total(using[at], usage)
        return usages, doubted

    def _by_own_total(self, step: StepVersion, usage: ObservationUsage) -> ObservationUsage:
        """Where that was ruled, and a list has a price."""
        _, doubt = counted(usage.usage_details)
        if doubt not in CONTRADICTED or self._takes_of_units(step) is not Takes.TOTAL:
            return usage
        by_total = counted_by_own_total(usage)
        return usage if self._cost(by_total).picousd is None else by_total

    def _takes_of_units(self, step: StepVersion) -> Takes:
        return self.rulings.takes(Finding.UNITS, step.model, (self.key, step.observation_id))

    def _doubted(
        self, step: StepVersion, usage: ObservationUsage, langfuse_picousd: int
    ) -> Doubted | None:
        cost = self._cost(without_langfuse(usage))
        if cost.source in IN_PLACE_OF_LANGFUSES:
            return None
        ours = cost.picousd
        tokens = 0 if langfuse_picousd else count_tokens(usage.usage_details).total
        finding = finding_of(langfuse_picousd, ours, tokens, self.rulings.ratio_percent)
        if finding is Finding.NONE:
            return None
        takes = self.rulings.takes(finding, step.model, (self.key, step.observation_id))
        if takes is Takes.PRICE_BOOK and ours is None:
            takes = Takes.AS_USUAL
        return Doubted(finding, takes, ours, langfuse_picousd)

    def _cost(self, usage: ObservationUsage) -> Cost:
        known_at = self.priced_as_of
        if self.engine.book.repriced:
            known_at = self.engine.book.knowledge(known_at, self.tenant_id, self.started_at)
        return self.engine.cost_of(self.tenant_id, usage, known_at, self.connection_id)

    def mark(
        self,
        billed: Sequence[BilledStep],
        usages: Sequence[ObservationUsage],
        doubted: Mapping[int, Doubted],
        sums: Mapping[str, str],
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
        for at, step in enumerate(billed):
            if step.version.observation_id in sums:
                step.finding, step.takes, step.other_cost_picousd = Finding.SUM, Takes.BOTH, 0
            if step.doubt is not Doubt.NONE and step.finding is Finding.NONE:
                self._mark_units(step, usages[at])
            undecided += step.is_undecided
        return undecided

    def _mark_units(self, step: BilledStep, usage: ObservationUsage) -> None:
        """Of units that contradict their total, what they cost by the count that isn't billed."""
        step.takes, as_said = self._takes_of_units(step.version), usage_of(step.version)
        is_by_total = usage.usage_details is not as_said.usage_details
        if step.takes is Takes.TOTAL and not is_by_total:
            step.takes = Takes.AS_USUAL
        if step.doubt in CONTRADICTED:
            other = as_said if is_by_total else counted_by_own_total(as_said)
            step.other_cost_picousd = self._cost(other).picousd

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
        usage = usage_of(step)
        return BilledStep(
            step,
            NO_TOKENS,
            usage.langfuse_picousd,
            None,
            WITHOUT_USAGE,
            finding=Finding.SUM,
            other_cost_picousd=self._cost(usage).picousd,
            takes=self.rulings.takes(Finding.SUM, step.model, (self.key, step.observation_id)),
            counted_in=other,
        )


def usage_of(step: StepVersion, is_call: bool = False) -> ObservationUsage:
    """What the step used, as it says; ``is_call``: of an unmetered call."""
    langfuse_picousd = None if step.cost_usd is None else to_scaled(step.cost_usd, USD_PLACES)
    return ObservationUsage(
        step.model,
        step.usage_details,
        langfuse_picousd,
        step.start_time,
        step.uncosted,
        is_call,
    )


def counted_by_own_total(usage: ObservationUsage) -> ObservationUsage:
    """Of what Langfuse's cost is not."""
    details = by_own_total(usage.usage_details)
    return msgspec.structs.replace(without_langfuse(usage), usage_details=details)


def without_langfuse(usage: ObservationUsage) -> ObservationUsage:
    """As if Langfuse had said no cost."""
    return msgspec.structs.replace(usage, langfuse_picousd=None, uncosted=())
