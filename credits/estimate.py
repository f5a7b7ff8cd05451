"""What a run of a flow will cost, from the flow's own history.

The usage app knows that history: the setting CREDITS_ESTIMATE_OF_FLOW names the function to ask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from django.conf import settings
from django.utils.module_loading import import_string

from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.scales import Credits

FIRST_RUN = Decimal(1)
"""What a run is taken to cost while its flow has no history (domain.md, Credits)."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Credits of a flow's runs: the median, the 90th percentile, and of how many runs."""

    median: Credits = FIRST_RUN
    p90: Credits = FIRST_RUN
    runs: int = 0


EstimateOfFlow = Callable[[str], Estimate]


def estimate(flow_id: str) -> Estimate:
    """What a run of the flow will cost; the default for a flow without history."""
    if not flow_id:
        return Estimate()
    estimate_of: EstimateOfFlow = import_string(settings.CREDITS_ESTIMATE_OF_FLOW)
    return estimate_of(canonical_id(flow_id))
