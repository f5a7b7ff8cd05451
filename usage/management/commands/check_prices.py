"""Compares the shipped price book with other sources."""

import json
from argparse import ArgumentParser
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from pricing import lists, reference_table
from pricing.book import load_shipped_books
from pricing.comparison import Difference, Offer, differences, named_alike
from pricing.models import ModelPrice
from pricing.price_texts import price_text
from usage.connections import client_for, enabled_connections
from usage.langfuse.errors import LangfuseError
from usage.langfuse.http import IMPATIENT
from usage.langfuse.model_prices import offers_of
from usage.models import PlatformModelUsage

LOOKED_BACK = timedelta(days=90)


class Command(BaseCommand):
    help = (
        "Compares the shipped price book with LiteLLM's public table and with what each Langfuse"
        " connection takes its models to cost: of the models used in the last 90 days, all prices"
        " that differ by more than 1%, with both figures. Nothing is priced by these sources;"
        " --take enters what one of them says as a platform's price."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--model", nargs="+", default=[], help="of these models only")
        parser.add_argument("--all", action="store_true", help="of all models that the table knows")
        parser.add_argument("--table", type=Path, help="a newer copy of LiteLLM's table")
        parser.add_argument("--keep", metavar="NAME", help="keep that copy, under this name")
        parser.add_argument(
            "--take", metavar="SOURCE", help="enter this source's prices of the models named"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        source, offers = reference_table.kept()
        if options["table"]:
            source, offers = str(options["table"]), reference_table.read(options["table"])
        if options["keep"]:
            source = options["keep"]
            reference_table.keep(offers, source)
        names = options["model"] or _models_in_use()
        compared = {source: offers if options["all"] else list(named_alike(offers, names))}
        compared |= self._langfuses(names)
        if options["take"]:
            self._take(options["take"], options["model"], compared)
            return
        moment, book = timezone.now(), load_shipped_books()[-1]
        found = {name: list(differences(book, of, moment)) for name, of in compared.items()}
        if options["json"]:
            rows = [_as_json(name, one) for name, of in found.items() for one in of]
            self.stdout.write(json.dumps({"compared": len(names), "differences": rows}))
            return
        for name, of in found.items():
            self._write(name, of)

    def _langfuses(self, names: Iterable[str]) -> dict[str, list[Offer]]:
        """What each connection's server says."""
        found = {}
        for connection in enabled_connections():
            try:
                with client_for(connection, IMPATIENT) as client:
                    found[connection.name] = list(offers_of(client.models(), names))
            except LangfuseError as error:
                self.stderr.write(f"{connection.name} could not be asked: {error}")
        return found

    def _write(self, source: str, found: Sequence[Difference]) -> None:
        self.stdout.write(f"{source}: {len(found)} prices differ by more than 1%")
        for one in found:
            self.stdout.write(
                f"  {one.model} {one.conditions}".rstrip()
                + f": {one.kind.value} {_usd(one.ours)} here, {_usd(one.theirs)} there"
            )

    def _take(self, source: str, models: Sequence[str], compared: dict[str, list[Offer]]) -> None:
        if not models:
            raise CommandError("Say with --model of which models the prices are to be taken.")
        if source not in compared:
            raise CommandError(f"There is no source “{source}”: {', '.join(compared)}.")
        now = timezone.now()
        for offer in compared[source]:
            lists.enter_price(
                ModelPrice(
                    model=offer.model,
                    conditions=offer.conditions,
                    precedence=ModelPrice.PrecedenceChoice.FALLBACK,
                    valid_from=now,
                    **{kind.value: usd for kind, usd in offer.prices.items()},
                ),
                None,
            )
            self.stdout.write(f"Entered {offer.model} {offer.conditions}".rstrip())


def _models_in_use() -> list[str]:
    used = PlatformModelUsage.objects.filter(period_start__gte=timezone.now() - LOOKED_BACK)
    return sorted(filter(None, used.order_by().values_list("model", flat=True).distinct()))


def _usd(amount: Any) -> str:
    return "no price" if amount is None else f"${price_text(amount)}"


def _as_json(source: str, one: Difference) -> dict[str, Any]:
    return {
        "source": source,
        "model": one.model,
        "conditions": one.conditions,
        "kind": one.kind.value,
        "ours_usd_per_million": None if one.ours is None else price_text(one.ours),
        "theirs_usd_per_million": None if one.theirs is None else price_text(one.theirs),
    }
