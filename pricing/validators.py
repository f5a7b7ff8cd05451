"""What the fields of price lists, tiers and grants refuse."""

from decimal import Decimal

from django.core.validators import MaxValueValidator


def at_most(limit: Decimal) -> MaxValueValidator:
    """Refuses what is larger, naming both."""
    return MaxValueValidator(
        limit, message=f"%(show_value)s is too large: at most {limit:,f} is possible."
    )
