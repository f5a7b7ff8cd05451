"""Prices as people write them: USD for a million units, or for so many."""

from decimal import Decimal

from kluisz_analytics.plain_numbers import decimal_of
from kluisz_analytics.scales import EXACT

MILLION = 1_000_000
FOR_HOW_MANY = {
    **dict.fromkeys(("1", "one", "each", "unit"), 1),
    **dict.fromkeys(("1000", "thousand", "k"), 1_000),
    **dict.fromkeys(("1000000", "million", "m"), MILLION),
}
EXAMPLES = "2.5, 10/thousand or 1.50/one"


def per_million(text: str) -> Decimal:
    """USD for a million units of ``2.5`` (for a million), ``10/thousand``, ``1.50/one``.

    Raises ValueError, naming the text, for what is none of these.
    """
    amount, sign, many = text.partition("/")
    times = FOR_HOW_MANY.get(many.strip().lower()) if sign else MILLION
    if times is not None:
        try:
            found = EXACT.multiply(decimal_of(amount), Decimal(MILLION // times))
            return Decimal(price_text(found))
        except ValueError:
            pass
    raise ValueError(f"“{text}”; write USD for a million units or for so many: {EXAMPLES}.")


def price_text(amount: Decimal | None) -> str:
    """An amount without trailing zeros; "" for none."""
    if amount is None:
        return ""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
