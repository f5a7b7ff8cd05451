"""The pricing engine: pure and typed, with no query in it (domain.md, Price).

``cost_of`` finds what one observation cost and where that figure came from; ``charge_for`` turns a trace's cost into what is
billed and into credits. Decimal throughout; credits are rounded once for each trace, half up, to six places.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from re import Pattern
from typing import NamedTuple, TypeVar
from uuid import UUID

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, round_half_up
from pricing.units import UnitKind, units_of

MILLION = Decimal(1_000_000)
ZERO = Decimal(0)


class CostSource(StrEnum):
    """Where a cost came from, in the order in which they apply."""

    TENANT_PRICE = "tenant_price"
    PLATFORM_PRICE = "platform_price"
    LANGFUSE = "langfuse"
    FALLBACK_PRICE = "fallback_price"
    PRICE_BOOK = "price_book"
    UNPRICED = "unpriced"
    NO_USAGE = "no_usage"


class Precedence(StrEnum):
    """Whether a platform's price goes before or after the cost that Langfuse has computed."""

    REPLACES = "replaces"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Price:
    """A model's price from one moment to another, in USD for a million units of each kind.

    A kind without a price of its own is charged as its plain kind: cached input and cache writes as input, reasoning as output.
    """

    id: int
    pattern: Pattern[str]
    valid_from: datetime
    valid_until: datetime | None
    usd_per_million: Mapping[UnitKind, Decimal]
    precedence: Precedence = Precedence.REPLACES

    def is_for(self, model: str) -> bool:
        return self.pattern.fullmatch(model) is not None

    def holds_at(self, moment: datetime) -> bool:
        return self.valid_from <= moment and (self.valid_until is None or moment < self.valid_until)

    def cost(self, units: Mapping[UnitKind, int]) -> Decimal:
        """USD for the units, at twelve places."""
        total = sum((count * self._unit_price(kind) for kind, count in units.items()), ZERO)
        return round_half_up(total / MILLION, USD_PLACES)

    def _unit_price(self, kind: UnitKind) -> Decimal:
        own = self.usd_per_million.get(kind)
        if own is not None:
            return own
        return self.usd_per_million.get(PLAIN_KIND[kind], ZERO)


PLAIN_KIND = {
    UnitKind.INPUT: UnitKind.INPUT,
    UnitKind.CACHED_INPUT: UnitKind.INPUT,
    UnitKind.CACHE_WRITE: UnitKind.INPUT,
    UnitKind.INPUT_AUDIO: UnitKind.INPUT,
    UnitKind.OUTPUT: UnitKind.OUTPUT,
    UnitKind.REASONING: UnitKind.OUTPUT,
    UnitKind.OUTPUT_AUDIO: UnitKind.OUTPUT,
}


@dataclass(frozen=True, slots=True)
class TierRate:
    """A tier's rate from one moment on."""

    id: int
    valid_from: datetime
    credits_per_usd: Decimal
    pricing_multiplier: Decimal
    minimum_credits: Decimal | None = None
    maximum_credits: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Assignment:
    """A tier given to a user, a tenant or the platform from one moment on."""

    valid_from: datetime
    tier_id: int


BookPrice = Callable[[str, Mapping[UnitKind, int], datetime], Decimal | None]


Dated = TypeVar("Dated", TierRate, Assignment)


def _held_at(dated: Sequence[Dated], moment: datetime) -> Dated | None:
    """Of what begins at different times, newest first, what held at ``moment``."""
    for one in dated:
        if one.valid_from <= moment:
            return one
    return None


@dataclass(frozen=True)
class PriceBook:
    """All prices, rates and assignments that a calculation needs. Every sequence is ordered newest first.

    A book never changes, so it remembers which of its prices are for which model.
    """

    tenant_prices: Mapping[UUID, Sequence[Price]] = field(default_factory=dict)
    platform_prices: Sequence[Price] = ()
    shipped_price: BookPrice | None = None
    rates: Mapping[int, Sequence[TierRate]] = field(default_factory=dict)
    user_tiers: Mapping[UUID, Sequence[Assignment]] = field(default_factory=dict)
    tenant_tiers: Mapping[UUID, Sequence[Assignment]] = field(default_factory=dict)
    platform_tiers: Sequence[Assignment] = ()
    _by_model: dict[tuple[UUID | None, str], tuple[Price, ...]] = field(default_factory=dict, compare=False, repr=False)

    def price_for(self, tenant_id: UUID | None, model: str, moment: datetime, precedence: Precedence | None = None) -> Price | None:
        """A tenant's own price for the model at ``moment``, or (without a tenant) the platform's of this precedence."""
        key = tenant_id, model
        prices = self._by_model.get(key)
        if prices is None:
            listed = self.platform_prices if tenant_id is None else self.tenant_prices.get(tenant_id, ())
            prices = self._by_model[key] = tuple(price for price in listed if model and price.is_for(model))
        for price in prices:
            if (precedence is None or price.precedence == precedence) and price.holds_at(moment):
                return price
        return None

    def rate_for(self, user_id: UUID | None, tenant_id: UUID | None, moment: datetime) -> TierRate | None:
        """The rate that held at ``moment``: of the user's tier, else the tenant's default, else the platform's; None without."""
        user_tiers = self.user_tiers.get(user_id) if user_id and self.user_tiers else None
        assignment = _held_at(user_tiers, moment) if user_tiers else None
        if assignment is None and tenant_id and self.tenant_tiers:
            assignment = _held_at(self.tenant_tiers.get(tenant_id, ()), moment)
        if assignment is None:
            assignment = _held_at(self.platform_tiers, moment)
        return None if assignment is None else _held_at(self.rates.get(assignment.tier_id, ()), moment)


class Cost(NamedTuple):
    """What an observation cost. ``cost_usd`` is None when it is unknown, never 0 for unknown."""

    cost_usd: Decimal | None
    source: CostSource
    price_id: int | None = None


NO_USAGE = Cost(ZERO, CostSource.NO_USAGE)
UNPRICED = Cost(None, CostSource.UNPRICED)


def cost_of(
    book: PriceBook,
    *,
    tenant_id: UUID | None,
    model: str,
    usage_details: Mapping[str, int],
    langfuse_cost_usd: Decimal | None,
    started_at: datetime,
) -> Cost:
    """The cost of one observation: the first source that applies (domain.md, Price)."""
    if not usage_details and langfuse_cost_usd is None:
        return NO_USAGE
    own_price = book.price_for(tenant_id, model, started_at) if tenant_id is not None and book.tenant_prices else None
    replacing_price = book.price_for(None, model, started_at, Precedence.REPLACES) if book.platform_prices else None
    if langfuse_cost_usd is not None and own_price is None and replacing_price is None:
        return Cost(langfuse_cost_usd, CostSource.LANGFUSE)
    units = units_of(usage_details)
    if units and own_price is not None:
        return Cost(own_price.cost(units), CostSource.TENANT_PRICE, own_price.id)
    if units and replacing_price is not None:
        return Cost(replacing_price.cost(units), CostSource.PLATFORM_PRICE, replacing_price.id)
    if langfuse_cost_usd is not None:
        return Cost(langfuse_cost_usd, CostSource.LANGFUSE)
    if not units:
        return UNPRICED if any(usage_details.values()) else NO_USAGE
    price = book.price_for(None, model, started_at, Precedence.FALLBACK)
    if price is not None:
        return Cost(price.cost(units), CostSource.FALLBACK_PRICE, price.id)
    cost_usd = book.shipped_price(model, units, started_at) if model and book.shipped_price is not None else None
    return UNPRICED if cost_usd is None else Cost(cost_usd, CostSource.PRICE_BOOK)


class Charge(NamedTuple):
    """What a trace is billed: USD at twelve places and credits at six; both None where the cost or the tier is unknown."""

    billed_cost_usd: Decimal | None
    credits: Decimal | None
    rate_id: int | None = None


def charge_for(cost_usd: Decimal | None, rate: TierRate | None) -> Charge:
    """A trace's charge: cost × multiplier × credits a dollar, then the minimum and the maximum, rounded once, half up."""
    if rate is None:
        return Charge(None, None)
    if cost_usd is None:
        return Charge(None, None, rate.id)
    billed = cost_usd * rate.pricing_multiplier
    credits = billed * rate.credits_per_usd
    if rate.minimum_credits is not None:
        credits = max(credits, rate.minimum_credits)
    if rate.maximum_credits is not None:
        credits = min(credits, rate.maximum_credits)
    return Charge(round_half_up(billed, USD_PLACES), round_half_up(credits, CREDIT_PLACES), rate.id)


def split(amount: Decimal, weights: Sequence[Decimal], places: int) -> list[Decimal]:
    """``amount`` in parts proportional to ``weights``, each with ``places`` decimals; the parts sum to it exactly.

    Equal parts, cumulatively rounded, where all weights are 0. Used to tell a trace's credits apart by model.
    """
    total = sum(weights, ZERO)
    if not total:
        weights, total = [Decimal(1)] * len(weights), Decimal(len(weights))
    parts, given, seen = [], ZERO, ZERO
    for weight in weights:
        seen += weight
        reached = amount if seen == total else round_half_up(amount * seen / total, places)
        parts.append(reached - given)
        given = reached
    return parts
