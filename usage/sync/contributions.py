"""What a trace adds to the rollups: one line for the trace, and one for each model that it used. Pure.

A change of a trace is its old lines taken away and its new lines added; a rollup is the sum of all lines, whatever their order.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

import msgspec

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, to_scaled
from pricing.engine import CostSource
from pricing.units import TokenCounts
from usage.models.rollups import UNATTRIBUTED
from usage.sync.assemble import sum_tokens
from usage.sync.steps import Step, TraceFact

ZERO = Decimal(0)


class Grain(StrEnum):
    """What a line stands for."""

    TRACE = "trace"
    MODEL = "model"


class Line(msgspec.Struct, frozen=True, gc=False):
    """Numbers in the order of NUMBERS (money scaled, as it is stored), and the dimensions that they count under."""

    grain: Grain
    hour: datetime
    tenant_key: UUID
    user_key: UUID
    project_id: str
    flow_id: str
    model: str
    numbers: tuple[int, ...]

    def negated(self) -> "Line":
        numbers = tuple(-number for number in self.numbers)
        return Line(self.grain, self.hour, self.tenant_key, self.user_key, self.project_id, self.flow_id, self.model, numbers)


def lines_of(trace: TraceFact, steps: Sequence[Step]) -> Iterator[Line]:
    """The lines that a trace adds."""
    yield _line(
        Grain.TRACE,
        "",
        trace,
        trace.tokens,
        trace.priced_observations,
        trace.unpriced_observations,
        trace.cost_usd or ZERO,
        trace.billed_cost_usd,
        trace.credits,
    )
    for model, group in _by_model(steps).items():
        is_rated = trace.credits is not None
        yield _line(
            Grain.MODEL,
            model,
            trace,
            sum_tokens(group),
            sum(step.cost_usd is not None for step in group),
            sum(step.cost_source is CostSource.UNPRICED for step in group),
            sum((step.cost_usd or ZERO for step in group), ZERO),
            sum((step.billed_cost_usd or ZERO for step in group), ZERO) if is_rated else None,
            sum((step.credits or ZERO for step in group), ZERO) if is_rated else None,
        )


def _by_model(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """Billed steps by model, and whichever step carries credits without usage (a tier's minimum) under no model."""
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if step.is_billed:
            groups[step.model].append(step)
    return groups or {"": [step for step in steps if step.credits is not None]}


def _line(
    grain: Grain,
    model: str,
    trace: TraceFact,
    tokens: TokenCounts,
    priced: int,
    unpriced: int,
    cost_usd: Decimal,
    billed_cost_usd: Decimal | None,
    credits: Decimal | None,
) -> Line:
    # In the order of NUMBERS.
    numbers = (
        tokens.input,
        tokens.output,
        tokens.total,
        tokens.cached,
        tokens.cache_write,
        tokens.reasoning,
        tokens.audio,
        1,
        int(trace.is_failed),
        int(trace.latency_ms is not None),
        trace.latency_ms or 0,
        priced,
        unpriced,
        int(credits is not None),
        to_scaled(cost_usd, USD_PLACES),
        to_scaled(billed_cost_usd, USD_PLACES) if billed_cost_usd else 0,
        to_scaled(credits, CREDIT_PLACES) if credits else 0,
    )
    return Line(
        grain=grain,
        hour=trace.hour,
        tenant_key=trace.tenant_id or UNATTRIBUTED,
        user_key=trace.user_id or UNATTRIBUTED,
        project_id=trace.project_id,
        flow_id=trace.flow_id,
        model=model,
        numbers=numbers,
    )
