"""What a run of a flow will cost, from the flow's own history.

The usage app knows that history and says how to ask it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

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


Estimator = Callable[[str], Estimate]


def no_history(flow_id: str) -> Estimate:
    return Estimate()


_estimators: list[Estimator] = [no_history]


def use_estimator(estimator: Estimator) -> None:
    """Have ``estimate`` ask this one."""
    _estimators[0] = estimator


def estimate(flow_id: str) -> Estimate:
    """What a run of the flow will cost; the default for a flow without history."""
    return _estimators[0](canonical_id(flow_id)) if flow_id else Estimate()
