"""A run's steps as a waterfall: each inside the step that called it, drawn where it was under way.
Pure.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from usage.analytics.steps import RunStep

DEEPEST = 12
"""Farther in it is drawn no farther to the right."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A step, how deep it is inside others, and the part of the run's time that it took: where it
    begins and how long it is, from 0 to 1.
    """

    step: RunStep
    depth: int
    start: float
    length: float


def waterfall_of(steps: Sequence[RunStep]) -> list[Bar]:
    """The steps in the order of a tree, siblings as they began. One whose caller isn't there, or
    that is its own caller, stands at the top.
    """
    if not steps:
        return []
    start = min(step.start_time for step in steps)
    end = max(step.end_time or step.start_time for step in steps)
    return [
        Bar(step, min(depth, DEEPEST), *_place(step, start, end))
        for step, depth in _in_order(steps)
    ]


def _place(step: RunStep, start: datetime, end: datetime) -> tuple[float, float]:
    whole = (end - start).total_seconds()
    if not whole:
        return 0.0, 1.0
    begins = (step.start_time - start).total_seconds() / whole
    ends = ((step.end_time or end) - start).total_seconds() / whole
    return begins, max(0.0, ends - begins)


def _in_order(steps: Sequence[RunStep]) -> Iterator[tuple[RunStep, int]]:
    ids = {step.langfuse_observation_id for step in steps}
    inside: dict[str, list[RunStep]] = defaultdict(list)
    for step in steps:
        inside[step.parent_id if step.parent_id in ids else ""].append(step)
    drawn: set[str] = set()
    # Steps that are inside one another in a ring have no top: each is drawn once all the same.
    for top in (*inside[""], *steps):
        waiting = [(top, 0)]
        while waiting:
            step, depth = waiting.pop()
            if step.langfuse_observation_id in drawn:
                continue
            drawn.add(step.langfuse_observation_id)
            yield step, depth
            callees = reversed(inside[step.langfuse_observation_id])
            waiting += [(callee, depth + 1) for callee in callees]
