"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is counted). Pure."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES
from pricing.engine import Charge, CostSource, PriceBook, charge_for, cost_of, split
from pricing.units import TokenCounts
from usage.periods import hour_of
from usage.sync.identity import parse_uuid
from usage.sync.steps import Directory, Step, TraceFact

MILLISECOND = timedelta(milliseconds=1)
ZERO = Decimal(0)


def assemble(
    connection_id: int, steps: Sequence[Step], directory: Directory, book: PriceBook, fixed_tenant_id: UUID | None = None
) -> TraceFact:
    """The trace of ``steps`` (all of its steps, at least one). Prices the steps on the way, in place."""
    ordered = sorted(steps, key=lambda step: (not step.is_root, step.start_time, step.langfuse_observation_id))
    tenant_reference = _first(ordered, lambda step: step.tenant_reference)
    user_reference = _first(ordered, lambda step: step.user_reference)
    tenant_id, user_id = _owner(tenant_reference, user_reference, directory, fixed_tenant_id)
    start_time = min(step.start_time for step in steps)
    for step in steps:
        _price(step, tenant_id, book)
    priced = [step for step in steps if step.is_billed and step.cost_usd is not None]
    unpriced = sum(step.cost_source is CostSource.UNPRICED for step in steps)
    cost_usd = None if unpriced and not priced else sum((step.cost_usd or ZERO for step in priced), ZERO)
    charge = Charge(None, None)
    if tenant_id is not None and user_id is not None:
        charge = charge_for(cost_usd, book.rate_for(user_id, tenant_id, start_time))
    _share(charge, ordered)
    return TraceFact(
        id=ordered[0].trace_id,
        connection_id=connection_id,
        langfuse_trace_id=ordered[0].langfuse_trace_id,
        name=_first(ordered, lambda step: step.trace_name) or _first(ordered, lambda step: step.name),
        start_time=start_time,
        hour=hour_of(start_time),
        latency_ms=_latency_ms(steps),
        is_failed=_is_failed(ordered),
        tenant_id=tenant_id,
        user_id=user_id,
        tenant_reference=tenant_reference,
        user_reference=user_reference,
        project_id=_first(ordered, lambda step: step.project_id),
        flow_id=_first(ordered, lambda step: step.flow_id),
        observations=len(steps),
        priced_observations=len(priced),
        unpriced_observations=unpriced,
        tokens=sum_tokens(steps),
        cost_usd=cost_usd,
        billed_cost_usd=charge.billed_cost_usd,
        credits=charge.credits,
        rate_id=charge.rate_id,
    )


def _first(ordered: Sequence[Step], value: Callable[[Step], str]) -> str:
    """The first that any step says, roots before others, then the earliest."""
    return next((found for step in ordered if (found := value(step))), "")


def _owner(
    tenant_reference: str, user_reference: str, directory: Directory, fixed_tenant_id: UUID | None
) -> tuple[UUID | None, UUID | None]:
    """Tenant and user; None for one that is missing or unknown. With no tenant named, the user's tenant is it."""
    user_id = parse_uuid(user_reference)
    if user_id not in directory.tenant_of_user:
        user_id = None
    if fixed_tenant_id is not None:
        return fixed_tenant_id, user_id
    if tenant_reference:
        tenant_id = parse_uuid(tenant_reference)
        return (tenant_id if tenant_id in directory.tenants else None), user_id
    return (directory.tenant_of_user[user_id] if user_id is not None else None), user_id


def _price(step: Step, tenant_id: UUID | None, book: PriceBook) -> None:
    cost = cost_of(
        book,
        tenant_id=tenant_id,
        model=step.model,
        usage_details=step.usage_details,
        langfuse_cost_usd=step.langfuse_cost_usd,
        started_at=step.start_time,
    )
    step.cost_source, step.price_id = cost.source, cost.price_id
    step.cost_usd = cost.cost_usd if step.is_billed else None


def _share(charge: Charge, ordered: Sequence[Step]) -> None:
    """Tell the trace's charge apart by step, in proportion to cost; without usage, all of it is the first step's."""
    for step in ordered:
        step.billed_cost_usd = step.credits = None
    if charge.credits is None or charge.billed_cost_usd is None:
        return
    sharers = [step for step in ordered if step.is_billed and step.cost_usd is not None] or [ordered[0]]
    weights = [step.cost_usd or ZERO for step in sharers]
    billed = split(charge.billed_cost_usd, weights, USD_PLACES)
    credits = split(charge.credits, weights, CREDIT_PLACES)
    for step, billed_part, credits_part in zip(sharers, billed, credits, strict=True):
        step.billed_cost_usd, step.credits = billed_part, credits_part


def _latency_ms(steps: Sequence[Step]) -> int | None:
    """From the earliest start to the latest end; None while no step has ended."""
    ends = [step.end_time for step in steps if step.end_time is not None]
    if not ends:
        return None
    return max(0, (max(ends) - min(step.start_time for step in steps)) // MILLISECOND)


def _is_failed(ordered: Sequence[Step]) -> bool:
    """A root has level ERROR, or, with no root, any step has."""
    deciding = [step for step in ordered if step.is_root] or ordered
    return any(step.level == "ERROR" for step in deciding)


def sum_tokens(steps: Sequence[Step]) -> TokenCounts:
    counted = [step.tokens for step in steps if step.usage_details]
    if len(counted) == 1:
        return counted[0]
    return TokenCounts(
        input=sum(one.input for one in counted),
        output=sum(one.output for one in counted),
        total=sum(one.total for one in counted),
        cached=sum(one.cached for one in counted),
        cache_write=sum(one.cache_write for one in counted),
        reasoning=sum(one.reasoning for one in counted),
        audio=sum(one.audio for one in counted),
    )
