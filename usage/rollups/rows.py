"""The facts as rows with the columns of a rollup: one for each trace, or one for each model that a
trace used.

What the built rollups are sums of, what a question without a fitting rollup is asked of, and what
the books are checked against.
"""

from collections.abc import Mapping, Sequence

from django.db import connection

from kluisz_analytics.sql import Range, Sql, ranges_table, stored
from kluisz_analytics.tenants.attributed import (
    Ownership,
    attributed_sql,
    owned_sql,
    without_user_sql,
)
from usage.measures import DIMENSIONS, SUMS, Dimension
from usage.models.rollups import UNATTRIBUTED


def nobody() -> str:
    """The key of usage without an owner, as a literal."""
    return f"'{stored(UNATTRIBUTED)}'"


IS_ATTRIBUTED, IS_OWNED = attributed_sql("t"), owned_sql("t")


OF_FACTS: Mapping[Ownership, str | None] = {
    Ownership.ANY: None,
    Ownership.UNATTRIBUTED: f"NOT ({IS_ATTRIBUTED})",
    Ownership.ATTRIBUTED: IS_ATTRIBUTED,
    Ownership.OWNED: IS_OWNED,
    Ownership.WITHOUT_USER: without_user_sql("t"),
}
"""The condition on a trace t."""
OF_ROWS: Mapping[Ownership, str | None] = {
    Ownership.ANY: None,
    Ownership.UNATTRIBUTED: "NOT s.is_attributed",
    Ownership.ATTRIBUTED: "s.is_attributed",
    Ownership.OWNED: "s.is_owned",
    Ownership.WITHOUT_USER: "s.is_attributed AND NOT s.is_owned",
}
"""The same on rows s, as they are made here."""


def _dimension_sql(dimension: Dimension) -> str:
    """A trace's value of the dimension; of its user only where its tenant is known, too."""
    declared = DIMENSIONS[dimension]
    column = f"t.{declared.trace}"
    if declared.is_owner:
        known = IS_OWNED if dimension is Dimension.USER else IS_ATTRIBUTED
        column = f"CASE WHEN {known} THEN {column} ELSE {{nobody}} END"
    return f"{column} AS {declared.row}"


OF_TRACES = [one for one in Dimension if DIMENSIONS[one].trace is not None]
"""The dimensions that a trace has; its steps have the others."""
COMMON = f"""
    {{number}} AS number, t.hour, t.start_time AS moment, {IS_ATTRIBUTED} AS is_attributed,
    {IS_OWNED} AS is_owned,
    {", ".join(map(_dimension_sql, OF_TRACES))},
    t.latency_ms, {{label}} AS model"""
TRACE_ROWS = f"""
SELECT {COMMON}, {", ".join(f"{one.trace.in_sql('t')} AS {one.name}" for one in SUMS)}
FROM {{traces}}
WHERE true {{conditions}}"""
# The steps with usage of a trace that used several models, by their model.
STEP_ROWS = f"""
SELECT {COMMON}, {
    ", ".join(
        f"SUM({one.step.in_sql('o')}) AS {one.name}"
        if one.step
        else f"{one.trace.in_sql('t')} AS {one.name}"
        for one in SUMS
    )
}
FROM {{traces}} JOIN usage_observation o ON o.trace_id = t.id AND o.cost_source <> 'no_usage'
WHERE true {{conditions}}
GROUP BY {{columns}}, {{number}}{{by_model}}"""
MODEL = "{model}"
KEPT = (
    *("id", "hour", "start_time", "tenant_id", "user_id", "latency_ms"),
    *(DIMENSIONS[one].trace for one in OF_TRACES),
    *(one.trace.column for one in SUMS if one.step is None),
)
"""Columns of a trace that stay as they are where its steps are summed."""
TRACE_COLUMNS = tuple(dict.fromkeys([*KEPT, "model", *(one.trace.column for one in SUMS)]))


def trace_rows(ranges: Sequence[Range], conditions: Sql | None = None) -> Sql:
    """A row for each trace that began in one of the ranges.

    ``conditions`` begin with AND, and speak of usage_trace as t.
    """
    traces, number = traces_in(ranges, conditions or Sql(""))
    return Sql(
        _filled(TRACE_ROWS, label="''", traces=traces.text, number=number, conditions=""),
        traces.parameters,
    )


def model_rows(
    ranges: Sequence[Range],
    conditions: Sql | None = None,
    of_models: Sql | None = None,
    *,
    together: bool = False,
) -> Sql:
    """A row for each model that each trace used, or ``together`` one for all of them. A trace
    without usage uses the model "".

    ``conditions`` are as those of :func:`trace_rows`; ``of_models`` too, and speak of the model as
    MODEL.
    """
    parts = [
        _model_rows(template, model, ranges, conditions or Sql(""), of_models or Sql(""), together)
        for template, model in ((TRACE_ROWS, "t.model"), (STEP_ROWS, "o.model"))
    ]
    return Sql(
        " UNION ALL ".join(part.text for part in parts),
        [parameter for part in parts for parameter in part.parameters],
    )


def _model_rows(
    template: str,
    model: str,
    ranges: Sequence[Range],
    conditions: Sql,
    of_models: Sql,
    together: bool,
) -> Sql:
    """The rows of the traces that used one model, or of the others."""
    which = "IS NOT NULL" if template is TRACE_ROWS else "IS NULL"
    traces, number = traces_in(
        ranges, Sql(f"{conditions.text} AND t.model {which}", conditions.parameters)
    )
    label, by_model = ("''", "") if together else (model, f", {model}")
    columns = ", ".join(f"t.{name}" for name in dict.fromkeys(KEPT))
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


def _filled(template: str, **fragments: str) -> str:
    for name, fragment in fragments.items():
        template = template.replace(f"{{{name}}}", fragment)
    return template.replace("{nobody}", nobody())


def traces_in(
    ranges: Sequence[Range], conditions: Sql, kept: Sequence[str | None] = TRACE_COLUMNS
) -> tuple[Sql, str]:
    """The traces of the ranges as a table t with these columns, and how the number of their range
    is written: never as a bare number, a place to GROUP BY.

    PostgreSQL is made to look each of several ranges up by itself: joined, it would rather read all
    traces of a tenant for them.
    """
    columns = ", ".join(f"t.{name}" for name in kept)
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
