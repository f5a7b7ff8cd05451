"""One question of usage, as SQL: sums over periods, by dimensions, within a scope.

The same question is asked of whichever source can answer it: the rollups where they have its dimensions and its periods begin on full
hours, else the facts. All sources have the same columns, so there is one SQL for all of them, and the answers are equal (invariant 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connection

from kluisz_analytics.bulk import sqlite_value
from usage.access import Scope
from usage.analytics.calendar import is_daily, is_hourly
from usage.models.rollups import NUMBERS, UNATTRIBUTED


class Dimension(StrEnum):
    """What answers can be told apart by."""

    TENANT = "tenant"
    USER = "user"
    PROJECT = "project"
    FLOW = "flow"
    MODEL = "model"


class Status(StrEnum):
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which usage counts; an empty filter lets everything through, several values are "any of"."""

    tenant_ids: tuple[UUID, ...] = ()
    user_ids: tuple[UUID, ...] = ()
    project_ids: tuple[str, ...] = ()
    flow_ids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()

    def only(self, dimension: Dimension, values: Sequence[Any]) -> "Filters":
        """The same with one dimension narrowed to these values."""
        return replace(self, **{FILTER_OF[dimension]: tuple(values)})


FILTER_OF = {
    Dimension.TENANT: "tenant_ids",
    Dimension.USER: "user_ids",
    Dimension.PROJECT: "project_ids",
    Dimension.FLOW: "flow_ids",
    Dimension.MODEL: "models",
}
Bucket = tuple[datetime, datetime]


@dataclass(frozen=True, slots=True)
class Question:
    """Sums for each bucket (a period) and each value of the dimension, if one is named."""

    scope: Scope
    buckets: Sequence[Bucket]
    filters: Filters = Filters()
    by: Dimension | None = None
    order_by: str | None = None
    limit: int | None = None
    only_unattributed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: which bucket, which value of the dimension (None: unattributed), and the sums."""

    bucket: int
    key: Any
    sums: dict[str, Any]


@dataclass(slots=True)
class Sql:
    """A piece of SQL with its parameters, kept together."""

    text: str
    parameters: list[Any] = field(default_factory=list)


# Usage belongs to a tenant or a user only when both are known (domain.md, Unattributed usage).
COLUMN = {
    Dimension.TENANT: "CASE WHEN s.user_key = '{nobody}' THEN NULL WHEN s.tenant_key = '{nobody}' THEN NULL ELSE s.tenant_key END",
    Dimension.USER: "CASE WHEN s.tenant_key = '{nobody}' THEN NULL WHEN s.user_key = '{nobody}' THEN NULL ELSE s.user_key END",
    Dimension.PROJECT: "s.project_id",
    Dimension.FLOW: "s.flow_id",
    Dimension.MODEL: "s.model",
}

TRACE_LINES = """
SELECT t.hour, t.start_time AS moment, COALESCE(t.tenant_id, '{nobody}') AS tenant_key, COALESCE(t.user_id, '{nobody}') AS user_key,
    t.project_id, t.flow_id, '' AS model, t.is_failed, t.latency_ms, t.id AS trace_id,
    t.input_tokens, t.output_tokens, t.total_tokens, t.cached_tokens, t.cache_write_tokens, t.reasoning_tokens, t.audio_tokens,
    1 AS total_traces, CASE WHEN t.is_failed THEN 1 ELSE 0 END AS failed_traces,
    CASE WHEN t.latency_ms IS NULL THEN 0 ELSE 1 END AS timed_traces, COALESCE(t.latency_ms, 0) AS latency_ms_sum,
    t.priced_observations, t.unpriced_observations, CASE WHEN t.credits IS NULL THEN 0 ELSE 1 END AS rated_traces,
    COALESCE(t.cost_usd, 0) AS total_cost_usd, COALESCE(t.billed_cost_usd, 0) AS billed_cost_usd, COALESCE(t.credits, 0) AS credits_exact
FROM usage_trace t WHERE t.start_time >= %s AND t.start_time < %s AND NOT t.is_voided
"""
# A trace counts once for each model that it used; its steps without usage belong to no model.
MODEL_LINES = """
SELECT t.hour, t.start_time AS moment, COALESCE(t.tenant_id, '{nobody}') AS tenant_key, COALESCE(t.user_id, '{nobody}') AS user_key,
    t.project_id, t.flow_id, o.model, t.is_failed, t.latency_ms, t.id AS trace_id,
    SUM(o.input_tokens) AS input_tokens, SUM(o.output_tokens) AS output_tokens, SUM(o.total_tokens) AS total_tokens,
    SUM(o.cached_tokens) AS cached_tokens, SUM(o.cache_write_tokens) AS cache_write_tokens,
    SUM(o.reasoning_tokens) AS reasoning_tokens, SUM(o.audio_tokens) AS audio_tokens,
    1 AS total_traces, CASE WHEN t.is_failed THEN 1 ELSE 0 END AS failed_traces,
    CASE WHEN t.latency_ms IS NULL THEN 0 ELSE 1 END AS timed_traces, COALESCE(t.latency_ms, 0) AS latency_ms_sum,
    SUM(CASE WHEN o.cost_source <> 'no_usage' AND o.cost_usd IS NOT NULL THEN 1 ELSE 0 END) AS priced_observations,
    SUM(CASE WHEN o.cost_source = 'unpriced' THEN 1 ELSE 0 END) AS unpriced_observations,
    CASE WHEN t.credits IS NULL THEN 0 ELSE 1 END AS rated_traces, COALESCE(SUM(o.cost_usd), 0) AS total_cost_usd,
    COALESCE(SUM(o.billed_cost_usd), 0) AS billed_cost_usd, COALESCE(SUM(o.credits), 0) AS credits_exact
FROM usage_trace t JOIN ({steps}) o ON o.trace_id = t.id
WHERE t.start_time >= %s AND t.start_time < %s AND NOT t.is_voided
GROUP BY t.id, t.hour, t.start_time, t.tenant_id, t.user_id, t.project_id, t.flow_id, o.model, t.is_failed, t.latency_ms, t.credits
"""
# The steps that make a trace's model lines: those with usage, or, in a trace without any, its first.
BILLED_STEPS = """
SELECT trace_id, model, cost_source, cost_usd, billed_cost_usd, credits, input_tokens, output_tokens, total_tokens, cached_tokens,
    cache_write_tokens, reasoning_tokens, audio_tokens FROM usage_observation WHERE cost_source <> 'no_usage'
UNION ALL
SELECT f.id, '', 'no_usage', NULL, f.billed_cost_usd, f.credits, 0, 0, 0, 0, 0, 0, 0
FROM usage_trace f WHERE f.priced_observations = 0 AND f.unpriced_observations = 0
"""


def ask(question: Question) -> list[Answer]:
    """The answers, one query; buckets and values without usage are left out."""
    if not question.buckets:
        return []
    source, where = _source(question), _conditions(question)
    key = _key_column(question.by) if question.by else "NULL"
    sums = ", ".join(f"SUM(s.{name}) AS {name}" for name in NUMBERS)
    order = f"ORDER BY {question.order_by} DESC, 2" if question.order_by else "ORDER BY 1, 2"
    limit = f"LIMIT {question.limit}" if question.limit is not None else ""
    buckets = _bucket_table(question.buckets)
    sql = (
        f"SELECT b.number, {key}, {_active_users()} AS active_users_count, {sums} "
        f"FROM {buckets.text} JOIN ({source.text}) s ON s.moment >= b.bucket_start AND s.moment < b.bucket_end "
        f"{where.text} GROUP BY 1, 2 {order} {limit}"
    )
    names = ["active_users_count", *NUMBERS]
    rows = _run(sql, [*buckets.parameters, *source.parameters, *where.parameters])
    return [Answer(row[0], _as_key(question.by, row[1]), dict(zip(names, row[2:], strict=True))) for row in rows]


@dataclass(frozen=True, slots=True)
class Detail:
    """What only the facts know: the 95th percentile of latency (nearest rank) and the latest run."""

    p95_latency_ms: int | None
    last_activity: datetime


def ask_details(question: Question) -> dict[tuple[int, Any], Detail]:
    """The details of each bucket and value, one query over the facts."""
    if not question.buckets:
        return {}
    source, where, buckets = _facts(question), _conditions(question), _bucket_table(question.buckets)
    key = _key_column(question.by) if question.by else "NULL"
    known_first = "CASE WHEN s.latency_ms IS NULL THEN 1 ELSE 0 END"
    sql = (
        "SELECT number, dimension, MAX(CASE WHEN place = (timed * 95 + 99) / 100 THEN latency_ms END), MAX(moment) FROM ("
        f" SELECT b.number, {key} AS dimension, s.moment, s.latency_ms,"
        f" ROW_NUMBER() OVER (PARTITION BY b.number, {key} ORDER BY {known_first}, s.latency_ms) AS place,"
        f" COUNT(s.latency_ms) OVER (PARTITION BY b.number, {key}) AS timed"
        f" FROM {buckets.text} JOIN ({source.text}) s ON s.moment >= b.bucket_start AND s.moment < b.bucket_end {where.text}"
        ") ranked GROUP BY 1, 2"
    )
    rows = _run(sql, [*buckets.parameters, *source.parameters, *where.parameters])
    return {(number, _as_key(question.by, value)): Detail(p95, _as_moment(moment)) for number, value, p95, moment in rows}


def count_distinct_tenants(question: Question) -> int:
    """Tenants with usage in the question's periods."""
    source, where, buckets = _source(question), _conditions(question), _bucket_table(question.buckets)
    sql = (
        f"SELECT COUNT(DISTINCT {_key_column(Dimension.TENANT)}) FROM {buckets.text} "
        f"JOIN ({source.text}) s ON s.moment >= b.bucket_start AND s.moment < b.bucket_end {where.text}"
    )
    return int(_run(sql, [*buckets.parameters, *source.parameters, *where.parameters])[0][0])


# --- Sources --------------------------------------------------------------------------------------------------------


def _source(question: Question) -> Sql:
    """The cheapest source that has the question's dimensions and periods."""
    edges = [moment for bucket in question.buckets for moment in bucket]
    if question.filters.statuses or not all(map(is_hourly, edges)):
        return _facts(question)
    needs_flow = question.filters.flow_ids or question.filters.project_ids or question.by in (Dimension.FLOW, Dimension.PROJECT)
    if _needs_model(question) and needs_flow:
        return _facts(question)
    table = "model_usage" if _needs_model(question) else "flow_usage"
    granularity = "day" if all(map(is_daily, edges)) else "hour"
    return Sql(
        f"SELECT period_start AS moment, r.* FROM {table} r WHERE r.granularity = %s AND r.period_start >= %s AND r.period_start < %s",
        [granularity, min(edges), max(edges)],
    )


def _facts(question: Question) -> Sql:
    edges = [moment for bucket in question.buckets for moment in bucket]
    return fact_lines(min(edges), max(edges), by_model=_needs_model(question))


def fact_lines(start: datetime, end: datetime, *, by_model: bool) -> Sql:
    """The facts of the traces in [start, end): a line each, or a line for each model that each used."""
    lines = MODEL_LINES.replace("{steps}", BILLED_STEPS) if by_model else TRACE_LINES
    return Sql(_with_nobody(lines), [_stored(start), _stored(end)])


def _needs_model(question: Question) -> bool:
    return bool(question.filters.models) or question.by is Dimension.MODEL


def _bucket_table(buckets: Sequence[Bucket]) -> Sql:
    """The buckets as a table b(number, bucket_start, bucket_end)."""
    kind = "timestamptz" if connection.vendor == "postgresql" else "text"
    rows = ", ".join(f"({number}, CAST(%s AS {kind}), CAST(%s AS {kind}))" for number in range(len(buckets)))
    table = f"(SELECT column1 AS number, column2 AS bucket_start, column3 AS bucket_end FROM (VALUES {rows}) AS v) b"
    return Sql(table, [moment for bucket in buckets for moment in bucket])


def _conditions(question: Question) -> Sql:
    """The scope and the filters. The scope comes first and always."""
    conditions = _scope_conditions(question.scope)
    filters = question.filters
    if question.only_unattributed:
        conditions.append(Sql(_with_nobody("(s.tenant_key = '{nobody}' OR s.user_key = '{nobody}')")))
    elif filters.tenant_ids or filters.user_ids:
        conditions.append(_is_attributed())
    for column, values in (
        ("s.tenant_key", filters.tenant_ids),
        ("s.user_key", filters.user_ids),
        ("s.project_id", filters.project_ids),
        ("s.flow_id", filters.flow_ids),
        ("s.model", filters.models),
    ):
        if values:
            conditions.append(Sql(f"{column} IN ({', '.join(['%s'] * len(values))})", list(values)))
    if len(set(filters.statuses)) == 1:
        conditions.append(Sql("s.is_failed" if filters.statuses[0] is Status.FAILED else "NOT s.is_failed"))
    if not conditions:
        return Sql("")
    return Sql(
        "WHERE " + " AND ".join(condition.text for condition in conditions),
        [parameter for condition in conditions for parameter in condition.parameters],
    )


def _scope_conditions(scope: Scope) -> list[Sql]:
    conditions = []
    if scope.tenant_id is not None:
        conditions.append(Sql("s.tenant_key = %s", [scope.tenant_id]))
    if scope.user_id is not None:
        conditions.append(Sql("s.user_key = %s", [scope.user_id]))
    return [*conditions, _is_attributed()] if conditions else []


def _is_attributed() -> Sql:
    return Sql(_with_nobody("s.tenant_key <> '{nobody}' AND s.user_key <> '{nobody}'"))


def _key_column(dimension: Dimension) -> str:
    return _with_nobody(COLUMN[dimension])


def _active_users() -> str:
    return f"COUNT(DISTINCT {_key_column(Dimension.USER)})"


def _with_nobody(text: str) -> str:
    return text.replace("{nobody}", str(_stored(UNATTRIBUTED)))


# --- Values as the database has them --------------------------------------------------------------------------------


def _run(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [_stored(parameter) for parameter in parameters])
        return cursor.fetchall()


def _stored(value: Any) -> Any:
    return value if connection.vendor == "postgresql" else sqlite_value(value)


def _as_key(dimension: Dimension | None, value: Any) -> Any:
    if value is None or isinstance(value, UUID):
        return value
    return UUID(value) if dimension in (Dimension.TENANT, Dimension.USER) else value


def _as_moment(value: Any) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
