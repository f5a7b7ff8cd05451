"""What does not add up: distinct users, the 95th percentile of latency, and the latest run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from kluisz_analytics.bulk import moment_of
from usage.analytics.pieces import Piece
from usage.analytics.plan import Plan, narrowed, whole
from usage.analytics.question import Dimension, Question
from usage.analytics.rows import Key, built_rows, fact_rows, keyed_rows
from usage.rollups.lines import Sql, listed, numbers_in
from usage.rollups.sketches import Sketch, bucket_sql, percentile_of

Details = tuple[int, int | None, datetime | None]
"""Distinct users, the 95th percentile of latency, the latest run."""
NO_DETAILS: Details = (0, None, None)
MEMBER = "CASE WHEN s.is_attributed THEN s.user_key END"
# How many traces took how long, and when the last one was.
HISTOGRAM = f"{bucket_sql('s.latency_ms')} AS bucket, COUNT(*) AS traces, {{activity}} AS moment"
LATENCIES = "bucket || ',' || traces"


def activity(question: Question, column: str) -> str:
    """When something last ran is asked of lists; reading a time for every hour of a series would take longer than all else."""
    return column if question.by else "NULL"


def counts_of(latencies: str | None) -> dict[int, int]:
    """How many traces are in each bucket, of listed LATENCIES."""
    numbers = numbers_in(latencies)
    return dict(zip(numbers[::2], numbers[1::2], strict=True))


def details_of(plan: Plan, keys: Sequence[Any]) -> Mapping[Key, Details]:
    """The details of the keys that are shown: of the rollup's sketches where it has them, and of the facts."""
    if not keys:
        return {}
    plan = narrowed(plan, keys)
    if plan.source is not None and not plan.source.is_built:
        # Users' stats have no sketches; but a user's facts are few, and have an index.
        plan = replace(plan, pieces=whole(plan.question))
    built, facts = plan.pieces
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    latest: dict[Key, datetime | None] = {}

    def remember(key: Key, moment: Any) -> None:
        known, new = latest.get(key), moment if moment is None else moment_of(moment)
        latest[key] = max(known, new) if known and new else known or new

    selected = f"r.users, r.latencies, {activity(plan.question, 'r.last_activity')}"
    for key, users, latencies, moment in keyed_rows(plan, built_rows(plan, built, selected)):
        sketches[key].merge(users, latencies)
        remember(key, moment)
    for key, listed_latencies, moment in _histograms(plan, facts):
        sketches[key].add_latencies(counts_of(listed_latencies).items())
        remember(key, moment)
    counts: Mapping[Key, int] = {}
    if facts and built:
        counts = _add_users(plan, facts, sketches)
    elif facts:
        counts = users_of_facts(plan, facts, latest)
    return {key: (len(sketches[key].users) + counts.get(key, 0), percentile_of(sketches[key].latencies), latest[key]) for key in latest}


def _histograms(plan: Plan, facts: Sequence[Piece]) -> Iterator[tuple[Key, str | None, Any]]:
    """The latencies of the facts, and the latest run, of each bucket and value."""
    lines = fact_rows(plan, facts, HISTOGRAM.format(activity=activity(plan.question, "MAX(s.moment)")), group="1, 2, 3")
    if lines is not None:
        text = f"SELECT number, dimension, {listed(LATENCIES)}, MAX(moment) FROM ({lines.text}) h GROUP BY 1, 2"
        yield from keyed_rows(plan, Sql(text, lines.parameters))  # type: ignore[misc]  # two columns are left


def users_of_facts(plan: Plan, facts: Sequence[Piece], keys: Iterable[Key]) -> Mapping[Key, int]:
    """Distinct users of the facts alone."""
    if plan.question.by is Dimension.USER or plan.question.scope.user_id:
        return dict.fromkeys(keys, 1)
    return dict(keyed_rows(plan, fact_rows(plan, facts, f"COUNT(DISTINCT {MEMBER})", group="1, 2")))


def _add_users(plan: Plan, facts: Sequence[Piece], sketches: Mapping[Key, Sketch]) -> Mapping[Key, int]:
    """Add the facts' users to the sketches. Returns how many have no number: they are in no built rollup."""
    counts: Counter[Key] = Counter()
    numbered = "LEFT JOIN usage_user_number n ON n.user_id = s.user_key"
    for key, number, count in keyed_rows(
        plan, fact_rows(plan, facts, f"n.id, COUNT(DISTINCT {MEMBER})", join=numbered, group="1, 2, n.id")
    ):
        if number is None:
            counts[key] += count
        else:
            sketches[key].users.add(number)
    return counts
