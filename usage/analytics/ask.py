"""Answers a question: from the coarsest rollups that fit, and from the facts where none does (invariant 1).

A question takes a fixed number of queries: what is stale, the sums, and the sketches that distinct users and percentiles are read from.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from usage.analytics.pieces import Piece, Unreliable, cut
from usage.analytics.question import Dimension, Question, Status
from usage.analytics.sources import Source, source_of
from usage.models.rollups import NUMBERS, Granularity
from usage.periods import period_of
from usage.rollups.lines import MODEL, Sql, model_lines, nobody, ranges_table, stored, trace_lines
from usage.rollups.sketches import Sketch, bucket_sql, percentile_of
from usage.rollups.stale import Stale, stale_periods

# Groups of 50,000 users stay in memory; compiling a query takes longer than running it; what is asked for is mostly in memory.
SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL work_mem = '32MB'; SET LOCAL jit = off; "
SNAPSHOT += "SET LOCAL random_page_cost = 1.1"
LONGEST_PERIOD = timedelta(days=31)
FEW_PIECES = 24
Key = tuple[int, Any]
"""Which bucket, and which value of the dimension."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: which bucket, which value of the dimension, the sums, and what does not add up.

    ``total_cost`` is the cost of all rows, also of those beyond the limit (USD scaled, as stored); 0 where the question doesn't want it.
    """

    bucket: int
    key: Any
    sums: Mapping[str, int]
    total_cost: int
    active_users: int
    p95_latency_ms: int | None
    last_activity: datetime | None


def ask(question: Question) -> list[Answer]:
    """The answers; buckets and values without usage are left out."""
    if not question.buckets:
        return []
    with one_snapshot():
        plan = plan_of(question)
        rows = _sums(plan)
        details = _details(plan, [key for (_, key), _, _ in rows])
    return [
        Answer(bucket, key, dict(zip(NUMBERS, numbers, strict=True)), total, *details.get((bucket, key), NO_DETAILS))
        for (bucket, key), numbers, total in rows
    ]


def sums_of(question: Question) -> list[tuple[Key, Mapping[str, int]]]:
    """Only the sums, by bucket and value; where users and percentiles are not asked for."""
    with one_snapshot():
        return [(key, dict(zip(NUMBERS, numbers, strict=True))) for key, numbers, _ in _sums(plan_of(question))]


def count_keys(question: Question) -> int:
    """How many values of its dimension a question would be answered with."""
    with one_snapshot():
        return len(_summed(plan_of(question), ["total_cost_usd"]))


@contextmanager
def one_snapshot() -> Iterator[None]:
    """All queries inside see one state of the database. SQLite, and a transaction that has begun already, are left as they are."""
    if connection.vendor != "postgresql" or connection.in_atomic_block:
        yield
        return
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(SNAPSHOT)
        yield


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is answered: pieces of a rollup, and pieces of the facts."""

    question: Question
    source: Source | None
    built: Sequence[Piece]
    facts: Sequence[Piece]


def plan_of(question: Question) -> Plan:
    """One query, of what is stale."""
    source = source_of(question)
    if source is None:
        return Plan(question, None, [], _whole(question))
    edges = [moment for bucket in question.buckets for moment in bucket]
    unreliable: Unreliable = NEVER_STALE
    if source.is_built:
        stale = stale_periods(min(edges) - LONGEST_PERIOD, max(edges))
        unreliable = stale.periods
        if source.hours_while_running:
            unreliable = {**unreliable, Granularity.HOUR: HoursOfBuiltDays(stale)}
    pieces = cut(question.buckets, source.granularities, unreliable)
    return Plan(question, source, [one for one in pieces if one.granularity], [one for one in pieces if not one.granularity])


class HoursOfBuiltDays:
    """Hours that are stale, or gone since their day was built: of a rollup that keeps hours only until then."""

    def __init__(self, stale: Stale) -> None:
        self._hours, self._unbuilt_days = stale.periods[Granularity.HOUR], stale.unbuilt_days

    def __contains__(self, hour: object) -> bool:
        return hour in self._hours or not isinstance(hour, datetime) or period_of(Granularity.DAY, hour)[0] not in self._unbuilt_days


def _whole(question: Question) -> list[Piece]:
    return [Piece(number, None, *bucket) for number, bucket in enumerate(question.buckets)]


NEVER_STALE = defaultdict[Any, frozenset[datetime]](frozenset)


# --- Sums -----------------------------------------------------------------------------------------------------------


def _sums(plan: Plan) -> list[tuple[Key, Sequence[int], int]]:
    """The sums of each bucket and value, and the cost of all; where only the first are wanted, these are found before they are summed."""
    question = plan.question
    if question.limit is None or question.order_by is None:
        return _summed(plan)
    needed = [question.order_by, "total_cost_usd"] if question.wants_total else [question.order_by]
    first = _summed(plan, list(dict.fromkeys(needed)))
    if not first:
        return []
    keys, total = [key for (_, key), _, _ in first], first[0][2]
    chosen = {key: sums for key, sums, _ in _summed(_narrowed(plan, keys))}
    return [(key, chosen[key], total) for key, _, _ in first]


def _narrowed(plan: Plan, keys: Sequence[Any]) -> Plan:
    """The same of these keys only, and of all of them."""
    question = plan.question
    if question.by is None:
        return plan
    filters = question.filters.only(question.by, list(dict.fromkeys(keys)))
    return replace(plan, question=replace(question, filters=filters, limit=None, order_by=None))


def _summed(plan: Plan, names: Sequence[str] = NUMBERS) -> list[tuple[Key, Sequence[int], int]]:
    """The sums of these columns, in the question's order and to its limit; and the cost of all rows."""
    question = plan.question
    parts = [part for part in (_built_rows(plan, ", ".join(f"r.{name}" for name in names)), _fact_rows(plan, ", ".join(names))) if part]
    if not parts:
        return []
    rows = _union(parts)
    sums = ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in names)
    order = f"ORDER BY {question.order_by} DESC, 2" if question.order_by else "ORDER BY 1, 2"
    limit = f"LIMIT {question.limit}" if question.limit is not None else ""
    total = "CAST(SUM(SUM(total_cost_usd)) OVER () AS bigint)" if question.wants_total else "0"
    found = _run(
        f"SELECT number, dimension, {sums}, {total} FROM ({rows.text}) s GROUP BY 1, 2 {order} {limit}",
        rows.parameters,
    )
    return [((row[0], _as_key(question.by, row[1])), row[2:-1], row[-1]) for row in found]


def _built_rows(plan: Plan, selected: str) -> Sql | None:
    """Rows of the rollup as (number, dimension, whatever is selected of r)."""
    if not plan.built or plan.source is None:
        return None
    by, table = plan.question.by, plan.source.table
    key = f"r.{plan.source.columns[by]}" if by else "NULL"
    conditions = _built_conditions(plan.question, plan.source)
    parts = []
    if len(plan.built) <= FEW_PIECES:
        # Told each stretch as such, PostgreSQL knows how much it is; of a join it would have to guess.
        for number, granularity, *edges in plan.built:
            text = f"SELECT {number} AS number, {key} AS dimension, {selected} FROM {table} r WHERE r.granularity = '{granularity}'"
            parts.append(Sql(f"{text} AND r.period_start >= %s AND r.period_start < %s{conditions.text}", [*edges, *conditions.parameters]))
        return _union(parts)
    for granularity in Granularity:
        pieces = [(piece.bucket, piece.start, piece.end) for piece in plan.built if piece.granularity is granularity]
        if pieces:
            ranges = ranges_table(pieces)
            text = f"SELECT b.number, {key} AS dimension, {selected} FROM {ranges.text} JOIN {table} r ON r.granularity = '{granularity}'"
            text += f" AND r.period_start >= b.range_start AND r.period_start < b.range_end{conditions.text}"
            parts.append(Sql(text, [*ranges.parameters, *conditions.parameters]))
    return _union(parts)


def _union(parts: Sequence[Sql]) -> Sql:
    return Sql(" UNION ALL ".join(part.text for part in parts), [parameter for part in parts for parameter in part.parameters])


def _fact_rows(plan: Plan, selected: str, *, join: str = "", group: str = "") -> Sql | None:
    """Lines of the facts as (number, dimension, whatever is selected of them)."""
    if not plan.facts:
        return None
    lines, by = _lines(plan.question, plan.facts), plan.question.by
    key = f"s.{LINE_COLUMNS[by]}" if by else "NULL"
    grouped = f"GROUP BY {group}" if group else ""
    return Sql(f"SELECT s.number, {key} AS dimension, {selected} FROM ({lines.text}) s {join} {grouped}", lines.parameters)


def _lines(question: Question, pieces: Sequence[Piece]) -> Sql:
    ranges = [(piece.bucket, piece.start, piece.end) for piece in pieces]
    conditions = _fact_conditions(question)
    if Dimension.MODEL in question.dimensions:
        return model_lines(ranges, conditions, _model_conditions(question), together=question.counts_traces_together)
    return trace_lines(ranges, conditions)


LINE_COLUMNS = {
    Dimension.TENANT: "tenant_key",
    Dimension.USER: "user_key",
    Dimension.PROJECT: "project_id",
    Dimension.FLOW: "flow_id",
    Dimension.MODEL: "model",
}


# --- What does not add up -------------------------------------------------------------------------------------------

Details = tuple[int, int | None, datetime | None]
"""Distinct users, the 95th percentile of latency, the latest run."""
NO_DETAILS: Details = (0, None, None)


def _details(plan: Plan, keys: Sequence[Any]) -> Mapping[Key, Details]:
    """The details of the keys that are shown: of the rollup's sketches where it has them, and of the facts."""
    if not keys:
        return {}
    plan = _narrowed(plan, keys)
    if plan.source is not None and not plan.source.is_built:
        # Users' stats have no sketches; but a user's facts are few, and have an index.
        plan = replace(plan, built=[], facts=_whole(plan.question))
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    latest: dict[Key, datetime | None] = {}

    def remember(key: Key, moment: Any) -> None:
        known, new = latest.get(key), _as_moment(moment)
        latest[key] = max(known, new) if known and new else known or new

    # When something last ran is asked of lists; reading a time for every hour of a series would take longer than all else.
    built_activity, activity = ("r.last_activity", "MAX(s.moment)") if plan.question.by else ("NULL", "NULL")
    for key, users, latencies, moment in _rows(plan, _built_rows(plan, f"r.users, r.latencies, {built_activity}")):
        sketches[key].merge(users, latencies)
        remember(key, moment)
    counts: Counter[Key] = Counter()
    if plan.facts:
        bucket = bucket_sql("s.latency_ms")
        for key, latency, count, moment in _rows(plan, _fact_rows(plan, f"{bucket}, COUNT(*), {activity}", group=f"1, 2, {bucket}")):
            remember(key, moment)
            if latency is not None:
                sketches[key].latencies[latency] += count
        if plan.question.by is Dimension.USER or plan.question.scope.user_id:
            counts.update(dict.fromkeys(latest, 1))
        elif not plan.built:
            counts.update(dict(_rows(plan, _fact_rows(plan, f"COUNT(DISTINCT {_MEMBER})", group="1, 2"))))
        else:
            numbered = "LEFT JOIN usage_user_number n ON n.user_id = s.user_key"
            # Users without a number are in no built rollup.
            for key, number, count in _rows(plan, _fact_rows(plan, f"n.id, COUNT(DISTINCT {_MEMBER})", join=numbered, group="1, 2, n.id")):
                if number is None:
                    counts[key] += count
                else:
                    sketches[key].users.add(number)
    return {key: (len(sketches[key].users) + counts[key], percentile_of(sketches[key].latencies), latest[key]) for key in latest}


_MEMBER = "CASE WHEN s.is_attributed THEN s.user_key END"


def _rows(plan: Plan, sql: Sql | None) -> Iterator[tuple[Any, ...]]:
    """The rows of a query whose first two columns are a key, as (key, the others)."""
    if sql is not None:
        for number, value, *others in _run(sql.text, sql.parameters):
            yield (number, _as_key(plan.question.by, value)), *others


# --- Conditions -----------------------------------------------------------------------------------------------------


def _conditions(question: Question, columns: Mapping[Dimension, str]) -> list[Sql]:
    """The scope and the filters, as far as they are of these columns. The scope comes first."""
    scope, filters = question.scope, question.filters
    conditions = []
    for dimension, values in (
        (Dimension.TENANT, [scope.tenant_id] if scope.tenant_id else ()),
        (Dimension.USER, [scope.user_id] if scope.user_id else ()),
        (Dimension.TENANT, filters.tenant_ids),
        (Dimension.USER, filters.user_ids),
        (Dimension.PROJECT, filters.project_ids),
        (Dimension.FLOW, filters.flow_ids),
        (Dimension.MODEL, filters.models),
    ):
        if values and dimension in columns:
            conditions.append(Sql(f"{columns[dimension]} IN ({', '.join(['%s'] * len(values))})", list(values)))
    if question.only_named and question.by is not None and question.by in columns:
        conditions.append(Sql(f"{columns[question.by]} <> ''"))
    return conditions


def _built_conditions(question: Question, source: Source) -> Sql:
    conditions = _conditions(question, {dimension: f"r.{column}" for dimension, column in source.columns.items()})
    if source.unattributed is not None and (question.only_unattributed or question.only_attributed):
        is_unattributed = source.unattributed.replace("{nobody}", nobody())
        conditions.append(Sql(is_unattributed if question.only_unattributed else f"NOT ({is_unattributed})"))
    return _all(conditions)


FACT_COLUMNS = {
    Dimension.TENANT: "t.tenant_id",
    Dimension.USER: "t.user_id",
    Dimension.PROJECT: "t.project_id",
    Dimension.FLOW: "t.flow_id",
}


def _model_conditions(question: Question) -> Sql:
    return _all(_conditions(question, {Dimension.MODEL: MODEL}))


def _fact_conditions(question: Question) -> Sql:
    conditions = _conditions(question, FACT_COLUMNS)
    if question.only_attributed:
        conditions.append(Sql("t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL"))
    if question.only_unattributed:
        conditions.append(Sql("(t.tenant_id IS NULL OR t.user_id IS NULL)"))
    if len(set(question.filters.statuses)) == 1:
        conditions.append(Sql("t.is_failed" if question.filters.statuses[0] is Status.FAILED else "NOT t.is_failed"))
    return _all(conditions)


def _all(conditions: Sequence[Sql]) -> Sql:
    return Sql(
        "".join(f" AND {condition.text}" for condition in conditions),
        [parameter for condition in conditions for parameter in condition.parameters],
    )


# --- Values as the database has them --------------------------------------------------------------------------------


def _run(sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [stored(parameter) for parameter in parameters])
        return cursor.fetchall()


def _as_key(dimension: Dimension | None, value: Any) -> Any:
    if value is None or isinstance(value, UUID):
        return value
    return UUID(value) if dimension in (Dimension.TENANT, Dimension.USER) else value


def _as_moment(value: Any) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
