"""A model's price for its units: pure, exact, in integers (domain.md, Price).

Amounts are scaled integers, as they are stored: ``picousd`` is a millionth of a millionth of a
dollar.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, NamedTuple

from kluisz_analytics.scales import EXACT, USD_PLACES, Usd, Written, from_scaled, to_scaled
from pricing.conditions import UNCONDITIONAL, Conditions
from pricing.units import (
    BESIDE_TOKENS,
    COUNTED_AS,
    FREE_WITHOUT_PRICE,
    INPUT_KINDS,
    PLAIN_KIND,
    SEARCHES,
    UnitKind,
    units_named,
    units_of,
)

MILLION = 1_000_000
EVER = datetime.min.replace(tzinfo=UTC)
NEVER = datetime.max.replace(tzinfo=UTC)
LATEST = NEVER - timedelta(days=1)
"""As of then, whatever is in a list now."""


class Precedence(StrEnum):
    """Whether a platform's price goes before or after the cost that Langfuse has computed."""

    REPLACES = "replaces"
    FALLBACK = "fallback"


class LineItem(NamedTuple):
    """One kind of unit in a cost: USD for a million of it, and what the units come to, not
    rounded.
    """

    kind: UnitKind
    units: int
    usd_per_million: Usd
    amount_usd: Annotated[Decimal, Written(2 * USD_PLACES, is_rounded=False)]


def half_up(numerator: int, denominator: int) -> int:
    """The quotient of two integers, halves upward; the numerator is not negative."""
    return (2 * numerator + denominator) // (2 * denominator)


@dataclass(frozen=True)
class RateCard:
    """USD for a million units of each kind, scaled to twelve places.

    A kind without a price of its own is charged as its plain kind (PLAIN_KIND). ``long_context``:
    prices of all units of a request with more than so many input tokens, the highest threshold
    first, as some providers have them. ``above_input_tokens``: for requests with more than so many
    only. ``other_units``: which names of units, of those that nobody knows, ``OTHER`` is of.
    """

    usd_per_million: Mapping[UnitKind, int]
    long_context: Sequence[tuple[int, Mapping[UnitKind, int]]] = ()
    above_input_tokens: int = -1
    other_units: str = ""

    @classmethod
    def of(cls, usd_per_million: Mapping[UnitKind, Decimal], **more: Any) -> "RateCard":
        scaled = {kind: to_scaled(price, USD_PLACES) for kind, price in usd_per_million.items()}
        return cls(scaled, **more)

    def of_tokens(self, percent: int) -> "RateCard":
        """Tokens at so many percent, and all else as it is."""

        def share(prices: Mapping[UnitKind, int]) -> dict[UnitKind, int]:
            return {
                kind: half_up(price * percent, 100) if kind in COUNTED_AS else price
                for kind, price in prices.items()
            }

        longer = tuple((above, share(prices)) for above, prices in self.long_context)
        return replace(self, usd_per_million=share(self.usd_per_million), long_context=longer)

    def units_of(self, usage_details: Mapping[str, int]) -> dict[UnitKind, int]:
        """The units of a usage map, by the kinds that the card has."""
        units = units_of(usage_details)
        if self.other_units and (others := units_named(usage_details, self.other_units)):
            units[UnitKind.OTHER] = others
        return units

    def rate(self, kind: UnitKind, prices: Mapping[UnitKind, int] | None = None) -> int | None:
        """The kind's price for a million units; None where neither it nor its plain kind has
        one.
        """
        prices = self.usd_per_million if prices is None else prices
        asked: UnitKind | None = kind
        while asked is not None:
            if asked in prices:
                return prices[asked]
            asked = PLAIN_KIND.get(asked)
        return None

    def picousd(self, units: Mapping[UnitKind, int]) -> int | None:
        """What the units cost, rounded once, half up; None where a kind has no price: unknown is
        never 0.

        A request costs nothing where it has no price; one is counted where the usage counts none.
        """
        prices = self._prices_for(units)
        if prices is None:
            return None
        total = 0 if UnitKind.REQUEST in units else prices.get(UnitKind.REQUEST, 0)
        for kind, count in units.items():
            rate = self.rate(kind, prices)
            if rate is None and not _is_included(kind, units, prices):
                return None
            total += count * (rate or 0)
        return half_up(total, MILLION)

    def picousd_of_part(
        self, part: Mapping[UnitKind, int], units: Mapping[UnitKind, int]
    ) -> int | None:
        """What a part of a call's ``units`` costs, at the prices of the whole call, without a
        request's; None where a kind of it has no price.
        """
        prices = self._prices_for(units)
        if prices is None:
            return None
        rates = [self.rate(kind, prices) for kind in part]
        if None in rates:
            return None
        total = sum((rate or 0) * count for rate, count in zip(rates, part.values(), strict=True))
        return half_up(total, MILLION)

    def line_items(self, units: Mapping[UnitKind, int]) -> list[LineItem]:
        """The line items of ``units``, all of which have a price; they sum to the cost before it is
        rounded.
        """
        if UnitKind.REQUEST in units or UnitKind.REQUEST not in (self._prices_for(units) or {}):
            return self.line_items_of_part(units, units)
        return self.line_items_of_part({**units, UnitKind.REQUEST: 1}, units)

    def line_items_of_part(
        self, counted: Mapping[UnitKind, int], units: Mapping[UnitKind, int]
    ) -> list[LineItem]:
        """The line items of a part of a call's ``units`` (:meth:`picousd_of_part`)."""
        prices = self._prices_for(units)
        items = []
        for kind, count in counted.items():
            price = from_scaled(self.rate(kind, prices) or 0, USD_PLACES)
            items.append(
                LineItem(
                    kind,
                    count,
                    price,
                    EXACT.divide(EXACT.multiply(price, Decimal(count)), Decimal(MILLION)),
                )
            )
        return items

    def _prices_for(self, units: Mapping[UnitKind, int]) -> Mapping[UnitKind, int] | None:
        """None where they are not for a request of this length."""
        if not self.long_context and self.above_input_tokens < 0:
            return self.usd_per_million
        input_tokens = sum(count for kind, count in units.items() if kind in INPUT_KINDS)
        if input_tokens <= self.above_input_tokens:
            return None
        return self.prices_beyond(input_tokens)

    def prices_beyond(self, input_tokens: int) -> Mapping[UnitKind, int]:
        """The prices of a request with so many input tokens."""
        for threshold, prices in self.long_context:
            if input_tokens > threshold:
                return prices
        return self.usd_per_million


def _is_included(
    kind: UnitKind, units: Mapping[UnitKind, int], prices: Mapping[UnitKind, int]
) -> bool:
    """Whether units of a kind without a price cost nothing more: in what the others cost."""
    if kind in FREE_WITHOUT_PRICE:
        return True
    if kind in SEARCHES:
        return UnitKind.REQUEST in prices
    return kind in BESIDE_TOKENS and not units.keys().isdisjoint(COUNTED_AS)


@dataclass(frozen=True)
class Price:
    """A model's price from one moment to another, and from when until when it was in the list
    (``recorded_at``, ``withdrawn_at``).

    ``model`` is an exact name, or with ``is_pattern`` a regular expression that the whole name has
    to match. ``conditions``: of which calls it is; how long they are, its card says.
    """

    id: int
    model: str
    card: RateCard
    valid_from: datetime = EVER
    valid_until: datetime = NEVER
    precedence: Precedence = Precedence.REPLACES
    is_pattern: bool = False
    recorded_at: datetime = EVER
    withdrawn_at: datetime = NEVER
    conditions: Conditions = UNCONDITIONAL

    def fits(self, model: str) -> bool:
        """Whether its pattern is for the name."""
        return bool(model) and self._pattern.fullmatch(model) is not None

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(self.model)


@dataclass(frozen=True)
class TierRate:
    """A tier's rate from one moment on, and from when until when it was recorded."""

    id: int
    valid_from: datetime
    credits_per_usd: Decimal
    pricing_multiplier: Decimal
    minimum_credits: Decimal | None = None
    maximum_credits: Decimal | None = None
    recorded_at: datetime = EVER
    withdrawn_at: datetime = NEVER
    charges_failed_runs: bool = True
    scaled: tuple[int, int, int | None, int | None] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        limits = [
            None if limit is None else to_scaled(limit, RATE_PLACES)
            for limit in (self.minimum_credits, self.maximum_credits)
        ]
        factors = (
            to_scaled(self.pricing_multiplier, RATE_PLACES),
            to_scaled(self.credits_per_usd, RATE_PLACES),
        )
        object.__setattr__(self, "scaled", (*factors, *limits))


RATE_PLACES = 6
"""Decimals of multipliers, of credits a dollar and of credits."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A tier given to a user, a tenant or the platform from one moment on, and from when until when
    that was recorded.
    """

    valid_from: datetime
    tier_id: int
    recorded_at: datetime = EVER
    withdrawn_at: datetime = NEVER
