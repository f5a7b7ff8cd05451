"""The facts as lines with the columns of a rollup: one for each trace, or one for each model that a
trace used.

What the built rollups are sums of, what a question without a fitting rollup is asked of, and what
the books are checked against.
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


def listed(expression: str) -> str:
    """All values of a group as one text, but nulls: much faster to fetch than a row for each.

    Read it with :func:`numbers_in`.
    """
    return (
        f"STRING_AGG(({expression})::text, ',')"
        if connection.vendor == "postgresql"
        else f"GROUP_CONCAT({expression})"
    )


def numbers_in(text: str | None) -> list[int]:
    """The whole numbers that a group has listed."""
    return [*map(int, text.split(","))] if text else []


OWNER = "CASE WHEN t.tenant_id IS NULL OR t.user_id IS NULL THEN {nobody} ELSE t.%s END"
COMMON = f"""
    {{number}} AS number, t.hour, t.start_time AS moment, {OWNER % "tenant_id"} AS tenant_key,
        {OWNER % "user_id"} AS user_key,
    t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL AS is_attributed, t.project_id, t.flow_id,
        t.latency_ms,
    1 AS total_traces, CASE WHEN t.is_failed THEN 1 ELSE 0 END AS failed_traces,
    CASE WHEN t.latency_ms IS NULL THEN 0 ELSE 1 END AS timed_traces,
        COALESCE(t.latency_ms, 0) AS latency_ms_sum,
    CASE WHEN t.credits IS NULL THEN 0 ELSE 1 END AS rated_traces"""
TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "audio_tokens",
)
TRACE_LINES = f"""
SELECT {COMMON}, {{label}} AS model, {", ".join(f"t.{name}" for name in TOKENS)},
    t.priced_observations, t.unpriced_observations,
    COALESCE(t.cost_usd, 0) AS total_cost_usd, COALESCE(t.billed_cost_usd, 0) AS billed_cost_usd,
        COALESCE(t.credits, 0) AS credits_exact
FROM {{traces}}
WHERE true {{conditions}}"""
# The steps with usage of a trace that used several models, by their model.
STEP_LINES = f"""
SELECT {COMMON}, {{label}} AS model, {", ".join(f"SUM(o.{name}) AS {name}" for name in TOKENS)},
    SUM(CASE WHEN o.cost_usd IS NOT NULL THEN 1 ELSE 0 END) AS priced_observations,
    SUM(CASE WHEN o.cost_source = 'unpriced' THEN 1 ELSE 0 END) AS unpriced_observations,
    COALESCE(SUM(o.cost_usd), 0) AS total_cost_usd,
        COALESCE(SUM(o.billed_cost_usd), 0) AS billed_cost_usd,
    COALESCE(SUM(o.credits), 0) AS credits_exact
FROM {{traces}} JOIN usage_observation o ON o.trace_id = t.id AND o.cost_source <> 'no_usage'
WHERE true {{conditions}}
GROUP BY {{columns}}, {{number}}{{by_model}}"""
MODEL = "{model}"


def ranges_table(ranges: Sequence[Range]) -> Sql:
    """The ranges as a table b(number, range_start, range_end)."""
    kind = "timestamptz" if connection.vendor == "postgresql" else "text"
    rows = ", ".join(
        f"({number}, CAST(%s AS {kind}), CAST(%s AS {kind}))" for number, _, _ in ranges
    )
    table = (
        "(SELECT column1 AS number, column2 AS range_start, column3 AS range_end FROM (VALUES"
        f" {rows}) AS v) b"
    )
    return Sql(table, [stored(moment) for _, *edges in ranges for moment in edges])


TRACE_COLUMNS = (
    *(
        "id",
        "hour",
        "start_time",
        "tenant_id",
        "user_id",
        "project_id",
        "flow_id",
        "model",
        "latency_ms",
        "is_failed",
        *TOKENS,
    ),
    *("priced_observations", "unpriced_observations", "cost_usd", "billed_cost_usd", "credits"),
)


def trace_lines(ranges: Sequence[Range], conditions: Sql | None = None) -> Sql:
    """A line for each trace that began in one of the ranges.

    ``conditions`` begin with AND, and speak of usage_trace as t.
    """
    traces, number = _traces(ranges, conditions or Sql(""))
    return Sql(
        _filled(TRACE_LINES, label="''", traces=traces.text, number=number, conditions=""),
        traces.parameters,
    )


def model_lines(
    ranges: Sequence[Range],
    conditions: Sql | None = None,
    of_models: Sql | None = None,
    *,
    together: bool = False,
) -> Sql:
    """A line for each model that each trace used, or ``together`` one for all of them. A trace
    without usage uses the model "".

    ``conditions`` are as those of :func:`trace_lines`; ``of_models`` too, and speak of the model as
    MODEL.
    """
    parts = [
        _model_lines(template, model, ranges, conditions or Sql(""), of_models or Sql(""), together)
        for template, model in ((TRACE_LINES, "t.model"), (STEP_LINES, "o.model"))
    ]
    return Sql(
        " UNION ALL ".join(part.text for part in parts),
        [parameter for part in parts for parameter in part.parameters],
    )


def _model_lines(
    template: str,
    model: str,
    ranges: Sequence[Range],
    conditions: Sql,
    of_models: Sql,
    together: bool,
) -> Sql:
    """The lines of the traces that used one model, or of the others."""
    which = "IS NOT NULL" if template is TRACE_LINES else "IS NULL"
    traces, number = _traces(
        ranges, Sql(f"{conditions.text} AND t.model {which}", conditions.parameters)
    )
    label, by_model = ("''", "") if together else (model, f", {model}")
    columns = ", ".join(f"t.{name}" for name in TRACE_COLUMNS if name not in (*TOKENS, "model"))
    text = _filled(
        template,
        label=label,
        by_model=by_model,
        columns=columns,
        traces=traces.text,
        number=number,
        conditions=of_models.text,
    )
    return Sql(text.replace(MODEL, model), [*traces.parameters, *map(stored, of_models.parameters)])


def _filled(template: str, **pieces: str) -> str:
    for name, piece in pieces.items():
        template = template.replace(f"{{{name}}}", piece)
    return template.replace("{nobody}", nobody())


def _traces(ranges: Sequence[Range], conditions: Sql) -> tuple[Sql, str]:
    """The traces of the ranges as a table t, and how the number of their range is written: never as
    a bare number, a place to GROUP BY.

    PostgreSQL is made to look each of several ranges up by itself: joined, it would rather read all
    traces of a tenant for them.
    """
    columns = ", ".join(f"t.{name}" for name in TRACE_COLUMNS)
    parameters = [*map(stored, conditions.parameters)]
    if len(ranges) == 1:
        ((number, start, end),) = ranges
        where = f"t.start_time >= %s AND t.start_time < %s AND NOT t.is_voided {conditions.text}"
        table = f"(SELECT {columns} FROM usage_trace t WHERE {where}) t"
        return Sql(table, [stored(start), stored(end), *parameters]), f"({number} + 0)"
    listed = ranges_table(ranges)
    where = (
        "t.start_time >= b.range_start AND t.start_time < b.range_end AND NOT t.is_voided"
        f" {conditions.text}"
    )
    if connection.vendor == "postgresql":
        joined = (
            f"{listed.text} CROSS JOIN LATERAL (SELECT {columns} FROM usage_trace t WHERE {where}"
            " OFFSET 0) t"
        )
    else:
        joined = f"{listed.text} JOIN usage_trace t ON {where}"
    return Sql(joined, [*listed.parameters, *parameters]), "b.number"
