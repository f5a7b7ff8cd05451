"""Spans out of an OTLP export request, which comes as protobuf or as JSON."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from usage.langfuse.sandbox.mapping.javascript import number, to_number
from usage.langfuse.sandbox.mapping.span import Scope, Span

NANOSECONDS_A_MILLISECOND = 1_000_000
SIMPLE_VALUES = ("string_value", "bool_value")
Json = Mapping[str, Any]


def spans_of_protobuf(body: bytes, received_at: datetime) -> Iterator[Span]:
    """The spans of a request in protobuf.

    Raises google.protobuf.message.DecodeError when ``body`` is not one, and ValueError when a span
    has no ids.
    """
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            scope = _scope(scope_spans.scope)
            for span in scope_spans.spans:
                start, end = _times(span.start_time_unix_nano, span.end_time_unix_nano, received_at)
                yield Span(
                    trace_id=_id(span.trace_id.hex()),
                    span_id=_id(span.span_id.hex()),
                    parent_span_id=span.parent_span_id.hex() or None,
                    name=span.name,
                    start_ms=start,
                    end_ms=end,
                    status_code=span.status.code,
                    status_message=span.status.message,
                    attributes=_attributes(span.attributes),
                    resource=resource,
                    scope=scope,
                )


def spans_of_json(body: bytes, received_at: datetime) -> Iterator[Span]:
    """The spans of a request in JSON, whose ids are hexadecimal text.

    Raises ValueError when ``body`` is not one, and when a span has no ids.
    """
    for resource_spans in _list(orjson.loads(body), "resourceSpans"):
        resource = _json_attributes(_map(resource_spans, "resource"))
        for scope_spans in _list(resource_spans, "scopeSpans"):
            said = _map(scope_spans, "scope")
            fields = {name: value for name, value in said.items() if name != "attributes"}
            scope = Scope(fields, _json_attributes(said))
            for span in _list(scope_spans, "spans"):
                start, end = _times(
                    int(_member(span, "startTimeUnixNano") or 0),
                    int(_member(span, "endTimeUnixNano") or 0),
                    received_at,
                )
                yield Span(
                    trace_id=_id(span.get("traceId")),
                    span_id=_id(span.get("spanId")),
                    parent_span_id=span.get("parentSpanId") or None,
                    name=span.get("name", ""),
                    start_ms=start,
                    end_ms=end,
                    status_code=_map(span, "status").get("code"),
                    status_message=_map(span, "status").get("message", ""),
                    attributes=_json_attributes(span),
                    resource=resource,
                    scope=scope,
                )


def _id(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"A span's traceId and spanId are required, as text; not {value!r}.")
    return value


def _times(start: int, end: int, received_at: datetime) -> tuple[int, int]:
    """Milliseconds of both ends; one that is missing is the other, or when it was received."""
    received = int(received_at.timestamp() * 1000) * NANOSECONDS_A_MILLISECOND
    start, end = start or end or received, end or start or received
    return start // NANOSECONDS_A_MILLISECOND, end // NANOSECONDS_A_MILLISECOND


def _scope(scope: Any) -> Scope:
    fields: dict[str, Any] = {"name": scope.name, "version": scope.version}
    fields["droppedAttributesCount"] = scope.dropped_attributes_count
    return Scope(
        {name: value for name, value in fields.items() if value}, _attributes(scope.attributes)
    )


def _attributes(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind in SIMPLE_VALUES:
        return getattr(value, kind)
    if kind == "int_value":
        return number(value.int_value)
    if kind == "double_value":
        return to_number(value.double_value)
    if kind == "array_value" and value.array_value.values:
        return [_value(one) for one in value.array_value.values]
    # As the real server has what it doesn't know: the JSON of the message.
    return json.dumps(json_format.MessageToDict(value), separators=(",", ":"), ensure_ascii=False)


def _json_attributes(owner: Json) -> dict[str, Any]:
    return {
        str(_member(one, "key")): _json_value(_map(one, "value"))
        for one in _list(owner, "attributes")
    }


def _json_value(value: Json) -> Any:
    for kind, read in JSON_VALUES.items():
        if kind in value:
            found = read(value[kind])
            if found is not None:
                return found
    return orjson.dumps(value).decode()


def _json_double(value: Any) -> Any:
    """NaN and the infinite come as text, and stay it."""
    found = to_number(value)
    return value if found is None else found


def _json_list(value: Any) -> list[Any] | None:
    found = value.get("values") if isinstance(value, dict) else None
    return [_json_value(one) for one in found] if isinstance(found, list) else None


JSON_VALUES: dict[str, Callable[[Any], Any]] = {
    "stringValue": str,
    "doubleValue": _json_double,
    "boolValue": bool,
    "arrayValue": _json_list,
    "intValue": to_number,
}


def _list(owner: Any, name: str) -> list[Any]:
    found = _member(owner, name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ValueError(f"{name} must be a list, not {type(found).__name__}.")
    return found


def _map(owner: Any, name: str) -> dict[str, Any]:
    found = _member(owner, name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{name} must be a map, not {type(found).__name__}.")
    return found


def _member(owner: Any, name: str) -> Any:
    if not isinstance(owner, dict):
        raise ValueError(f"What should have {name} is {type(owner).__name__}.")
    return owner.get(name)
