"""How questions are answered: which periods of the cheapest rollup that can, and which stretches of
the facts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kluisz_analytics.tenants.attributed import Ownership
from usage.analytics.question import Question
from usage.analytics.segments import (
    Segment,
    Segments,
    Unreliable,
    cut,
    cut_by_difference,
)
from usage.measures import Dimension
from usage.periods import Granularity, period_of
from usage.rollups.rules import BUILT, USERS, RollupRule
from usage.rollups.stale import NOTHING_STALE, Stale

LONGEST_PERIOD = timedelta(days=31)
NO_SEGMENTS = Segments([], [])
CHEAPEST_FIRST = (*BUILT, USERS)
# Of all users an hour is few traces; the facts have an index for them, the stats of an hour have
# none.
LISTS_OF_USERS = replace(
    USERS, granularities=(Granularity.DAY, Granularity.WEEK, Granularity.MONTH)
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is answered: from these segments; what adds up, from ``added`` less ``taken``,
    which are fewer. ``source`` is None where only the facts can answer.
    """

    question: Question
    source: RollupRule | None
    segments: Segments
    added: Segments
    taken: Segments

    @property
    def finds_leaders_first(self) -> bool:
        """Whether the greatest are found by one sum alone before theirs are all summed; facts are
        read once and not twice, but for what differs between two buckets.
        """
        is_read_twice = self.source is not None or self.question.by_difference
        return self.question.limit is not None and is_read_twice

    def narrowed(self, keys: Iterable[Any]) -> "Plan":
        """The same plan for these values of its dimension only, without a limit."""
        question = self.question
        if question.by is None:
            return self
        filters = question.filters.only(question.by, list(dict.fromkeys(keys)))
        return replace(self, question=replace(question, filters=filters, limit=None, order_by=None))


def stretch_of(questions: Sequence[Question]) -> tuple[datetime, datetime]:
    """The start and the end of all periods that could be read to answer the questions."""
    edges = [moment for question in questions for bucket in question.buckets for moment in bucket]
    return min(edges) - LONGEST_PERIOD, max(edges) + LONGEST_PERIOD


def plan_of(question: Question, stale: Stale, now: datetime) -> Plan:
    """The plan for a question, given which periods are stale."""
    source = source_of(question)
    if source is None:
        facts = whole(question)
        return Plan(question, None, facts, facts, NO_SEGMENTS)
    unreliable = _unreliable(source, stale)
    return Plan(
        question,
        source,
        cut(question.buckets, source.readable, unreliable),
        *cut_by_difference(question.buckets, source.readable, unreliable, now),
    )


def source_of(question: Question) -> RollupRule | None:
    """The cheapest rollup that can answer; None where only the facts can."""
    if question.filters.statuses or question.counts_traces_together:
        return None
    for rule in CHEAPEST_FIRST:
        if _can_answer(rule, question):
            return LISTS_OF_USERS if rule is USERS and not question.names_users else rule
    return None


def _can_answer(rule: RollupRule, question: Question) -> bool:
    """Whether the rollup tells apart what is asked for.

    By model a trace counts once for each that it used, so such a rollup answers nothing else.
    """
    if not question.dimensions <= rule.dimensions.keys():
        return False
    if question.ownership is Ownership.UNATTRIBUTED and rule.is_unattributed is None:
        return False
    if (question.ownership is Ownership.WITHOUT_USER) != (rule.ownership is Ownership.WITHOUT_USER):
        return False
    return (Dimension.MODEL in rule.dimensions) == (Dimension.MODEL in question.dimensions)


def whole(question: Question) -> Segments:
    """The segments that answer the whole question from the facts."""
    return Segments.of(
        Segment(number, None, *bucket) for number, bucket in enumerate(question.buckets)
    )


def _unreliable(source: RollupRule, stale: Stale) -> Unreliable:
    if not source.is_built:
        return NOTHING_STALE.periods
    if source.hours_while_running:
        return {**stale.periods, Granularity.HOUR: _HoursOfBuiltDays(stale)}
    return stale.periods


class _HoursOfBuiltDays:
    """Hours that are stale, or deleted since their day was built: of a rollup that keeps hours
    only until then.
    """

    def __init__(self, stale: Stale) -> None:
        self._hours, self._unbuilt_days = stale.periods[Granularity.HOUR], stale.unbuilt_days

    def __contains__(self, hour: object) -> bool:
        return (
            hour in self._hours
            or not isinstance(hour, datetime)
            or period_of(Granularity.DAY, hour)[0] not in self._unbuilt_days
        )
