"""Reads a Langfuse 2 or 3, which has the v1 reads only, into the same observations (langfuse.md,
Which API).

There an observation doesn't carry its trace's user and metadata, so the traces are read beside it
and what they say is put onto each of their observations, as a Langfuse 4 does itself. An
observation is as new as the newer of the two. A version 2 counts usage in a form of its own, which
is translated.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from usage.langfuse.budget import Kind
from usage.langfuse.errors import NotFound, NotLangfuse
from usage.langfuse.http import LangfuseHttp
from usage.langfuse.wire import LenientRow, Page, decode_rows, iso

LEGACY_OBSERVATIONS = "/api/public/observations"
LEGACY_TRACES = "/api/public/traces"
PAGE_SIZE = 100
T = TypeVar("T")
# A trace that began longer before its observations is asked for by its id.
TRACE_MARGIN = timedelta(hours=1)


class V1Usage(msgspec.Struct, gc=False):
    """How a Langfuse 2 counts: tokens, unless ``unit`` says otherwise."""

    input: int | None = None
    output: int | None = None
    total: int | None = None


class V1Row(LenientRow, gc=False):
    """An observation as v1 gives it."""

    usage: V1Usage | None = None
    calculatedInputCost: Decimal | None = None
    calculatedOutputCost: Decimal | None = None
    calculatedTotalCost: Decimal | None = None


class V1Trace(msgspec.Struct, gc=False):
    """What a trace says of all its observations."""

    id: str
    name: str | None = None
    userId: str | None = None
    sessionId: str | None = None
    tags: Any = None
    release: str | None = None
    version: str | None = None
    metadata: Any = None
    updatedAt: datetime | None = None


class V1TraceId(msgspec.Struct, gc=False):
    """The one field of an observation that is needed before it is decoded."""

    traceId: Any = None


class V1Meta(msgspec.Struct):
    totalItems: int
    totalPages: int


class V1Rows(msgspec.Struct):
    data: list[msgspec.Raw]
    meta: V1Meta


class V1Traces(msgspec.Struct):
    data: list[V1Trace]
    meta: V1Meta


class V1Reader:
    """Walks one stretch of time of a v1 server."""

    def __init__(self, http: LangfuseHttp, computing: AbstractContextManager[object]) -> None:
        self._http, self._computing = http, computing
        self._traces: dict[str, V1Trace] = {}

    def pages(self, start: datetime, end: datetime) -> Iterator[Page]:
        """All observations that start in [start, end), in no order that could be relied upon."""
        number, pages = 1, 1
        self._load_traces(start - TRACE_MARGIN, end)
        while number <= pages:
            body = self._get(
                LEGACY_OBSERVATIONS, page=number, fromStartTime=iso(start), toStartTime=iso(end)
            )
            rows = self._decoded(body, V1Rows, LEGACY_OBSERVATIONS)
            pages = rows.meta.totalPages
            self._load_missing_traces(rows.data)
            with self._computing:
                observations, rejected = decode_rows(rows.data, V1Row, self._complete)
            yield Page(
                observations,
                rejected,
                str(number + 1) if number < pages else None,
                is_ordered=False,
            )
            number += 1

    def count(self, start: datetime, end: datetime) -> int:
        """How many observations start in [start, end)."""
        body = self._get(
            LEGACY_OBSERVATIONS, limit=1, fromStartTime=iso(start), toStartTime=iso(end)
        )
        return self._decoded(body, V1Rows, LEGACY_OBSERVATIONS).meta.totalItems

    def _load_traces(self, start: datetime, end: datetime) -> None:
        number, pages = 1, 1
        while number <= pages:
            body = self._get(
                LEGACY_TRACES,
                page=number,
                fromTimestamp=iso(start),
                toTimestamp=iso(end),
                fields="core",
            )
            traces = self._decoded(body, V1Traces, LEGACY_TRACES)
            pages = traces.meta.totalPages
            self._traces |= {trace.id: trace for trace in traces.data}
            number += 1

    def _load_missing_traces(self, rows: list[msgspec.Raw]) -> None:
        """Traces that began long before their observations; one that has been deleted says
        nothing.
        """
        named = {msgspec.json.decode(row, type=V1TraceId).traceId for row in rows}
        for trace_id in sorted(
            one for one in named if isinstance(one, str) and one and one not in self._traces
        ):
            path = f"{LEGACY_TRACES}/{quote(trace_id, safe='')}"
            try:
                self._traces[trace_id] = self._decoded(
                    self._get(path, fields="core"), V1Trace, path
                )
            except NotFound:
                self._traces[trace_id] = V1Trace(trace_id)

    def _complete(self, row: V1Row) -> None:
        """Put onto the row what its trace says, and what version 2 says in a form of its own."""
        trace = self._traces.get(row.traceId or "")
        if trace is not None:
            row.userId, row.traceName = row.userId or trace.userId, row.traceName or trace.name
            row.sessionId, row.tags = row.sessionId or trace.sessionId, row.tags or trace.tags
            row.release, row.version = row.release or trace.release, row.version or trace.version
            row.metadata = (trace.metadata if isinstance(trace.metadata, dict) else {}) | (
                row.metadata if isinstance(row.metadata, dict) else {}
            )
            row.updatedAt = max(
                filter(None, (row.updatedAt or row.createdAt, trace.updatedAt)), default=None
            )
        if row.usageDetails is None and row.usage is not None:
            counts = {
                "input": row.usage.input,
                "output": row.usage.output,
                "total": row.usage.total,
            }
            row.usageDetails = {unit: count for unit, count in counts.items() if count}
        if row.costDetails is None and row.calculatedTotalCost is not None:
            parts = {
                "input": row.calculatedInputCost,
                "output": row.calculatedOutputCost,
                "total": row.calculatedTotalCost,
            }
            row.costDetails = {unit: cost for unit, cost in parts.items() if cost is not None}

    def _get(self, path: str, **query: Any) -> bytes:
        return self._http.get(path, {"limit": PAGE_SIZE} | query, Kind.LEGACY)

    def _decoded(self, body: bytes, kind: type[T], path: str) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NotLangfuse(
                f"{self._http.host} answers {path}, but not as Langfuse does ({error}). Check the"
                " host's version."
            ) from error
