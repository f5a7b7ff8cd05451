"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is
counted). Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from pricing.engine import (
    PARTLY_PRICED,
    UNMETERED,
    WITHOUT_USAGE,
    Cost,
    ObservationUsage,
    PricedTrace,
    PricingEngine,
    TraceUsage,
    Uncharged,
)
from pricing.units import NO_TOKENS, TokenCounts, count_tokens, counted
from usage.environments import BilledEnvironments
from usage.facts.decided import AssembledTrace, BilledStep, TraceFact
from usage.facts.doubts import Doubts, usage_of
from usage.facts.findings import (
    NO_RULINGS,
    Finding,
    Rulings,
    Takes,
    counted_in,
    sums_of_children,
)
from usage.facts.owner import Directory, Settlement, owner_of
from usage.facts.received import in_precedence, packed
from usage.facts.unmetered import unmetered_calls
from usage.langfuse.wire import ReceivedObservation, SaidOfTrace, StepVersion
from usage.periods import HOUR, hour_of, milliseconds

ALL_BUT_LANGFUSES = BilledEnvironments()


def assemble(
    connection_id: int,
    key: str,
    observations: Sequence[ReceivedObservation],
    directory: Directory,
    engine: PricingEngine,
    fixed_tenant_id: UUID | None = None,
    billed_in: BilledEnvironments = ALL_BUT_LANGFUSES,
    stored: TraceFact | None = None,
    deleted_observations: int = 0,
    rulings: Rulings = NO_RULINGS,
    settlement: Settlement | None = None,
) -> AssembledTrace:
    """The trace of ``observations`` (the newest version of each of its steps, at least one), of
    which ``stored`` is the decision so far, and ``settlement`` an operator's; charged in the
    environments ``billed_in``.
    """
    ordered = in_precedence(observations)
    steps = [one.step for one in ordered]
    said = _decided(ordered)
    starts = [step.start_time for step in steps]
    start_time = min(starts)
    owner = owner_of(
        directory,
        said.tenant_reference,
        said.user_reference,
        start_time,
        fixed_tenant_id,
        settlement,
    )
    tenant_id, user_id = owner.tenant_id, owner.user_id
    hour = hour_of(start_time)
    last_start = max(starts)
    priced_as_of = engine.book.loaded_at
    if stored is not None and not _is_found(stored, tenant_id, user_id):
        # Once it has an owner, later entries of the price lists change nothing (pricing.engine).
        priced_as_of = stored.priced_as_of
    unmetered = unmetered_calls(steps)
    using = [
        step
        for step in steps
        if step.usage_details
        or step.cost_usd is not None
        or (unmetered and step.observation_id in unmetered)
    ]
    sums = sums_of_children(steps, using)
    repeated = _repeated(sums, using, rulings, key)
    if repeated:
        using = [step for step in using if step.observation_id not in repeated]
    usages = [
        usage_of(step, bool(unmetered) and step.observation_id in unmetered) for step in using
    ]
    doubts = Doubts(engine, connection_id, tenant_id, start_time, priced_as_of, rulings, key)
    usages, doubted = doubts.settled(using, usages)
    is_failed, is_billed = _is_failed(steps), said.environment in billed_in
    priced = engine.price(
        TraceUsage(
            tenant_id,
            user_id,
            start_time,
            priced_as_of,
            usages,
            is_failed,
            is_billed,
            connection_id,
        )
    )
    billed = _billed(using, usages, priced) if using else _minimum(steps[0], priced)
    doubtful_count = doubts.mark(billed, usages, doubted, sums)
    billed += doubts.counted_elsewhere(steps, repeated)
    of_calls = [step for step in billed if step.cost_source is not WITHOUT_USAGE]
    partly, unpriced_count, unmetered_count = _not_priced(of_calls)
    charge = priced.charge
    # In the order of the fields: by name takes five times as long, and there are millions.
    fact = TraceFact(
        key,
        connection_id,
        ordered[0].trace_id,
        said,
        start_time,
        hour,
        hour_of(last_start) if last_start >= hour + HOUR else None,
        _latency_ms(steps, start_time),
        is_failed,
        tenant_id,
        user_id,
        _sole_model(of_calls),
        len(steps),
        deleted_observations,
        len(of_calls) - partly - unpriced_count - unmetered_count,
        partly,
        unpriced_count,
        unmetered_count,
        doubtful_count,
        _sum_tokens(of_calls),
        priced.cost_picousd,
        charge.billed_picousd,
        charge.microcredits,
        None if charge.rate is None else charge.rate.id,
        priced_as_of,
        stored is not None and stored.is_voided,
        priced.set_aside,
        charge.uncharged or ("" if is_billed else Uncharged.ENVIRONMENT),
        owner.dispute,
        owner.disputed_tenant_id,
        owner.disputed_user_id,
        owner.settled_as,
    )
    return AssembledTrace(fact, billed, packed(ordered, said))


def _repeated(
    sums: Mapping[str, str], using: Sequence[StepVersion], rulings: Rulings, key: str
) -> Mapping[str, str]:
    """Those of the sums whose usage is counted in other steps, and the first of these."""
    if not sums:
        return sums
    models = {step.observation_id: step.model for step in using}
    repeated = {
        step_id: other
        for step_id, other in sums.items()
        if rulings.takes(Finding.SUM, models[step_id], (key, step_id)) is not Takes.BOTH
    }
    return {step_id: counted_in(other, repeated) for step_id, other in repeated.items()}


def _decided(ordered: Sequence[ReceivedObservation]) -> SaidOfTrace:
    """Of each text the first that any step says, in their order; a trace that nobody names is
    called as its first step is.
    """
    said, all_said = ordered[0].said, [one.said for one in ordered]
    if all_said.count(said) < len(all_said):
        said = SaidOfTrace(
            *[next(filter(None, texts), "") for texts in zip(*all_said, strict=True)]
        )
    if said.name:
        return said
    return said._replace(name=next((one.step.name for one in ordered if one.step.name), ""))


def _is_found(stored: TraceFact, tenant_id: UUID | None, user_id: UUID | None) -> bool:
    """Whether a tenant or a user has become known, which then has its tier by the lists of now.

    Those of a dispute were known when it began.
    """
    if stored.is_owned or stored.dispute or tenant_id is None:
        return False
    return stored.tenant_id is None or user_id is not None


def _billed(
    using: Sequence[StepVersion], usages: Sequence[ObservationUsage], priced: PricedTrace
) -> list[BilledStep]:
    """The steps with what each costs and its part of the charge."""
    billed = [
        _billed_step(step, usage, cost)
        for step, usage, cost in zip(using, usages, priced.costs, strict=True)
    ]
    for at, billed_picousd, microcredits in priced.parts():
        billed[at].billed_cost_picousd, billed[at].microcredits = billed_picousd, microcredits
    return billed


def _billed_step(step: StepVersion, usage: ObservationUsage, cost: Cost) -> BilledStep:
    if cost.source is WITHOUT_USAGE:
        return BilledStep(step, NO_TOKENS, usage.langfuse_picousd, None, WITHOUT_USAGE)
    tokens, doubt = counted(step.usage_details)
    if usage.usage_details is not step.usage_details:
        tokens = count_tokens(usage.usage_details)
    return BilledStep(
        step,
        tokens,
        usage.langfuse_picousd,
        cost.picousd,
        cost.source,
        cost.price_id,
        doubt=doubt,
    )


def _not_priced(of_calls: Sequence[BilledStep]) -> tuple[int, int, int]:
    """How many are partly priced, unpriced and unmetered."""
    partly = unpriced = unmetered = 0
    for step in of_calls:
        source = step.cost_source
        if source is PARTLY_PRICED:
            partly += 1
        elif step.cost_picousd is None:
            if source is UNMETERED.source:
                unmetered += 1
            else:
                unpriced += 1
    return partly, unpriced, unmetered


def _minimum(step: StepVersion, priced: PricedTrace) -> list[BilledStep]:
    """Of a trace that used nothing, its first step is charged, if anything is: a tier's minimum."""
    return [
        BilledStep(step, NO_TOKENS, None, None, WITHOUT_USAGE, None, billed_picousd, microcredits)
        for _, billed_picousd, microcredits in priced.parts()
    ]


def _latency_ms(steps: Sequence[StepVersion], start_time: datetime) -> int | None:
    """From the earliest start to the latest end; None while no step has ended."""
    ends = [end_time for step in steps if (end_time := step.end_time) is not None]
    return max(0, milliseconds(max(ends) - start_time)) if ends else None


def _is_failed(steps: Sequence[StepVersion]) -> bool:
    """A root has level ERROR, or, with no root, any step has. Roots come first in ``steps``."""
    has_root = steps[0].is_root
    for step in steps:
        if has_root and not step.is_root:
            return False
        if step.level == "ERROR":
            return True
    return False


def _sole_model(of_calls: Sequence[BilledStep]) -> str | None:
    """The model of all usage; "" of none, None of several."""
    if len(of_calls) == 1:
        return of_calls[0].version.model
    models = {step.version.model for step in of_calls}
    return "" if not models else models.pop() if len(models) == 1 else None


def _sum_tokens(of_calls: Sequence[BilledStep]) -> TokenCounts:
    if not of_calls:
        return NO_TOKENS
    if len(of_calls) == 1:
        return of_calls[0].tokens
    return TokenCounts(*map(sum, zip(*[step.tokens for step in of_calls], strict=True)))
