"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is counted). Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from pricing.engine import WITHOUT_USAGE, ObservationUsage, PricedTrace, PricingEngine, TraceUsage
from pricing.units import NO_TOKENS, TokenCounts
from usage.langfuse.wire import ReceivedObservation
from usage.periods import hour_of, milliseconds
from usage.sync.steps import Directory, Step, TraceFact


def assemble(
    connection_id: int,
    steps: Sequence[Step],
    directory: Directory,
    engine: PricingEngine,
    fixed_tenant_id: UUID | None = None,
    stored: TraceFact | None = None,
) -> TraceFact:
    """The trace of ``steps`` (all of its steps, at least one), of which ``stored`` is the decision so far. Prices the steps, in place."""
    ordered = sorted(steps, key=_precedence) if len(steps) > 1 else steps
    rows = [step.received for step in ordered]
    first = rows[0]
    tenant_reference = first.tenant_reference or _first(rows, lambda row: row.tenant_reference)
    user_reference = first.user_reference or _first(rows, lambda row: row.user_reference)
    tenant_id, user_id = _owner(tenant_reference, user_reference, directory, fixed_tenant_id)
    start_time = min([row.start_time for row in rows])
    priced_as_of = engine.book.loaded_at
    if stored is not None and (stored.is_attributed or tenant_id is None or user_id is None):
        # Once it has an owner, later entries of the price lists change nothing (pricing.engine).
        priced_as_of = stored.priced_as_of
    using = [step for step in ordered if step.received.usage_details or step.langfuse_cost_picousd is not None]
    usages = [
        ObservationUsage(step.received.model, step.received.usage_details, step.langfuse_cost_picousd, step.received.start_time)
        for step in using
    ]
    priced = engine.price(TraceUsage(tenant_id, user_id, start_time, priced_as_of, usages))
    billed = _keep_prices(ordered, using, priced)
    unpriced_count = [step.cost_picousd for step in billed].count(None)
    charge = priced.charge
    # In the order of the fields: by name takes five times as long, and there are millions.
    return TraceFact(
        ordered[0].trace_id,
        connection_id,
        first.trace_id,
        first.trace_name or _first(rows, lambda row: row.trace_name) or _first(rows, lambda row: row.name),
        start_time,
        hour_of(start_time),
        _latency_ms(rows, start_time),
        _is_failed(rows),
        tenant_id,
        user_id,
        tenant_reference,
        user_reference,
        first.project_id or _first(rows, lambda row: row.project_id),
        first.flow_id or _first(rows, lambda row: row.flow_id),
        _sole_model(billed),
        len(steps),
        sum([step.gone_since is not None for step in steps]),
        len(billed) - unpriced_count,
        unpriced_count,
        sum_tokens(billed),
        priced.cost_picousd,
        charge.billed_picousd,
        charge.microcredits,
        None if charge.rate is None else charge.rate.id,
        priced_as_of,
    )


def _precedence(step: Step) -> tuple[bool, datetime, str]:
    """Roots before others, then the earliest; the id decides between equals."""
    received = step.received
    return (not received.is_root, received.start_time, received.observation_id)


def _first(rows: Sequence[ReceivedObservation], value: Callable[[ReceivedObservation], str]) -> str:
    """The first that any row says, in their order."""
    return next((found for row in rows if (found := value(row))), "")


def _owner(
    tenant_reference: str, user_reference: str, directory: Directory, fixed_tenant_id: UUID | None
) -> tuple[UUID | None, UUID | None]:
    """Tenant and user; None for one that is missing or unknown. With no tenant named, the user's tenant is it."""
    user_id, users_tenant_id = directory.users.get(user_reference, (None, None))
    if fixed_tenant_id is not None:
        return fixed_tenant_id, user_id
    return (directory.tenants.get(tenant_reference) if tenant_reference else users_tenant_id), user_id


def _keep_prices(steps: Sequence[Step], using: Sequence[Step], priced: PricedTrace) -> list[Step]:
    """Write onto the steps what each costs, and which part of the trace's charge is its own. Returns those with usage.

    ``priced`` are the costs of those that are ``using`` anything; the others cost nothing.
    """
    for step in steps:
        step.cost_picousd = step.price_id = step.billed_cost_picousd = step.microcredits = None
        step.cost_source = WITHOUT_USAGE
    billed = []
    for step, cost in zip(using, priced.costs, strict=True):
        if cost.source is not WITHOUT_USAGE:
            step.cost_picousd, step.cost_source, step.price_id = cost.picousd, cost.source, cost.price_id
            billed.append(step)
    for at, billed_part, credits_part in priced.parts():
        sharing = (using or steps)[at]
        sharing.billed_cost_picousd, sharing.microcredits = billed_part, credits_part
    return billed


def _latency_ms(rows: Sequence[ReceivedObservation], start_time: datetime) -> int | None:
    """From the earliest start to the latest end; None while no step has ended."""
    ends = [end_time for row in rows if (end_time := row.end_time) is not None]
    return max(0, milliseconds(max(ends) - start_time)) if ends else None


def _is_failed(rows: Sequence[ReceivedObservation]) -> bool:
    """A root has level ERROR, or, with no root, any step has. Roots come first in ``rows``."""
    has_root = rows[0].is_root
    for row in rows:
        if has_root and not row.is_root:
            return False
        if row.level == "ERROR":
            return True
    return False


def _sole_model(billed: Sequence[Step]) -> str | None:
    """The model of all usage; "" of none, None of several."""
    if len(billed) == 1:
        return billed[0].received.model
    models = {step.received.model for step in billed}
    return "" if not models else models.pop() if len(models) == 1 else None


def sum_tokens(steps: Sequence[Step]) -> TokenCounts:
    """The tokens of the steps together."""
    if not steps:
        return NO_TOKENS
    if len(steps) == 1:
        return steps[0].tokens
    counted = [step.tokens for step in steps]
    return TokenCounts(
        input=sum(one.input for one in counted),
        output=sum(one.output for one in counted),
        total=sum(one.total for one in counted),
        cached=sum(one.cached for one in counted),
        cache_write=sum(one.cache_write for one in counted),
        reasoning=sum(one.reasoning for one in counted),
        audio=sum(one.audio for one in counted),
    )
