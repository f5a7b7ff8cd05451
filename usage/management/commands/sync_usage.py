"""Syncs every enabled Langfuse connection."""

from datetime import datetime

from usage.management.sync_command import SyncCommand
from usage.models import LangfuseConnection
from usage.sync.result import SyncResult
from usage.sync.runner import Progress, sync_connection


class Command(SyncCommand):
    help = (
        "Reads what is due from every enabled Langfuse connection. Exit status 0 only if all of it"
        " was stored."
    )
    verb = "Syncing"

    def run(
        self,
        connection: LangfuseConnection,
        start: datetime | None,
        end: datetime | None,
        report: Progress,
    ) -> SyncResult:
        return sync_connection(connection, start, end, report)
