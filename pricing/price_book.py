"""All that a calculation needs, in memory and dated (domain.md, Price). Pure; :mod:`pricing.book`
loads it.

Prices and rates are dated twice: when they hold, and when they were in the list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

from pricing.model_names import ALWAYS, Alias, ModelName, Reading, Span, readings, understand
from pricing.prices import LATEST, Assignment, Price, RateCard, TierRate

Cards = Sequence[tuple[datetime, datetime, RateCard]]


class ShippedBook(Protocol):
    """A state of the price book that the ``genai-prices`` package ships (pricing.shipped_book)."""

    @property
    def id(self) -> int | None: ...
    @property
    def recorded_at(self) -> datetime: ...
    @property
    def withdrawn_at(self) -> datetime: ...

    def card_at(
        self, name: ModelName, moment: datetime, terms: Mapping[str, str]
    ) -> RateCard | None:
        """The model's prices at a moment for calls of a context (pricing.conditions); None for an
        unknown model, and for calls that it has no price for.
        """

    def cards(self, name: ModelName, terms: Mapping[str, str]) -> Cards | None:
        """The model's prices from when until when, none for an unknown model; None where they
        change with the time of day.
        """

    def model_names(self) -> set[str]:
        """The names of the models that it knows; it knows more by pattern."""


@dataclass(frozen=True, slots=True)
class Repriced:
    """A period that an operator had priced anew, for one tenant or (without) all: with the list as
    it was at ``as_of``.
    """

    start: datetime
    end: datetime
    as_of: datetime
    tenant_id: UUID | None = None

    def covers(self, tenant_id: UUID | None, moment: datetime) -> bool:
        return self.start <= moment < self.end and self.tenant_id in (None, tenant_id)


@dataclass(frozen=True)
class PriceBook:
    """All prices, rates and assignments, withdrawn ones included.

    Rates and assignments are ordered newest first.
    """

    tenant_prices: Mapping[UUID, Sequence[Price]] = field(default_factory=dict)
    platform_prices: Sequence[Price] = ()
    shipped_books: Sequence[ShippedBook] = ()
    rates: Mapping[int, Sequence[TierRate]] = field(default_factory=dict)
    user_tiers: Mapping[UUID, Sequence[Assignment]] = field(default_factory=dict)
    tenant_tiers: Mapping[UUID, Sequence[Assignment]] = field(default_factory=dict)
    platform_tiers: Sequence[Assignment] = ()
    repriced: Sequence[Repriced] = ()
    aliases: Sequence[Alias] = ()
    loaded_at: datetime = LATEST

    def knowledge(self, known_at: datetime, tenant_id: UUID | None, moment: datetime) -> datetime:
        """As of when the list prices a trace of ``moment`` that was first priced at
        ``known_at``.
        """
        for one in self.repriced:
            if one.as_of > known_at and one.covers(tenant_id, moment):
                known_at = one.as_of
        return known_at

    def rate_for(
        self,
        user_id: UUID | None,
        tenant_id: UUID | None,
        moment: datetime,
        known_at: datetime = LATEST,
    ) -> TierRate | None:
        """The rate that held at ``moment``: of the user's tier, else the tenant's default, else the
        platform's; None without.
        """
        # A UUID is hashed and compared in Python, an integer is not: this is asked for each trace.
        assignment = None
        if user_id is not None and user_id.int in self._user_tiers:
            assignment = _held_at(self._user_tiers[user_id.int], moment, known_at)
        if assignment is None and tenant_id is not None and tenant_id.int in self._tenant_tiers:
            assignment = _held_at(self._tenant_tiers[tenant_id.int], moment, known_at)
        if assignment is None:
            assignment = _held_at(self.platform_tiers, moment, known_at)
        return (
            None
            if assignment is None
            else _held_at(self.rates.get(assignment.tier_id, ()), moment, known_at)
        )

    @property
    def connections(self) -> frozenset[int]:
        """Where some names mean something of their own."""
        return self._connections

    def readings(self, model: str, connection_id: int | None = None) -> list[Reading]:
        """What a name means, as the connection reads it, at all times; no two at once."""
        found = self._readings.get((model, connection_id))
        if found is None:
            mine = [one for one in self.aliases if one.connection_id in (None, connection_id)]
            found = self._readings[model, connection_id] = readings(model, mine)
        return found

    def model_names(self) -> set[str]:
        """The models that have a price of their own name in any list."""
        listed = [self.platform_prices, *self.tenant_prices.values()]
        names = {price.model for prices in listed for price in prices if not price.is_pattern}
        names.update(one.name for one in self.aliases if "*" not in one.name)
        return names.union(*(book.model_names() for book in self.shipped_books))

    def __post_init__(self) -> None:
        for name in ("user_tiers", "tenant_tiers"):
            object.__setattr__(
                self, f"_{name}", {key.int: tiers for key, tiers in getattr(self, name).items()}
            )
        connections = (one.connection_id for one in self.aliases)
        own = frozenset(one for one in connections if one is not None)
        object.__setattr__(self, "_connections", own)
        object.__setattr__(self, "_readings", {})

    _user_tiers: Mapping[int, Sequence[Assignment]] = field(init=False, repr=False, compare=False)
    _tenant_tiers: Mapping[int, Sequence[Assignment]] = field(init=False, repr=False, compare=False)
    _connections: frozenset[int] = field(init=False, repr=False, compare=False)
    _readings: dict[tuple[str, int | None], list[Reading]] = field(
        init=False, repr=False, compare=False
    )


def prices_for(
    prices: Iterable[Price], found: Iterable[Reading], terms: Mapping[str, str]
) -> list[Price]:
    """The prices for calls of a name and of a context, each within the time in which the name means
    its model: the name as it is written first, then as it is understood, a name before a pattern;
    then what asks for more of the call, what begins last, and what was entered last.
    """
    listed = list(prices)
    return [
        price
        for reading in found
        for one in _ranked(listed, reading.name, terms)
        if (price := _within(one, reading.span)) is not None
    ]


def _ranked(prices: Iterable[Price], name: ModelName, terms: Mapping[str, str]) -> list[Price]:
    ranked = [
        (rank, one)
        for one in prices
        if (rank := _rank(one, name)) is not None and one.conditions.fit(terms, name.region)
    ]
    ranked.sort(
        key=lambda pair: (
            -pair[0],
            pair[1].conditions.closeness,
            pair[1].valid_from,
            pair[1].recorded_at,
            pair[1].id,
        ),
        reverse=True,
    )
    return [one for _, one in ranked]


def _rank(price: Price, name: ModelName) -> int | None:
    """How closely the price's name is the model's, 0 as it is written; None where it isn't."""
    if not price.is_pattern:
        if price.model == name.written:
            return 0
        closeness = name.keys.get(understand(price.model).key)
        return None if closeness is None else 1 + closeness
    texts = name.written, name.model, name.base
    return next((PATTERN + at for at, text in enumerate(texts) if price.fits(text)), None)


PATTERN = 100
"""The rank of a pattern, after all names."""


def _within(price: Price, span: Span) -> Price | None:
    if span == ALWAYS:
        return price
    common = span.within(
        Span(price.valid_from, price.valid_until, price.recorded_at, price.withdrawn_at)
    )
    return None if common is None else replace(price, **common._asdict())


Dated = TypeVar("Dated", TierRate, Assignment)


def _held_at(dated: Sequence[Dated], moment: datetime, known_at: datetime) -> Dated | None:
    """Of what begins at different times, newest first, what held at ``moment`` by the list as it
    was at ``known_at``.
    """
    for one in dated:
        if one.valid_from <= moment and one.recorded_at <= known_at < one.withdrawn_at:
            return one
    return None
