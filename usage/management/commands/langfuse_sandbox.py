"""Runs the embedded Langfuse-compatible server."""

import signal
import sys
from argparse import ArgumentParser
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from usage.demo.directory import demo_directory
from usage.demo.replay import replay
from usage.demo.traffic import demo_runs, read_requests
from usage.langfuse.sandbox.producers import (
    NoSuchProducer,
    exports_as_if_at,
    producers,
    producers_named,
)
from usage.langfuse.sandbox.server import (
    RateLimit,
    Sandbox,
    WriteMode,
    make_sandbox_server,
)
from usage.langfuse.sandbox.store import SandboxStore
from usage.langfuse.tracing_client import tracing_client


class Command(BaseCommand):
    help = (
        "Runs the embedded Langfuse-compatible server on 127.0.0.1, with what was sent to it"
        " before."
    )
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--port", type=int, default=settings.SANDBOX_PORT)
        parser.add_argument(
            "--replay",
            type=Path,
            metavar="FILE",
            help="a traffic file (.csv or .csv.gz) to replay into it first",
        )
        parser.add_argument(
            "--rate-limit",
            type=int,
            metavar="N",
            help="answer 429 from the Nth request of a kind in a minute on, as Langfuse does",
        )
        parser.add_argument(
            "--write-mode",
            choices=[mode.value for mode in WriteMode],
            default=WriteMode.EVENTS_ONLY.value,
            help="behave as a Langfuse 4 with this LANGFUSE_MIGRATION_V4_WRITE_MODE",
        )
        parser.add_argument(
            "--producer",
            nargs="+",
            default=[],
            metavar="NAME",
            help=(
                "send what another tracer sends, recorded, as if it were made now; a name or the"
                " beginning of several, or list, which names them all and ends"
            ),
        )
        parser.add_argument(
            "--database",
            type=Path,
            default=settings.VAR_DIR / "sandbox.sqlite3",
            help="where it keeps what was sent",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if "list" in options["producer"]:
            self.stdout.write("\n".join(producers()))
            return
        try:
            recordings = [name for asked in options["producer"] for name in producers_named(asked)]
        except NoSuchProducer as error:
            raise CommandError(str(error)) from error
        if options["replay"] and not options["replay"].exists():
            raise CommandError(f"There is no file {options['replay']}.")
        rate_limit = RateLimit(options["rate_limit"]) if options["rate_limit"] else None
        store = SandboxStore(options["database"])
        sandbox = Sandbox(
            store,
            settings.SANDBOX_PUBLIC_KEY,
            settings.SANDBOX_SECRET_KEY,
            rate_limit,
            write_mode=options["write_mode"],
        )
        try:
            server = make_sandbox_server(sandbox, options["port"])
        except (OSError, SystemExit) as error:
            raise CommandError(
                f"Port {options['port']} is taken; choose another with --port."
            ) from error
        self._say(
            f"Langfuse sandbox at http://127.0.0.1:{server.port}, {store.count():,} observations"
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if options["replay"] or recordings:
            host = f"http://127.0.0.1:{server.port}"
            Thread(target=server.serve_forever, daemon=True).start()
            if options["replay"]:
                self._replay(options["replay"], host)
            for name in recordings:
                self._send(name, host)
            self._say(f"Replayed; {store.count():,} observations. Stop with Ctrl-C.")
            signal.pause()
        server.serve_forever()

    def _say(self, text: str) -> None:
        """At once, also to a pipe: who reads it waits for it."""
        self.stdout.write(text)
        self.stdout.flush()

    def _replay(self, path: Path, host: str) -> None:
        runs = list(demo_runs(read_requests([path]), demo_directory(), datetime.now(UTC)))
        client = tracing_client(host, settings.SANDBOX_PUBLIC_KEY, settings.SANDBOX_SECRET_KEY)
        replay(runs, client, lambda sent: self.stdout.write(f"  {sent:,} of {len(runs):,} runs"))

    def _send(self, name: str, host: str) -> None:
        """A recording, through the door that its tracer would use."""
        for export in exports_as_if_at(name, datetime.now(UTC)):
            httpx.post(
                f"{host}/api/public/otel/v1/traces",
                content=export.SerializeToString(),
                headers={"Content-Type": "application/x-protobuf"},
                auth=(settings.SANDBOX_PUBLIC_KEY, settings.SANDBOX_SECRET_KEY),
            ).raise_for_status()
        self.stdout.write(f"  sent as {name}")
