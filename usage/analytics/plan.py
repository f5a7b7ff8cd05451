"""How a question is answered: which periods of which rollup, and which stretches of the facts."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from usage.analytics.pieces import Piece, Pieces, Unreliable, cut, cut_by_difference
from usage.analytics.question import Question
from usage.analytics.sources import Source, source_of
from usage.models import Granularity
from usage.periods import period_of
from usage.rollups.stale import Stale, stale_periods

LONGEST_PERIOD = timedelta(days=31)
# Groups of 50,000 users stay in memory; compiling a query takes longer than running it; what is
# asked for is mostly in memory.
PLANNING = ("work_mem = '32MB'", "jit = off", "random_page_cost = 1.1")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a question is answered: from these pieces; what adds up, from ``added`` less ``taken``,
    which are fewer.
    """

    question: Question
    source: Source | None
    pieces: Pieces
    added: Pieces
    taken: Pieces


def plan_of(question: Question) -> Plan:
    """One query, of what is stale."""
    source = source_of(question)
    if source is None:
        return Plan(question, None, whole(question), whole(question), NO_PIECES)
    edges = [moment for bucket in question.buckets for moment in bucket]
    unreliable: Unreliable = NEVER_STALE
    if source.is_built:
        stale = stale_periods(min(edges) - LONGEST_PERIOD, max(edges) + LONGEST_PERIOD)
        unreliable = stale.periods
        if source.hours_while_running:
            unreliable = {**unreliable, Granularity.HOUR: HoursOfBuiltDays(stale)}
    pieces = cut(question.buckets, source.granularities, unreliable)
    return Plan(
        question,
        source,
        pieces,
        *cut_by_difference(question.buckets, source.granularities, unreliable, timezone.now()),
    )


class HoursOfBuiltDays:
    """Hours that are stale, or gone since their day was built: of a rollup that keeps hours only
    until then.
    """

    def __init__(self, stale: Stale) -> None:
        self._hours, self._unbuilt_days = stale.periods[Granularity.HOUR], stale.unbuilt_days

    def __contains__(self, hour: object) -> bool:
        return (
            hour in self._hours
            or not isinstance(hour, datetime)
            or period_of(Granularity.DAY, hour)[0] not in self._unbuilt_days
        )


def whole(question: Question) -> Pieces:
    """All of the question from the facts."""
    return Pieces.of(Piece(number, None, *bucket) for number, bucket in enumerate(question.buckets))


NO_PIECES = Pieces([], [])


NEVER_STALE = defaultdict[Any, frozenset[datetime]](frozenset)


def narrowed(plan: Plan, keys: Sequence[Any]) -> Plan:
    """The same of these keys only, and of all of them."""
    question = plan.question
    if question.by is None:
        return plan
    filters = question.filters.only(question.by, list(dict.fromkeys(keys)))
    return replace(plan, question=replace(question, filters=filters, limit=None, order_by=None))
