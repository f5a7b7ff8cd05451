"""Numbers as people read them, in pages and in messages. Unknown is a dash, never 0."""

from decimal import Decimal

UNKNOWN = "–"


def counted(number: int, one: str, many: str = "") -> str:
    """1 → 1 trace; 1200 → 1,200 traces."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def usd(value: Decimal | None) -> str:
    """Dollars with cents; below ten cents with mills, below one with as many decimals as it takes
    to show something.
    """
    if value is None:
        return UNKNOWN
    if value and Decimal("0.01") <= abs(value) < Decimal("0.1"):
        return f"${value:.3f}"
    if value and abs(value) < Decimal("0.01"):
        return f"${value.quantize(Decimal('0.000001')).normalize():f}"
    return f"${value:,.2f}"


def credits(value: Decimal | None) -> str:
    """Credits with as many decimals as say something: none above a thousand, two above one, six
    below.
    """
    if value is None:
        return UNKNOWN
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if not value:
        return "0"
    if abs(value) >= 1:
        return f"{value:,.2f}"
    return f"{value.quantize(Decimal('0.000001')).normalize():f}"


def exact(value: Decimal | None) -> str:
    """All digits that say something: 11.400000 → 11.4."""
    if value is None:
        return UNKNOWN
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
