"""What one sync of one connection did, as the commands print it and the run records it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from usage.facts.apply import Applied
from usage.models import SyncDrift
from usage.periods import DAY, HOUR

COUNTS = (
    *(
        "windows",
        "windows_drifted",
        "windows_elsewhere",
        "observations_read",
        "observations_stored",
        "observations_rejected",
    ),
    *("traces_changed", "observations_deleted", "transactions_posted"),
)


@dataclass(slots=True)
class SyncResult:
    """What one sync of one connection did."""

    connection: str
    windows: int = 0
    windows_drifted: int = 0
    windows_elsewhere: int = 0
    observations_read: int = 0
    observations_stored: int = 0
    observations_rejected: int = 0
    traces_changed: int = 0
    observations_deleted: int = 0
    transactions_posted: int = 0
    complete_through: datetime | None = None
    error: str = ""
    drifts: list[SyncDrift] = field(default_factory=list)
    stored_by_hour: Counter[datetime] = field(default_factory=Counter)
    deleted_by_hour: Counter[datetime] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        """Whether everything that was due is stored."""
        return not self.error and not self.windows_elsewhere

    def as_json(self) -> dict[str, Any]:
        """What the run did, as numbers."""
        complete_through = self.complete_through.isoformat() if self.complete_through else None
        counts = {name: getattr(self, name) for name in COUNTS}
        return {
            "connection": self.connection,
            **counts,
            "complete_through": complete_through,
            "error": self.error,
            "complete": self.is_complete,
        }

    def record_drifts(self, drifts: Sequence[SyncDrift]) -> None:
        """Keep what had drifted, with what reading it again changed in our facts."""
        for drift in drifts:
            length = DAY if drift.period == SyncDrift.Period.DAY else HOUR
            hours = [drift.start + number * HOUR for number in range(length // HOUR)]
            drift.observations_stored = sum(self.stored_by_hour[hour] for hour in hours)
            drift.observations_deleted = sum(self.deleted_by_hour[hour] for hour in hours)
        self.drifts += drifts

    def add(self, applied: Applied) -> None:
        self.observations_stored += applied.observations_stored
        self.observations_rejected += applied.observations_rejected
        self.traces_changed += applied.traces_changed
        self.observations_deleted += applied.observations_deleted
        self.transactions_posted += applied.transactions_posted
        self.stored_by_hour += applied.stored_by_hour
        self.deleted_by_hour += applied.deleted_by_hour
