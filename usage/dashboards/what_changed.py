"""The page of what changed most: by tenant, user, flow or model, and how much each explains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from django.utils import timezone

from kluisz_analytics import figures
from usage.analytics import queries
from usage.analytics.comparison import comparison_of
from usage.analytics.movers import Mover, movers
from usage.dashboards.compared_with import than
from usage.dashboards.filter_bar import Choice, FilterBar
from usage.measures import Dimension, Metric
from usage.sync.freshness import Freshness, freshness_of

ROWS = 20
MEASURES = {
    Metric.COST: "Cost",
    Metric.CREDITS: "Credits",
    Metric.TRACES: "Runs",
    Metric.TOKENS: "Tokens",
}
Figure = Callable[[Decimal, int], str]
FIGURES: Mapping[Metric, tuple[Figure, Callable[[Iterable[Decimal]], int]]] = {
    Metric.COST: (figures.usd, figures.usd_places),
    Metric.CREDITS: (figures.credits, figures.credit_places),
}
COUNTED = (figures.exact, figures.exact_places)
"""How amounts are written, and with how many decimals in a column; counts as they are."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row as it is shown, and where a click on it leads: to what changed within it."""

    label: str
    url: str
    before: str
    now: str
    change: str
    ratio: float | None
    share: float | None


@dataclass(frozen=True, slots=True)
class WhatChanged:
    """``than`` says what is compared; "" where nothing can be. ``in_words`` is the whole change:
    “$8.75 less than yesterday”.
    """

    lines: list[Line]
    totals: list[Line]
    in_words: str
    than: str
    by: Dimension
    measure: str
    measures: list[Choice]
    dimensions: list[Choice]
    freshness: Freshness


def what_changed(bar: FilterBar, by: Dimension, metric: Metric) -> WhatChanged:
    """By the dimension and the measure that the address names."""
    now = timezone.now()
    freshness = freshness_of(bar.scope, now)
    comparison = comparison_of(bar.period, now, freshness.complete_through, bar.against)
    found = queries.execute(
        movers(by, bar.scope, bar.period, comparison, metric, ROWS, bar.filters)
    )
    words = "" if freshness.is_first_reading else than(bar.period, comparison, now)
    shown = [*found.rows, found.others, found.whole]
    *lines, others, whole = _lines(bar, by, metric, shown)
    return WhatChanged(
        lines=lines,
        totals=[others, whole],
        in_words=_in_words(found.whole, metric, words),
        than=words,
        by=by,
        measure=MEASURES[metric],
        measures=[
            Choice(bar.here(measure=one.value), label, one is metric)
            for one, label in MEASURES.items()
        ],
        dimensions=[
            Choice(bar.here(by=value), label, value == by.value)
            for _, value, label in bar.dimensions
        ],
        freshness=freshness,
    )


def _lines(bar: FilterBar, by: Dimension, metric: Metric, rows: Sequence[Mover]) -> list[Line]:
    """Each column with one number of decimals."""
    write, places_of = FIGURES.get(metric, COUNTED)
    before, now, change = (
        places_of([getattr(row, name) for row in rows]) for name in ("before", "now", "difference")
    )
    return [
        Line(
            row.label,
            _within(bar, by, row),
            write(row.before, before),
            write(row.now, now),
            _signed(row.difference, write(abs(row.difference), change)),
            row.ratio,
            row.share,
        )
        for row in rows
    ]


def _in_words(whole: Mover, metric: Metric, than: str) -> str:
    if not whole.difference:
        return f"no more and no less {than}"
    write, places_of = FIGURES.get(metric, COUNTED)
    amount = write(abs(whole.difference), places_of([whole.difference]))
    return f"{amount} {'more' if whole.difference > 0 else 'less'} {than}"


def _signed(amount: Decimal, text: str) -> str:
    """What is written without its sign, with it: +$6.00; “> −$0.01” for what is “< $0.01”."""
    sign = "−" if amount < 0 else "+" if amount else ""
    if text.startswith("< "):
        return f"{'>' if amount < 0 else '<'} {sign}{text.removeprefix('< ')}"
    return f"{sign}{text}"


def _within(bar: FilterBar, by: Dimension, row: Mover) -> str:
    """The same of the row alone, by what it is told apart next."""
    if row.key in (None, ""):
        return ""
    values = [value for _, value, _ in bar.dimensions]
    following = [value for value in NARROWER[by] if value in values]
    return bar.here(**{by.declared.parameter: row.key}, by=(following or [by.value])[0])


NARROWER = {
    Dimension.TENANT: ("flow",),
    Dimension.USER: ("flow",),
    Dimension.PROJECT: ("flow",),
    Dimension.FLOW: ("model",),
    Dimension.MODEL: ("flow",),
    Dimension.ENVIRONMENT: ("flow",),
}
"""By what one looks on."""
