"""Exact decimals that sum exactly on every database.

SQLite has no decimal type: what Django's DecimalField stores there is a float as soon as SQL adds
it up. Money and credits are therefore stored as integers, scaled by their decimal places, on both
databases: sums are exact, comparisons are exact, and PostgreSQL adds integers several times faster
than numerics. Python only ever sees Decimal.

Range: 18 digits in all, so up to 9.2 million USD (12 places) or 9.2 million million credits (6
places) in one row.
"""

from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

USD_PLACES = 12
CREDIT_PLACES = 6
LARGEST_SCALED = 2**63 - 1
LARGEST_DIGITS = 19
# Enough digits for every product of stored amounts, whatever the context of the caller.
EXACT = Context(prec=60)
QUANTUM = {places: Decimal(1).scaleb(-places) for places in (0, CREDIT_PLACES, USD_PLACES)}


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


class ExactDecimalField(models.DecimalField):
    """A DecimalField kept as a scaled 64-bit integer; ``max_digits`` is 18 unless given."""

    decimal_places: int

    def __init__(
        self,
        verbose_name: str | None = None,
        *,
        decimal_places: int,
        max_digits: int = 18,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            verbose_name, max_digits=max_digits, decimal_places=decimal_places, **kwargs
        )

    def get_internal_type(self) -> str:
        return "BigIntegerField"

    def from_db_value(
        self, value: Any, expression: Any, connection: BaseDatabaseWrapper
    ) -> Decimal | None:
        return None if value is None else from_scaled(value, self.decimal_places)

    def get_db_prep_value(
        self, value: Any, connection: BaseDatabaseWrapper, prepared: bool = False
    ) -> int | None:
        if value is None or hasattr(value, "as_sql"):
            return value
        decimal_value = self.to_python(value)
        if decimal_value is None:
            return None
        return to_scaled(decimal_value, self.decimal_places)

    def get_db_prep_save(self, value: Any, connection: BaseDatabaseWrapper) -> Any:
        return self.get_db_prep_value(value, connection)

    def get_prep_value(self, value: Any) -> Any:
        return self.to_python(value)

    def run_validators(self, value: Any) -> None:
        super().run_validators(value)
        if value is not None:
            try:
                to_scaled(value, self.decimal_places)
            except ValueError as error:
                raise ValidationError(str(error), code="out_of_range") from error


class UsdField(ExactDecimalField):
    """US dollars with twelve decimals (domain.md, Price)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["decimal_places"] = USD_PLACES
        super().__init__(*args, **kwargs)


class CreditsField(ExactDecimalField):
    """Credits with six decimals (domain.md, Price)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["decimal_places"] = CREDIT_PLACES
        super().__init__(*args, **kwargs)
