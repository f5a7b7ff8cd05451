"""Summaries, series, top lists and breakdowns.

Each is a :class:`Query`: questions, and how their answers are read. A page executes all of its
queries at once (:func:`execute_all`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

from django.db.models import Count, QuerySet, Value
from django.utils import timezone

from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.attributed import Ownership
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import split
from usage.analytics import names
from usage.analytics.answer import Answer, Answers, answer_all
from usage.analytics.calendar import buckets
from usage.analytics.comparison import Against, Comparison, comparison_of
from usage.analytics.names import Name, Named
from usage.analytics.question import LAST_ACTIVITY, NAME, Filters, Question
from usage.measures import (
    DECLARED_NUMBERS,
    NO_NUMBERS,
    NO_USER,
    UNATTRIBUTED,
    Dimension,
    Metric,
    Numbers,
)
from usage.periods import Granularity
from usage.scope import Scope

WHOLE = 1_000_000
"""Shares are parts of this."""
NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class Summary:
    """A period's numbers, those of the stretch that it is compared with, and how they changed
    (ratios): as far as the period is known.
    """

    numbers: Numbers
    previous: Numbers
    change: dict[str, float | None]
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Ranked:
    """One row of a list: the key of the dimension (None: of nobody, or not to be known), its label
    and numbers, and what the directory has of it.
    """

    key: Any
    label: str
    numbers: Numbers
    last_activity: datetime | None = None
    share: float | None = None
    row: Named | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """What a list is ordered by: a sum's name, NAME or LAST_ACTIVITY."""

    by: str
    ascending: bool = False

    def sorted(self, rows: Sequence[Ranked]) -> list[Ranked]:
        """The rows in this order; between equals as they are."""
        return sorted(rows, key=self._key, reverse=not self.ascending)

    def _key(self, row: Ranked) -> Any:
        if self.by == NAME:
            return row.label.casefold()
        if self.by == LAST_ACTIVITY:
            return row.last_activity or BEFORE_ALL
        return getattr(row.numbers, self.by) or 0


BEFORE_ALL = datetime.min.replace(tzinfo=UTC)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """Questions, and what their answers are read as."""

    questions: Sequence[Question]
    read: Callable[[Sequence[Answers]], T]


def execute(query: Query[T]) -> T:
    """One query's answer."""
    return query.read(answer_all(query.questions))


def execute_all(*queries: Query[Any]) -> list[Any]:
    """Each query's answer, all from one state of the database and in as few queries as one's."""
    answers = iter(answer_all([question for query in queries for question in query.questions]))
    return [query.read([next(answers) for _ in query.questions]) for query in queries]


def summary(
    scope: Scope,
    period: Period,
    complete_through: datetime | None,
    filters: Filters = NO_FILTERS,
    against: Against = Against.BEFORE,
) -> Query[Summary]:
    """The period's summary, compared as far as it is known."""
    comparison = comparison_of(period, timezone.now(), complete_through, against)
    asked = [
        (period.start, period.end),
        (comparison.previous_start, comparison.previous_end),
    ]
    if comparison.until < period.end:
        asked.append((period.start, comparison.until))

    def read(answers: Sequence[Answers]) -> Summary:
        whole, previous, *known = _per_bucket(asked, answers)
        change = change_of(known[0] if known else whole, previous)
        return Summary(whole, previous, change, comparison)

    return Query([Question(scope, asked, filters)], read)


def total(scope: Scope, period: Period, filters: Filters = NO_FILTERS) -> Query[Numbers]:
    """The period's numbers, compared with nothing."""
    asked = [(period.start, period.end)]
    question = Question(scope, asked, filters, wants_details=False)
    return Query([question], lambda answers: _per_bucket(asked, answers)[0])


def change_of(now: Numbers, before: Numbers) -> dict[str, float | None]:
    """How each number changed, as a ratio of the earlier one (0.25 is a quarter more); None where
    that is 0 or unknown.
    """
    return {name: _ratio(getattr(now, name), getattr(before, name)) for name in DECLARED_NUMBERS}


def _ratio(now: Any, before: Any) -> float | None:
    if now is None or not before:
        return None
    return round(float((now - before) / before), 6)


def unattributed(period: Period, filters: Filters = NO_FILTERS) -> Query[Numbers]:
    """Usage whose tenant is missing, unknown or disputed."""
    stretch = [(period.start, period.end)]
    question = Question(Scope(), stretch, filters, explicit_ownership=Ownership.UNATTRIBUTED)
    return Query([question], lambda answers: _per_bucket(stretch, answers)[0])


def users_count(tenant_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many active users each tenant has; one query. Tenants without are left out."""
    users = User.objects.filter(tenant__in=tenant_ids, is_active=True).order_by()
    return dict(users.values_list("tenant").annotate(count=Count("pk")))


def active_tenants(period: Period, filters: Filters = NO_FILTERS) -> Query[int]:
    """How many tenants had usage."""
    question = Question(
        Scope(),
        [(period.start, period.end)],
        filters,
        by=Dimension.TENANT,
        order_by=Metric.TRACES.sum,
        limit=1,
        wants_details=False,
        wants_totals=True,
    )
    return Query([question], lambda answers: answers[0].values)


@dataclass(frozen=True, slots=True)
class PlatformTotals:
    """What a platform has, whatever the period."""

    total_tenants: int
    total_users: int


def platform_totals() -> PlatformTotals:
    """One query."""
    # Who was seen in usage only, and is known as another by now, is that one.
    tenants = Tenant.objects.filter(is_active=True, merged_into=None)
    return PlatformTotals(*counts_of([tenants, User.objects.filter(is_active=True)]))


def counts_of(asked: Sequence[QuerySet[Any]]) -> list[int]:
    """How many rows each has; one query."""
    first, *others = (
        rows.order_by().values(place=Value(place)).annotate(count=Count("pk"))
        for place, rows in enumerate(asked)
    )
    counts = dict(first.union(*others).values_list("place", "count"))
    return [counts.get(place, 0) for place in range(len(asked))]


def time_series(
    scope: Scope, period: Period, granularity: Granularity, filters: Filters = NO_FILTERS
) -> Query[list[tuple[datetime, datetime, Numbers]]]:
    """Numbers for every hour, day, week or month of the period, empty ones included.

    Raises PeriodError.
    """
    periods = buckets(period, granularity)

    def read(answers: Sequence[Answers]) -> list[tuple[datetime, datetime, Numbers]]:
        numbers = _per_bucket(periods, answers)
        return [(start, end, one) for (start, end), one in zip(periods, numbers, strict=True)]

    return Query([Question(scope, periods, filters)], read)


def _per_bucket(asked: Sequence[Any], answers: Sequence[Answers]) -> list[Numbers]:
    found = {answer.bucket: answer.numbers for answer in answers[0].rows}
    return [found.get(number, NO_NUMBERS) for number in range(len(asked))]


def top(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    metric: Metric = Metric.CREDITS,
    limit: int = 10,
    filters: Filters = NO_FILTERS,
) -> Query[list[Ranked]]:
    """The greatest by a metric (:func:`first`)."""
    return first(dimension, scope, period, Order(metric.sum), limit, filters)


def first(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    order: Order,
    limit: int,
    filters: Filters = NO_FILTERS,
) -> Query[list[Ranked]]:
    """The first in an order; unattributed usage, or usage without the dimension, is left out.

    By user, what has no user is a row of its own.
    """
    question = Question(
        scope,
        [(period.start, period.end)],
        filters,
        by=dimension,
        order_by=order.by,
        ascending=order.ascending,
        limit=limit,
        only_named=not dimension.declared.is_owner,
    )
    ownerless = [Ownership.WITHOUT_USER] if question.ownership is Ownership.OWNED else []

    def read(answers: Sequence[Answers]) -> list[Ranked]:
        return order.sorted(_ranked(dimension, scope, _labelled(ownerless, answers)))[:limit]

    return Query([question, *_ownerless(question, ownerless)], read)


OWNERLESS_LABELS = {Ownership.WITHOUT_USER: NO_USER, Ownership.UNATTRIBUTED: UNATTRIBUTED}
"""What usage is called that no row of a list by tenant or user has."""


def _ownerless(question: Question, ownerless: Sequence[Ownership]) -> list[Question]:
    """The same question of usage that is no tenant's, or no user's, as far as it is asked for."""
    if question.names_users:
        return []
    whole = replace(question, by=None, order_by=None, limit=None)
    return [replace(whole, explicit_ownership=ownership) for ownership in ownerless]


def _labelled(
    ownerless: Sequence[Ownership], answers: Sequence[Answers]
) -> list[tuple[Answer, str]]:
    """All rows, with the label of those without an owner."""
    named, *others = answers
    rows = [(row, "") for row in named.rows]
    for ownership, other in zip(ownerless, others, strict=False):
        rows += [(row, OWNERLESS_LABELS[ownership]) for row in other.rows]
    return rows


def breakdown(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    filters: Filters = NO_FILTERS,
    limit: int = 1000,
) -> Query[list[Ranked]]:
    """All usage of the period by a dimension, the costliest first; shares of the cost, which sum to
    1.

    Beyond ``limit`` rows the smallest are left out of the list, not of the shares' total. By user,
    what has no user is a row of its own; by tenant and by user, what is unattributed.
    """
    question = Question(
        scope,
        [(period.start, period.end)],
        filters,
        by=dimension,
        order_by=Metric.COST.sum,
        limit=limit,
        wants_totals=True,
    )
    ownerless = [Ownership.WITHOUT_USER] if question.ownership is Ownership.OWNED else []
    if question.ownership is not Ownership.ANY and scope.is_platform and not filters.name_owners:
        ownerless.append(Ownership.UNATTRIBUTED)

    def read(answers: Sequence[Answers]) -> list[Ranked]:
        rows = sorted(
            _labelled(ownerless, answers), key=lambda row: -row[0].sums["total_cost_usd"]
        )[:limit]
        costs = [row.sums["total_cost_usd"] for row, _ in rows]
        rest = sum(one.total_cost for one in answers) - sum(costs)
        shares = _shares([*costs, rest])
        ranked = _ranked(dimension, scope, rows)
        return [replace(row, share=share) for row, share in zip(ranked, shares, strict=False)]

    return Query([question, *_ownerless(question, ownerless)], read)


def _shares(costs: Sequence[int]) -> list[float | None]:
    """Each cost's part of all, at six places, so rounded that they sum to 1; None where nothing
    cost anything.
    """
    if not any(costs):
        return [None] * len(costs)
    return [share / WHOLE for share in split(WHOLE, costs)]


def _ranked(dimension: Dimension, scope: Scope, rows: Sequence[tuple[Answer, str]]) -> list[Ranked]:
    """The rows as they are shown; those with a label of their own have no key."""
    shown = names.names_of(dimension, [row.key for row, label in rows if not label], scope)
    return [_as_ranked(Name(None, label) if label else shown[row.key], row) for row, label in rows]


def _as_ranked(name: Name, row: Answer) -> Ranked:
    return Ranked(name.key, name.label, row.numbers, row.last_activity, row=name.row)
