"""Numbers as people read them, in pages and in messages. Unknown is a dash, never 0."""

from collections.abc import Iterable
from decimal import Decimal

UNKNOWN = "–"
CENTS = 2
MOST_PLACES = 6


def counted(number: int, one: str, many: str = "") -> str:
    """1 → 1 trace; 1200 → 1,200 traces."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def usd(value: Decimal | None, places: int | None = None) -> str:
    """Dollars with cents; below ten cents with mills, below one with as many decimals as it takes
    to show something. In a column, with as many ``places`` as all of it (:func:`usd_places`).
    """
    if value is None:
        return UNKNOWN
    if places is not None:
        return _in_column(value, places, "$")
    if value and Decimal("0.01") <= abs(value) < Decimal("0.1"):
        return f"${value:.3f}"
    if value and abs(value) < Decimal("0.01"):
        return f"${value.quantize(Decimal('0.000001')).normalize():f}"
    return f"${value:,.2f}"


def credits(value: Decimal | None, places: int | None = None) -> str:
    """Credits with as many decimals as say something: none above a thousand, two above one, six
    below. In a column, with as many ``places`` as all of it (:func:`credit_places`).
    """
    if value is None:
        return UNKNOWN
    if places is not None:
        return _in_column(value, places)
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if not value:
        return "0"
    if abs(value) >= 1:
        return f"{value:,.2f}"
    return f"{value.quantize(Decimal('0.000001')).normalize():f}"


def exact(value: Decimal | None, places: int | None = None) -> str:
    """All digits that say something: 11.400000 → 11.4. In a column, with as many ``places`` as all
    of it (:func:`exact_places`).
    """
    if value is None:
        return UNKNOWN
    if places is not None:
        return f"{value:,.{places}f}"
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def usd_places(values: Iterable[Decimal | None]) -> int:
    """How many decimals a column of dollars has: cents, or where all are below a dollar, three
    digits of the greatest.
    """
    greatest = _greatest(values)
    return CENTS if greatest >= 1 or not greatest else _three_digits(greatest)


def credit_places(values: Iterable[Decimal | None]) -> int:
    """How many decimals a column of credits has: none where one is a thousand or more, two where
    one is at least one, else three digits of the greatest.
    """
    greatest = _greatest(values)
    if greatest >= 1000 or not greatest:
        return 0
    return 2 if greatest >= 1 else _three_digits(greatest)


def exact_places(values: Iterable[Decimal | None]) -> int:
    """How many decimals a column needs that shows every digit of each."""
    texts = [exact(value) for value in values if value is not None]
    return max((len(text.partition(".")[2]) for text in texts), default=0)


def percent_of(part: Decimal, whole: Decimal) -> str:
    """How much of the whole a part is, in whole percent, rounded down: 99.6 of 100 is not yet
    100%.
    """
    return f"{int(part * 100 / whole):,}%"


def _greatest(values: Iterable[Decimal | None]) -> Decimal:
    return max((abs(value) for value in values if value is not None), default=Decimal(0))


def _three_digits(value: Decimal) -> int:
    """So many places show three digits of a number below one, as far as that goes."""
    return min(MOST_PLACES, 2 - value.adjusted())


def _in_column(value: Decimal, places: int, sign: str = "") -> str:
    """With so many decimals; what would look like nothing is told to be less than the least."""
    least = Decimal(1).scaleb(-places)
    if value and abs(value) < least / 2:
        return f"> -{sign}{least:f}" if value < 0 else f"< {sign}{least:f}"
    return f"{'-' if value < 0 else ''}{sign}{abs(value):,.{places}f}"
