"""Exact decimals that sum exactly on every database.

SQLite has no decimal type: what Django's DecimalField stores there is a float as soon as SQL adds
it up. Money and credits are therefore stored as integers, scaled by their decimal places, on both
databases: sums are exact, comparisons are exact, and PostgreSQL adds integers several times faster
than numerics. Python only ever sees Decimal.

Range: 18 digits in all, so up to 9.2 million USD (12 places) or 9.2 million million credits (6
places) in one row.
"""

from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models
from django.db.backends.base.base import BaseDatabaseWrapper

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled, to_scaled


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
