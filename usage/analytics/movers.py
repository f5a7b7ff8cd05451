"""What grew or shrank most between two stretches, and what part of the whole change each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from kluisz_analytics.periods import Period
from kluisz_analytics.scales import from_scaled
from usage.analytics.answer import Answers
from usage.analytics.comparison import Comparison
from usage.analytics.names import names_of
from usage.analytics.queries import NO_FILTERS, Query
from usage.analytics.question import Filters, Question
from usage.measures import NO_SUMS, PLACES, Dimension, Metric
from usage.scope import Scope

NOW, BEFORE = 0, 1


@dataclass(frozen=True, slots=True)
class Mover:
    """One value of the dimension: what it came to before and now. ``share`` is its part of the
    whole change, None where that is 0; against it where below 0.
    """

    key: Any
    label: str
    before: Decimal
    now: Decimal
    share: float | None

    @property
    def difference(self) -> Decimal:
        return self.now - self.before

    @property
    def ratio(self) -> float | None:
        """How it changed, of what it was before; None where that was nothing."""
        return float(self.difference / self.before) if self.before else None


@dataclass(frozen=True, slots=True)
class Movers:
    """Those that changed most, the most first, all others together, and all in all."""

    rows: list[Mover]
    others: Mover
    whole: Mover


def movers(
    dimension: Dimension,
    scope: Scope,
    period: Period,
    comparison: Comparison,
    metric: Metric,
    limit: int,
    filters: Filters = NO_FILTERS,
) -> Query[Movers]:
    """As far as the period is known, against what it is compared with."""
    stretches = [
        (period.start, comparison.until),
        (comparison.previous_start, comparison.previous_end),
    ]
    each = Question(
        scope,
        stretches,
        filters,
        by=dimension,
        order_by=metric.sum,
        by_difference=True,
        limit=limit,
        only_named=not dimension.declared.is_owner,
        wants_details=False,
    )
    whole = Question(scope, stretches, filters, wants_details=False)

    def read(answers: Sequence[Answers]) -> Movers:
        of_each, of_all = answers
        found: dict[Any, list[int]] = {}
        for row in of_each.rows:
            found.setdefault(row.key, [0, 0])[row.bucket] = row.sums[metric.sum]
        sums = {row.bucket: row.sums for row in of_all.rows}
        now, before = (sums.get(one, NO_SUMS)[metric.sum] for one in (NOW, BEFORE))
        change = now - before
        names = names_of(dimension, list(found), scope)

        def mover(key: Any, label: str, of_now: int, of_before: int) -> Mover:
            share = (of_now - of_before) / change if change else None
            return Mover(key, label, _amount(of_before, metric), _amount(of_now, metric), share)

        rows = [mover(names[key].key, names[key].label, *both) for key, both in found.items()]
        rows.sort(key=lambda row: (-abs(row.difference), row.label))
        rest_now = now - sum(both[NOW] for both in found.values())
        rest_before = before - sum(both[BEFORE] for both in found.values())
        return Movers(
            [row for row in rows if row.difference],
            mover(None, "All others", rest_now, rest_before),
            mover(None, "All", now, before),
        )

    return Query([each, whole], read)


def _amount(stored: int, metric: Metric) -> Decimal:
    return from_scaled(stored, PLACES.get(metric.unit, 0))
