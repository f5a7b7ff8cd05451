"""Answers questions: from the coarsest rollups that fit, and from the facts where none does
(invariant 1).

All questions of a page are answered together: plan, compile, fetch, answer. They take four queries,
however many they are: what is stale, the greatest of lists, the sums, and what does not add up.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils import timezone

from kluisz_analytics.bulk import moment_of
from kluisz_analytics.snapshot import one_snapshot
from kluisz_analytics.sql import numbers_in
from usage.analytics import compile as compiled
from usage.analytics.fetch import PLANNING, Row, rows_by_question
from usage.analytics.plan import Plan, plan_of, source_of, stretch_of
from usage.analytics.question import Question
from usage.measures import SUM_NAMES, Counted, Numbers, numbers_from
from usage.rollups.sketches import Sketch, percentile_of, unpack_latencies, unpack_users
from usage.rollups.stale import NOTHING_STALE, stale_periods

Key = tuple[int, str | None]
"""Which bucket, and which value of the dimension, as text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One row: which bucket, which value of the dimension, its numbers and the sums as stored."""

    bucket: int
    key: Any
    counted: Counted
    last_activity: datetime | None = None

    @property
    def numbers(self) -> Numbers:
        return numbers_from(self.counted)

    @property
    def sums(self) -> Mapping[str, int]:
        return self.counted.sums


@dataclass(frozen=True, slots=True)
class Answers:
    """The rows of one question, in its order; ``total_cost`` (USD as stored) and ``values`` are the
    cost and the number of all values, also of those beyond its limit if it wants that.
    """

    rows: Sequence[Answer] = ()
    total_cost: int = 0
    values: int = 0


def answer(question: Question) -> Answers:
    """The answers to one question; buckets and values without usage are left out."""
    return answer_all([question])[0]


def answer_all(questions: Sequence[Question]) -> list[Answers]:
    """The answers to each, from one state of the database."""
    asked = {place: question for place, question in enumerate(questions) if question.buckets}
    if not asked:
        return [Answers() for _ in questions]
    with one_snapshot(*PLANNING):
        plans = _plans(asked)
        leaders = rows_by_question(compiled.leaders(plans))
        plans = {
            place: plan.narrowed(_values(plan, leaders[place]))
            if plan.finds_leaders_first
            else plan
            for place, plan in plans.items()
            if leaders[place] or not plan.finds_leaders_first
        }
        sums = rows_by_question(compiled.sums(plans))
        shown = {
            place: plan.narrowed(_values(plan, sums[place]))
            for place, plan in plans.items()
            if sums[place]
        }
        details = rows_by_question(compiled.details(shown))
    return [
        _answers(question, leaders[place], sums[place], details[place])
        for place, question in enumerate(questions)
    ]


def _plans(questions: Mapping[int, Question]) -> dict[int, Plan]:
    """One query, of what is stale, if any of it matters."""
    stale, now = NOTHING_STALE, timezone.now()
    sources = map(source_of, questions.values())
    if any(source is not None and source.is_built for source in sources):
        stale = stale_periods(*stretch_of([*questions.values()]))
    return {place: plan_of(question, stale, now) for place, question in questions.items()}


def _values(plan: Plan, rows: Iterable[Row]) -> list[Any]:
    """The values of the dimension in these rows."""
    return [value_of(plan.question, row[1]) for row in rows]


def value_of(question: Question, text: str | None) -> Any:
    """A value of the question's dimension; None without one."""
    if text is None or question.by is None:
        return None
    return question.by.declared.key(text)


def _answers(
    question: Question, leaders: Sequence[Row], sums: Sequence[Row], details: Sequence[Row]
) -> Answers:
    found = _put_together(details)
    rows = [_answer(question, row, found) for row in sums]
    rows.sort(key=lambda one: (one.bucket, str(one.key)))
    if question.order_by in SUM_NAMES:
        order_by, sign = str(question.order_by), 1 if question.ascending else -1
        rows.sort(key=lambda one: sign * one.sums[order_by])
    if question.limit is None:
        return Answers(rows, sum(one.sums["total_cost_usd"] for one in rows), len(rows))
    if leaders:
        *_, total_cost, values = leaders[0]
    else:
        *_, total_cost, values, _listed, _moment = sums[0] if sums else (0, 0, None, None)
    return Answers(rows, total_cost, values)


def _answer(question: Question, row: Row, details: Mapping[Key, "_Details"]) -> Answer:
    bucket, key, *numbers, _total, _values, listed, moment = row
    sums = dict(zip(SUM_NAMES, numbers, strict=True))
    known = details.get((bucket, key)) or _Details()
    known.add_listed(listed)
    known.remember(moment)
    users = 1 if compiled.knows_users(question) else known.active_users
    counted = Counted(sums, users, percentile_of(known.sketch.latencies))
    return Answer(bucket, value_of(question, key), counted, known.last_activity)


@dataclass(slots=True)
class _Details:
    """What does not add up over periods, for one bucket and value."""

    sketch: Sketch = field(default_factory=Sketch)
    unnumbered_users: int = 0
    last_activity: datetime | None = None

    @property
    def active_users(self) -> int:
        return len(self.sketch.users) + self.unnumbered_users

    def add_listed(self, latencies: str | None) -> None:
        numbers = numbers_in(latencies)
        self.sketch.add_latencies(zip(numbers[::2], numbers[1::2], strict=True))

    def remember(self, moment: Any) -> None:
        if moment is None:
            return
        latest = moment_of(moment)
        if self.last_activity is None or latest > self.last_activity:
            self.last_activity = latest


def _put_together(rows: Iterable[Row]) -> Mapping[Key, _Details]:
    """The details' parts (compile.DETAILS): each row is a set of users, one user, a number of them,
    packed latencies with their sign, or listed ones.
    """
    found: dict[Key, _Details] = defaultdict(_Details)
    for bucket, key, traces, member, users, latencies, listed, moment in rows:
        details = found[bucket, key]
        details.remember(moment)
        if users is not None:
            details.sketch.users |= unpack_users(users)
        elif member is not None:
            details.sketch.users.add(member)
        elif latencies is not None:
            counts = unpack_latencies(latencies)
            details.sketch.add_latencies((bucket, traces * count) for bucket, count in counts)
        elif listed is not None:
            details.add_listed(listed)
        elif traces is not None:
            details.unnumbered_users += traces
    return found
