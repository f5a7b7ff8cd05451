"""What does not add up: distinct users, the 95th percentile of latency, and the latest run."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from kluisz_analytics.bulk import moment_of
from usage.analytics.pieces import Piece
from usage.analytics.plan import Plan, narrowed, whole
from usage.analytics.question import Dimension, Question
from usage.analytics.rows import Key, built_rows, fact_rows, keyed_rows, union
from usage.rollups.lines import Sql, listed, numbers_in
from usage.rollups.sketches import Sketch, bucket_sql, percentile_of, unpack_latencies, unpack_users

Details = tuple[int, int | None, datetime | None]
"""Distinct users, the 95th percentile of latency, the latest run."""
NO_DETAILS: Details = (0, None, None)
MEMBER = "CASE WHEN s.is_attributed THEN s.user_key END"
# How many traces took how long.
HISTOGRAM = f"{bucket_sql('s.latency_ms')} AS bucket, COUNT(*) AS traces"
LATENCIES = "bucket || ',' || traces"


def activity(question: Question, column: str) -> str:
    """When something last ran is asked of lists; reading a time for every hour of a series would
    take longer than all else.
    """
    return column if question.by else "NULL"


def pairs_in(latencies: str | None) -> Iterable[tuple[int, int]]:
    """Bucket and number of traces, of listed LATENCIES."""
    numbers = numbers_in(latencies)
    return zip(numbers[::2], numbers[1::2], strict=True)


def details_of(plan: Plan, keys: Sequence[Any]) -> Mapping[Key, Details]:
    """The details of the keys that are shown: of the rollup's sketches where it has them, and of
    the facts.
    """
    if not keys:
        return {}
    plan = narrowed(plan, keys)
    if plan.source is None or not plan.source.is_built:
        # Users' stats have no sketches; but a user's facts are few, and have an index.
        return _of_facts(plan)
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    latest, unnumbered = _add_users(plan, sketches)
    _add_latencies(plan, sketches)
    return {
        key: (
            len(sketches[key].users) + unnumbered[key],
            percentile_of(sketches[key].latencies),
            moment,
        )
        for key, moment in latest.items()
    }


def _of_facts(plan: Plan) -> Mapping[Key, Details]:
    """All details of the facts alone."""
    facts = whole(plan.question).facts
    lines = fact_rows(
        plan,
        facts,
        f"{HISTOGRAM}, {activity(plan.question, 'MAX(s.moment)')} AS moment",
        group="1, 2, 3",
    )
    found = list(keyed_rows(plan, _listed(lines, f"{listed(LATENCIES)}, MAX(moment)")))
    users = users_of_facts(plan, facts, [key for key, *_ in found])
    return {
        key: (
            users.get(key, 0),
            percentile_of(dict(pairs_in(latencies))),
            moment and moment_of(moment),
        )
        for key, latencies, moment in found
    }


def users_of_facts(plan: Plan, facts: Sequence[Piece], keys: Iterable[Key]) -> Mapping[Key, int]:
    """Distinct users of the facts alone."""
    if plan.question.by is Dimension.USER or plan.question.scope.user_id:
        return dict.fromkeys(keys, 1)
    return dict(keyed_rows(plan, fact_rows(plan, facts, f"COUNT(DISTINCT {MEMBER})", group="1, 2")))


def _add_users(
    plan: Plan, sketches: Mapping[Key, Sketch]
) -> tuple[Mapping[Key, datetime | None], Counter[Key]]:
    """Add the users to the sketches.

    Returns when each last ran, and how many users have no number: they are in no built rollup.
    """
    built, facts = plan.pieces
    latest: dict[Key, datetime | None] = {}
    unnumbered: Counter[Key] = Counter()

    def remember(key: Key, moment: Any) -> None:
        known, new = latest.get(key), moment if moment is None else moment_of(moment)
        latest[key] = max(known, new) if known and new else known or new

    sets = built_rows(plan, built, f"r.users, {activity(plan.question, 'r.last_activity')}")
    for key, users, moment in keyed_rows(plan, sets, has_sets=True):
        sketches[key].users |= unpack_users(users)
        remember(key, moment)
    # Where there are no built rollups to tell them from, there is no need to know which users they
    # are.
    number, numbered = (
        ("n.id", "LEFT JOIN usage_user_number n ON n.user_id = s.user_key")
        if built
        else ("NULL", "")
    )
    selected = f"{number}, COUNT(DISTINCT {MEMBER}), {activity(plan.question, 'MAX(s.moment)')}"
    for key, user, count, moment in keyed_rows(
        plan, fact_rows(plan, facts, selected, join=numbered, group="1, 2, 3")
    ):
        if user is None:
            unnumbered[key] += count
        else:
            sketches[key].users.add(user)
        remember(key, moment)
    return latest, unnumbered


def _add_latencies(plan: Plan, sketches: Mapping[Key, Sketch]) -> None:
    """Add the latencies to the sketches: they add up, so by difference."""
    built, facts = [], []
    for sign, pieces in (("", plan.added), ("-", plan.taken)):
        built.append(built_rows(plan, pieces.built, f"{sign}1 AS sign, r.latencies"))
        facts.append(
            fact_rows(
                plan, pieces.facts, HISTOGRAM.replace("COUNT", f"{sign}COUNT"), group="1, 2, 3"
            )
        )
    for key, sign, latencies in keyed_rows(plan, union(built)):
        counts = unpack_latencies(latencies)
        sketches[key].add_latencies(
            counts if sign > 0 else [(bucket, -count) for bucket, count in counts]
        )
    for key, listed_latencies in keyed_rows(plan, _listed(union(facts), listed(LATENCIES))):
        sketches[key].add_latencies(pairs_in(listed_latencies))


def _listed(lines: Sql | None, selected: str) -> Sql | None:
    """The lines' rows of each bucket and value as one."""
    return lines and Sql(
        f"SELECT number, dimension, {selected} FROM ({lines.text}) h GROUP BY 1, 2",
        lines.parameters,
    )
