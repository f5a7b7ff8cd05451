"""Calls of a model that say neither what they used nor what they cost: unmetered, not free
(domain.md, What is counted). Pure.
"""

from collections.abc import Sequence, Set

from usage.langfuse.wire import StepVersion

CALL_TYPES = frozenset({"GENERATION", "EMBEDDING"})
NO_CALLS = ("._prepare_chat_with_tools",)
"""How generations are called that are none: what LlamaIndex prepares beside each call."""
NONE: Set[str] = frozenset()


def unmetered_calls(steps: Sequence[StepVersion]) -> Set[str]:
    """The ids of a trace's unmetered calls.

    A step around another call is that call as a framework sees it, and so is a step inside one that
    says what it used: of those that follow one another only one is counted.
    """
    unmetered = [
        step
        for step in steps
        if (step.model or step.type in CALL_TYPES)
        and step.cost_usd is None
        and not (step.usage_details and any(step.usage_details.values()))
        and not step.name.endswith(NO_CALLS)
    ]
    if not unmetered:
        return NONE
    ids = {step.observation_id for step in unmetered}
    if len(steps) == 1:
        return ids
    by_id = {step.observation_id: step for step in steps}
    calls = [step for step in steps if is_metered(step) or step.observation_id in ids]
    around = {one for step in calls for one in around_of(step, by_id)}
    return {
        step.observation_id
        for step in unmetered
        if step.observation_id not in around
        and not any(_is_metered_call(by_id[one]) for one in around_of(step, by_id))
    }


def is_metered(step: StepVersion) -> bool:
    """Whether it says that it used or cost something."""
    return step.cost_usd is not None or any(step.usage_details.values())


def _is_metered_call(step: StepVersion) -> bool:
    return bool(step.model or step.type in CALL_TYPES) and is_metered(step)


def around_of(step: StepVersion, by_id: dict[str, StepVersion]) -> list[str]:
    """The steps that it is inside of, the nearest first."""
    found: list[str] = []
    parent = by_id.get(step.parent_id)
    while parent is not None and parent.observation_id not in (step.observation_id, *found):
        found.append(parent.observation_id)
        parent = by_id.get(parent.parent_id)
    return found
