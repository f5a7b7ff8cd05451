"""Shows what should have come and has not (api.md, Commands)."""

import json
from argparse import ArgumentParser
from collections.abc import Iterable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rest_framework.utils.encoders import JSONEncoder

from kluisz_analytics.periods import Period
from usage.desk.answers import ExpectedUsageAnswer
from usage.desk.expected import Expected, expected_usage
from usage.desk.views import expected_body
from usage.management.sync_command import moment

DEFAULT_DAYS = 7


class Command(BaseCommand):
    help = (
        "Shows usage that should have come and has not: holds without a trace or with another"
        " amount, runs without a call of a model where their flow always has one, hours in which a"
        " tenant that always has traffic has none. Exit status 1 where there is any."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", dest="start", type=moment, metavar="T", help="default: seven days ago"
        )
        parser.add_argument(
            "--to", dest="end", type=moment, metavar="T", help="not including it; default: now"
        )
        parser.add_argument(
            "--json", action="store_true", help="print one JSON document, and nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        end = options["end"] or timezone.now()
        start = options["start"] or end - timedelta(days=DEFAULT_DAYS)
        if end <= start:
            raise CommandError(
                f"--to {end.isoformat()} is not after --from {start.isoformat()}: nothing to show."
            )
        found = expected_usage(Period(start, end, ZoneInfo("UTC")))
        if options["json"]:
            body = {"period_start": start, "period_end": end, **expected_body(found)}
            self.stdout.write(json.dumps(ExpectedUsageAnswer(body).data, cls=JSONEncoder))
        else:
            self._write(found)
        if not found.is_all_seen:
            raise SystemExit(1)

    def _write(self, found: Expected) -> None:
        if found.is_all_seen:
            self.stdout.write("All that was expected has come.")
        counts = ", ".join(
            f"{fault.value} {count}" for fault, count in found.holds_by_fault.items()
        )
        self._list(
            f"Holds ({counts})",
            (
                f"{one.fault} {one.langfuse_trace_id} {one.user} of {one.tenant}: reserved"
                f" {one.held_credits:f}, settled {_amount(one.settled_credits)}, charged"
                f" {_amount(one.charged_credits)}"
                for one in found.holds
            ),
            len(found.holds),
        )
        self._list(
            "Flows with runs without a call of a model",
            (
                f"{one.flow}: {one.runs_without_calls} of {one.runs} runs; before,"
                f" {one.runs_before_without_calls} of {one.runs_before}; for example"
                f" {one.example_langfuse_trace_id}"
                for one in found.flows
            ),
            len(found.flows),
        )
        self._list(
            f"Hours without traffic ({found.gaps_count})",
            (
                f"{one.tenant}: {one.start.isoformat()} to {one.end.isoformat()}, {one.hours}"
                f" hours; usually {one.usual_runs:g} runs"
                for one in found.gaps
            ),
            len(found.gaps),
        )

    def _list(self, title: str, lines: Iterable[str], count: int) -> None:
        if count:
            self.stdout.write(title)
            for line in lines:
                self.stdout.write(f"  {line}")


def _amount(credits: Any) -> str:
    return "nothing" if credits is None else f"{credits:f}"
