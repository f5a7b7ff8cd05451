"""Runs of which a framework hides calls of models, by integration, with what to do about it."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from usage.facts.hidden import Hidden, hidden_in
from usage.facts.store import load_received
from usage.models import LangfuseConnection, Trace

LOOKED_AT = timedelta(days=7)
MOST_RUNS = 5_000
"""The latest are looked at."""
ADVICE: Mapping[str, str] = {
    "autogen-core": (
        "AutoGen records agents and tools only. Instrument the client of the model's provider as"
        " well, for example with openinference-instrumentation-openai."
    ),
    "gcp.vertex.agent": (
        "ADK says the usage of an agent's last call only. Instrument what it calls models with as"
        " well: openinference-instrumentation-litellm, openinference-instrumentation-google-genai."
    ),
}
OTHERS = (
    "Instrument the client of the model's provider as well: OpenInference and OpenLLMetry have an"
    " instrumentation for each. Calls that are then recorded twice are counted once."
)


@dataclass(frozen=True, slots=True)
class HiddenCalls:
    """Runs of the last seven days of which an integration hides calls: all of them, or all but the
    last one of each agent; ``source`` is empty for Langfuse's own SDK.
    """

    kind: str
    connection_id: int
    connection: str
    source: str
    runs: int
    example_langfuse_trace_id: str
    last_seen: datetime
    advice: str


def hidden_calls(now: datetime | None = None) -> list[HiddenCalls]:
    """The most runs first; of the latest runs."""
    since = (now or timezone.now()) - LOOKED_AT
    latest = Trace.objects.filter(start_time__gte=since, is_voided=False).order_by("-start_time")
    rows: dict[str, dict[str, Any]] = {
        row["pk"].hex: dict(row)
        for row in latest.values("pk", "connection", "langfuse_trace_id", "start_time")[:MOST_RUNS]
    }
    found: dict[tuple[Hidden, int, str], list[dict[str, Any]]] = defaultdict(list)
    for key, received in load_received(rows).items():
        steps = [one.step for one in received.observations.values()]
        for kind, source in hidden_in(steps):
            found[kind, rows[key]["connection"], source].append(rows[key])
    connections = dict(LangfuseConnection.objects.values_list("pk", "name"))
    return sorted(
        (
            _of_source(kind, connection_id, connections[connection_id], source, runs)
            for (kind, connection_id, source), runs in found.items()
        ),
        key=lambda one: (-one.runs, one.connection, one.source, one.kind),
    )


def _of_source(
    kind: Hidden, connection_id: int, connection: str, source: str, runs: list[dict[str, Any]]
) -> HiddenCalls:
    latest = max(runs, key=lambda row: (row["start_time"], row["langfuse_trace_id"]))
    return HiddenCalls(
        kind.value,
        connection_id,
        connection,
        source,
        len(runs),
        latest["langfuse_trace_id"],
        latest["start_time"],
        ADVICE.get(source, OTHERS),
    )
