"""How large amounts can sensibly be. What is larger is a mistake, and is refused on entry
(pricing.validators).

An amount is stored as a 64-bit integer (kluisz_analytics.scales), and so are the sums of a whole
platform's month: up to 9.2 million USD and 9.2 million million credits. These bounds leave room for
sums of very many amounts.
"""

from decimal import Decimal

LARGEST_CREDITS_PER_USD = Decimal(1_000_000)
LARGEST_MULTIPLIER = Decimal(100)
LARGEST_CREDITS_A_TRACE = Decimal(10_000_000)
"""Of a tier's minimum and maximum."""
LARGEST_CREDITS = Decimal(1_000_000_000)
"""Given at once, or each month, or as grace."""
LARGEST_USD_PER_MILLION = Decimal(500_000)
"""Half a dollar a token."""
LARGEST_USD_PER_MILLION_COUNTED = Decimal(5_000_000)
"""Five dollars for an image, a request, a search, a second, a page: the most that fits a column."""

LARGEST_TRACE_USD = Decimal(100_000)
LARGEST_TRACE_CREDITS = Decimal(100_000_000_000)
"""What comes to more than these two is not charged, whatever it was made of: it is set aside with
its reason (pricing.engine). The second is the first at the most credits a dollar.
"""
