"""The sandbox as a Langfuse 3: the v1 reads, pages by number, each observation once, and what a
trace says on the trace only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from usage.langfuse.sandbox.query import BadRequest
from usage.langfuse.sandbox.store import AS_WRITTEN, Condition, Row, SandboxStore

VERSION = "3.90.0"
LARGEST_LIMIT = 100
NOT_OF_THE_OBSERVATION = (
    AS_WRITTEN,
    "userId",
    "sessionId",
    "traceName",
    "tags",
    "release",
    "isRootObservation",
    "bookmarked",
    "public",
)


def list_v1_observations(store: SandboxStore, query: Mapping[str, str]) -> dict[str, Any]:
    """The body of GET /api/public/observations."""
    rows = [
        row
        for row in _newest(store)
        if _is_within(row["startTime"], query, "fromStartTime", "toStartTime")
    ]
    return _page(
        [_observation(row) for row in sorted(rows, key=lambda row: row["startTime"], reverse=True)],
        query,
    )


def list_v1_traces(store: SandboxStore, query: Mapping[str, str]) -> dict[str, Any]:
    """The body of GET /api/public/traces."""
    traces = [
        one
        for one in _traces(store).values()
        if _is_within(one["timestamp"], query, "fromTimestamp", "toTimestamp")
    ]
    return _page(sorted(traces, key=lambda one: one["timestamp"], reverse=True), query)


def find_v1_trace(store: SandboxStore, trace_id: str) -> dict[str, Any] | None:
    """The body of GET /api/public/traces/{id}; None where there is none."""
    return _traces(store).get(trace_id)


def _newest(store: SandboxStore) -> list[Row]:
    rows, _ = store.page([Condition("1 = 1")], None, 1_000_000)
    rows += store.pending()
    newest: dict[tuple[str, str], Row] = {}
    for row in rows:
        known = newest.setdefault((row["traceId"], row["id"]), row)
        if known["updatedAt"] < row["updatedAt"]:
            newest[row["traceId"], row["id"]] = row
    return list(newest.values())


def _traces(store: SandboxStore) -> dict[str, dict[str, Any]]:
    """Each trace with what its observations say of it, roots first, then the earliest."""
    traces: dict[str, dict[str, Any]] = {}
    for row in sorted(
        _newest(store), key=lambda row: (not row["isRootObservation"], row["startTime"], row["id"])
    ):
        known = traces.setdefault(
            row["traceId"],
            {
                "id": row["traceId"],
                "timestamp": row["startTime"],
                "name": None,
                "userId": None,
                "metadata": {},
                "updatedAt": row["updatedAt"],
            },
        )
        known["name"], known["userId"] = (
            known["name"] or row["traceName"],
            known["userId"] or row["userId"] or None,
        )
        known["metadata"] = {**row["metadata"], **known["metadata"]}
        known["updatedAt"] = max(known["updatedAt"], row["updatedAt"])
        known["timestamp"] = min(known["timestamp"], row["startTime"])
    return traces


def _observation(row: Row) -> Row:
    own = {name: value for name, value in row.items() if name not in NOT_OF_THE_OBSERVATION}
    return {
        **own,
        "metadata": {},
        "calculatedTotalCost": row["totalCost"],
        "input": None,
        "output": None,
    }


def _is_within(moment: str, query: Mapping[str, str], start: str, end: str) -> bool:
    return query.get(start, "") <= moment and (end not in query or moment < query[end])


def _page(items: Sequence[Any], query: Mapping[str, str]) -> dict[str, Any]:
    number, limit = int(query.get("page", 1)), min(int(query.get("limit", 50)), LARGEST_LIMIT)
    if min(number, limit) < 1:
        raise BadRequest("Invalid request data", [{"path": ["page or limit"]}])
    meta = {
        "page": number,
        "limit": limit,
        "totalItems": len(items),
        "totalPages": -(-len(items) // limit),
    }
    return {"data": list(items[(number - 1) * limit : number * limit]), "meta": meta}
