"""Scaled integers: how money and credits are stored (kluisz_analytics.fields). Pure."""

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Annotated, NamedTuple

USD_PLACES = 12
CREDIT_PLACES = 6
LARGEST_SCALED = 2**63 - 1
LARGEST_DIGITS = 19
# Enough digits for every product of stored amounts, whatever the context of the caller.
EXACT = Context(prec=60)
QUANTUM = {places: Decimal(1).scaleb(-places) for places in (0, CREDIT_PLACES, USD_PLACES)}


class Written(NamedTuple):
    """With how many decimal places a decimal is written; one that is not rounded has no zeros at
    its end.
    """

    places: int
    is_rounded: bool = True


Usd = Annotated[Decimal, Written(USD_PLACES)]
Credits = Annotated[Decimal, Written(CREDIT_PLACES)]
Factor = Annotated[Decimal, Written(CREDIT_PLACES)]
"""What money is multiplied by: a rate, a markup."""


def to_scaled(value: Decimal | int, places: int) -> int:
    """The integer that stores ``value``; ValueError when it has more decimals than ``places`` or is
    too large.
    """
    scaled = Decimal(value).scaleb(places, EXACT)
    # The digits are counted first: a number with a million of them is refused without being written
    # out.
    integer = int(scaled) if scaled.adjusted() < LARGEST_DIGITS else LARGEST_SCALED + 1
    if abs(integer) > LARGEST_SCALED:
        raise ValueError(
            f"{value} is too large: at most {Decimal(LARGEST_SCALED).scaleb(-places):f} can be"
            " stored."
        )
    if integer != scaled:
        raise ValueError(f"{value} has more than {places} decimal places; round it first.")
    return integer


def from_scaled(stored: int, places: int) -> Decimal:
    """The decimal that ``stored`` stands for, with exactly ``places`` decimals."""
    return EXACT.scaleb(Decimal(stored), -places)


def round_half_up(value: Decimal, places: int) -> Decimal:
    """``value`` with ``places`` decimals (0, those of credits or those of USD), halves away from
    zero.
    """
    return value.quantize(QUANTUM[places], rounding=ROUND_HALF_UP, context=EXACT)
