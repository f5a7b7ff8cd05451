"""All that a calculation needs, in memory and dated (domain.md, Price). Pure; :mod:`pricing.book`
loads it.

Prices and rates are dated twice: when they hold, and when they were in the list.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeVar
from uuid import UUID

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

    def card_at(self, model: str, moment: datetime) -> RateCard | None:
        """The model's prices at a moment; None for an unknown model."""

    def cards(self, model: str) -> Cards | None:
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

    def model_names(self) -> set[str]:
        """The models that have a price of their own name in any list."""
        listed = [self.platform_prices, *self.tenant_prices.values()]
        names = {price.model for prices in listed for price in prices if not price.is_pattern}
        return names.union(*(book.model_names() for book in self.shipped_books))

    def __post_init__(self) -> None:
        for name in ("user_tiers", "tenant_tiers"):
            object.__setattr__(
                self, f"_{name}", {key.int: tiers for key, tiers in getattr(self, name).items()}
            )

    _user_tiers: Mapping[int, Sequence[Assignment]] = field(init=False, repr=False, compare=False)
    _tenant_tiers: Mapping[int, Sequence[Assignment]] = field(init=False, repr=False, compare=False)


Dated = TypeVar("Dated", TierRate, Assignment)


def _held_at(dated: Sequence[Dated], moment: datetime, known_at: datetime) -> Dated | None:
    """Of what begins at different times, newest first, what held at ``moment`` by the list as it
    was at ``known_at``.
    """
    for one in dated:
        if one.valid_from <= moment and one.recorded_at <= known_at < one.withdrawn_at:
            return one
    return None
