"""Compares every enabled Langfuse connection with Langfuse's metrics."""

from datetime import datetime

from usage.management.sync_command import SyncCommand
from usage.models import LangfuseConnection
from usage.sync.reconcile import reconcile_connection
from usage.sync.result import SyncResult
from usage.sync.runner import Progress


class Command(SyncCommand):
    help = (
        "Compares each hour with Langfuse's metrics and reads again what changed. Exit status 0"
        " only if all of it was stored."
    )
    verb = "Reconciling"

    def run(
        self,
        connection: LangfuseConnection,
        start: datetime | None,
        end: datetime | None,
        report: Progress,
    ) -> SyncResult:
        return reconcile_connection(connection, start, end, report)
