"""What the page of sources shows."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from django.conf import settings
from django.utils import timezone

from kluisz_analytics.periods import Period
from usage.analytics.sources import Sources, sources_of
from usage.dashboards.compared_with import than
from usage.scope import Scope
from usage.sync.freshness import complete_through_of


@dataclass(frozen=True, slots=True)
class SourcesPage:
    """A page's content."""

    period: Period
    sources: Sources
    complete_through: datetime | None
    uses_sandbox: bool

    @property
    def first_day(self) -> date:
        """The period's first day in its zone."""
        return self.period.start.astimezone(self.period.zone).date()

    @property
    def last_day(self) -> date:
        """The period's last day in its zone, as people write periods."""
        return (self.period.end - timedelta(microseconds=1)).astimezone(self.period.zone).date()

    @property
    def compared_with(self) -> str:
        """What the shares are compared with, in words."""
        return than(self.period, self.sources.comparison, timezone.now())


def sources_page(period: Period) -> SourcesPage:
    complete_through = complete_through_of(Scope())
    return SourcesPage(
        period,
        sources_of(period, timezone.now(), complete_through),
        complete_through,
        settings.USES_SANDBOX,
    )
