"""Summaries, series, top lists and breakdowns. Each takes a scope, a period and filters, and issues a fixed number of queries."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db.models import Count

from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import split
from usage.access import Scope
from usage.analytics import names
from usage.analytics.calendar import Period, buckets
from usage.analytics.numbers import Numbers, change_of, numbers_from
from usage.analytics.question import Dimension, Filters, Question, ask, ask_details, count_distinct_tenants
from usage.models import Granularity
from usage.models.rollups import NUMBERS


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
NO_SUMS = dict.fromkeys(["active_users_count", *NUMBERS], 0)
NO_NUMBERS = numbers_from(NO_SUMS, None)


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
    """The period's summary; two queries."""
    question = Question(scope, [(period.start, period.end), (period.previous.start, period.start)], filters)
    now, before = _per_bucket(question)
    return Summary(now, before, change_of(now, before))


def unattributed(period: Period, *, detailed: bool = True) -> Numbers:
    """Usage whose tenant or user is missing or unknown; two queries, one where not ``detailed``."""
    question = Question(Scope(), [(period.start, period.end)], only_unattributed=True)
    return _per_bucket(question, detailed=detailed)[0]


def users_count(tenant_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many active users each tenant has; one query. Tenants without are left out."""
    users = User.objects.filter(tenant__in=tenant_ids, is_active=True).order_by()
    return dict(users.values_list("tenant").annotate(count=Count("pk")))


def active_tenants(period: Period) -> int:
    return count_distinct_tenants(Question(Scope(), [(period.start, period.end)]))


@dataclass(frozen=True, slots=True)
class PlatformTotals:
    """What a platform has, whatever the period."""

    total_tenants: int
    total_users: int


def platform_totals() -> PlatformTotals:
    return PlatformTotals(Tenant.objects.filter(is_active=True).count(), User.objects.filter(is_active=True).count())


def time_series(
    scope: Scope, period: Period, granularity: Granularity, filters: Filters = NO_FILTERS, *, detailed: bool = True
) -> list[tuple[datetime, datetime, Numbers]]:
    """Numbers for every hour, day, week or month of the period, empty ones included; two queries. Raises PeriodError.

    Not ``detailed``, it leaves out the percentile, which only the facts know, and takes one query of the rollups.
    """
    periods = buckets(period, granularity)
    numbers = _per_bucket(Question(scope, periods, filters), detailed=detailed)
    return [(start, end, one) for (start, end), one in zip(periods, numbers, strict=True)]


def _per_bucket(question: Question, *, detailed: bool = True) -> list[Numbers]:
    sums = {answer.bucket: answer.sums for answer in ask(question)}
    details = ask_details(question) if detailed else {}
    return [
        numbers_from(sums.get(number, NO_SUMS), details[number, None].p95_latency_ms if (number, None) in details else None)
        for number in range(len(question.buckets))
    ]


def top(
    dimension: Dimension, scope: Scope, period: Period, metric: Metric = Metric.CREDITS, limit: int = 10, filters: Filters = NO_FILTERS
) -> list[Ranked]:
    """The greatest by a metric, unattributed usage left out; three queries."""
    question = Question(
        scope,
        [(period.start, period.end)],
        filters,
        by=dimension,
        order_by=METRIC_COLUMN[metric],
        # Two more than asked for: unattributed usage and usage without the dimension are not of this list.
        limit=limit + 2,
    )
    answers = [answer for answer in ask(question) if answer.key not in (None, "")][:limit]
    return _ranked(question, [answer.key for answer in answers], [answer.sums for answer in answers])


def breakdown(
    dimension: Dimension, scope: Scope, period: Period, filters: Filters = NO_FILTERS, limit: int = 1000, *, detailed: bool = True
) -> list[Ranked]:
    """All usage of the period by a dimension, the costliest first; shares of the cost, which sum to 1. Three queries.

    Beyond ``limit`` rows the smallest are left out of the list, not of the shares' total. Not ``detailed``, it leaves out the percentile
    and the last run, which only the facts know.
    """
    question = Question(scope, [(period.start, period.end)], filters, by=dimension, order_by=METRIC_COLUMN[Metric.COST])
    answers = ask(question)
    shown = answers[:limit]
    rows = _ranked(question, [answer.key for answer in shown], [answer.sums for answer in shown], detailed=detailed)
    shares = _shares([int(answer.sums["total_cost_usd"]) for answer in answers])
    return [replace(row, share=share) for row, share in zip(rows, shares, strict=False)]


def _shares(costs: Sequence[int]) -> list[float | None]:
    """Each cost's part of all, at six places, so rounded that they sum to 1; None where nothing cost anything."""
    if not any(costs):
        return [None] * len(costs)
    return [share / WHOLE for share in split(WHOLE, costs)]


def _ranked(question: Question, keys: Sequence[Any], sums: Sequence[dict[str, Any]], *, detailed: bool = True) -> list[Ranked]:
    if question.by is None or not keys:
        return []
    named = [key for key in keys if key is not None]
    # Without unattributed usage only these keys' runs are looked at; with it, all are.
    narrowed = question if len(named) < len(keys) else replace(question, filters=question.filters.only(question.by, named))
    details = ask_details(narrowed) if detailed else {}
    labels = names.labels_for(question.by, keys, question.scope)
    rows = []
    for key, one in zip(keys, sums, strict=True):
        detail = details.get((0, key))
        p95 = detail.p95_latency_ms if detail else None
        rows.append(Ranked(key, labels[key], numbers_from(one, p95), detail.last_activity if detail else None))
    return rows
