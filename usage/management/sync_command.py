"""What sync_usage and reconcile_usage have in common: options, progress, and one summary."""

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from usage import connections
from usage.models import LangfuseConnection
from usage.sync.result import SyncResult
from usage.sync.runner import Progress as Report


def moment(text: str) -> datetime:
    """An ISO date or datetime, UTC unless it names a zone."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(
            f"“{text}” is not an ISO date or time; write for example 2026-11-01 or"
            " 2026-11-01T12:00Z."
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


class SyncCommand(BaseCommand):
    """Runs over connections; exit status 0 only if everything that was due is stored."""

    verb: str

    def run(
        self,
        connection: LangfuseConnection,
        start: datetime | None,
        end: datetime | None,
        report: Report,
    ) -> SyncResult:
        raise NotImplementedError

    def summary(
        self, result: SyncResult, start: datetime | None, end: datetime | None
    ) -> dict[str, Any]:
        """What is printed of a run with --json."""
        return result.as_json()

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", dest="start", type=moment, metavar="T", help="everything from then on"
        )
        parser.add_argument(
            "--to", dest="end", type=moment, metavar="T", help="up to then, not including it"
        )
        parser.add_argument("--connection", metavar="NAME", help="only this connection")
        parser.add_argument(
            "--json", action="store_true", help="print one JSON summary, and nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        start, end = options["start"], options["end"]
        if start and end and end <= start:
            raise CommandError(f"--to {end.isoformat()} is not after --from {start.isoformat()}.")
        results = [
            self._one(connection, options)
            for connection in self._connections(options["connection"])
        ]
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {
                        "complete": all(one.is_complete for one in results),
                        "runs": [self.summary(one, start, end) for one in results],
                    }
                )
            )
        if not all(result.is_complete for result in results):
            raise SystemExit(1)

    def _connections(self, name: str | None) -> list[LangfuseConnection]:
        enabled = connections.enabled_connections()
        chosen = [connection for connection in enabled if name in (None, connection.name)]
        if not chosen:
            names = ", ".join(connection.name for connection in enabled)
            raise CommandError(f"There is no enabled connection “{name}”; there is {names}.")
        return chosen

    def _one(self, connection: LangfuseConnection, options: dict[str, Any]) -> SyncResult:
        console = Console(stderr=True, quiet=options["json"])
        with progress_bar(console) as bar:
            task = bar.add_task(f"{self.verb} {connection.name}", total=None, read="0")

            def report(done: int, due: int, read: int) -> None:
                bar.update(task, completed=done, total=due, read=f"{read:,}")

            result = self.run(connection, options["start"], options["end"], report)
        if not options["json"]:
            self.write_result(result, options["start"], options["end"])
        return result

    def write_result(
        self, result: SyncResult, start: datetime | None, end: datetime | None
    ) -> None:
        """Print it for people."""
        self.stdout.write(
            f"{result.connection}: {result.observations_read:,} observations read,"
            f" {result.observations_stored:,} new or changed, {result.traces_changed:,} traces"
            f" changed, {result.transactions_posted:,} ledger entries,"
            f" {result.observations_rejected:,} rows set aside, {result.windows_drifted:,} hours"
            f" drifted; complete through {result.complete_through}."
        )
        if result.windows_elsewhere:
            self.stderr.write(
                f"{result.windows_elsewhere} windows are being read by another worker; run it"
                " again."
            )
        if result.error:
            self.stderr.write(result.error)


def progress_bar(console: Console) -> Progress:
    """A progress bar with an estimate; nothing but a final line where there is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed} of {task.total} windows, {task.fields[read]} observations"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=not console.is_terminal,
    )
