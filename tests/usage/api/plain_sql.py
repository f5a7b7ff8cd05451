"""Plain questions over the facts, in SQL that both databases know: what the endpoints' answers are
compared with.

A question is one pass over the traces and their steps with usage. No rollup, no sketch, and nothing
of usage.analytics has a part in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection

from kluisz_analytics.sql import stored

ATTRIBUTED = "t.tenant_id IS NOT NULL"
OWNED = "t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL"
STEPS = """
    SELECT {key} AS key, t.id, t.start_time, t.latency_ms, t.is_failed,
        t.credits IS NOT NULL AS is_rated,
        CASE WHEN t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL THEN t.user_id END AS member,
        o.id AS step, o.input_tokens, o.output_tokens, o.total_tokens, o.cached_tokens,
            o.cache_write_tokens, o.reasoning_tokens,
        o.audio_tokens, o.cost_usd, o.cost_source,
        CASE WHEN o.takes = '' AND (o.usage_doubt <> '' OR o.finding IN ('cost', 'free')) THEN 1
            ELSE 0 END AS is_doubtful, CASE WHEN o.id IS NULL THEN t.billed_cost_usd
            ELSE o.billed_cost_usd END AS billed,
        CASE WHEN o.id IS NULL THEN t.credits ELSE o.credits END AS credits
    FROM usage_trace t LEFT JOIN usage_observation o ON o.trace_id = t.id
        AND o.cost_source <> 'no_usage'
    WHERE {where}"""
SUMS = """
SELECT key, COALESCE(SUM(input_tokens), 0), COALESCE(SUM(output_tokens), 0),
    COALESCE(SUM(total_tokens), 0),
    COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(cache_write_tokens), 0),
        COALESCE(SUM(reasoning_tokens), 0),
    COALESCE(SUM(audio_tokens), 0), SUM(CASE WHEN cost_source = 'unpriced' THEN 1 ELSE 0 END),
        SUM(CASE WHEN cost_source = 'partly_priced' THEN 1 ELSE 0 END),
        SUM(CASE WHEN cost_source = 'unmetered' THEN 1 ELSE 0 END), SUM(is_doubtful),
        COUNT(cost_usd),
    SUM(cost_usd), SUM(billed), SUM(credits)
FROM ({steps}) s GROUP BY key"""
COUNTS = """
SELECT key, COUNT(*), SUM(CASE WHEN is_failed THEN 1 ELSE 0 END),
    SUM(CASE WHEN is_rated THEN 1 ELSE 0 END), COUNT(DISTINCT member),
    COUNT(latency_ms), SUM(latency_ms), MAX(start_time)
FROM (SELECT DISTINCT key, id, is_failed, is_rated, member, latency_ms, start_time
    FROM ({steps}) s) r GROUP BY key"""
PERCENTILES = """
SELECT key, MIN(latency_ms) FROM (
    SELECT key, latency_ms, ROW_NUMBER() OVER (PARTITION BY key ORDER BY latency_ms) AS place,
        COUNT(*) OVER (PARTITION BY key) AS count
    FROM (SELECT DISTINCT key, id, latency_ms FROM ({steps}) s WHERE latency_ms IS NOT NULL) r
) ranked WHERE place * 100 >= count * 95 GROUP BY key"""


@dataclass
class Where:
    """Conditions on a trace t and its step o, with their parameters."""

    conditions: list[str] = field(default_factory=lambda: ["NOT t.is_voided"])
    parameters: list[Any] = field(default_factory=list)

    def also(self, condition: str, *parameters: Any) -> "Where":
        return Where([*self.conditions, condition], [*self.parameters, *parameters])

    def among(self, column: str, values: Sequence[Any]) -> "Where":
        return (
            self.also(f"{column} IN ({', '.join(['%s'] * len(values))})", *values)
            if values
            else self
        )

    @property
    def text(self) -> str:
        return " AND ".join(f"({one})" for one in self.conditions)


def fetched(sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [stored(one) for one in parameters])
        return cursor.fetchall()


def answers(
    where: Where, key: str = "''", key_parameters: Sequence[Any] = ()
) -> dict[Any, dict[str, Any]]:
    """The numbers of api.md for each value of the key, ``p95_exact`` (ms, by nearest rank) and
    ``last_activity`` beside them.
    """
    steps = STEPS.format(key=key, where=where.text)
    parameters = [*key_parameters, *where.parameters]
    counts, percentiles = (
        {row[0]: row[1:] for row in fetched(sql.format(steps=steps), parameters)}
        for sql in (COUNTS, PERCENTILES)
    )
    return {
        row[0]: _numbers(row[1:], counts[row[0]], percentiles.get(row[0], (None,))[0])
        for row in fetched(SUMS.format(steps=steps), parameters)
    }


def nothing() -> dict[str, Any]:
    """The numbers of no traces."""
    return _numbers([*[0] * 12, None, None, None], [0, 0, 0, 0, 0, None, None], None)


def _numbers(sums: Sequence[Any], counts: Sequence[Any], p95: int | None) -> dict[str, Any]:
    *tokens, unpriced, partly, unmetered, doubtful, known, cost, billed, credits = sums
    traces, failed, rated, users, timed, latency, last = counts
    names = ("input", "output", "total", "cached", "cache_write", "reasoning", "audio")
    is_rated = rated or not traces
    return {
        "total_traces": traces,
        "successful_traces": traces - failed,
        "failed_traces": failed,
        **{f"{name}_tokens": int(count) for name, count in zip(names, tokens, strict=True)},
        "total_cost_usd": amount(cost, 12) if known or not unpriced + unmetered else None,
        "billed_cost_usd": amount(billed, 12) if is_rated else None,
        "credits_exact": amount(credits, 6) if is_rated else None,
        "total_credits_used": (int(credits or 0) + 500_000) // 1_000_000 if is_rated else None,
        "active_users_count": users,
        "average_latency_ms": round(int(latency) / timed, 3) if timed else None,
        "metered_calls": int(known) + int(unpriced),
        "unpriced_observations": int(unpriced),
        "partly_priced_observations": int(partly),
        "unmetered_observations": int(unmetered),
        "doubtful_observations": int(doubtful),
        "p95_exact": p95,
        "last_activity": last,
    }


def amount(scaled: int | None, places: int) -> str:
    """A stored amount as the API writes it."""
    return f"{Decimal(int(scaled or 0)).scaleb(-places):.{places}f}"


def differences(
    found: Mapping[str, Any], expected: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """What of an answer is not as it should be: found and expected.

    A percentile may be off by 1/64.
    """
    wrong = {
        name: (found[name], value)
        for name, value in expected.items()
        if name in found and found[name] != value
    }
    wrong.pop("last_activity", None)
    p95, exact = found["p95_latency_ms"], expected["p95_exact"]
    if (p95 is None) != (exact is None) or (exact is not None and abs(p95 - exact) > exact / 64):
        wrong["p95_latency_ms"] = (p95, exact)
    if "last_activity" in found and moment(found["last_activity"]) != moment(
        expected["last_activity"]
    ):
        wrong["last_activity"] = (found["last_activity"], expected["last_activity"])
    return wrong


def moment(value: Any) -> datetime:
    """A time of an answer, or of either database, which keep and write it as UTC."""
    read = (
        value
        if isinstance(value, datetime)
        else datetime.fromisoformat(str(value).replace("Z", "+00:00"))
    )
    return read.replace(tzinfo=None)


def text_of(key: Any) -> str | None:
    """A key of either database as the API writes it: an id with its dashes."""
    if key in (None, ""):
        return None
    return (
        str(key if isinstance(key, UUID) else UUID(key))
        if isinstance(key, UUID) or len(key) == 32
        else str(key)
    )
