"""The facts as lines with the columns of a rollup: one for each trace, or one for each model that a trace used.

What the built rollups are sums of, what a question without a fitting rollup is asked of, and what the books are checked against.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from kluisz_analytics.bulk import sqlite_value
from usage.models.rollups import UNATTRIBUTED

Range = tuple[int, datetime, datetime]
"""A number, and the half-open stretch of time that it stands for."""


@dataclass(slots=True)
class Sql:
    """A piece of SQL with its parameters, kept together."""

    text: str
    parameters: list[Any] = field(default_factory=list)


def stored(value: Any) -> Any:
    """A value as the database at hand has it."""
    return value if connection.vendor == "postgresql" else sqlite_value(value)


def nobody() -> str:
    """The key of usage without an owner, as a literal."""
    return f"'{stored(UNATTRIBUTED)}'"


OWNER = "CASE WHEN t.tenant_id IS NULL OR t.user_id IS NULL THEN {nobody} ELSE t.%s END"
COMMON = f"""
    b.number, t.hour, t.start_time AS moment, {OWNER % "tenant_id"} AS tenant_key, {OWNER % "user_id"} AS user_key,
    t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL AS is_attributed, t.project_id, t.flow_id, t.latency_ms,
    1 AS total_traces, CASE WHEN t.is_failed THEN 1 ELSE 0 END AS failed_traces,
    CASE WHEN t.latency_ms IS NULL THEN 0 ELSE 1 END AS timed_traces, COALESCE(t.latency_ms, 0) AS latency_ms_sum,
    CASE WHEN t.credits IS NULL THEN 0 ELSE 1 END AS rated_traces"""
TOKENS = ("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens", "audio_tokens")
TRACE_LINES = f"""
SELECT {COMMON}, '' AS model, {", ".join(f"t.{name}" for name in TOKENS)}, t.priced_observations, t.unpriced_observations,
    COALESCE(t.cost_usd, 0) AS total_cost_usd, COALESCE(t.billed_cost_usd, 0) AS billed_cost_usd, COALESCE(t.credits, 0) AS credits_exact
FROM {{ranges}} JOIN usage_trace t ON t.start_time >= b.range_start AND t.start_time < b.range_end
WHERE NOT t.is_voided {{conditions}}"""
# A trace's steps with usage, by their model. A trace without any, which may carry a tier's minimum, uses no model.
MODEL_LINES = f"""
SELECT {COMMON}, {{model}} AS model, {", ".join(f"SUM(COALESCE(o.{name}, 0)) AS {name}" for name in TOKENS)},
    SUM(CASE WHEN o.cost_usd IS NOT NULL THEN 1 ELSE 0 END) AS priced_observations,
    SUM(CASE WHEN o.cost_source = 'unpriced' THEN 1 ELSE 0 END) AS unpriced_observations,
    COALESCE(SUM(o.cost_usd), 0) AS total_cost_usd,
    COALESCE(SUM(CASE WHEN o.id IS NULL THEN t.billed_cost_usd ELSE o.billed_cost_usd END), 0) AS billed_cost_usd,
    COALESCE(SUM(CASE WHEN o.id IS NULL THEN t.credits ELSE o.credits END), 0) AS credits_exact
FROM {{ranges}} JOIN usage_trace t ON t.start_time >= b.range_start AND t.start_time < b.range_end
LEFT JOIN usage_observation o ON o.trace_id = t.id AND o.cost_source <> 'no_usage'
WHERE NOT t.is_voided {{conditions}}
GROUP BY t.id, b.number{{by_model}}"""
MODEL = "COALESCE(o.model, '')"


def ranges_table(ranges: Sequence[Range]) -> Sql:
    """The ranges as a table b(number, range_start, range_end)."""
    kind = "timestamptz" if connection.vendor == "postgresql" else "text"
    rows = ", ".join(f"({number}, CAST(%s AS {kind}), CAST(%s AS {kind}))" for number, _, _ in ranges)
    table = f"(SELECT column1 AS number, column2 AS range_start, column3 AS range_end FROM (VALUES {rows}) AS v) b"
    return Sql(table, [stored(moment) for _, *edges in ranges for moment in edges])


def trace_lines(ranges: Sequence[Range], conditions: Sql | None = None) -> Sql:
    """A line for each trace that began in one of the ranges. ``conditions`` begin with AND, and speak of usage_trace as t."""
    return _lines(TRACE_LINES, ranges, conditions or Sql(""))


def model_lines(ranges: Sequence[Range], conditions: Sql | None = None, *, together: bool = False) -> Sql:
    """A line for each model that each trace used, or ``together`` one for all of them.

    ``conditions`` begin with AND, and speak of usage_trace as t, of usage_observation as o and of the model as MODEL.
    """
    model, by_model = ("''", "") if together else (MODEL, f", {MODEL}")
    return _lines(MODEL_LINES.replace("{model}", model).replace("{by_model}", by_model), ranges, conditions or Sql(""))


def _lines(template: str, ranges: Sequence[Range], conditions: Sql) -> Sql:
    table = ranges_table(ranges)
    text = template.replace("{nobody}", nobody()).replace("{ranges}", table.text).replace("{conditions}", conditions.text)
    return Sql(text, [*table.parameters, *map(stored, conditions.parameters)])
