"""Answers a question: from the coarsest rollups that fit, and from the facts where none does
(invariant 1).

A question takes a fixed number of queries: what is stale, the sums, and the sketches that distinct
users and percentiles are read from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from kluisz_analytics.bulk import moment_of
from kluisz_analytics.snapshot import one_snapshot
from usage.analytics.details import (
    HISTOGRAM,
    LATENCIES,
    NO_DETAILS,
    Details,
    activity,
    details_of,
    pairs_in,
    users_of_facts,
)
from usage.analytics.pieces import Pieces
from usage.analytics.plan import PLANNING, Plan, narrowed, plan_of
from usage.analytics.question import Question
from usage.analytics.rows import Key, as_key, built_rows, fact_rows, run, union
from usage.models.rollups import NUMBERS
from usage.rollups.lines import Sql, listed
from usage.rollups.sketches import percentile_of


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: which bucket, which value of the dimension, the sums, and what does not add up.

    ``total_cost`` is the cost of all rows, also of those beyond the limit (USD scaled, as stored);
    0 where the question doesn't want it.
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
    with one_snapshot(*PLANNING):
        plan = plan_of(question)
        if plan.source is None:
            return _ask_facts(plan)
        rows = _sums(plan)
        details = details_of(plan, [key for (_, key), _, _ in rows])
    return [
        _answer(key, numbers, total, details.get(key, NO_DETAILS)) for key, numbers, total in rows
    ]


def _answer(key: Key, numbers: Sequence[int], total: int, details: Details) -> Answer:
    (bucket, value), (users, p95_latency_ms, last_activity) = key, details
    return Answer(
        bucket,
        value,
        dict(zip(NUMBERS, numbers, strict=True)),
        total,
        users,
        p95_latency_ms,
        last_activity,
    )


def _ask_facts(plan: Plan) -> list[Answer]:
    """Sums, latencies and the latest run in one reading, where no rollup serves."""
    question, facts = plan.question, plan.pieces.facts
    sums = ", ".join(f"SUM(s.{name}) AS {name}" for name in NUMBERS)
    lines = fact_rows(
        plan,
        facts,
        f"{HISTOGRAM}, {activity(question, 'MAX(s.moment)')} AS moment, {sums}",
        group="1, 2, 3",
    )
    if lines is None:
        return []
    found = run(
        f"SELECT number, dimension, {_totals(NUMBERS)}, {_cost_of_all(question)},"
        f" {listed(LATENCIES)}, MAX(moment) FROM ({lines.text}) h GROUP BY 1, 2 {_first(question)}",
        lines.parameters,
    )
    keys = [(row[0], as_key(question.by, row[1])) for row in found]
    users = users_of_facts(narrowed(plan, [key for _, key in keys]), facts, keys)
    return [
        _answer(
            key,
            numbers,
            total,
            (
                users.get(key, 0),
                percentile_of(dict(pairs_in(latencies))),
                moment and moment_of(moment),
            ),
        )
        for key, (_, _, *numbers, total, latencies, moment) in zip(keys, found, strict=True)
    ]


def sums_of(question: Question) -> list[tuple[Key, Mapping[str, int]]]:
    """Only the sums, by bucket and value; where users and percentiles are not asked for."""
    with one_snapshot(*PLANNING):
        return [
            (key, dict(zip(NUMBERS, numbers, strict=True)))
            for key, numbers, _ in _sums(plan_of(question))
        ]


def count_keys(question: Question) -> int:
    """How many values of its dimension a question would be answered with."""
    with one_snapshot(*PLANNING):
        return len(_summed(plan_of(question), ["total_cost_usd"]))


def _sums(plan: Plan) -> list[tuple[Key, Sequence[int], int]]:
    """The sums of each bucket and value, and the cost of all; where only the first are wanted,
    these are found before they are summed.
    """
    question = plan.question
    if question.limit is None or question.order_by is None or plan.source is None:
        # Facts are read once and not twice.
        return _summed(plan)
    needed = [question.order_by, "total_cost_usd"] if question.wants_total else [question.order_by]
    first = _summed(plan, list(dict.fromkeys(needed)))
    if not first:
        return []
    keys, total = [key for (_, key), _, _ in first], first[0][2]
    chosen = {key: sums for key, sums, _ in _summed(narrowed(plan, keys))}
    return [(key, chosen[key], total) for key, _, _ in first]


def _summed(plan: Plan, names: Sequence[str] = NUMBERS) -> list[tuple[Key, Sequence[int], int]]:
    """The sums of these columns, in the question's order and to its limit; and the cost of all
    rows.
    """
    question = plan.question
    # What was taken away as a whole is no answer: it is told by its traces.
    columns = [*names, *({"total_traces"} - set(names))]
    rows = union(
        [*_amounts(plan, plan.added, columns, ""), *_amounts(plan, plan.taken, columns, "-")]
    )
    if rows is None:
        return []
    found = run(
        f"SELECT number, dimension, {_totals(names)}, {_cost_of_all(question)} FROM ({rows.text}) s"
        f" GROUP BY 1, 2 HAVING SUM(total_traces) <> 0 {_first(question)}",
        rows.parameters,
    )
    return [((row[0], as_key(question.by, row[1])), row[2:-1], row[-1]) for row in found]


def _totals(names: Sequence[str]) -> str:
    return ", ".join(f"CAST(SUM({name}) AS bigint) AS {name}" for name in names)


def _cost_of_all(question: Question) -> str:
    return "CAST(SUM(SUM(total_cost_usd)) OVER () AS bigint)" if question.wants_total else "0"


def _first(question: Question) -> str:
    """The question's order, and its limit."""
    order = f"ORDER BY {question.order_by} DESC, 2" if question.order_by else "ORDER BY 1, 2"
    return f"{order} LIMIT {question.limit}" if question.limit is not None else order


def _amounts(plan: Plan, pieces: Pieces, names: Sequence[str], sign: str) -> list[Sql | None]:
    """The amounts of the pieces, with this sign."""
    built, facts = (
        ", ".join(f"{sign}{table}.{name} AS {name}" for name in names) for table in ("r", "s")
    )
    return [built_rows(plan, pieces.built, built), fact_rows(plan, pieces.facts, facts)]
