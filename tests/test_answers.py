"""Answers follow from the classes that they show (kluisz_analytics.answers)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints
from uuid import UUID

import pytest
from rest_framework import serializers

from kluisz_analytics.answers import Answer, field_of
from kluisz_analytics.scales import Credits, Usd, Written
from usage.measures import DECLARED_NUMBERS, PLACES, Numbers

MOMENT = datetime(2026, 11, 1, 12, tzinfo=UTC)


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


class Item(NamedTuple):
    """An item of an order."""

    amount_usd: Usd
    color: Color


class ItemAnswer(Answer):
    shows = Item


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody ordered."""

    secret: str
    items: Sequence[Item]
    first: Item | None
    total: int
    note: str = ""


class OrderAnswer(Answer):
    shows = Order
    leaves_out = ["secret"]
    total = serializers.CharField()
    order_id = serializers.IntegerField()


@pytest.mark.parametrize(
    ("kind", "value", "answered"),
    [
        (Usd, Decimal("1.5"), "1.500000000000"),
        (Credits, Decimal("1.5"), "1.500000"),
        (Usd | None, None, None),
        (Annotated[Decimal, Written(24, is_rounded=False)], Decimal("10000.50"), "10000.5"),
        (Color, Color.RED, "red"),
        (Literal["", "minimum"], "", ""),
        (int | None, 3, 3),
        (float, 0.5, 0.5),
        (bool, True, True),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (date, MOMENT.date(), "2026-11-01"),
        (datetime, MOMENT, "2026-11-01T12:00:00Z"),
        (dict[str, int], {"a": 1}, {"a": 1}),
    ],
)
def test_a_value_is_answered_as_its_type_says(kind: Any, value: Any, answered: Any) -> None:
    field = field_of(kind)
    assert field.allow_null is (type(None) in get_args(kind))
    assert (None if value is None else field.to_representation(value)) == answered


@pytest.mark.parametrize("kind", [Decimal, Any, object, int | str, list[Order | None], set[int]])
def test_a_type_that_says_too_little_is_refused(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"^How is .* answered"):
        field_of(kind)


def test_what_is_added_comes_first_and_what_is_declared_replaces() -> None:
    order = {
        "order_id": 7,
        "items": [Item(Decimal(1), Color.RED)],
        "first": None,
        "total": 3,
        "note": "",
    }
    answer = OrderAnswer(order).data
    assert list(answer) == ["order_id", "items", "first", "total", "note"]
    assert answer["items"] == [{"amount_usd": "1.000000000000", "color": "red"}]
    assert (answer["first"], answer["total"]) == (None, "3")


def test_every_field_is_required_though_the_class_has_defaults() -> None:
    assert all(field.required for field in OrderAnswer().fields.values())


def test_it_is_described_by_the_class_that_it_shows() -> None:
    assert OrderAnswer.__doc__ == "What somebody ordered."


def test_a_numbers_type_has_the_places_of_its_unit() -> None:
    for name, kind in get_type_hints(Numbers, include_extras=True).items():
        written = [
            one.places
            for of in (kind, *get_args(kind))
            for one in getattr(of, "__metadata__", ())
            if isinstance(one, Written)
        ]
        places = PLACES.get(DECLARED_NUMBERS[name].unit)
        assert written == ([] if places is None else [places]), name
