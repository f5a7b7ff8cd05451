"""Prices a period anew: shows the difference, and with --apply makes it so (api.md, Commands)."""

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.table import Table

from kluisz_analytics.tenants.models import Tenant
from usage.management.sync_command import moment
from usage.models import Repricing
from usage.repricing import repricing as service
from usage.repricing.labels import labelled
from usage.repricing.preview import Preview, preview

ROWS_SHOWN = 50


class Command(BaseCommand):
    help = (
        "Shows what pricing a period anew would change, by tenant, user and model; --apply posts it"
        " as adjustments."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--from", dest="start", type=moment, metavar="T", help="traces that began from then on"
        )
        parser.add_argument(
            "--to", dest="end", type=moment, metavar="T", help="up to then, not including it"
        )
        parser.add_argument("--tenant", metavar="SLUG", help="only this tenant's")
        parser.add_argument(
            "--apply",
            action="store_true",
            help="make it so; Ctrl-C stops after a batch, --continue goes on",
        )
        parser.add_argument(
            "--reason",
            default="",
            help="kept with the repricing and each adjustment; needed with --apply",
        )
        parser.add_argument(
            "--continue", dest="resume", type=int, metavar="N", help="go on with repricing N"
        )
        parser.add_argument("--undo", type=int, metavar="N", help="undo repricing N")
        parser.add_argument(
            "--json", action="store_true", help="print one JSON summary, and nothing else"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        if options["resume"] is not None or options["undo"] is not None:
            self._go_on(options)
            return
        start, end = options["start"], options["end"]
        if start is None or end is None:
            raise CommandError("Write --from T and --to T: the period to price anew.")
        if end <= start:
            raise CommandError(f"--to {end.isoformat()} is not after --from {start.isoformat()}.")
        tenant = self._tenant(options["tenant"])
        if not options["apply"]:
            self._write(preview(start, end, tenant.pk if tenant else None), options)
            return
        try:
            repricing = service.begin(start, end, reason=options["reason"], by=None, tenant=tenant)
        except ValueError as error:
            raise CommandError(f"{error} Write --reason TEXT.") from error
        self._work(repricing, options)

    def _tenant(self, slug: str | None) -> Tenant | None:
        if slug is None:
            return None
        tenant = Tenant.objects.filter(slug=slug).first()
        if tenant is None:
            raise CommandError(
                f"There is no tenant “{slug}”; there is"
                f" {', '.join(Tenant.objects.values_list('slug', flat=True)[:20])}."
            )
        return tenant

    def _go_on(self, options: dict[str, Any]) -> None:
        number = options["resume"] if options["undo"] is None else options["undo"]
        repricing = Repricing.objects.filter(pk=number).first()
        if repricing is None:
            raise CommandError(f"There is no repricing {number}.")
        try:
            if options["undo"] is not None and repricing.state != Repricing.State.UNDOING:
                service.undo(repricing)
            elif options["resume"] is not None and repricing.state not in Repricing.UNDER_WAY:
                service.resume(repricing)
        except ValueError as error:
            raise CommandError(str(error)) from error
        self._work(repricing, options)

    def _work(self, repricing: Repricing, options: dict[str, Any]) -> None:
        console = Console(stderr=True, quiet=options["json"])
        try:
            with console.status(f"{repricing}") as status:
                service.advance(
                    repricing,
                    report=lambda row: status.update(f"{row}: {row.traces_done:,} traces"),
                )
        except KeyboardInterrupt:
            repricing.refresh_from_db()
            if repricing.state == Repricing.State.APPLYING:
                service.stop(repricing)
            self.stderr.write(
                f"Stopped; what is done stays. Go on with --continue {repricing.pk}, or undo it"
                f" with --undo {repricing.pk}."
            )
            raise SystemExit(1) from None
        if options["json"]:
            self.stdout.write(json.dumps(self._summary(repricing)))
            return
        self.stdout.write(
            f"Repricing {repricing.pk}: {repricing.get_state_display().lower()}."
            f" {repricing.traces_done:,} traces looked at, {repricing.traces_changed:,} changed,"
            f" {repricing.transactions_posted:,} adjustments; in all"
            f" {repricing.cost_usd_difference:+f} USD and {repricing.credits_difference:+f}"
            f" credits. Undo it with --undo {repricing.pk}."
        )

    def _summary(self, repricing: Repricing) -> dict[str, Any]:
        return {
            "repricing": repricing.pk,
            "state": repricing.state,
            "traces": repricing.traces_done,
            "traces_changed": repricing.traces_changed,
            "transactions_posted": repricing.transactions_posted,
            "cost_usd_difference": f"{repricing.cost_usd_difference:f}",
            "credits_difference": f"{repricing.credits_difference:f}",
        }

    def _write(self, found: Preview, options: dict[str, Any]) -> None:
        rows = labelled(found)
        total = found.total
        if options["json"]:
            differences = [
                {
                    "tenant": row.tenant,
                    "user": row.user,
                    "model": row.model,
                    "observations": row.difference.observations,
                    "cost_usd": f"{row.difference.cost_usd:f}",
                    "credits": f"{row.difference.credits:f}",
                }
                for row in rows
            ]
            summary = {
                "traces": found.traces,
                "traces_changed": found.traces_changed,
                "cost_usd": f"{total.cost_usd:f}",
                "credits": f"{total.credits:f}",
            }
            self.stdout.write(json.dumps({**summary, "differences": differences}))
            return
        table = Table("Tenant", "User", "Model", "Observations", "USD", "Credits")
        for row in rows[:ROWS_SHOWN]:
            one = row.difference
            table.add_row(
                row.tenant,
                row.user,
                row.model,
                f"{one.observations:,}",
                f"{one.cost_usd:+f}",
                f"{one.credits:+f}",
            )
        if rows:
            # it writes text as any file does
            console = Console(file=self.stdout, width=140)  # type: ignore[arg-type]
            console.print(table)
        if len(rows) > ROWS_SHOWN:
            self.stdout.write(f"… and {len(rows) - ROWS_SHOWN:,} more; --json prints all.")
        self.stdout.write(
            f"{found.traces_changed:,} of {found.traces:,} traces would change: {total.cost_usd:+f}"
            f" USD, {total.credits:+f} credits. Nothing was changed; --apply --reason TEXT makes"
            " it so."
        )
