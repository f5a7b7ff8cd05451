"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is counted). Pure."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, from_scaled, to_scaled
from pricing.engine import Charge, CostSource, PriceBook, charge_for, cost_of, split
from pricing.units import NO_TOKENS, TokenCounts
from usage.langfuse.wire import ReceivedObservation
from usage.periods import hour_of
from usage.sync.steps import Directory, Step, TraceFact

MILLISECOND = timedelta(milliseconds=1)
NO_CHARGE = Charge(None, None)


def assemble(
    connection_id: int, steps: Sequence[Step], directory: Directory, book: PriceBook, fixed_tenant_id: UUID | None = None
) -> TraceFact:
    """The trace of ``steps`` (all of its steps, at least one). Prices the steps on the way, in place."""
    ordered = sorted(steps, key=_precedence) if len(steps) > 1 else steps
    rows = [step.received for step in ordered]
    first = rows[0]
    tenant_reference = first.tenant_reference or _first(rows, lambda row: row.tenant_reference)
    user_reference = first.user_reference or _first(rows, lambda row: row.user_reference)
    tenant_id, user_id = _owner(tenant_reference, user_reference, directory, fixed_tenant_id)
    start_time = min([row.start_time for row in rows])
    billed = [step for step in ordered if _price(step, tenant_id, book)]
    priced = [step for step in billed if step.cost_picousd is not None]
    cost_picousd = None if billed and not priced else sum([step.cost_picousd or 0 for step in priced])
    charge = NO_CHARGE
    if tenant_id is not None and user_id is not None:
        cost_usd = None if cost_picousd is None else from_scaled(cost_picousd, USD_PLACES)
        charge = charge_for(cost_usd, book.rate_for(user_id, tenant_id, start_time))
    billed_cost_picousd = None if charge.billed_cost_usd is None else to_scaled(charge.billed_cost_usd, USD_PLACES)
    microcredits = None if charge.credits is None else to_scaled(charge.credits, CREDIT_PLACES)
    # Without usage, all of the charge (a tier's minimum) is the first step's.
    _share(charge, billed_cost_picousd, microcredits, priced or [ordered[0]])
    return TraceFact(
        id=ordered[0].trace_id,
        connection_id=connection_id,
        langfuse_trace_id=first.trace_id,
        name=first.trace_name or _first(rows, lambda row: row.trace_name) or _first(rows, lambda row: row.name),
        start_time=start_time,
        hour=hour_of(start_time),
        latency_ms=_latency_ms(rows, start_time),
        is_failed=_is_failed(rows),
        tenant_id=tenant_id,
        user_id=user_id,
        tenant_reference=tenant_reference,
        user_reference=user_reference,
        project_id=first.project_id or _first(rows, lambda row: row.project_id),
        flow_id=first.flow_id or _first(rows, lambda row: row.flow_id),
        observations=len(steps),
        gone_observations=sum([step.gone_since is not None for step in steps]),
        priced_observations=len(priced),
        unpriced_observations=len(billed) - len(priced),
        tokens=sum_tokens(billed),
        cost_picousd=cost_picousd,
        billed_cost_picousd=billed_cost_picousd,
        microcredits=microcredits,
        rate_id=charge.rate_id,
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


def _price(step: Step, tenant_id: UUID | None, book: PriceBook) -> bool:
    """Price the step; whether it is billed."""
    received = step.received
    step.billed_cost_picousd = step.microcredits = step.cost_picousd = step.price_id = None
    if not received.usage_details and received.cost_usd is None:
        step.cost_source = CostSource.NO_USAGE
        return False
    cost = cost_of(
        book,
        tenant_id=tenant_id,
        model=received.model,
        usage_details=received.usage_details,
        langfuse_cost_usd=received.cost_usd,
        started_at=received.start_time,
    )
    step.cost_source, step.price_id = cost.source, cost.price_id
    if cost.source is CostSource.LANGFUSE:
        step.cost_picousd = step.langfuse_cost_picousd
    elif cost.cost_usd is not None and step.is_billed:
        step.cost_picousd = to_scaled(cost.cost_usd, USD_PLACES)
    return step.is_billed


def _share(charge: Charge, billed_cost_picousd: int | None, microcredits: int | None, sharers: Sequence[Step]) -> None:
    """Tell the trace's charge apart by step, in proportion to cost."""
    if charge.billed_cost_usd is None or charge.credits is None:
        return
    if len(sharers) == 1:
        sharers[0].billed_cost_picousd, sharers[0].microcredits = billed_cost_picousd, microcredits
        return
    weights = [from_scaled(step.cost_picousd or 0, USD_PLACES) for step in sharers]
    billed = split(charge.billed_cost_usd, weights, USD_PLACES)
    credits = split(charge.credits, weights, CREDIT_PLACES)
    for step, billed_part, credits_part in zip(sharers, billed, credits, strict=True):
        step.billed_cost_picousd, step.microcredits = to_scaled(billed_part, USD_PLACES), to_scaled(credits_part, CREDIT_PLACES)


def _latency_ms(rows: Sequence[ReceivedObservation], start_time: datetime) -> int | None:
    """From the earliest start to the latest end; None while no step has ended."""
    ends = [row.end_time for row in rows if row.end_time is not None]
    return max(0, (max(ends) - start_time) // MILLISECOND) if ends else None


def _is_failed(rows: Sequence[ReceivedObservation]) -> bool:
    """A root has level ERROR, or, with no root, any step has. Roots come first in ``rows``."""
    deciding = [row for row in rows if row.is_root] if rows[0].is_root else rows
    return "ERROR" in [row.level for row in deciding]


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
