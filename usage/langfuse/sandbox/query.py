"""The sandbox's read side: v2 observations and v2 metrics, with the parameters and the errors of
the real server.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from usage.langfuse.sandbox.otlp import METADATA_LENGTH, iso, shown_metadata
from usage.langfuse.sandbox.store import Condition, Position, Row, SandboxStore, metadata_condition

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 1000
ISO_DATETIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)")
# The pattern that the real server prints with the error; clients match on the code, people read it.
ISO_PATTERN = (
    r"/^(?:(?:\d\d[2468][048]|\d\d[13579][26]|\d\d0[48]|[02468][048]00|[13579][26]00)-02-29|\d{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3"
    r"[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)|(?:02)-(?:0[1-9]|1\d|2[0-8])))T(?:(?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.\d+)?)?(?:Z|([+-]"
    r"(?:[01]\d|2[0-3]):[0-5]\d)))$/"
)
FIELD_GROUPS = {
    "basic": (
        (
            "name level statusMessage version environment userId sessionId isRootObservation"
            " bookmarked public"
        ).split()
    ),
    "time": "completionStartTime createdAt updatedAt".split(),
    "metadata": ["metadata"],
    "model": "model internalModelId modelParameters".split(),
    "usage": (
        (
            "usageDetails inputUsage outputUsage totalUsage costDetails inputCost outputCost"
            " totalCost usagePricingTierId usagePricingTierName"
        ).split()
    ),
    "prompt": "promptId promptName promptVersion".split(),
    "metrics": [],
    "trace_context": "traceName release tags".split(),
}
ALWAYS = "id traceId startTime endTime projectId parentObservationId type latency".split()
# These come always, and are null unless the model group is asked for.
MODEL_PRICES = "modelId inputPrice outputPrice totalPrice".split()
DEFAULT_GROUPS = "core,basic"


class BadRequest(Exception):
    """A request that the real server answers with 400."""

    def __init__(self, message: str, error: Any = "InvalidRequestError") -> None:
        super().__init__(message)
        self.body = {"message": message, "error": error}


class StoreGaveUp(Exception):
    """A request that the real server's store doesn't answer in time."""


NO_END = datetime.max.replace(tzinfo=UTC)
NO_BEGINNING = datetime.min.replace(tzinfo=UTC)


def asked_time(query: Mapping[str, str]) -> timedelta:
    """How much time a read of observations, traces or metrics is about."""
    asked = _metrics_query(query["query"]) if query.get("query") else query
    start = asked.get("fromStartTime") or asked.get("fromTimestamp")
    end = asked.get("toStartTime") or asked.get("toTimestamp")
    return (datetime.fromisoformat(end) if end else NO_END) - (
        datetime.fromisoformat(start) if start else NO_BEGINNING
    )


def list_observations(store: SandboxStore, query: Mapping[str, str]) -> dict[str, Any]:
    """The body of GET /api/public/v2/observations."""
    limit = _limit(query.get("limit"))
    conditions = _conditions(query)
    after = _read_cursor(query["cursor"]) if query.get("cursor") else None
    rows, position = store.page(conditions, after, limit)
    groups = (query.get("fields") or DEFAULT_GROUPS).split(",")
    expanded = frozenset((query.get("expandMetadata") or "").split(","))
    if any(expanded):
        rows = [_with_any_versions_metadata(store, row, expanded) for row in rows]
    data = [_projected(row, groups, expanded) for row in rows]
    return {"data": data, "meta": {"cursor": _write_cursor(position)} if position else {}}


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    try:
        limit = int(text)
    except ValueError:
        raise _invalid(
            "limit",
            {"expected": "number", "code": "invalid_type"},
            "Invalid input: expected number, received NaN",
        ) from None
    if limit > LARGEST_LIMIT:
        details = {
            "origin": "number",
            "code": "too_big",
            "maximum": LARGEST_LIMIT,
            "inclusive": True,
        }
        raise _invalid("limit", details, f"Too big: expected number to be <={LARGEST_LIMIT}")
    if limit < 0:
        details = {"origin": "number", "code": "too_small", "minimum": 0, "inclusive": True}
        raise _invalid("limit", details, "Too small: expected number to be >=0")
    return limit


def _invalid(parameter: str, details: dict[str, Any], message: str) -> BadRequest:
    return BadRequest(
        "Invalid request data", [{**details, "path": [parameter], "message": message}]
    )


def _conditions(query: Mapping[str, str]) -> list[Condition]:
    """The conditions of a request.

    ``filter``, where given, replaces the other filters (langfuse.md).
    """
    start, end = _moment(query, "fromStartTime"), _moment(query, "toStartTime")
    if query.get("filter"):
        return _filter_conditions(query["filter"])
    conditions = []
    if start:
        conditions.append(Condition("start_time >= ?", [start]))
    if end:
        conditions.append(Condition("start_time < ?", [end]))
    for parameter, column in (("type", "type"), ("userId", "user_id"), ("traceId", "trace_id")):
        if query.get(parameter):
            conditions.append(Condition(f"{column} = ?", [query[parameter]]))
    if query.get("isRootObservation"):
        conditions.append(Condition("is_root = ?", [int(query["isRootObservation"] == "true")]))
    return conditions


def _moment(query: Mapping[str, str], parameter: str) -> str | None:
    text = query.get(parameter)
    if not text:
        return None
    if not ISO_DATETIME.fullmatch(text):
        details = {
            "origin": "string",
            "code": "invalid_format",
            "format": "datetime",
            "pattern": ISO_PATTERN,
        }
        raise _invalid(parameter, details, "Invalid ISO datetime")
    return iso(datetime.fromisoformat(text))


FILTER_COLUMNS = {
    "type": "type",
    "userId": "user_id",
    "traceId": "trace_id",
    "startTime": "start_time",
    "id": "observation_id",
    "providedModelName": "model",
    "model": "model",
    "environment": "json_extract(row, '$.environment')",
    "level": "json_extract(row, '$.level')",
}


def _filter_conditions(text: str) -> list[Condition]:
    try:
        filters = json.loads(text)
    except ValueError:
        raise BadRequest("Invalid filter format") from None
    if not isinstance(filters, list):
        raise BadRequest("Invalid filter format")
    return [_filter_condition(one) for one in filters]


def _filter_condition(one: Mapping[str, Any]) -> Condition:
    kind, column, operator = (one.get(name) for name in ("type", "column", "operator"))
    value: Any = one.get("value")
    try:
        if kind == "stringObject" and column == "metadata":
            return metadata_condition(one["key"], str(operator), str(value))
        target = FILTER_COLUMNS[str(column)]
        if kind == "stringOptions":
            places = ", ".join("?" for _ in value)
            negation = {"any of": "", "none of": "NOT "}[str(operator)]
            return Condition(f"{target} {negation}IN ({places})", value)
        if kind == "datetime":
            return Condition(
                f"{target} {_comparison(operator)} ?", [iso(datetime.fromisoformat(value))]
            )
        if kind == "string":
            return Condition(f"{target} {_comparison(operator)} ?", [value])
    except (KeyError, TypeError, ValueError):
        pass
    raise BadRequest(f"Invalid filter on column '{column}' with operator '{operator}'")


def _comparison(operator: Any) -> str:
    return {"=": "=", ">": ">", ">=": ">=", "<": "<", "<=": "<="}[operator]


def _read_cursor(text: str) -> Position:
    try:
        cursor = json.loads(base64.b64decode(text, validate=True))
        return Position(
            iso(datetime.fromisoformat(cursor["lastStartTimeTo"])),
            cursor["lastTraceId"],
            cursor["lastId"],
        )
    except (binascii.Error, ValueError, KeyError, TypeError):
        raise BadRequest("Invalid cursor format") from None


def _write_cursor(position: Position) -> str:
    cursor = {
        "lastStartTimeTo": position.start_time,
        "lastTraceId": position.trace_id,
        "lastId": position.observation_id,
    }
    return base64.b64encode(json.dumps(cursor, separators=(",", ":")).encode()).decode()


def _with_any_versions_metadata(store: SandboxStore, row: Row, expanded: frozenset[str]) -> Row:
    """The row, with the expanded keys as some version of the same start, trace and id has them: so
    the real server joins them.
    """
    same = Condition(
        "start_time = ? AND trace_id = ? AND observation_id = ?",
        [row["startTime"], row["traceId"], row["id"]],
    )
    (first, *_), _ = store.page([same], None, 1_000)
    metadata = {key: value for key, value in row["metadata"].items() if key not in expanded}
    joined = {key: value for key, value in first["metadata"].items() if key in expanded}
    return {**row, "metadata": metadata | joined}


def _projected(row: Row, groups: list[str], expanded: frozenset[str]) -> Row:
    """The row with the fields of the groups; an unknown group is ignored."""
    shown = {name: row[name] for name in ALWAYS}
    for group in groups:
        shown |= {name: row[name] for name in FIELD_GROUPS.get(group.strip(), ())}
    shown |= {name: row[name] if "model" in groups else None for name in MODEL_PRICES}
    # Computed from completionStartTime, so null where that isn't read.
    shown["timeToFirstToken"] = (
        row["timeToFirstToken"] if {"time", "metrics"} & set(groups) else None
    )
    if "metadata" in shown:
        shown["metadata"] = {
            key: _shown_metadata(value, is_whole=key in expanded)
            for key, value in shown["metadata"].items()
        }
    return shown


def _shown_metadata(value: Any, *, is_whole: bool) -> Any:
    """A longer value is kept as it was written; what is cut off it is no JSON any more."""
    if not isinstance(value, str) or len(value) <= METADATA_LENGTH:
        return value
    return shown_metadata(value) if is_whole else shown_metadata(value[:METADATA_LENGTH])


# --- Metrics

MEASURES: dict[tuple[str, str], tuple[str, Callable[[Any], Any]]] = {
    ("count", "count"): ("count(*)", str),
    ("totalCost", "sum"): (
        "sum(total_cost)",
        lambda value: value or (None if value is None else 0),
    ),
    ("totalTokens", "sum"): ("coalesce(sum(total_tokens), 0)", str),
    ("uniqueUserIds", "uniq"): ("count(DISTINCT nullif(user_id, ''))", str),
}
DIMENSIONS = {
    "providedModelName": "nullif(model, '')",
    "type": "type",
    "userId": "nullif(user_id, '')",
    "traceId": "trace_id",
    "level": "json_extract(row, '$.level')",
    "environment": "json_extract(row, '$.environment')",
}
DEFAULT_ROWS = 100
HIGH_CARDINALITY = frozenset({"userId", "traceId", "sessionId"})
TIME_FORMATS = {"minute": "%Y-%m-%d %H:%M:00", "hour": "%Y-%m-%d %H:00:00", "day": "%Y-%m-%d"}
TIME_STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": timedelta(days=1)}


def read_metrics(store: SandboxStore, text: str) -> dict[str, Any]:
    """The body of GET /api/public/v2/metrics for the ``query`` parameter."""
    query = _metrics_query(text)
    dimensions = [one["field"] for one in query.get("dimensions", [])]
    measures = [(one["measure"], one["aggregation"]) for one in query["metrics"]]
    _check_metrics(query, dimensions, measures)
    start, end = (
        iso(datetime.fromisoformat(query[name])) for name in ("fromTimestamp", "toTimestamp")
    )
    # The end is included here.
    conditions = [Condition("start_time >= ? AND start_time <= ?", [start, end])]
    conditions += [_filter_condition(one) for one in query.get("filters", [])]
    granularity = (query.get("timeDimension") or {}).get("granularity")
    keys = [DIMENSIONS[field] for field in dimensions]
    if granularity:
        keys.insert(0, f"strftime('{TIME_FORMATS[granularity]}', start_time)")
    sql = ", ".join([*keys, *(MEASURES[measure][0] for measure in measures)])
    group = "GROUP BY " + ", ".join(str(place) for place in range(1, len(keys) + 1)) if keys else ""
    names = (["time_dimension"] if granularity else []) + dimensions
    most = (query.get("config") or {}).get("row_limit", DEFAULT_ROWS)
    answers = {}
    for found in store.aggregate(sql, conditions, group):
        values = dict(zip(names, found, strict=False))
        answers[found[: len(names)]] = values | _measured(measures, found[len(names) :])
    if granularity and not dimensions:
        for moment in _moments(query, granularity):
            answers.setdefault((moment,), {"time_dimension": moment} | _measured(measures, None))
        return {"data": [answers[key] for key in sorted(answers)][:most]}
    rows = sorted(answers.values(), key=_order(query, measures), reverse=True)
    return {"data": rows[:most]}


def _measured(measures: list[tuple[str, str]], values: Any) -> dict[str, Any]:
    empty = {"count": "0", "totalCost": None, "totalTokens": "0", "uniqueUserIds": "0"}
    return {
        f"{aggregation}_{measure}": (
            empty[measure] if values is None else MEASURES[measure, aggregation][1](values[place])
        )
        for place, (measure, aggregation) in enumerate(measures)
    }


def _order(
    query: Mapping[str, Any], measures: list[tuple[str, str]]
) -> Callable[[dict[str, Any]], float]:
    wanted = [one["field"] for one in query.get("orderBy") or []]
    field = wanted[0] if wanted else f"{measures[0][1]}_{measures[0][0]}"
    return lambda row: float(row[field] or 0)


def _metrics_query(text: str) -> dict[str, Any]:
    try:
        query = json.loads(text)
    except ValueError:
        raise BadRequest("Invalid JSON in query parameter") from None
    if not isinstance(query, dict) or not query.get("metrics"):
        raise BadRequest(
            "Invalid request data",
            [{"path": ["metrics"], "message": "Invalid input: expected array, received undefined"}],
        )
    for name in ("fromTimestamp", "toTimestamp"):
        if not ISO_DATETIME.fullmatch(str(query.get(name, ""))):
            raise _invalid(
                name,
                {"origin": "string", "code": "invalid_format", "format": "datetime"},
                "Invalid ISO datetime",
            )
    return query


def _check_metrics(
    query: Mapping[str, Any], dimensions: list[str], measures: list[tuple[str, str]]
) -> None:
    if query.get("view") != "observations":
        raise BadRequest(f"Invalid view '{query.get('view')}'; the sandbox has 'observations'.")
    for field in dimensions:
        if field not in DIMENSIONS:
            raise BadRequest(f"Invalid dimension {field}. Must be one of {', '.join(DIMENSIONS)}")
    for measure in measures:
        if measure not in MEASURES:
            raise BadRequest(f"Invalid metric {measure[0]} with aggregation {measure[1]}.")
    granularity = (query.get("timeDimension") or {}).get("granularity")
    if granularity and granularity not in TIME_FORMATS:
        raise BadRequest(
            f"Invalid granularity '{granularity}'; the sandbox has {', '.join(TIME_FORMATS)}."
        )
    high = [field for field in dimensions if field in HIGH_CARDINALITY]
    is_top_list = (query.get("config") or {}).get("row_limit") and any(
        one.get("direction") == "desc" for one in query.get("orderBy") or []
    )
    if high and not is_top_list:
        raise BadRequest(
            f"High cardinality dimension(s) '{', '.join(high)}' require both 'config.row_limit' and"
            " 'orderBy' with direction 'desc' on a measure field."
        )


def _moments(query: Mapping[str, Any], granularity: str) -> list[str]:
    """Every period of the query but the one in which it ends, so that empty ones are filled in."""
    moment, end = (
        _beginning(datetime.fromisoformat(query[name]).astimezone(UTC), granularity)
        for name in ("fromTimestamp", "toTimestamp")
    )
    moments = []
    while moment < end:
        moments.append(moment.strftime(TIME_FORMATS[granularity]))
        moment += TIME_STEPS[granularity]
    return moments


def _beginning(moment: datetime, granularity: str) -> datetime:
    minute = moment.minute if granularity == "minute" else 0
    hour = 0 if granularity == "day" else moment.hour
    return moment.replace(hour=hour, minute=minute, second=0, microsecond=0)
