"""Everything on a fresh machine, ending with the dashboards (api.md, Commands)."""

import signal
import socket
import sys
import time
from argparse import ArgumentParser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kluisz_analytics.tenants.models import User
from usage.connections import client_for, configured_connection
from usage.demo.directory import demo_directory, write_demo_directory
from usage.demo.replay import replay
from usage.demo.service import ServiceFailed, Services
from usage.demo.traffic import demo_runs, read_requests
from usage.directory.document import read_document
from usage.directory.load import load_directory
from usage.langfuse.errors import LangfuseError
from usage.langfuse.tracing_client import configured_tracing_client
from usage.models import LangfuseConnection, Trace
from usage.sync.runner import sync_connection

LOGINS = ("platform-admin", "northwind-admin", "jonas.northwind1")
PASSWORD = "kluisz-demo"
START_SECONDS = 30
# So that every run of the replay has ended by now.
REPLAY_ENDS_BEFORE = timedelta(minutes=3)


class Command(BaseCommand):
    help = "Sets up the embedded size with real traffic, and serves the dashboards."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--no-serve", action="store_true", help="stop when everything is loaded"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self.console = Console()
        self.services = Services()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if not options["no_serve"]:
            _check_free(options["port"], "PORT=8080 make demo")
        try:
            self._prepare()
            if not options["no_serve"]:
                self._serve(options["port"])
        except (ServiceFailed, LangfuseError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.console.print("\nStopped.")
        finally:
            self.services.stop()

    def _prepare(self) -> None:
        self.console.rule("[bold]Kluisz Analytics demo")
        call_command("migrate", verbosity=0)
        self.console.print("Database ready.")
        self._load_directory()
        connection = configured_connection()
        if settings.USES_SANDBOX:
            self._start_sandbox(connection)
            if not _marker().exists():
                self._replay()
                _marker().touch()
        else:
            self.console.print(
                f"Reading the Langfuse at [bold]{connection.host}[/], since KLUISZ_LANGFUSE_… keys"
                " are set."
            )
        self._sync(connection)

    def _load_directory(self) -> None:
        path = settings.VAR_DIR / "demo-directory.json"
        write_demo_directory(path)
        loaded = load_directory(read_document(path))
        self.console.print(
            f"Directory: {loaded.tenants} tenants, {loaded.users} users, {loaded.projects}"
            f" projects, {loaded.flows} flows."
        )
        for user in User.objects.filter(username__in=LOGINS):
            if not user.check_password(PASSWORD):
                user.set_password(PASSWORD)
                user.save(update_fields=["password"])

    def _start_sandbox(self, connection: LangfuseConnection) -> None:
        _check_free(settings.SANDBOX_PORT, "KLUISZ_SANDBOX_PORT=8801 make demo")
        database = settings.VAR_DIR / "demo-sandbox.sqlite3"
        if not database.exists():
            _marker().unlink(missing_ok=True)
        elif not _marker().exists():
            # A replay was stopped half-way: begin it anew.
            for file in settings.VAR_DIR.glob(f"{database.name}*"):
                file.unlink()
        self.services.start(
            "sandbox", ["manage.py", "langfuse_sandbox", "--database", str(database)]
        )
        deadline = time.monotonic() + START_SECONDS
        with client_for(connection) as client:
            while not _is_listening(settings.SANDBOX_PORT):
                self.services.check()
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"The sandbox did not start within {START_SECONDS} s; see"
                        f" {self.services.log('sandbox')}."
                    )
                time.sleep(0.1)
            self.console.print(f"Langfuse sandbox {client.health().version} at {connection.host}.")

    def _replay(self) -> None:
        runs = list(
            demo_runs(read_requests(), demo_directory(), datetime.now(UTC) - REPLAY_ENDS_BEFORE)
        )
        with _progress(self.console) as bar:
            task = bar.add_task("Replaying real traffic through the tracer (runs)", total=len(runs))
            replay(runs, configured_tracing_client(), lambda sent: bar.update(task, completed=sent))

    def _sync(self, connection: LangfuseConnection) -> None:
        with _progress(self.console) as bar:
            task = bar.add_task("Syncing, pricing and charging (windows)", total=None)
            result = sync_connection(
                connection,
                progress=lambda done, due, _: bar.update(task, completed=done, total=due),
            )
        if result.error:
            raise CommandError(result.error)
        self.console.print(
            f"Synced: {result.observations_stored:,} observations new or changed,"
            f" {result.transactions_posted:,} ledger entries;"
            f" {Trace.objects.filter(connection=connection).count():,} runs are stored."
        )

    def _serve(self, port: int) -> None:
        self.services.start(
            "worker",
            [
                "-m",
                "celery",
                "-A",
                "kluisz_analytics",
                "worker",
                "--beat",
                "--concurrency",
                "2",
                "--loglevel",
                "INFO",
            ],
        )
        web = [
            "-m",
            "gunicorn",
            "kluisz_analytics.wsgi",
            "--bind",
            f"127.0.0.1:{port}",
            "--worker-class",
            "gthread",
            "--threads",
            "4",
        ]
        self.services.start("web", web)
        deadline = time.monotonic() + START_SECONDS
        while not _is_listening(port):
            self.services.check()
            if time.monotonic() > deadline:
                raise ServiceFailed(
                    f"The web server did not start within {START_SECONDS} s; see"
                    f" {self.services.log('web')}."
                )
            time.sleep(0.1)
        self._print_logins(port)
        self.services.wait()

    def _print_logins(self, port: int) -> None:
        self.console.rule()
        self.console.print(
            f"Dashboards at [bold]http://127.0.0.1:{port}/[/], password of each login:"
            f" [bold]{PASSWORD}[/]"
        )
        for role, username in zip(("Platform admin", "Tenant admin", "User"), LOGINS, strict=True):
            self.console.print(f"  {role:<15} [bold]{username}[/]")
        self.console.print(
            f"API at http://127.0.0.1:{port}/api/v2/docs/. A worker syncs every few minutes. Stop"
            " with Ctrl-C."
        )


def _marker() -> Path:
    """Is there once the whole traffic has been replayed into the demo's sandbox."""
    return Path(settings.VAR_DIR) / "demo-replayed"


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _check_free(port: int, way_out: str) -> None:
    if _is_listening(port):
        raise CommandError(f"Port {port} is taken. Stop what uses it, or choose another: {way_out}")
