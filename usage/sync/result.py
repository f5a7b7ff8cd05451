"""What one sync of one connection did, as the commands print it and the run records it."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from usage.sync.apply import Applied


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
    observations_gone: int = 0
    transactions_posted: int = 0
    complete_through: datetime | None = None
    error: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether everything that was due is stored."""
        return not self.error and not self.windows_elsewhere

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "complete_through": self.complete_through.isoformat() if self.complete_through else None,
            "complete": self.is_complete,
        }

    def add(self, applied: Applied) -> None:
        self.observations_stored += applied.observations_stored
        self.observations_rejected += applied.observations_rejected
        self.traces_changed += applied.traces_changed
        self.observations_gone += applied.observations_gone
        self.transactions_posted += applied.transactions_posted
