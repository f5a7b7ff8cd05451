"""What is stored of Langfuse's steps, for tests to look at."""

from datetime import datetime
from typing import NamedTuple

from usage.facts.store import load_received
from usage.langfuse.wire import StepVersion, TraceAttributes
from usage.models import ReceivedTrace


class StoredStep(NamedTuple):
    trace_attributes: TraceAttributes
    version: StepVersion
    deleted_since: datetime | None


def stored_steps() -> dict[tuple[str, str], StoredStep]:
    """All steps, by Langfuse's ids of their trace and of themselves."""
    traces = load_received([pk.hex for pk in ReceivedTrace.objects.values_list("pk", flat=True)])
    return {
        (one.trace_id, step_id): StoredStep(
            one.trace_attributes, one.step, received.deleted.get(step_id)
        )
        for received in traces.values()
        for step_id, one in received.observations.items()
    }


def deleted_steps() -> set[tuple[str, str]]:
    """Those that are deleted in Langfuse."""
    return {key for key, step in stored_steps().items() if step.deleted_since is not None}
