"""Summaries, series, top lists and breakdowns.

Each takes a scope, a period and filters, and issues a fixed number of queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Count

from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import split
from usage.access import Scope
from usage.analytics import names
from usage.analytics.ask import Answer, ask, count_keys
from usage.analytics.calendar import buckets
from usage.analytics.numbers import NO_NUMBERS, Numbers, change_of, numbers_from
from usage.analytics.question import Dimension, Filters, Question
from usage.models import Granularity


class Metric(StrEnum):
    """What a top list is ordered by."""

    CREDITS = "credits"
    COST = "cost"
    TOKENS = "tokens"
    TRACES = "traces"


METRIC_COLUMN = {
    Metric.CREDITS: "credits_exact",
    Metric.COST: "total_cost_usd",
    Metric.TOKENS: "total_tokens",
    Metric.TRACES: "total_traces",
}
WHOLE = 1_000_000
"""Shares are parts of this."""
NO_FILTERS = Filters()


@dataclass(frozen=True, slots=True)
class Summary:
    """A period's numbers, those of the period before, and how they changed (ratios)."""

    numbers: Numbers
    previous: Numbers
    change: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Ranked:
    """One row of a list: the key of the dimension (None: unattributed), its label and numbers."""

    key: Any
    label: str
    numbers: Numbers
    last_activity: datetime | None = None
    share: float | None = None


def summary(scope: Scope, period: Period, filters: Filters = NO_FILTERS) -> Summary:
    """The period's summary; one question."""
    question = Question(
        scope, [(period.start, period.end), (period.previous.start, period.start)], filters
    )
    now, before = _per_bucket(question)
    return Summary(now, before, change_of(now, before))


def unattributed(period: Period, filters: Filters = NO_FILTERS) -> Numbers:
    """Usage whose tenant or user is missing or unknown; one question."""
    return _per_bucket(
        Question(Scope(), [(period.start, period.end)], filters, only_unattributed=True)
    )[0]


def users_count(tenant_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many active users each tenant has; one query. Tenants without are left out."""
    users = User.objects.filter(tenant__in=tenant_ids, is_active=True).order_by()
    return dict(users.values_list("tenant").annotate(count=Count("pk")))


def active_tenants(period: Period) -> int:
    """How many tenants had usage; one query."""
    return count_keys(Question(Scope(), [(period.start, period.end)], by=Dimension.TENANT))


@dataclass(frozen=True, slots=True)
class PlatformTotals:
    """What a platform has, whatever the period."""

    total_tenants: int
    total_users: int


def platform_totals() -> PlatformTotals:
    return PlatformTotals(
        Tenant.objects.filter(is_active=True).count(), User.objects.filter(is_active=True).count()
    )


def time_series(
    scope: Scope, period: Period, granularity: Granularity, filters: Filters = NO_FILTERS
) -> list[tuple[datetime, datetime, Numbers]]:
    """Numbers for every hour, day, week or month of the period, empty ones included; one question.

    Raises PeriodError.
    """
    periods = buckets(period, granularity)
    numbers = _per_bucket(Question(scope, periods, filters))
    return [(start, end, one) for (start, end), one in zip(periods, numbers, strict=True)]


def _per_bucket(question: Question) -> list[Numbers]:
    found = {answer.bucket: numbers_from(answer) for answer in ask(question)}
    return [found.get(number, NO_NUMBERS) for number in range(len(question.buckets))]


def top(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    metric: Metric = Metric.CREDITS,
    limit: int = 10,
    filters: Filters = NO_FILTERS,
) -> list[Ranked]:
    """The greatest by a metric; usage without an owner, or without the dimension, is left out.

    One question, and one of names.
    """
    question = Question(
        scope,
        [(period.start, period.end)],
        filters,
        by=dimension,
        order_by=METRIC_COLUMN[metric],
        limit=limit,
        only_named=dimension not in (Dimension.TENANT, Dimension.USER),
    )
    answers = ask(question)
    labels = names.labels_for(dimension, [answer.key for answer in answers], scope)
    return [_ranked(answer, labels) for answer in answers]


def breakdown(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    filters: Filters = NO_FILTERS,
    limit: int = 1000,
) -> list[Ranked]:
    """All usage of the period by a dimension, the costliest first; shares of the cost, which sum to
    1.

    Beyond ``limit`` rows the smallest are left out of the list, not of the shares' total. One
    question, by tenant and by user a second one of what has no owner, and one of names.
    """
    question = Question(
        scope,
        [(period.start, period.end)],
        filters,
        by=dimension,
        order_by=METRIC_COLUMN[Metric.COST],
        limit=limit,
        wants_total=True,
    )
    answers = ask(question)
    if (
        question.only_attributed
        and scope.is_platform
        and not (filters.tenant_ids or filters.user_ids)
    ):
        answers = _with_unowned(answers, ask(replace(question, by=None, only_unattributed=True)))[
            :limit
        ]
    labels = names.labels_for(dimension, [answer.key for answer in answers], scope)
    costs = [answer.sums["total_cost_usd"] for answer in answers]
    rest = answers[0].total_cost - sum(costs) if answers else 0
    return [
        replace(_ranked(answer, labels), share=share)
        for answer, share in zip(answers, _shares([*costs, rest]), strict=False)
    ]


def _with_unowned(answers: Sequence[Answer], unowned: Sequence[Answer]) -> list[Answer]:
    """The answers with that of usage without an owner among them, in the order of their cost."""
    total = sum(group[0].total_cost for group in (answers, unowned) if group)
    rows = [replace(answer, total_cost=total) for answer in (*answers, *unowned)]
    return sorted(rows, key=lambda answer: -answer.sums["total_cost_usd"])


def _shares(costs: Sequence[int]) -> list[float | None]:
    """Each cost's part of all, at six places, so rounded that they sum to 1; None where nothing
    cost anything.
    """
    if not any(costs):
        return [None] * len(costs)
    return [share / WHOLE for share in split(WHOLE, costs)]


def _ranked(answer: Answer, labels: Mapping[Any, str]) -> Ranked:
    return Ranked(answer.key, labels[answer.key], numbers_from(answer), answer.last_activity)
