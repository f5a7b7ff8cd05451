"""Answers a question: from the coarsest rollups that fit, and from the facts where none does (invariant 1).

A question takes a fixed number of queries: what is stale, the sums, and the sketches that distinct users and percentiles are read from.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from kluisz_analytics.bulk import moment_of
from usage.analytics.plan import Plan, narrowed, one_snapshot, plan_of, whole
from usage.analytics.question import Dimension, Question
from usage.analytics.rows import Key, as_key, built_rows, fact_rows, keyed_rows, run, union
from usage.models.rollups import NUMBERS
from usage.rollups.sketches import Sketch, bucket_sql, percentile_of


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
    chosen = {key: sums for key, sums, _ in _summed(narrowed(plan, keys))}
    return [(key, chosen[key], total) for key, _, _ in first]


def _summed(plan: Plan, names: Sequence[str] = NUMBERS) -> list[tuple[Key, Sequence[int], int]]:
    """The sums of these columns, in the question's order and to its limit; and the cost of all rows."""
    question = plan.question
    parts = [part for part in (built_rows(plan, ", ".join(f"r.{name}" for name in names)), fact_rows(plan, ", ".join(names))) if part]
    if not parts:
        return []
    rows = union(parts)
    sums = ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in names)
    order = f"ORDER BY {question.order_by} DESC, 2" if question.order_by else "ORDER BY 1, 2"
    limit = f"LIMIT {question.limit}" if question.limit is not None else ""
    total = "CAST(SUM(SUM(total_cost_usd)) OVER () AS bigint)" if question.wants_total else "0"
    found = run(
        f"SELECT number, dimension, {sums}, {total} FROM ({rows.text}) s GROUP BY 1, 2 {order} {limit}",
        rows.parameters,
    )
    return [((row[0], as_key(question.by, row[1])), row[2:-1], row[-1]) for row in found]


MEMBER = "CASE WHEN s.is_attributed THEN s.user_key END"
Details = tuple[int, int | None, datetime | None]
"""Distinct users, the 95th percentile of latency, the latest run."""
NO_DETAILS: Details = (0, None, None)


def _details(plan: Plan, keys: Sequence[Any]) -> Mapping[Key, Details]:
    """The details of the keys that are shown: of the rollup's sketches where it has them, and of the facts."""
    if not keys:
        return {}
    plan = narrowed(plan, keys)
    if plan.source is not None and not plan.source.is_built:
        # Users' stats have no sketches; but a user's facts are few, and have an index.
        plan = replace(plan, built=[], facts=whole(plan.question))
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    latest: dict[Key, datetime | None] = {}

    def remember(key: Key, moment: Any) -> None:
        known, new = latest.get(key), moment if moment is None else moment_of(moment)
        latest[key] = max(known, new) if known and new else known or new

    # When something last ran is asked of lists; reading a time for every hour of a series would take longer than all else.
    built_activity, activity = ("r.last_activity", "MAX(s.moment)") if plan.question.by else ("NULL", "NULL")
    for key, users, latencies, moment in keyed_rows(plan, built_rows(plan, f"r.users, r.latencies, {built_activity}")):
        sketches[key].merge(users, latencies)
        remember(key, moment)
    counts: Counter[Key] = Counter()
    if plan.facts:
        bucket = bucket_sql("s.latency_ms")
        for key, latency, count, moment in keyed_rows(plan, fact_rows(plan, f"{bucket}, COUNT(*), {activity}", group=f"1, 2, {bucket}")):
            remember(key, moment)
            if latency is not None:
                sketches[key].latencies[latency] += count
        if plan.question.by is Dimension.USER or plan.question.scope.user_id:
            counts.update(dict.fromkeys(latest, 1))
        elif not plan.built:
            counts.update(dict(keyed_rows(plan, fact_rows(plan, f"COUNT(DISTINCT {MEMBER})", group="1, 2"))))
        else:
            numbered = "LEFT JOIN usage_user_number n ON n.user_id = s.user_key"
            # Users without a number are in no built rollup.
            for key, number, count in keyed_rows(
                plan, fact_rows(plan, f"n.id, COUNT(DISTINCT {MEMBER})", join=numbered, group="1, 2, n.id")
            ):
                if number is None:
                    counts[key] += count
                else:
                    sketches[key].users.add(number)
    return {key: (len(sketches[key].users) + counts[key], percentile_of(sketches[key].latencies), latest[key]) for key in latest}
