"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is
counted). Pure.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from kluisz_analytics.scales import USD_PLACES, to_scaled
from kluisz_analytics.tenants.attributed import is_attributed
from pricing.engine import (
    WITHOUT_USAGE,
    ObservationUsage,
    PricedTrace,
    PricingEngine,
    TraceUsage,
    Uncharged,
)
from pricing.units import NO_TOKENS, TokenCounts, count_tokens
from usage.environments import BilledEnvironments
from usage.facts.decided import AssembledTrace, BilledStep, Directory, TraceFact
from usage.facts.received import in_precedence, packed
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
) -> AssembledTrace:
    """The trace of ``observations`` (the newest version of each of its steps, at least one), of
    which ``stored`` is the decision so far; charged in the environments ``billed_in``.
    """
    ordered = in_precedence(observations)
    steps = [one.step for one in ordered]
    said = _decided(ordered)
    tenant_id, user_id = _owner(said, directory, fixed_tenant_id)
    starts = [step.start_time for step in steps]
    start_time = min(starts)
    hour = hour_of(start_time)
    last_start = max(starts)
    priced_as_of = engine.book.loaded_at
    if stored is not None and (stored.is_attributed or not is_attributed(tenant_id, user_id)):
        # Once it has an owner, later entries of the price lists change nothing (pricing.engine).
        priced_as_of = stored.priced_as_of
    using = [step for step in steps if step.usage_details or step.cost_usd is not None]
    usages = [_usage(step) for step in using]
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
    counted = [step for step in billed if step.cost_source is not WITHOUT_USAGE]
    unpriced_count = [step.cost_picousd for step in counted].count(None)
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
        _sole_model(counted),
        len(steps),
        deleted_observations,
        len(counted) - unpriced_count,
        unpriced_count,
        _sum_tokens(counted),
        priced.cost_picousd,
        charge.billed_picousd,
        charge.microcredits,
        None if charge.rate is None else charge.rate.id,
        priced_as_of,
        stored is not None and stored.is_voided,
        priced.set_aside,
        charge.uncharged or ("" if is_billed else Uncharged.ENVIRONMENT),
    )
    return AssembledTrace(fact, billed, packed(ordered, said))


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


def _owner(
    said: SaidOfTrace, directory: Directory, fixed_tenant_id: UUID | None
) -> tuple[UUID | None, UUID | None]:
    """Tenant and user; None for one that is missing or unknown.

    With no tenant named, the user's tenant is it.
    """
    user_id, users_tenant_id = directory.users.get(said.user_reference, (None, None))
    if fixed_tenant_id is not None:
        return fixed_tenant_id, user_id
    return (
        directory.tenants.get(said.tenant_reference) if said.tenant_reference else users_tenant_id
    ), user_id


def _usage(step: StepVersion) -> ObservationUsage:
    langfuse_picousd = None if step.cost_usd is None else to_scaled(step.cost_usd, USD_PLACES)
    return ObservationUsage(step.model, step.usage_details, langfuse_picousd, step.start_time)


def _billed(
    using: Sequence[StepVersion], usages: Sequence[ObservationUsage], priced: PricedTrace
) -> list[BilledStep]:
    """The steps with what each costs and its part of the charge."""
    billed = [
        (
            BilledStep(step, NO_TOKENS, usage.langfuse_picousd, None, WITHOUT_USAGE)
            if cost.source is WITHOUT_USAGE
            else BilledStep(
                step,
                count_tokens(step.usage_details),
                usage.langfuse_picousd,
                cost.picousd,
                cost.source,
                cost.price_id,
            )
        )
        for step, usage, cost in zip(using, usages, priced.costs, strict=True)
    ]
    for at, billed_picousd, microcredits in priced.parts():
        billed[at].billed_cost_picousd, billed[at].microcredits = billed_picousd, microcredits
    return billed


def _minimum(step: StepVersion, priced: PricedTrace) -> list[BilledStep]:
    """Of a trace that used nothing, its first step is charged, if anything is: a tier's minimum."""
    return [
        BilledStep(step, NO_TOKENS, None, None, WITHOUT_USAGE, None, *charged)
        for _, *charged in priced.parts()
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


def _sole_model(counted: Sequence[BilledStep]) -> str | None:
    """The model of all usage; "" of none, None of several."""
    if len(counted) == 1:
        return counted[0].version.model
    models = {step.version.model for step in counted}
    return "" if not models else models.pop() if len(models) == 1 else None


def _sum_tokens(counted: Sequence[BilledStep]) -> TokenCounts:
    if not counted:
        return NO_TOKENS
    if len(counted) == 1:
        return counted[0].tokens
    return TokenCounts(*map(sum, zip(*[step.tokens for step in counted], strict=True)))
