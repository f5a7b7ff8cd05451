"""Numbers as people write them. Python also reads ``1_000`` as a number; a person who writes that
has slipped, so it is refused and not guessed at.
"""

from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.core.exceptions import ValidationError


def decimal_of(text: str) -> Decimal:
    """The number in a text. Raises ValueError for what is no number, naming it."""
    refuse_underscores(text)
    try:
        number = Decimal(text.strip())
    except InvalidOperation:
        raise ValueError(f"“{text}” is not a number.") from None
    if not number.is_finite():
        raise ValueError(f"“{text}” is not a number.")
    return number


def refuse_underscores(text: str) -> None:
    """Raises ValueError for a number with underscores."""
    if "_" in text:
        raise ValueError(f"“{text}” is not a number: write it without underscores.")


def checked(value: Any) -> Any:
    """The value of a field. Raises ValidationError for a number with underscores."""
    if isinstance(value, str):
        try:
            refuse_underscores(value)
        except ValueError as error:
            raise ValidationError(str(error), code="invalid") from error
    return value


class PlainDecimalField(forms.DecimalField):
    """A decimal number in a form."""

    # Django's own does the same; only its stubs say otherwise.
    def to_python(self, value: Any) -> Decimal | None:  # type: ignore[override]
        return super().to_python(checked(value))


class PlainIntegerField(forms.IntegerField):
    """An integer in a form."""

    def to_python(self, value: Any) -> int | None:
        return super().to_python(checked(value))
