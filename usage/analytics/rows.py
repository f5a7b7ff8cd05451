"""The SQL of a plan: rows of a rollup and lines of the facts, in the same columns, within the scope
and the filters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import psycopg
from django.db import connection
from django.db.backends.utils import CursorWrapper

from usage.analytics.pieces import Piece
from usage.analytics.plan import Plan
from usage.analytics.question import Dimension, Question, Status
from usage.analytics.sources import Source
from usage.models import Granularity
from usage.periods import end_of
from usage.rollups.lines import MODEL, Sql, model_lines, nobody, ranges_table, stored, trace_lines

FEW_PIECES = 24
Key = tuple[int, Any]
"""Which bucket, and which value of the dimension."""


def built_rows(plan: Plan, pieces: Sequence[Piece], selected: str) -> Sql | None:
    """Rows of the rollup as (number, dimension, whatever is selected of r)."""
    if not pieces or plan.source is None:
        return None
    by, table = plan.question.by, plan.source.table
    columns = (
        f"r.{plan.source.columns[by]} AS dimension, {selected}"
        if by
        else f"NULL AS dimension, {selected}"
    )
    conditions = _built_conditions(plan.question, plan.source)
    if len(pieces) <= FEW_PIECES:
        # Told each stretch as such, PostgreSQL knows how much it is; of a join it would have to
        # guess.
        return union([_stretch(piece, table, columns, conditions) for piece in pieces])
    alike = [
        [piece for piece in pieces if piece.granularity is granularity]
        for granularity in Granularity
    ]
    return union(
        [_joined(stretches, table, columns, conditions) for stretches in alike if stretches]
    )


def _stretch(piece: Piece, table: str, columns: str, conditions: Sql) -> Sql:
    """Rows of one stretch."""
    when = Sql("r.period_start >= %s AND r.period_start < %s", [piece.start, piece.end])
    if _is_one_period(piece):
        when = Sql("r.period_start = %s", [piece.start])
    where = f"r.granularity = '{piece.granularity}' AND {when.text}{conditions.text}"
    return Sql(
        f"SELECT {piece.bucket} AS number, {columns} FROM {table} r WHERE {where}",
        [*when.parameters, *conditions.parameters],
    )


def _joined(stretches: Sequence[Piece], table: str, columns: str, conditions: Sql) -> Sql:
    """Rows of many stretches of one granularity."""
    ranges = ranges_table([(piece.bucket, piece.start, piece.end) for piece in stretches])
    when = "r.period_start >= b.range_start AND r.period_start < b.range_end"
    if all(map(_is_one_period, stretches)):
        when = "r.period_start = b.range_start"
    where = f"r.granularity = '{stretches[0].granularity}' AND {when}{conditions.text}"
    if connection.vendor == "postgresql":
        # Made to look each stretch up by itself; it would rather read all of a tenant's hours for a
        # few of them.
        rows = (
            f"{ranges.text} CROSS JOIN LATERAL (SELECT * FROM {table} r WHERE {where} OFFSET 0) r"
        )
    else:
        rows = f"{ranges.text} JOIN {table} r ON {where}"
    return Sql(
        f"SELECT b.number, {columns} FROM {rows}", [*ranges.parameters, *conditions.parameters]
    )


def _is_one_period(piece: Piece) -> bool:
    """Told by its start alone; by a range of starts, whatever is finer and lies in it would be
    looked at, too.
    """
    return piece.granularity is not None and end_of(piece.granularity, piece.start) == piece.end


def union(parts: Iterable[Sql | None]) -> Sql | None:
    """The rows of all parts; None where there are none."""
    there = [part for part in parts if part]
    if not there:
        return None
    return Sql(
        " UNION ALL ".join(part.text for part in there),
        [parameter for part in there for parameter in part.parameters],
    )


def fact_rows(
    plan: Plan, pieces: Sequence[Piece], selected: str, *, join: str = "", group: str = ""
) -> Sql | None:
    """Lines of the facts as (number, dimension, whatever is selected of them)."""
    if not pieces:
        return None
    lines, by = _lines(plan.question, pieces), plan.question.by
    key = f"s.{LINE_COLUMNS[by]}" if by else "NULL"
    grouped = f"GROUP BY {group}" if group else ""
    return Sql(
        f"SELECT s.number, {key} AS dimension, {selected} FROM ({lines.text}) s {join} {grouped}",
        lines.parameters,
    )


def _lines(question: Question, pieces: Sequence[Piece]) -> Sql:
    ranges = [(piece.bucket, piece.start, piece.end) for piece in pieces]
    conditions = _fact_conditions(question)
    if Dimension.MODEL in question.dimensions:
        return model_lines(
            ranges,
            conditions,
            _all(_model_conditions(question, MODEL)),
            together=question.counts_traces_together,
        )
    return trace_lines(ranges, conditions)


LINE_COLUMNS = {
    Dimension.TENANT: "tenant_key",
    Dimension.USER: "user_key",
    Dimension.PROJECT: "project_id",
    Dimension.FLOW: "flow_id",
    Dimension.MODEL: "model",
}


def _conditions(question: Question, columns: Mapping[Dimension, str]) -> list[Sql]:
    """The scope and the filters but models, on these columns; the scope comes first and always.

    KeyError where a column is missing.
    """
    scope, filters = question.scope, question.filters
    conditions = []
    for dimension, values in (
        (Dimension.TENANT, [scope.tenant_id] if scope.tenant_id else ()),
        (Dimension.USER, [scope.user_id] if scope.user_id else ()),
        (Dimension.TENANT, filters.tenant_ids),
        (Dimension.USER, filters.user_ids),
        (Dimension.PROJECT, filters.project_ids),
        (Dimension.FLOW, filters.flow_ids),
    ):
        if values:
            conditions.append(_among(columns[dimension], values))
    if question.only_named and question.by in (Dimension.PROJECT, Dimension.FLOW):
        conditions.append(Sql(f"{columns[question.by]} <> ''"))
    return conditions


def _model_conditions(question: Question, column: str) -> list[Sql]:
    """The filter of models, on this column."""
    conditions = [_among(column, question.filters.models)] if question.filters.models else []
    if question.only_named and question.by is Dimension.MODEL:
        conditions.append(Sql(f"{column} <> ''"))
    return conditions


def _among(column: str, values: Sequence[Any]) -> Sql:
    return Sql(f"{column} IN ({', '.join(['%s'] * len(values))})", list(values))


def _built_conditions(question: Question, source: Source) -> Sql:
    columns = {dimension: f"r.{column}" for dimension, column in source.columns.items()}
    conditions = _conditions(question, columns)
    if Dimension.MODEL in question.dimensions:
        conditions += _model_conditions(question, columns[Dimension.MODEL])
    if source.unattributed is not None and (question.only_unattributed or question.only_attributed):
        is_unattributed = source.unattributed.replace("{nobody}", nobody())
        conditions.append(
            Sql(is_unattributed if question.only_unattributed else f"NOT ({is_unattributed})")
        )
    return _all(conditions)


FACT_COLUMNS = {
    Dimension.TENANT: "t.tenant_id",
    Dimension.USER: "t.user_id",
    Dimension.PROJECT: "t.project_id",
    Dimension.FLOW: "t.flow_id",
}


def _fact_conditions(question: Question) -> Sql:
    conditions = _conditions(question, FACT_COLUMNS)
    if question.only_attributed:
        conditions.append(Sql("t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL"))
    if question.only_unattributed:
        conditions.append(Sql("(t.tenant_id IS NULL OR t.user_id IS NULL)"))
    if len(set(question.filters.statuses)) == 1:
        conditions.append(
            Sql(
                "t.is_failed"
                if question.filters.statuses[0] is Status.FAILED
                else "NOT t.is_failed"
            )
        )
    return _all(conditions)


def _all(conditions: Sequence[Sql]) -> Sql:
    return Sql(
        "".join(f" AND {condition.text}" for condition in conditions),
        [parameter for condition in conditions for parameter in condition.parameters],
    )


def keyed_rows(plan: Plan, sql: Sql | None, *, has_sets: bool = False) -> Iterator[tuple[Any, ...]]:
    """The rows of a query whose first two columns are a key, as (key, the others)."""
    if sql is not None:
        for number, value, *others in run(sql.text, sql.parameters, has_sets=has_sets):
            yield (number, as_key(plan.question.by, value)), *others


def run(sql: str, parameters: Sequence[Any], *, has_sets: bool = False) -> list[tuple[Any, ...]]:
    """The rows of a query.

    Sets of users are large: with ``has_sets`` they come as they are, and not as hex digits.
    """
    with (
        _binary_cursor() if has_sets and connection.vendor == "postgresql" else connection.cursor()
    ) as cursor:
        cursor.execute(sql, [stored(parameter) for parameter in parameters])
        return cursor.fetchall()


def _binary_cursor() -> CursorWrapper:
    """Django's own cursors take only text from PostgreSQL."""
    connection.ensure_connection()
    cursor = psycopg.Cursor(connection.connection)
    cursor.format = psycopg.pq.Format.BINARY
    # the stub names what it returns, not what it takes
    return connection.make_cursor(cursor)  # type: ignore[arg-type]


def as_key(dimension: Dimension | None, value: Any) -> Any:
    if value is None or isinstance(value, UUID):
        return value
    return UUID(value) if dimension in (Dimension.TENANT, Dimension.USER) else value
