"""Price lists as CSV: one price a line, out and in again."""

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import transaction

from kluisz_analytics.tenants.models import Tenant, User
from pricing import lists
from pricing.conditions import Conditions
from pricing.models import IN_LIST, ModelPrice
from pricing.price_texts import per_million, price_text
from pricing.units import UnitKind

KINDS = [kind.value for kind in UnitKind]
COLUMNS = [
    *("tenant", "model", "match", "precedence", "valid_from", "valid_until"),
    *KINDS,
    *("other_units", "conditions"),
]
REQUIRED = ["model", "valid_from"]
LARGEST_BYTES = 10_000_000


class PriceListError(ValueError):
    """A price list that can't be taken over: ``problems`` says why, line by line.

    Nothing was changed.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did."""

    entered: int
    replaced: int
    unchanged: int


def export_prices(prices: Iterable[ModelPrice]) -> Iterator[str]:
    """The prices as lines of CSV, in USD for a million units; tenants by slug, empty for the
    platform; times in UTC.
    """
    yield _line(COLUMNS)
    for price in prices:
        amounts = [price_text(getattr(price, kind)) for kind in KINDS]
        owner = price.tenant.slug if price.tenant else ""
        yield _line(
            [
                owner,
                price.model,
                price.match,
                price.precedence,
                _moment_text(price.valid_from),
                _moment_text(price.valid_until),
                *amounts,
                price.other_units,
                price.conditions,
            ]
        )


def _moment_text(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _line(values: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(values)
    return buffer.getvalue()


def import_prices(text: str, by: User | None) -> Imported:
    """Enter all prices of a CSV, or none: one that has the same list and beginning as a price that
    is there replaces it.

    Raises PriceListError with a line for each thing that is wrong.
    """
    rows = _rows(text)
    entered = replaced = unchanged = 0
    problems: list[str] = []
    with transaction.atomic():
        for number, price in rows:
            key = {
                "tenant": price.tenant_id,
                "model": price.model,
                "match": price.match,
                "precedence": price.precedence,
                "conditions": price.conditions,
            }
            known = ModelPrice.objects.filter(IN_LIST, valid_from=price.valid_from, **key).first()
            if known is not None and lists.same_price(known, price):
                unchanged += 1
                continue
            try:
                lists.record_price(price, by, replaces=known)
            except ValidationError as error:
                problems += [f"Line {number}: {message}" for message in _messages(error)]
                continue
            entered, replaced = entered + (known is None), replaced + (known is not None)
        if problems:
            transaction.set_rollback(True)
        else:
            lists.announce([price.model for _, price in rows])
    if problems:
        raise PriceListError(problems)
    return Imported(entered, replaced, unchanged)


def _messages(error: ValidationError) -> list[str]:
    if not hasattr(error, "error_dict"):
        return error.messages
    return [
        message if name == "__all__" else f"{name}: {message}"
        for name, found in error.message_dict.items()
        for message in found
    ]


def _rows(text: str) -> list[tuple[int, ModelPrice]]:
    if "\x00" in text:
        raise PriceListError(["There is a NUL in it, so it is no text: export it as CSV in UTF-8."])
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    problems: list[str] = []
    try:
        header = reader.fieldnames or []
        problems += [
            f"Line 1: the column “{name}” is unknown; the columns are {', '.join(COLUMNS)}."
            for name in header
            if name not in COLUMNS
        ]
        problems += [
            f"Line 1: the column “{name}” is missing." for name in REQUIRED if name not in header
        ]
        if problems:
            raise PriceListError(problems)
        tenants = {tenant.slug: tenant for tenant in Tenant.objects.all()}
        rows = []
        for line in reader:
            try:
                rows.append(
                    (
                        reader.line_num,
                        _price(
                            {name: (value or "").strip() for name, value in line.items() if name},
                            tenants,
                        ),
                    )
                )
            except ValueError as error:
                problems.append(f"Line {reader.line_num}: {error}")
    except csv.Error as error:
        raise PriceListError([f"Line {reader.line_num}: this is not CSV: {error}."]) from error
    if problems:
        raise PriceListError(problems)
    if not rows:
        raise PriceListError(
            [
                "There is no price in it: the first line names the columns,"
                " each other line is a price."
            ]
        )
    return rows


def _price(values: dict[str, str], tenants: dict[str, Tenant]) -> ModelPrice:
    slug = values.get("tenant", "")
    if slug and slug not in tenants:
        raise ValueError(
            f"tenant is “{slug}”, which is unknown; write a tenant's slug, or nothing for the whole"
            " platform."
        )
    return ModelPrice(
        tenant=tenants[slug] if slug else None,
        model=values["model"],
        match=_choice(values, "match", ModelPrice.Match.values),
        precedence=_choice(values, "precedence", ModelPrice.PrecedenceChoice.values),
        conditions=str(Conditions.parsed(values.get("conditions", ""))),
        valid_from=_moment(values, "valid_from"),
        valid_until=_moment(values, "valid_until") if values.get("valid_until") else None,
        **{kind: _amount(values, kind) for kind in KINDS},
        other_units=values.get("other_units", ""),
    )


def _choice(values: dict[str, str], name: str, choices: list[str]) -> str:
    value = values.get(name) or choices[0]
    if value not in choices:
        raise ValueError(f"{name} is “{value}”; write {' or '.join(choices)}.")
    return value


def _moment(values: dict[str, str], name: str) -> datetime:
    text = values[name]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{name} is “{text}”, which is no ISO date or time; write for example 2026-11-01 or"
            " 2026-11-01T12:00Z."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _amount(values: dict[str, str], name: str) -> Decimal | None:
    text = values.get(name, "")
    if not text:
        return None
    try:
        return per_million(text)
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from None
