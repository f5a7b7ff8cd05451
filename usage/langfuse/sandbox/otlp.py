"""OTLP in: spans as the SDK sends them become the rows that the API gives back."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Attribute
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from usage.langfuse.sandbox.prices import (
    KnownModel,
    as_stored,
    cost_details,
    find_model,
    price_text,
)
from usage.langfuse.sandbox.store import STORED_RAW

ERROR_STATUS = 2
Row = dict[str, Any]


def read_export(body: bytes, project_id: str, received_at: datetime) -> Iterator[Row]:
    """The rows of an export request.

    Raises google.protobuf.message.DecodeError when ``body`` is not one.
    """
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for resource_spans in request.resource_spans:
        resource = {
            f"resourceAttributes.{one.key}": _plain_text(one.value)
            for one in resource_spans.resource.attributes
        }
        for scope_spans in resource_spans.scope_spans:
            scope = {
                f"scope.attributes.{one.key}": _plain_text(one.value)
                for one in scope_spans.scope.attributes
            }
            scope |= {
                "scope.name": scope_spans.scope.name,
                "scope.version": scope_spans.scope.version,
            }
            for span in scope_spans.spans:
                yield _row(span, {**resource, **scope}, project_id, received_at)


def _row(
    span: Any, foreign_metadata: dict[str, str], project_id: str, received_at: datetime
) -> Row:
    attributes = {one.key: _plain_text(one.value) for one in span.attributes}
    row_type = attributes.get(Attribute.OBSERVATION_TYPE, "span").upper()
    is_root = not span.parent_span_id or attributes.get(Attribute.AS_ROOT) == "true"
    usage = _usage(attributes)
    model_name = attributes.get(Attribute.OBSERVATION_MODEL, "")
    model = find_model(model_name) if model_name else None
    costs = _costs(attributes, model, usage)
    prices = model.prices if model else {}
    received = iso(received_at)
    completion_start = attributes.get(Attribute.OBSERVATION_COMPLETION_START_TIME)
    written = _written_metadata(attributes)
    metadata = {key: _decoded(value) for key, value in written.items()}
    start, end = span.start_time_unix_nano // 1_000_000, span.end_time_unix_nano // 1_000_000
    return {
        "id": span.span_id.hex(),
        "traceId": span.trace_id.hex(),
        "startTime": iso_ms(start),
        "endTime": iso_ms(end),
        "projectId": project_id,
        "parentObservationId": span.parent_span_id.hex() or None,
        "type": row_type,
        "name": span.name,
        "level": (
            attributes.get(Attribute.OBSERVATION_LEVEL)
            or ("ERROR" if span.status.code == ERROR_STATUS else "DEFAULT")
        ),
        "statusMessage": (
            attributes.get(Attribute.OBSERVATION_STATUS_MESSAGE) or span.status.message
        ),
        "version": attributes.get(Attribute.VERSION, ""),
        "environment": attributes.get(Attribute.ENVIRONMENT, "default"),
        "completionStartTime": (
            iso(datetime.fromisoformat(json.loads(completion_start))) if completion_start else None
        ),
        "createdAt": received,
        "updatedAt": received,
        "metadata": metadata | foreign_metadata,
        STORED_RAW: {key: 1 for key, value in written.items() if value == metadata[key]},
        "model": model_name,
        "internalModelId": model.id if model else "",
        "modelParameters": json.loads(attributes.get(Attribute.OBSERVATION_MODEL_PARAMETERS, "{}")),
        "usageDetails": usage,
        "inputUsage": sum(count for unit, count in usage.items() if "input" in unit),
        "outputUsage": sum(count for unit, count in usage.items() if "output" in unit),
        "totalUsage": usage.get("total", 0),
        "costDetails": costs,
        "inputCost": costs.get("input"),
        "outputCost": costs.get("output"),
        "totalCost": costs.get("total", 0),
        "promptId": "",
        "promptName": attributes.get(Attribute.OBSERVATION_PROMPT_NAME, ""),
        "promptVersion": _integer(attributes.get(Attribute.OBSERVATION_PROMPT_VERSION)),
        "usagePricingTierId": f"{model.id}_tier_default" if model else None,
        "usagePricingTierName": "Standard" if model else None,
        "latency": _seconds(end - start),
        "timeToFirstToken": None,
        "userId": _set(attributes, Attribute.TRACE_USER_ID, "langfuse_user_id"),
        "sessionId": _set(attributes, Attribute.TRACE_SESSION_ID, "langfuse_session_id"),
        "isRootObservation": is_root,
        "traceName": attributes.get(Attribute.TRACE_NAME) or (span.name if is_root else None),
        "release": attributes.get(Attribute.RELEASE, ""),
        "tags": json.loads(attributes.get(Attribute.TRACE_TAGS, "[]")),
        "bookmarked": False,
        "public": attributes.get(Attribute.TRACE_PUBLIC) == "true",
        "modelId": model.id if model else None,
        "inputPrice": price_text(prices.get("input")),
        "outputPrice": price_text(prices.get("output")),
        "totalPrice": price_text(prices.get("total")),
    }


def _set(attributes: dict[str, str], attribute: str, key: str) -> str:
    """The user's or the session's id. Set through metadata, it stays as it was sent, JSON and its
    quotes.
    """
    return attributes.get(attribute) or attributes.get(f"{Attribute.TRACE_METADATA}.{key}", "")


def _usage(attributes: dict[str, str]) -> dict[str, int]:
    usage = json.loads(attributes.get(Attribute.OBSERVATION_USAGE_DETAILS, "{}"))
    usage = {unit: count for unit, count in usage.items() if count is not None}
    if usage and "total" not in usage:
        usage["total"] = sum(usage.values())
    return usage


def _costs(
    attributes: dict[str, str], model: KnownModel | None, usage: dict[str, int]
) -> dict[str, float]:
    given = json.loads(attributes.get(Attribute.OBSERVATION_COST_DETAILS, "{}"))
    if given:
        parts = {unit: cost for unit, cost in given.items() if unit != "total"}
        return {**parts, "total": given.get("total", as_stored(sum(parts.values())))}
    return cost_details(model, usage) if model and usage else {}


def _written_metadata(attributes: dict[str, str]) -> dict[str, str]:
    """Trace and observation metadata as a flat map of strings, JSON or raw, as they were sent."""
    metadata = {}
    for prefix in (Attribute.TRACE_METADATA, Attribute.OBSERVATION_METADATA):
        for name, value in attributes.items():
            if name.startswith(prefix + "."):
                metadata[name[len(prefix) + 1 :]] = value
    return metadata


def _decoded(value: str) -> str:
    if value[:1] == '"':
        with contextlib.suppress(ValueError):
            return str(json.loads(value))
    return value


def _plain_text(value: AnyValue) -> str:
    """An attribute as text: a string as it is, anything else as JSON."""
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value
    if kind == "array_value":
        return json.dumps([_plain_text(one) for one in value.array_value.values])
    return json.dumps(getattr(value, kind)) if kind else ""


def _integer(value: str | None) -> int | None:
    return int(value) if value else None


def _seconds(milliseconds: int) -> float | int:
    """Seconds as JavaScript writes them: 3, not 3.0."""
    seconds = max(milliseconds, 0) / 1000
    return int(seconds) if seconds.is_integer() else seconds


def iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def iso_ms(milliseconds: int) -> str:
    return iso(datetime.fromtimestamp(milliseconds / 1000, UTC))
