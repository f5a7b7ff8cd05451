"""Checks the invariants over the whole database."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from credits.books import notices
from kluisz_analytics.findings import Finding
from usage.books import verify_books


class Command(BaseCommand):
    help = (
        "Checks that facts, rollups, stats and the ledger agree. Exit status 1, and the rows, where"
        " they do not. What is only to be looked at is told, and fails nothing."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document, and nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        findings, noticed = verify_books(), notices()
        if options["json"]:
            body = {
                "balanced": not findings,
                "findings": _as_json(findings),
                "notices": _as_json(noticed),
            }
            self.stdout.write(json.dumps(body))
        else:
            self._write("Does not hold", findings)
            self._write("To look at", noticed)
            if not findings:
                self.stdout.write("The books balance.")
        if findings:
            raise SystemExit(1)

    def _write(self, what: str, found: list[Finding]) -> None:
        for finding in found:
            self.stdout.write(f"{what}: {finding.check}")
            for row in finding.rows:
                self.stdout.write("  " + ", ".join(str(value) for value in row))


def _as_json(found: list[Finding]) -> list[dict[str, Any]]:
    return [
        {"check": one.check, "rows": [[str(value) for value in row] for row in one.rows]}
        for one in found
    ]
