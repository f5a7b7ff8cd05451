"""What the page of sources shows."""

from dataclasses import dataclass

from django.utils import timezone

from kluisz_analytics.periods import Period
from usage.analytics.sources import Sources, sources_of
from usage.dashboards.compared_with import than
from usage.scope import Scope
from usage.sync.freshness import Freshness, freshness_of


@dataclass(frozen=True, slots=True)
class SourcesPage:
    """A page's content."""

    period: Period
    sources: Sources
    freshness: Freshness

    @property
    def compared_with(self) -> str:
        """What the shares are compared with, in words."""
        return than(self.period, self.sources.comparison, timezone.now())


def sources_page(period: Period) -> SourcesPage:
    now = timezone.now()
    freshness = freshness_of(Scope(), now)
    return SourcesPage(period, sources_of(period, now, freshness.complete_through), freshness)
