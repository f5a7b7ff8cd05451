"""OTLP in: spans as any tracer sends them become the rows that the API gives back."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from usage.langfuse.sandbox.mapping.javascript import parse_exactly
from usage.langfuse.sandbox.mapping.observation import Observation, observation_of
from usage.langfuse.sandbox.mapping.span import Span
from usage.langfuse.sandbox.mapping.usage_details import with_total
from usage.langfuse.sandbox.prices import (
    KnownModel,
    as_stored,
    cost_details,
    find_model,
    price_text,
)
from usage.langfuse.sandbox.spans import spans_of_json, spans_of_protobuf
from usage.langfuse.sandbox.store import AS_WRITTEN

JSON = "application/json"
# The API reads what it shows of a metadata value; so much it shows, unless asked for more.
METADATA_LENGTH = 200
COSTS_THAT_MAKE_A_TOTAL = frozenset({"input", "output"})
Row = dict[str, Any]


def read_export(
    body: bytes, project_id: str, received_at: datetime, content_type: str = ""
) -> Iterator[Row]:
    """The rows of an export request: JSON if ``content_type`` says so, else protobuf.

    Raises google.protobuf.message.DecodeError or ValueError when ``body`` is not one.
    """
    read = spans_of_json if JSON in content_type else spans_of_protobuf
    for span in read(body, received_at):
        yield _row(span, project_id, received_at)


def shown_metadata(stored: str) -> Any:
    """A metadata value as the API shows it: what it says as JSON, else as it is."""
    return parse_exactly(stored)


def _row(span: Span, project_id: str, received_at: datetime) -> Row:
    said = observation_of(span)
    usage = with_total(said.usage_details)
    model = find_model(said.model) if said.model else None
    costs = _costs(said, model, usage)
    prices = model.prices if model else {}
    is_priced_by_tier = model is not None and bool(usage)
    received = iso(received_at)
    metadata = {
        key: shown_metadata(value) if len(value) <= METADATA_LENGTH else value
        for key, value in said.metadata.items()
    }
    return {
        "id": span.span_id,
        "traceId": span.trace_id,
        "startTime": iso_ms(span.start_ms),
        "endTime": iso_ms(span.end_ms),
        "projectId": project_id,
        "parentObservationId": span.parent_span_id,
        "type": said.type,
        "name": said.name,
        "level": said.level,
        "statusMessage": said.status_message or "",
        "version": said.version or "",
        "environment": said.environment,
        "completionStartTime": iso(said.completion_start) if said.completion_start else None,
        "createdAt": received,
        "updatedAt": received,
        "metadata": metadata,
        AS_WRITTEN: dict(said.metadata),
        "model": said.model or "",
        "internalModelId": model.id if model else "",
        "modelParameters": said.model_parameters,
        "usageDetails": usage,
        "inputUsage": sum(count for unit, count in usage.items() if "input" in unit),
        "outputUsage": sum(count for unit, count in usage.items() if "output" in unit),
        "totalUsage": usage.get("total", 0),
        "costDetails": costs,
        "inputCost": costs.get("input"),
        "outputCost": costs.get("output"),
        "totalCost": costs.get("total", 0),
        "promptId": "",
        "promptName": said.prompt_name or "",
        "promptVersion": said.prompt_version,
        "usagePricingTierId": f"{model.id}_tier_default" if model and is_priced_by_tier else None,
        "usagePricingTierName": "Standard" if is_priced_by_tier else None,
        "latency": _seconds(span.end_ms - span.start_ms),
        "timeToFirstToken": None,
        "userId": said.user_id or "",
        "sessionId": said.session_id or "",
        "isRootObservation": said.is_root,
        "traceName": said.trace_name or (said.name if said.is_root else None) or None,
        "release": said.release or "",
        "tags": said.tags,
        "bookmarked": False,
        "public": said.is_public,
        "modelId": model.id if model else None,
        "inputPrice": price_text(prices.get("input")),
        "outputPrice": price_text(prices.get("output")),
        "totalPrice": price_text(prices.get("total")),
    }


def _costs(said: Observation, model: KnownModel | None, usage: dict[str, int]) -> dict[str, float]:
    """Costs as they were given; where none was, those of the model's prices."""
    given = said.cost_details
    if not given:
        return cost_details(model, usage) if model and usage else {}
    if "total" not in given and given.keys() <= COSTS_THAT_MAKE_A_TOTAL:
        given = {**given, "total": sum(given.values())}
    return {unit: as_stored(cost) for unit, cost in given.items()}


def _seconds(milliseconds: int) -> float | int:
    """Seconds as JavaScript writes them: 3, not 3.0."""
    seconds = max(milliseconds, 0) / 1000
    return int(seconds) if seconds.is_integer() else seconds


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_ms(milliseconds: int) -> str:
    return iso(datetime.fromtimestamp(milliseconds / 1000, UTC))
