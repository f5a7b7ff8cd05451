"""POST /api/public/ingestion: what older SDKs send, events that say something of a trace or of an
observation, become the rows that the API gives back.

An event tells what it names, and leaves the rest as it was; so all events of a batch that name the
same observation, and its trace, make one row.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from usage.langfuse.sandbox.otlp import iso
from usage.langfuse.sandbox.prices import as_stored, cost_details, find_model, price_text
from usage.langfuse.sandbox.store import AS_WRITTEN

ALLOWED_WHERE_EVENTS_ONLY = frozenset({"score-create", "sdk-log"})
TYPES = {
    "span-create": "SPAN",
    "span-update": "SPAN",
    "generation-create": "GENERATION",
    "generation-update": "GENERATION",
    "event-create": "EVENT",
}
REFUSED = (
    'Event type "{type}" is not accepted by /api/public/ingestion when'
    " LANGFUSE_MIGRATION_V4_WRITE_MODE is events_only. This endpoint only accepts score and log"
    " events. Upgrade the client or integration to a v4-compatible SDK or OTLP ingestion path. As a"
    " temporary migration bridge, set LANGFUSE_MIGRATION_V4_WRITE_MODE=dual on both the web and"
    " worker services and redeploy. Docs:"
    " https://langfuse.com/self-hosting/upgrade/upgrade-guides/upgrade-v3-to-v4"
)
Row = dict[str, Any]
Event = Mapping[str, Any]


def answer_to(batch: Iterable[Event], is_events_only: bool) -> dict[str, Any]:
    """The body of the answer, which has status 207 whatever became of the events."""
    successes, errors = [], []
    for event in batch:
        kind = str(event.get("type"))
        if is_events_only and kind not in ALLOWED_WHERE_EVENTS_ONLY:
            errors.append(
                {
                    "id": event.get("id", "unknown"),
                    "status": 400,
                    "message": "Event type not accepted",
                    "error": REFUSED.format(type=kind),
                }
            )
        else:
            successes.append({"id": event.get("id"), "status": 201})
    return {"successes": successes, "errors": errors}


def read_batch(batch: Iterable[Event], project_id: str, received_at: datetime) -> Iterator[Row]:
    """The rows of the observations that a batch tells of."""
    traces: dict[str, dict[str, Any]] = {}
    observations: dict[str, dict[str, Any]] = {}
    for event in batch:
        kind, body = str(event.get("type")), dict(event.get("body") or {})
        told = {key: value for key, value in body.items() if value is not None}
        if kind == "trace-create":
            traces.setdefault(told["id"], {}).update(told)
        elif kind in TYPES or kind in ("observation-create", "observation-update"):
            told.setdefault("type", TYPES.get(kind, "SPAN"))
            observations.setdefault(told["id"], {}).update(told)
    for observation in observations.values():
        trace = traces.get(observation["traceId"], {})
        yield _row(observation, trace, project_id, iso(received_at))


def _row(observation: Event, trace: Event, project_id: str, received: str) -> Row:
    usage = _usage(observation)
    name = str(observation.get("model", ""))
    model = find_model(name) if name else None
    costs = _costs(observation) or (cost_details(model, usage) if model and usage else {})
    start, end = (_moment(observation.get(key)) for key in ("startTime", "endTime"))
    parent = observation.get("parentObservationId")
    prices = model.prices if model else {}
    metadata = _metadata(trace) | _metadata(observation)
    return {
        "id": observation["id"],
        "traceId": observation["traceId"],
        "startTime": start or received,
        "endTime": end,
        "projectId": project_id,
        "parentObservationId": parent,
        "type": observation["type"],
        "name": observation.get("name", ""),
        "level": observation.get("level", "DEFAULT"),
        "statusMessage": observation.get("statusMessage", ""),
        "version": observation.get("version", ""),
        "environment": observation.get("environment") or trace.get("environment") or "default",
        "completionStartTime": _moment(observation.get("completionStartTime")),
        "createdAt": received,
        "updatedAt": received,
        "metadata": metadata,
        # The older SDKs write texts as they are.
        AS_WRITTEN: {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in metadata.items()
        },
        "model": name,
        "internalModelId": model.id if model else "",
        "modelParameters": observation.get("modelParameters", {}),
        "usageDetails": usage,
        "inputUsage": sum(count for unit, count in usage.items() if "input" in unit),
        "outputUsage": sum(count for unit, count in usage.items() if "output" in unit),
        "totalUsage": usage.get("total", 0),
        "costDetails": costs,
        "inputCost": costs.get("input"),
        "outputCost": costs.get("output"),
        "totalCost": costs.get("total", 0),
        "promptId": "",
        "promptName": observation.get("promptName", ""),
        "promptVersion": observation.get("promptVersion"),
        "usagePricingTierId": f"{model.id}_tier_default" if model else None,
        "usagePricingTierName": "Standard" if model else None,
        "latency": None,
        "timeToFirstToken": None,
        "userId": trace.get("userId", ""),
        "sessionId": trace.get("sessionId", ""),
        "isRootObservation": parent is None,
        "traceName": trace.get("name"),
        "release": trace.get("release", ""),
        "tags": trace.get("tags", []),
        "bookmarked": False,
        "public": bool(trace.get("public")),
        "modelId": model.id if model else None,
        "inputPrice": price_text(prices.get("input")),
        "outputPrice": price_text(prices.get("output")),
        "totalPrice": price_text(prices.get("total")),
    }


def _usage(observation: Event) -> dict[str, int]:
    given = observation.get("usageDetails") or observation.get("usage") or {}
    usage = {
        unit: count for unit, count in given.items() if isinstance(count, int) and unit != "unit"
    }
    if usage and "total" not in usage:
        usage["total"] = sum(usage.values())
    return usage


def _costs(observation: Event) -> dict[str, float]:
    given = observation.get("costDetails") or {}
    parts = {unit: cost for unit, cost in given.items() if unit != "total"}
    total = given.get("total", as_stored(sum(parts.values())))
    return {**parts, "total": total} if given else {}


def _metadata(told: Event) -> dict[str, str]:
    given = told.get("metadata")
    return {key: str(value) for key, value in given.items()} if isinstance(given, dict) else {}


def _moment(text: Any) -> str | None:
    if not text:
        return None
    moment = datetime.fromisoformat(str(text))
    return iso(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
