"""The bar of filters that every page has: all that a page is asked for, in its address, and the
links that keep it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import QueryDict
from django.utils import timezone
from rest_framework import serializers

from kluisz_analytics.period_parameters import period_of
from kluisz_analytics.periods import DEFAULT_DAYS, Period
from kluisz_analytics.tenants.models import User
from usage.analytics.comparison import Against
from usage.analytics.names import names_of
from usage.analytics.question import Filters, Status
from usage.api.parameters import FilterParameters, filters_of
from usage.dashboards.ordering import Orders, orders_in
from usage.measures import DIMENSIONS, Dimension
from usage.scope import Scope

PRESETS = {1: "Today", 7: "7 days", 30: "30 days", 90: "90 days"}
PERIOD = ("days", "start_date", "end_date")
COMPARED_WITH = {
    Against.BEFORE: "the time before",
    Against.MONTH: "a month earlier",
    Against.YEAR: "a year earlier",
    Against.NOTHING: "nothing",
}
STATUSES = {"": "any outcome", Status.SUCCESS: "succeeded", Status.FAILED: "failed"}
FILTERS = {one.parameter: dimension for dimension, one in DIMENSIONS.items()}
"""The dimension of each filter's parameter."""
OWNERS = tuple(one.parameter for one in DIMENSIONS.values() if one.is_owner)
KEPT = (*PERIOD, "tz", "compare", "status", *FILTERS)
"""What links to other pages keep."""
UTC = "UTC"


class PageParameters(FilterParameters):
    """What a page's address says, by the grammar of the API."""

    compare = serializers.ChoiceField(
        choices=[one.value for one in Against], default=Against.BEFORE.value
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several: its value or address, what it is called, and whether it is chosen."""

    value: str
    label: str
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that holds, and the address without it."""

    label: str
    value: str
    url: str


@dataclass(frozen=True, slots=True)
class FilterBar:
    """What was asked for: the period in the page's zone, what it is compared with, the filters, and
    the order of each list. ``fixed`` are the filters that the page itself stands for.
    """

    query: QueryDict
    period: Period
    days: int | None
    against: Against
    filters: Filters
    orders: Orders
    zone: ZoneInfo
    viewer: User
    scope: Scope
    fixed: Collection[str] = ()

    @classmethod
    def of(
        cls,
        query: QueryDict,
        viewer: User,
        scope: Scope,
        zone: ZoneInfo,
        fixed: Collection[str] = (),
    ) -> "FilterBar":
        """Raises ValidationError, NotVisible and PermissionDenied as the API does."""
        # A form sends what was emptied as empty text.
        given = QueryDict(mutable=True)
        for name, values in query.lists():
            if kept := [value for value in values if value and name not in fixed]:
                given.setlist(name, kept)
        parameters = PageParameters(data=given)
        parameters.is_valid(raise_exception=True)
        asked = dict(parameters.validated_data)
        has_dates = "start_date" in asked or "end_date" in asked
        return cls(
            given,
            period_of(asked, zone),
            asked.get("days", None if has_dates else DEFAULT_DAYS),
            Against(asked["compare"]),
            filters_of(asked, viewer),
            orders_in(given),
            zone,
            viewer,
            scope,
            fixed,
        )

    def link(self, path: str, without: Collection[str] = (), **values: Any) -> str:
        """The path with what links keep, but for some, and with other values for others."""
        return f"{path}{_path(_kept(self.query, {*without, *values}), values)}"

    def here(self, without: Collection[str] = (), **values: Any) -> str:
        """The page's own address, changed so."""
        changed = self._first_page()
        for name in without:
            changed.pop(name, None)
        for name, value in values.items():
            changed[name] = str(value)
        return f"?{changed.urlencode()}"

    @property
    def kept_whole(self) -> str:
        """The query of links to lists of all that the viewer may see: whose usage it is, too.
        Whoever sees one tenant or user alone needs not be told which.
        """
        own, viewer = {}, self.viewer
        if self.scope.tenant_id and viewer.is_superuser:
            own["tenant_id"] = str(self.scope.tenant_id)
        if self.scope.user_id and (viewer.is_superuser or viewer.is_tenant_admin):
            own["user_id"] = str(self.scope.user_id)
        without = [name for name in OWNERS if name in self.fixed]
        return _path(_kept(self.query, [*without, *own]), own)

    def _first_page(self) -> QueryDict:
        """What is asked for otherwise begins with its first page."""
        changed = self.query.copy()
        changed.pop("page", None)
        return changed

    @property
    def kept(self) -> str:
        """The query of links to pages of somebody else: whose usage it is isn't kept."""
        return self.link("", without=OWNERS)

    @property
    def uses_sandbox(self) -> bool:
        """Whether no Langfuse keys are set, so that the embedded sandbox is read."""
        return bool(settings.USES_SANDBOX)

    @property
    def presets(self) -> Iterator[Choice]:
        for days, label in PRESETS.items():
            yield Choice(self.here(PERIOD, days=days), label, days == self.days)
        today = timezone.now().astimezone(self.period.zone).date()
        this_month = today.replace(day=1)
        last_month = (this_month - timedelta(days=1)).replace(day=1)
        yield self._month("This month", this_month, today)
        yield self._month("Last month", last_month, this_month - timedelta(days=1))

    def _month(self, label: str, first: date, last: date) -> Choice:
        is_chosen = self.days is None and (first, last) == (self.first_day, self.last_day)
        return Choice(self.here(PERIOD, start_date=first, end_date=last), label, is_chosen)

    @property
    def first_day(self) -> date:
        """The period's first day in its zone."""
        return self.period.start.astimezone(self.period.zone).date()

    @property
    def last_day(self) -> date:
        """The period's last day in its zone, as people write periods."""
        return last_day_before(self.period.end, self.period.zone)

    @property
    def comparisons(self) -> list[Choice]:
        return [
            Choice(one.value, label, one is self.against) for one, label in COMPARED_WITH.items()
        ]

    @property
    def zones(self) -> list[Choice]:
        """The page's own, the viewer's (a platform admin's is UTC) and UTC, and the one that was
        asked for.
        """
        zone, viewer = self.period.zone.key, self.viewer
        own = UTC if viewer.is_superuser else viewer.tenant.timezone
        names = dict.fromkeys([self.zone.key, own, UTC, zone])
        return [Choice("" if one == self.zone.key else one, one, one == zone) for one in names]

    @property
    def statuses(self) -> list[Choice]:
        chosen = self.query.get("status", "")
        return [Choice(value, label, value == chosen) for value, label in STATUSES.items()]

    @property
    def dimensions(self) -> list[tuple[str, str, str]]:
        """Parameter, value and label of each dimension that can be filtered by here."""
        hidden = {*self.fixed, *(() if self.scope.is_platform else ("tenant_id",))}
        if self.scope.user_id is not None:
            hidden.add("user_id")
        return [
            (one.parameter, dimension.value, one.label)
            for dimension, one in DIMENSIONS.items()
            if one.parameter not in hidden
        ]

    @property
    def chips(self) -> list[Chip]:
        """The filters that hold; a query for each dimension that is filtered by."""
        return [
            Chip(
                dimension.declared.label,
                name.label,
                self._without(dimension.declared.parameter, value),
            )
            for dimension in DIMENSIONS
            if (values := self.filters.of(dimension))
            for value, name in names_of(dimension, list(values), self.scope).items()
        ]

    def _without(self, parameter: str, value: Any) -> str:
        changed = self._first_page()
        left = [one for one in changed.getlist(parameter) if one != str(value)]
        changed.setlist(parameter, left)
        return f"?{changed.urlencode()}"

    def _beside(self, *names: str) -> list[tuple[str, str]]:
        """What a form that asks for these keeps."""
        return [
            (name, value)
            for name, values in self.query.lists()
            if name not in (*names, "page")
            for value in values
        ]

    @property
    def beside_dates(self) -> list[tuple[str, str]]:
        return self._beside(*PERIOD)

    @property
    def beside_options(self) -> list[tuple[str, str]]:
        return self._beside("compare", "tz", "status")

    @property
    def beside_search(self) -> list[tuple[str, str]]:
        return self._beside("search", "page")

    @property
    def tenant_id(self) -> str:
        """The one tenant whose names are looked for, if there is one."""
        if self.scope.tenant_id is not None:
            return str(self.scope.tenant_id)
        tenants: Sequence[Any] = self.filters.of(Dimension.TENANT)
        return str(tenants[0]) if len(tenants) == 1 else ""


def kept_in(query: QueryDict, without: Collection[str] = OWNERS) -> str:
    """What links of a page without a bar keep of its address."""
    return _path(_kept(query, without), {})


def _path(kept: QueryDict, values: Mapping[str, Any]) -> str:
    """The query as the end of an address."""
    for name, value in values.items():
        kept[name] = str(value)
    return f"?{kept.urlencode()}" if kept else ""


def _kept(query: QueryDict, without: Collection[str]) -> QueryDict:
    kept = QueryDict(mutable=True)
    for name in KEPT:
        if name in query and name not in without:
            kept.setlist(name, query.getlist(name))
    return kept


def last_day_before(moment: datetime, zone: ZoneInfo) -> date:
    return (moment - timedelta(microseconds=1)).astimezone(zone).date()
