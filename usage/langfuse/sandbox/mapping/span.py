"""A span as it was received, whatever it came in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Attributes = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """The library that recorded a span. ``fields`` are its name, version and whatever else it says
    but its attributes, as far as there are any.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    attributes: Attributes = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.fields.get("name") or "")

    @property
    def version(self) -> str:
        return str(self.fields.get("version") or "")


@dataclass(frozen=True, slots=True)
class Span:
    """A span with plain values: text, numbers, booleans and lists of them. Times in milliseconds
    since 1970, ids in hexadecimal.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    start_ms: int
    end_ms: int
    status_code: Any = 0
    status_message: str = ""
    attributes: Attributes = field(default_factory=dict)
    resource: Attributes = field(default_factory=dict)
    scope: Scope = field(default_factory=Scope)
