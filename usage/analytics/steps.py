"""The steps of one run: what Langfuse says of each, and what it cost."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from kluisz_analytics.scales import Credits, Usd
from pricing.engine import CostSource
from usage.facts.store import received_of
from usage.models import Observation, Trace
from usage.periods import milliseconds


class RunStep(NamedTuple):
    """A step as it is shown.

    Tokens are 0 and the cost None where it used nothing, and where what it used is counted in the
    step ``counted_in``, or in another run; ``deleted_since``: deleted in Langfuse; ``parent_id``:
    the step that it is inside of.
    """

    langfuse_observation_id: str
    name: str
    type: str
    level: str
    is_root: bool
    start_time: datetime
    end_time: datetime | None
    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost_usd: Usd | None = None
    cost_source: CostSource = CostSource.NO_USAGE
    credits: Credits | None = None
    counted_in: str = ""
    is_counted_in_another_run: bool = False
    deleted_since: datetime | None = None
    parent_id: str = ""

    @property
    def latency_ms(self) -> int | None:
        """How long it took; None of one that has not ended."""
        return (
            None if self.end_time is None else max(0, milliseconds(self.end_time - self.start_time))
        )


def steps_of(trace: Trace, billed: Iterable[Observation]) -> list[RunStep]:
    """All steps of the run, in the order in which they began; ``billed`` are its billed ones.

    One query.
    """
    received = received_of(trace)
    priced = {one.langfuse_observation_id: one for one in billed}
    steps = []
    for step_id, one in received.observations.items():
        version, costs = one.step, priced.get(step_id)
        step = RunStep(
            step_id,
            version.name,
            version.type,
            version.level,
            version.is_root,
            version.start_time,
            version.end_time,
            version.model,
            parent_id=version.parent_id,
        )
        if costs is not None:
            is_in_another_run = costs.counted_in_trace is not None
            step = step._replace(
                cost_source=CostSource(costs.cost_source),
                counted_in="" if is_in_another_run else costs.counted_in,
                is_counted_in_another_run=is_in_another_run,
                **{name: getattr(costs, name) for name in COSTS},
            )
        steps.append(step._replace(deleted_since=received.deleted.get(step_id)))
    return sorted(steps, key=lambda step: (step.start_time, step.langfuse_observation_id))


COSTS = ("input_tokens", "output_tokens", "total_tokens", "cost_usd", "credits")
