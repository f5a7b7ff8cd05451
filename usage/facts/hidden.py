"""What a framework hides of the calls that it made: they can't be counted, so it is said
(domain.md, A call is counted once). Pure.
"""

from collections.abc import Sequence, Set
from enum import StrEnum

from usage.facts.unmetered import CALL_TYPES, around_of, is_metered
from usage.langfuse.wire import StepVersion

AGENT, TOOL = "AGENT", "TOOL"


class Hidden(StrEnum):
    """What is not to be seen of a run's calls."""

    ALL_CALLS = "all_calls"
    """An agent ran, and there is no call of a model in the trace."""
    ALL_BUT_ONE = "all_but_one"
    """Tools ran inside a call, which no call does: it stands for several, with the usage of one."""


def hidden_in(steps: Sequence[StepVersion]) -> Set[tuple[Hidden, str]]:
    """What is hidden in a trace, and by which integration."""
    if not any(_is_call(step) for step in steps):
        return {(Hidden.ALL_CALLS, step.source) for step in steps if _has_run(step)}
    by_id = {step.observation_id: step for step in steps}
    inside: dict[str, list[StepVersion]] = {}
    for step in steps:
        for around in around_of(step, by_id):
            inside.setdefault(around, []).append(step)
    return {
        (Hidden.ALL_BUT_ONE, step.source)
        for step in steps
        if _is_call(step)
        and is_metered(step)
        and any(one.type == TOOL for one in inside.get(step.observation_id, ()))
        and not any(map(_is_call, inside[step.observation_id]))
    }


def _is_call(step: StepVersion) -> bool:
    is_of_a_model = bool(step.model) or step.type in CALL_TYPES
    return is_metered(step) or (is_of_a_model and step.type != AGENT)


def _has_run(step: StepVersion) -> bool:
    """An agent that was only made took no time."""
    return step.type == AGENT and step.end_time is not None and step.end_time > step.start_time
