"""Numbers formatted for people."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from usage.templatetags import figures

D = Decimal


@pytest.mark.parametrize(
    ("show", "value", "text"),
    [
        (figures.count, 1234567, "1,234,567"),
        (figures.count, None, "–"),
        (figures.compact, 9999, "9,999"),
        (figures.compact, 44_800_000, "44.8M"),
        (figures.compact, 4_334_561, "4.33M"),
        (figures.compact, 203_400, "203k"),
        (figures.usd, D("91.335884350000"), "$91.34"),
        (figures.usd, D("0"), "$0.00"),
        (figures.usd, D("0.055961"), "$0.056"),
        (figures.usd, D("0.0006"), "$0.0006"),
        (figures.usd, None, "–"),
        (figures.credits, D("33214.507193"), "33,215"),
        (figures.credits, D("11.4"), "11.40"),
        (figures.credits, D("0.114"), "0.114"),
        (figures.credits, D("0"), "0"),
        (figures.credits, D("-5.5"), "-5.50"),
        (figures.duration, 840, "840 ms"),
        (figures.duration, 2163.2, "2.2 s"),
        (figures.duration, 95_000, "1 min 35 s"),
        (figures.percent, 0.988, "98.8%"),
        (figures.percent, 1, "100.0%"),
        (figures.percent, 0.99999, "> 99.9%"),
        (figures.percent, None, "–"),
        (figures.width, 0.5, "50.00%"),
        (figures.width, None, "0.00%"),
    ],
)
def test_a_number_is_shown_as_people_write_it(
    show: Callable[[Any], str], value: Any, text: str
) -> None:
    assert show(value) == text


@pytest.mark.parametrize(
    ("figure", "values", "texts"),
    [
        ("usd", ["1234.5", "0.056", "0.0004", None], ["$1,234.50", "$0.06", "< $0.01", "–"]),
        ("usd", ["0.0584", "0.0006", "0"], ["$0.0584", "$0.0006", "$0.0000"]),
        ("usd", ["-2", "-0.001"], ["-$2.00", "> -$0.01"]),
        ("credits", ["33214.507", "11.4", "0.114"], ["33,215", "11", "< 1"]),
        ("credits", ["11.4", "0.114", "0"], ["11.40", "0.11", "0.00"]),
        ("credits", ["0.459088", "0.01"], ["0.459", "0.010"]),
        ("exact", ["0.00467", "1200", "11.400000"], ["0.00467", "1,200.00000", "11.40000"]),
        ("exact", [], []),
    ],
)
def test_a_column_has_one_number_of_decimals_and_nothing_looks_like_nothing(
    figure: str, values: list[str | None], texts: list[str]
) -> None:
    amounts = [None if value is None else D(value) for value in values]
    rows = [{"cost": {"usd": amount}} for amount in amounts]
    places = figures.decimals(rows, "cost.usd", figure)
    write = {"usd": figures.usd, "credits": figures.credits, "exact": figures.exact}[figure]
    assert [write(amount, places) for amount in amounts] == texts


def test_a_change_is_a_badge() -> None:
    assert figures.change(None, "than yesterday") == ""
    assert "kz-bad" in str(figures.change(0.25, "than yesterday", "bad"))
    badge = str(figures.change(-0.5, "than yesterday until 14:00"))
    assert "▼ 50%" in badge
    assert 'title="50% less than yesterday until 14:00"' in badge
