"""Price lists as CSV: out, in again, and refused line by line."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from pricing import lists
from pricing.models import IN_LIST, ModelPrice
from pricing.price_csv import Imported, PriceListError, export_prices, import_prices
from tests.conftest import People

pytestmark = pytest.mark.django_db
HEADER = "tenant,model,match,precedence,valid_from,valid_until,input,output\n"


def exported() -> str:
    return "".join(export_prices(ModelPrice.objects.filter(IN_LIST)))


def test_it_works(people: People) -> None:
    text = (
        HEADER
        + "acme,gpt-4o,,,2026-01-01,,2.5,10\n"
        + ',"llama-(3|4)",pattern,fallback,2026-01-01T12:00+02:00,2026-03-01,0.1,0.00000025\n'
    )
    assert import_prices(text, people.platform_admin) == Imported(2, 0, 0)
    pattern = ModelPrice.objects.get(match="pattern")
    assert (pattern.tenant, pattern.model, pattern.precedence) == (None, "llama-(3|4)", "fallback")
    assert (pattern.valid_from, pattern.valid_until) == (
        datetime(2026, 1, 1, 10, tzinfo=UTC),
        datetime(2026, 3, 1, tzinfo=UTC),
    )
    assert (pattern.output, pattern.recorded_by) == (Decimal("0.00000025"), people.platform_admin)


def test_what_is_exported_and_imported_again_changes_nothing(people: People) -> None:
    import_prices(
        HEADER
        + "acme,a,,,2026-01-01,,2.5,10\n"
        + ",b,,fallback,2026-01-01,,0.1,\n,b,,fallback,2026-02-01,,0.2,\n",
        None,
    )
    before = exported()
    assert import_prices(before, None) == Imported(0, 0, 3)
    assert exported() == before


def test_a_line_with_the_same_beginning_replaces(people: People) -> None:
    import_prices(HEADER + ",a,,,2026-01-01,,2.5,10\n", None)
    assert import_prices(HEADER + ",a,,,2026-01-01,,3,10\n,c,,,2026-01-01,,1,\n", None) == Imported(
        1, 1, 0
    )
    assert ModelPrice.objects.filter(IN_LIST, model="a").get().input == 3


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "Line 1: the column “model” is missing."),
        (HEADER, "no price in it"),
        (
            "model,valid_from,tokens\nm,2026-01-01,1\n",
            "Line 1: the column “tokens” is unknown; the columns are tenant, model",
        ),
        ("model,input\nm,1\n", "Line 1: the column “valid_from” is missing."),
        (HEADER + ",m,,,yesterday,,1,\n", "Line 2: valid_from is “yesterday”"),
        (
            HEADER + ",m,,,2026-01-01,,abc,\n",
            "Line 2: input is “abc”; write USD for a million units",
        ),
        (HEADER + ",m,,,2026-01-01,,NaN,\n", "Line 2: input is “NaN”"),
        (HEADER + ",m,,,2026-01-01,,-1,\n", "Line 2: input: -1 is not possible"),
        (HEADER + ",m,glob,,2026-01-01,,1,\n", "Line 2: match is “glob”; write exact or pattern."),
        (
            HEADER + ",m,,sometimes,2026-01-01,,1,\n",
            "Line 2: precedence is “sometimes”; write replaces or fallback.",
        ),
        (HEADER + "nobody,m,,,2026-01-01,,1,\n", "Line 2: tenant is “nobody”"),
        (HEADER + ",m(,pattern,,2026-01-01,,1,\n", "Line 2: model: “m(” is not a valid pattern"),
        (
            HEADER + ",m,,,2026-01-01,2025-01-01,1,\n",
            "Line 2: valid_until: 2025-01-01 00:00 is not after the beginning",
        ),
        (
            HEADER + ",m,,,2026-01-01,2026-03-01,1,\n,m,,,2026-02-01,,1,\n",
            "Line 3: “m” has a price from 2026-01-01 00:00 until",
        ),
        (HEADER + ',"m,,,2026', "this is not CSV"),
    ],
)
def test_what_is_wrong_is_said_by_line_and_nothing_is_entered(
    people: People, text: str, problem: str
) -> None:
    with pytest.raises(PriceListError) as refused:
        import_prices(text, None)
    assert problem in str(refused.value)
    assert not ModelPrice.objects.exists()


def test_all_problems_are_said_at_once(people: People) -> None:
    with pytest.raises(PriceListError) as refused:
        import_prices(HEADER + ",ok,,,2026-01-01,,1,\n,m,,,2026-01-01,,x,\n,m,,,never,,1,\n", None)
    assert len(refused.value.problems) == 2


def test_a_withdrawn_price_is_not_exported(people: People) -> None:
    import_prices(HEADER + ",a,,,2026-01-01,,2.5,10\n", None)
    lists.withdraw(ModelPrice.objects.get(), None)
    assert exported().count("\n") == 1
