"""How the sync of each connection is doing (domain.md, invariant 3)."""

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q

from usage.models import LangfuseConnection, SyncDrift, SyncRun, SyncWindow
from usage.sync.runner import outcome_at
from usage.sync.windows import progress

State = SyncWindow.State


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """A connection: how it is read and what to know of that, how far and how far behind that is,
    its hours by state, its last run, and what had drifted.

    ``write_mode`` is the LANGFUSE_MIGRATION_V4_WRITE_MODE of a Langfuse 4. ``last_error`` is of the
    last run that had one, also of one that is still waiting for its server.
    """

    name: str
    host: str
    is_enabled: bool
    api: str
    write_mode: str
    notice: str
    complete_through: datetime | None
    lag_seconds: int | None
    windows_done: int
    windows_pending: int
    windows_leased: int
    last_run_at: datetime | None
    last_run_outcome: str | None
    last_error: str | None
    drifted_hours: int
    repaired_hours: int
    rejected_observations: int


def sync_status(now: datetime) -> list[ConnectionStatus]:
    """All connections, by name."""
    connections = LangfuseConnection.objects.annotate(
        rejected_count=Count("rejected", filter=Q(rejected__resolution=""))
    )
    moments = {one.connection_id: one.moment for one in progress()}
    return [
        _status(connection, connection.rejected_count, moments.get(connection.pk), now)
        for connection in connections.order_by("name")
    ]


def _status(
    connection: LangfuseConnection, rejected: int, moment: datetime | None, now: datetime
) -> ConnectionStatus:
    states = dict(
        SyncWindow.objects.filter(connection=connection)
        .order_by()
        .values_list("state")
        .annotate(count=Count("pk"))
    )
    last = SyncRun.objects.filter(connection=connection).order_by("-started_at").first()
    drifts = SyncDrift.objects.filter(run__connection=connection)
    return ConnectionStatus(
        name=connection.name,
        host=connection.host,
        is_enabled=connection.is_enabled,
        api=connection.api,
        write_mode=connection.write_mode,
        notice=connection.notice,
        complete_through=moment,
        lag_seconds=None if moment is None else max(0, int((now - moment).total_seconds())),
        windows_done=states.get(State.DONE.value, 0),
        windows_pending=states.get(State.PENDING.value, 0),
        windows_leased=states.get(State.LEASED.value, 0),
        last_run_at=last.started_at if last else None,
        last_run_outcome=outcome_at(last, now) if last else None,
        last_error=last_error(connection) or None,
        drifted_hours=drifts.count(),
        repaired_hours=drifts.filter(observations_stored__isnull=False).count(),
        rejected_observations=rejected,
    )


def last_error(connection: LangfuseConnection) -> str:
    """Of the last run that had one; "" where none had."""
    failed = SyncRun.objects.filter(connection=connection).exclude(error="")
    return failed.order_by("-started_at").values_list("error", flat=True).first() or ""
