"""What a trace adds to the rollups: one line for the trace, and one for each model that it used. Pure.

A change of a trace is its old lines taken away and its new lines added; a rollup is the sum of all lines, whatever their order.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum
from operator import add, sub
from typing import NamedTuple

from kluisz_analytics.bulk import stamp
from pricing.engine import CostSource
from usage.models.rollups import NUMBERS, UNATTRIBUTED
from usage.sync.assemble import sum_tokens
from usage.sync.steps import Step, TraceFact

NOBODY = UNATTRIBUTED.hex
Numbers = tuple[int, ...]
"""In the order of NUMBERS; money as it is stored."""
TOTAL_TRACES = NUMBERS.index("total_traces")


class Grain(StrEnum):
    """What a line stands for."""

    TRACE = "trace"
    MODEL = "model"


class LineKey(NamedTuple):
    """What a line counts under: keys as 32 hex digits, the hour as it is stored."""

    grain: str
    hour: str
    tenant_key: str
    user_key: str
    project_id: str
    flow_id: str
    model: str


class Change:
    """Lines added and taken away; those under one key are summed up."""

    def __init__(self) -> None:
        self._sums: dict[LineKey, Numbers] = {}

    def add(self, trace: TraceFact, steps: Sequence[Step]) -> None:
        for key, numbers in lines_of(trace, steps):
            known = self._sums.get(key)
            self._sums[key] = numbers if known is None else tuple(map(add, known, numbers))

    def take_away(self, trace: TraceFact, steps: Sequence[Step]) -> None:
        for key, numbers in lines_of(trace, steps):
            self._sums[key] = tuple(map(sub, self._sums.get(key, NOTHING), numbers))

    def lines(self) -> list[tuple[LineKey, Numbers]]:
        """What is left: a line that was taken away and added again is no change."""
        return [(key, numbers) for key, numbers in self._sums.items() if any(numbers)]


NOTHING: Numbers = (0,) * len(NUMBERS)


def lines_of(trace: TraceFact, steps: Sequence[Step]) -> Iterator[tuple[LineKey, Numbers]]:
    """The lines that a trace adds; none for a voided one."""
    if trace.is_voided:
        return
    timed = trace.latency_ms is not None
    rated = trace.microcredits is not None
    common = (1, int(trace.is_failed), int(timed), trace.latency_ms or 0)
    numbers = (
        *trace.tokens,
        *common,
        trace.priced_observations,
        trace.unpriced_observations,
        int(rated),
        trace.cost_picousd or 0,
        trace.billed_cost_picousd or 0,
        trace.microcredits or 0,
    )
    hour = stamp(trace.hour)
    tenant_key = trace.tenant_id.hex if trace.tenant_id else NOBODY
    user_key = trace.user_id.hex if trace.user_id else NOBODY
    owner = (hour, tenant_key, user_key, trace.project_id, trace.flow_id)
    yield LineKey(Grain.TRACE.value, *owner, ""), numbers
    groups = _by_model(steps)
    if len(groups) == 1:
        yield LineKey(Grain.MODEL.value, *owner, *groups), numbers
        return
    for model, group in groups.items():
        yield LineKey(Grain.MODEL.value, *owner, model), _model_numbers(common, rated, group)


def _by_model(steps: Sequence[Step]) -> dict[str, list[Step]]:
    """Billed steps by model; a trace without any (which may carry a tier's minimum) uses no model."""
    groups: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        if step.is_billed:
            groups[step.received.model].append(step)
    return groups or {"": []}


def _model_numbers(common: tuple[int, ...], rated: bool, group: Sequence[Step]) -> Numbers:
    return (
        *sum_tokens(group),
        *common,
        sum(step.cost_picousd is not None for step in group),
        sum(step.cost_source is CostSource.UNPRICED for step in group),
        int(rated),
        sum(step.cost_picousd or 0 for step in group),
        sum(step.billed_cost_picousd or 0 for step in group),
        sum(step.microcredits or 0 for step in group),
    )
