"""The list of runs: filtered, searched, in any order, page by page, and to be had whole."""

from dataclasses import dataclass
from typing import Any

from django.db.models import CharField, F, OuterRef, QuerySet, Subquery, Value
from django.db.models.expressions import OrderBy
from django.db.models.functions import Cast, Coalesce, Lower, NullIf, Replace
from django.urls import reverse
from django.utils import timezone

from kluisz_analytics.tenants.models import Flow
from usage.analytics import queries
from usage.analytics.queries import Order
from usage.analytics.question import NAME
from usage.analytics.traces import Run, called, labelled, traces_in
from usage.dashboards.filter_bar import FilterBar
from usage.dashboards.ordering import RUN_COLUMNS, Column, columns_of
from usage.measures import Dimension, Numbers
from usage.models import Trace
from usage.sync.freshness import Freshness, freshness_of

ON_A_PAGE = 50
LAST_PAGE = 200
"""Farther down a list nobody reads, and a database counts every row before it; downloads have
all.
"""


@dataclass(frozen=True, slots=True)
class RunList:
    """A page of the list, and what there is in all (None while something is looked for)."""

    runs: list[Run]
    columns: list[Column]
    search: str
    page: int
    has_next: bool
    numbers: Numbers | None
    freshness: Freshness
    downloads: list[tuple[str, str]]
    shows_tenants: bool
    shows_users: bool

    @property
    def previous_page(self) -> int:
        return self.page - 1

    @property
    def next_page(self) -> int:
        return self.page + 1

    @property
    def first(self) -> int:
        return (self.page - 1) * ON_A_PAGE + 1

    @property
    def last(self) -> int:
        return self.first + len(self.runs) - 1


def run_list(bar: FilterBar, search: str, page: int) -> RunList:
    """The runs that the bar and the search let through."""
    scope, now = bar.scope, timezone.now()
    found = traces_in(scope, bar.period, bar.filters)
    if search:
        found = called(found, search, scope)
    hidden = _hidden(bar)
    shown = {name: label for name, label in RUN_COLUMNS.items() if name not in hidden}
    start = (page - 1) * ON_A_PAGE
    rows = list(_ordered(found, bar.orders["runs"])[start : start + ON_A_PAGE + 1])
    freshness = freshness_of(scope, now)
    numbers = None if search else queries.execute(queries.total(scope, bar.period, bar.filters))
    return RunList(
        runs=labelled(rows[:ON_A_PAGE], scope),
        columns=columns_of("runs", shown, bar.orders),
        search=search,
        page=page,
        has_next=len(rows) > ON_A_PAGE and page < LAST_PAGE,
        numbers=numbers,
        freshness=freshness,
        downloads=_downloads(bar, search),
        shows_tenants="tenant__name" not in hidden,
        shows_users="user__username" not in hidden,
    )


def _hidden(bar: FilterBar) -> set[str]:
    """The columns that would say the same in each row."""
    hidden = set()
    if not bar.scope.is_platform or len(bar.filters.of(Dimension.TENANT)) == 1:
        hidden.add("tenant__name")
    if bar.scope.user_id is not None or len(bar.filters.of(Dimension.USER)) == 1:
        hidden.add("user__username")
    return hidden


def _ordered(found: QuerySet[Trace], order: Order) -> QuerySet[Trace]:
    """What isn't known of a run comes last, whichever way round."""
    if order.by == "start_time":
        return found.order_by(
            *(("start_time", "pk") if order.ascending else ("-start_time", "-pk"))
        )
    key = LABEL if order.by == NAME else F(order.by)
    by_key = OrderBy(key, descending=not order.ascending, nulls_last=True)
    return found.order_by(by_key, "-start_time", "-pk")


def _without_hyphens(text: Any) -> Replace:
    return Replace(text, Value("-"), Value(""))


# A flow's id is a text in runs, which name flows that the directory doesn't know.
_OF_ITS_FLOW = Flow.objects.annotate(key=_without_hyphens(Cast("pk", CharField()))).filter(
    key=_without_hyphens(OuterRef("flow_id"))
)
LABEL = Lower(
    Coalesce(
        Subquery(_OF_ITS_FLOW.values("name")[:1]), NullIf("name", Value("")), F("langfuse_trace_id")
    )
)
"""What a run is called, for its place in the list."""


def _downloads(bar: FilterBar, search: str) -> list[tuple[str, str]]:
    looked_for = {"search": search} if search else {}
    zone = {"tz": bar.period.zone.key}
    return [
        (
            label,
            bar.link(reverse("traces"), without={"compare"}, format=kind, **zone, **looked_for),
        )
        for label, kind in (("CSV", "csv"), ("JSON Lines", "jsonl"))
    ]
