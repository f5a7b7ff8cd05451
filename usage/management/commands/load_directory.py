"""Takes over tiers, tenants, projects, flows and users from a file."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from usage.directory.document import DirectoryError, read_document
from usage.directory.load import load_directory


class Command(BaseCommand):
    help = (
        "Upserts tiers, tenants, projects, flows and users from a JSON file (docs/directory.md),"
        " and attributes waiting usage."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            loaded = load_directory(read_document(options["file"]))
        except DirectoryError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(
            f"Loaded {loaded.tiers} tiers, {loaded.tenants} tenants, {loaded.projects} projects,"
            f" {loaded.flows} flows and {loaded.users} users; {loaded.traces_attributed:,} waiting"
            " traces found their owner."
        )
