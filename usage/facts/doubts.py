"""Compares what Langfuse says that a trace's calls cost with the price lists, and bills what was
ruled. Pure.
"""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

import msgspec

from kluisz_analytics.scales import USD_PLACES, to_scaled
from pricing.conditions import whole_context
from pricing.engine import WITHOUT_USAGE, Cost, CostSource, ObservationUsage, PricingEngine
from pricing.model_names import ModelName
from pricing.own_total import CONTRADICTED, by_own_total
from pricing.units import NO_TOKENS, count_tokens, counted
from usage.facts.decided import BilledStep
from usage.facts.findings import Finding, Rulings, Takes, are_close, finding_of
from usage.langfuse.wire import StepVersion

IN_PLACE_OF_LANGFUSES = (CostSource.TENANT_PRICE, CostSource.PLATFORM_PRICE)
"""Where one of these applies, Langfuse's cost counts nowhere, and nobody asks how far it is off."""


_doubt_of = attrgetter("doubt")


class CountedIn(NamedTuple):
    """Where the usage of a step is counted: in which step, of which other trace (None: of its own),
    and why.
    """

    finding: Finding
    step_id: str
    trace: str | None = None


def to_the_end(repeated: Mapping[str, CountedIn]) -> Mapping[str, CountedIn]:
    """Each with the step that is counted, where what it is counted in is so in another one."""
    found = {}
    for step_id, one in repeated.items():
        last, seen = one, {step_id}
        while last.trace is None and last.step_id in repeated.keys() - seen:
            seen.add(last.step_id)
            last = repeated[last.step_id]
        found[step_id] = last._replace(finding=one.finding)
    return found


class Doubted(NamedTuple):
    """A call of which two costs are known, or a cost of 0: which one is counted, and ours."""

    finding: Finding
    takes: Takes
    ours_picousd: int | None
    langfuse_picousd: int


class Doubts(msgspec.Struct, frozen=True, gc=False):
    """Of one trace: with whose lists, of when, and by which rulings."""

    engine: PricingEngine
    tenant_id: UUID | None
    started_at: datetime
    priced_as_of: datetime
    rulings: Rulings
    key: str
    connection_id: int

    def settled(
        self, using: Sequence[StepVersion], usages: list[ObservationUsage]
    ) -> tuple[list[ObservationUsage], Mapping[int, Doubted]]:
        """The usages as they are to be priced, and those in doubt by their place."""
        doubted: dict[int, Doubted] = {}
        own_cost, known_at = self.engine.own_cost, self._known_at
        for at, usage in enumerate(usages):
            langfuse_picousd = usage.langfuse_picousd
            if langfuse_picousd is None or usage.uncosted or not usage.usage_details:
                continue
            ours = own_cost(self.tenant_id, usage, known_at, self.connection_id)
            picousd = ours.picousd
            if picousd is not None and langfuse_picousd and are_close(langfuse_picousd, picousd):
                continue  # As nearly always: nothing more has to be asked.
            one = self._doubted(using[at], usage, langfuse_picousd, ours)
            if one is not None:
                doubted[at] = one
                if one.takes is Takes.PRICE_BOOK:
                    usages[at] = without_langfuse(usage)
        if self.rulings.take_totals:
            for at, usage in enumerate(usages):
                if at not in doubted:
                    usages[at] = self._by_own_total(using[at], usage)
        return usages, doubted

    def _doubted(
        self, step: StepVersion, usage: ObservationUsage, langfuse_picousd: int, ours: Cost
    ) -> Doubted | None:
        if ours.source in IN_PLACE_OF_LANGFUSES:
            return None
        tokens = 0 if langfuse_picousd else count_tokens(usage.usage_details).total
        finding = finding_of(langfuse_picousd, ours.picousd, tokens, self.rulings.ratio_percent)
        if finding is Finding.NONE:
            return None
        takes = self._takes(finding, step)
        if takes is Takes.PRICE_BOOK and ours.picousd is None:
            takes = Takes.AS_USUAL
        return Doubted(finding, takes, ours.picousd, langfuse_picousd)

    def _by_own_total(self, step: StepVersion, usage: ObservationUsage) -> ObservationUsage:
        """Where that was ruled, and a list has a price."""
        _, doubt = counted(usage.usage_details)
        if doubt not in CONTRADICTED or self._takes(Finding.UNITS, step) is not Takes.TOTAL:
            return usage
        by_total = counted_by_own_total(usage)
        return usage if self._by_lists(by_total).picousd is None else by_total

    def _by_lists(self, usage: ObservationUsage) -> Cost:
        """By our own lists, whatever Langfuse says."""
        return self.engine.own_cost(self.tenant_id, usage, self._known_at, self.connection_id)

    @property
    def _known_at(self) -> datetime:
        """As of when the lists are asked."""
        if not self.engine.book.repriced:
            return self.priced_as_of
        return self.engine.book.knowledge(self.priced_as_of, self.tenant_id, self.started_at)

    def named(self, step: StepVersion) -> ModelName:
        """What the step's model is."""
        return self.engine.named(step.model, step.start_time, self._known_at, self.connection_id)

    def kept(self, using: Sequence[StepVersion], finding: Finding = Finding.TWICE) -> Set[str]:
        """The steps that are ruled to be counted whatever else records the same call."""
        if not self.rulings.all:
            return frozenset()
        return {step.observation_id for step in using if self._takes(finding, step) is Takes.BOTH}

    def ruled(
        self, using: Sequence[StepVersion], elsewhere: Mapping[str, CountedIn]
    ) -> tuple[Mapping[str, CountedIn], Mapping[str, CountedIn]]:
        """Those whose usage is in others, too: which cost nothing, and which are ruled to be
        counted as well.
        """
        if not elsewhere or not self.rulings.all:
            return to_the_end(elsewhere), {}
        as_well = {
            step.observation_id: other
            for step in using
            if (other := elsewhere.get(step.observation_id)) is not None
            and self._takes(other.finding, step) is Takes.BOTH
        }
        repeated = {key: one for key, one in elsewhere.items() if key not in as_well}
        return to_the_end(repeated), as_well

    def _takes(self, finding: Finding, step: StepVersion) -> Takes:
        return self.rulings.takes(finding, step.model, (self.key, step.observation_id))

    def mark(
        self,
        billed: Sequence[BilledStep],
        usages: Sequence[ObservationUsage],
        doubted: Mapping[int, Doubted],
        counting_as_well: Mapping[str, CountedIn],
    ) -> int:
        """Say on the billed steps what is in doubt and what was ruled: which are counted though
        others are of the same usage. Returns of how many nothing was ruled.
        """
        for at, one in doubted.items():
            step = billed[at]
            is_ours = one.takes is Takes.PRICE_BOOK
            if is_ours or step.cost_source is CostSource.LANGFUSE:
                step.finding, step.takes = one.finding, one.takes
                step.other_cost_picousd = one.langfuse_picousd if is_ours else one.ours_picousd
        undecided = 0
        if not doubted and not counting_as_well and not any(map(_doubt_of, billed)):
            return 0
        for at, step in enumerate(billed):
            if counting_as_well:
                of_others = counting_as_well.get(step.version.observation_id)
                if of_others is not None:
                    step.finding, step.takes, step.other_cost_picousd = of_others[0], Takes.BOTH, 0
            if step.doubt and not step.finding:
                self._mark_units(step, usages[at])
            if step.doubt or step.finding:
                undecided += step.is_undecided
        return undecided

    def _mark_units(self, step: BilledStep, usage: ObservationUsage) -> None:
        """Of units that contradict their total, what they cost by the count that isn't billed."""
        step.takes, as_said = self._takes(Finding.UNITS, step.version), usage_of(step.version)
        is_by_total = usage.usage_details is not as_said.usage_details
        if step.takes is Takes.TOTAL and not is_by_total:
            step.takes = Takes.AS_USUAL
        if step.doubt in CONTRADICTED:
            other = as_said if is_by_total else counted_by_own_total(as_said)
            step.other_cost_picousd = self._cost(other).picousd

    def _cost(self, usage: ObservationUsage) -> Cost:
        """As it is priced."""
        return self.engine.cost_of(self.tenant_id, usage, self._known_at, self.connection_id)

    def counted_elsewhere(
        self, steps: Sequence[StepVersion], repeated: Mapping[str, CountedIn]
    ) -> list[BilledStep]:
        """The steps whose usage is counted in another one: they cost nothing here."""
        return [
            self._counted_elsewhere(step, repeated[step.observation_id])
            for step in steps
            if step.observation_id in repeated
        ]

    def _counted_elsewhere(self, step: StepVersion, other: CountedIn) -> BilledStep:
        usage = usage_of(step)
        return BilledStep(
            step,
            NO_TOKENS,
            usage.langfuse_picousd,
            None,
            WITHOUT_USAGE,
            finding=other.finding,
            other_cost_picousd=self._cost(usage).picousd,
            takes=self._takes(other.finding, step),
            counted_in=other.step_id,
            counted_in_trace=other.trace,
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
        step.context,
    )


def counted_by_own_total(usage: ObservationUsage) -> ObservationUsage:
    """Of what Langfuse's cost is not."""
    details = by_own_total(usage.usage_details)
    # Its units are named anew, so what their names said is kept beside them.
    context = whole_context(usage.context, tuple(usage.usage_details))
    return msgspec.structs.replace(without_langfuse(usage), usage_details=details, context=context)


def without_langfuse(usage: ObservationUsage) -> ObservationUsage:
    """As if Langfuse had said no cost."""
    return msgspec.structs.replace(usage, langfuse_picousd=None, uncosted=())
