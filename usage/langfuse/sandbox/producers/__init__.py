"""Recorded exports of others' tracers, and their replay as if they were made now.

``NAME.jsonl``: a line is an export request (protobuf as JSON), as it came from the real framework
at work against a fake provider.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator
from datetime import datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from langfuse import LangfuseOtelSpanAttributes as Langfuse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

RECORDINGS = Path(__file__).parent
SUFFIX = ".jsonl"
NANOSECONDS_A_MILLISECOND = 1_000_000


def producers() -> list[str]:
    """The names of all recordings."""
    return sorted(path.name.removesuffix(SUFFIX) for path in RECORDINGS.glob(f"*{SUFFIX}"))


class NoSuchProducer(Exception):
    """No recording has this name, or begins with it."""

    def __init__(self, name: str) -> None:
        near = get_close_matches(name, producers(), 3, 0.3) or producers()
        super().__init__(
            f"There is no producer “{name}”; near are {', '.join(near)}. --producer list names all."
        )


def producers_named(name: str) -> list[str]:
    """The recording of that name, else all whose names begin with it.

    Raises NoSuchProducer where there is none.
    """
    if name in producers():
        return [name]
    if found := [one for one in producers() if one.startswith(name)]:
        return found
    raise NoSuchProducer(name)


def exports_as_if_at(
    name: str, now: datetime, salt: str | None = None
) -> Iterator[ExportTraceServiceRequest]:
    """The exports of a recording as if its last span had just ended: with other ids for every
    ``salt`` (random by default), and the same usage.
    """
    lines = (RECORDINGS / f"{name}{SUFFIX}").read_text().splitlines()
    requests = [json_format.Parse(line, ExportTraceServiceRequest()) for line in lines]
    ids = FreshIds(salt or secrets.token_hex(8))
    last = max(span.end_time_unix_nano for request in requests for span in _spans(request))
    # Whole milliseconds, which is what Langfuse stores: so every latency stays what it was.
    later = int(now.timestamp() * 1_000) - last // NANOSECONDS_A_MILLISECOND
    later *= NANOSECONDS_A_MILLISECOND
    for request in requests:
        for span in _spans(request):
            _renew(span, ids, later)
        yield request


# Ids in texts: UUIDs, and what providers and OpenTelemetry make of hexadecimal digits, behind a
# word or not ("chatcmpl-172ece047498"). Longer ones are hashes of keys, which stay what they are.
HEXADECIMAL_ID = re.compile(
    r"(?<![0-9a-zA-Z])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{12,32})(?![0-9a-zA-Z])"
)
HEXADECIMAL_DIGITS = re.compile(r"[0-9a-f]+")


class FreshIds:
    """Other ids for known ones: the same for the same, so that what belonged together does."""

    def __init__(self, salt: str) -> None:
        self.salt = salt

    def of_bytes(self, known: bytes) -> bytes:
        """The id for a trace's or a span's; none for none."""
        return bytes.fromhex(self._of_digits(known.hex())) if known else known

    def in_text(self, known: str) -> str:
        """The text with other ids in it. A number is no id."""
        return HEXADECIMAL_ID.sub(self._of_match, known)

    def _of_match(self, found: re.Match[str]) -> str:
        if found[0].isdecimal():
            return found[0]
        return HEXADECIMAL_DIGITS.sub(lambda part: self._of_digits(part[0]), found[0])

    def _of_digits(self, known: str) -> str:
        digest = hashlib.blake2b(f"{self.salt} {known}".encode(), digest_size=16).hexdigest()
        return digest[: len(known)]


def _spans(request: ExportTraceServiceRequest) -> Iterator[Any]:
    for resource_spans in request.resource_spans:
        for scope_spans in resource_spans.scope_spans:
            yield from scope_spans.spans


def _renew(span: Any, ids: FreshIds, later_ns: int) -> None:
    span.trace_id, span.span_id = ids.of_bytes(span.trace_id), ids.of_bytes(span.span_id)
    span.parent_span_id = ids.of_bytes(span.parent_span_id)
    span.start_time_unix_nano += later_ns
    span.end_time_unix_nano += later_ns
    for event in span.events:
        event.time_unix_nano += later_ns
    for attribute in span.attributes:
        if attribute.value.WhichOneof("value") != "string_value":
            continue
        said = attribute.value.string_value
        if attribute.key == Langfuse.OBSERVATION_COMPLETION_START_TIME:
            attribute.value.string_value = _moved(said, later_ns)
        else:
            attribute.value.string_value = ids.in_text(said)


def _moved(moment: str, later_ns: int) -> str:
    """A time of an ISO text, which older SDKs wrote as JSON, so much later."""
    quote = '"' if moment.startswith('"') else ""
    moved = datetime.fromisoformat(moment.strip('"')) + timedelta(microseconds=later_ns // 1_000)
    return f"{quote}{moved.isoformat()}{quote}"
