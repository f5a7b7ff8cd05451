"""Which periods the facts have left behind.

Whoever changes facts marks their hours in the same transaction; building takes the marks away that
it can see, and then reads the facts. A mark that is added meanwhile stays, so a change is never
missed, and nobody waits for anybody.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from kluisz_analytics.bulk import Statement, stamp
from usage.models import StalePeriod
from usage.periods import Granularity, period_of

FINEST_FIRST = (Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH)
# A day that is not built leaves no month built; a week and a month are both built from days.
HOLDS_BACK = {
    Granularity.HOUR: FINEST_FIRST,
    Granularity.DAY: FINEST_FIRST[1:],
    Granularity.WEEK: (Granularity.WEEK,),
    Granularity.MONTH: (Granularity.MONTH,),
}


@dataclass(frozen=True, slots=True)
class Stale:
    """``periods``: for each granularity, the starts of those that can't be relied on.

    ``unbuilt_days``: of days not yet built whole.
    """

    periods: Mapping[Granularity, frozenset[datetime]]
    unbuilt_days: frozenset[datetime]


def marks_of(hours: Collection[datetime]) -> list[Statement]:
    """What marks hours.

    Execute it in the transaction that changes their facts.
    """
    if not hours:
        return []
    rows = ", ".join(["(%s, %s)"] * len(hours))
    parameters = [one for hour in sorted(hours) for one in (Granularity.HOUR.value, stamp(hour))]
    return [(f"INSERT INTO stale_period (granularity, period_start) VALUES {rows}", parameters)]


def stale_periods(start: datetime | None = None, end: datetime | None = None) -> Stale:
    """What is stale of the periods that lie within [start, end), or of all; one query."""
    marks = StalePeriod.objects.order_by()
    if start is not None and end is not None:
        marks = marks.filter(period_start__gte=start, period_start__lt=end)
    found: dict[Granularity, set[datetime]] = {granularity: set() for granularity in FINEST_FIRST}
    unbuilt_days = set()
    for name, moment in marks.values_list("granularity", "period_start").distinct():
        if name == Granularity.DAY:
            unbuilt_days.add(moment)
        for granularity in HOLDS_BACK[Granularity(name)]:
            found[granularity].add(period_of(granularity, moment)[0])
    return Stale(
        {granularity: frozenset(starts) for granularity, starts in found.items()},
        frozenset(unbuilt_days),
    )


NOTHING_STALE = Stale({granularity: frozenset() for granularity in FINEST_FIRST}, frozenset())
