"""Checks the invariants over the whole database."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from usage.books import verify_books


class Command(BaseCommand):
    help = (
        "Checks that facts, rollups, stats and the ledger agree. Exit status 1, and the rows, where"
        " they do not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document, and nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        findings = verify_books()
        if options["json"]:
            body = [
                {"check": one.check, "rows": [[str(value) for value in row] for row in one.rows]}
                for one in findings
            ]
            self.stdout.write(json.dumps({"balanced": not findings, "findings": body}))
        else:
            for finding in findings:
                self.stdout.write(f"Does not hold: {finding.check}")
                for row in finding.rows:
                    self.stdout.write("  " + ", ".join(str(value) for value in row))
            if not findings:
                self.stdout.write("The books balance.")
        if findings:
            raise SystemExit(1)
