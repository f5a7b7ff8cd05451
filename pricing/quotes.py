"""Prices made ready for usage of one model and one shape, so that pricing an observation is a sum
of products. Pure.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import partial
from operator import mul
from typing import NamedTuple

from pricing.model_names import ModelName, Reading, Span
from pricing.price_book import ShippedBook, prices_for
from pricing.prices import EVER, MILLION, NEVER, Price, RateCard
from pricing.units import INPUT_KINDS, Shape, UnitKind, stands_as_it_is

HALF = MILLION // 2
Amount = Callable[[Mapping[str, int]], int | None]
"""What a usage map costs (picousd); None where it has no units, or one without a price.

Raises TypeError for a count that is no integer.
"""


class CostSource(StrEnum):
    """Where a cost came from, in the order in which they apply."""

    TENANT_PRICE = "tenant_price"
    PLATFORM_PRICE = "platform_price"
    LANGFUSE = "langfuse"
    LANGFUSE_AND_PRICE = "langfuse_and_price"
    """Langfuse's cost is of some of the units; the others have a price of ours."""
    LANGFUSE_AND_BOOK = "langfuse_and_book"
    """The same, with the shipped price book's."""
    FALLBACK_PRICE = "fallback_price"
    PRICE_BOOK = "price_book"
    PARTLY_PRICED = "partly_priced"
    """Langfuse's cost is of some of the units, and nobody has a price for the others."""
    UNPRICED = "unpriced"
    UNMETERED = "unmetered"
    """A call of a model that says neither what it used nor what it cost."""
    NO_USAGE = "no_usage"


NOT_PRICED = frozenset(
    {CostSource.PARTLY_PRICED, CostSource.UNPRICED, CostSource.UNMETERED, CostSource.NO_USAGE}
)
"""Sources that are no whole cost."""


class Quote(NamedTuple):
    """A price that may apply to usage of one shape: what it comes to, when it holds, and when it
    was in the list.
    """

    valid_from: datetime
    valid_until: datetime
    recorded_at: datetime
    withdrawn_at: datetime
    source: CostSource
    price_id: int | None
    amount: Amount | None
    """None where the prices change with the time of day: ``amount_at`` says what they are at a
    moment.
    """
    amount_at: Callable[[datetime], Amount | None] | None = None
    card_at: Callable[[datetime], RateCard | None] = lambda moment: None
    """The prices themselves, at a moment."""


def quotes_of(
    source: CostSource,
    prices: Iterable[Price],
    named: Sequence[Reading],
    shape: Shape,
    terms: Mapping[str, str],
) -> list[Quote]:
    """The prices for calls of a model's name and of a context."""
    return [_quote(source, one, shape) for one in prices_for(prices, named, terms)]


def _quote(source: CostSource, price: Price, shape: Shape) -> Quote:
    dates = price.valid_from, price.valid_until, price.recorded_at, price.withdrawn_at
    amount = amount_for(price.card, shape)
    if price.conditions.between is None:
        return Quote(*dates, source, price.id, amount, None, partial(_card, price.card))
    return Quote(
        *dates,
        source,
        price.id,
        None,
        lambda moment: amount if price.conditions.hold_at(moment) else None,
        lambda moment: price.card if price.conditions.hold_at(moment) else None,
    )


def shipped_quotes(
    books: Sequence[ShippedBook], named: Iterable[Reading], shape: Shape, terms: Mapping[str, str]
) -> Iterator[Quote]:
    """What the states of the shipped book have for calls of a model's name and of a context."""
    for span, name in named:
        for book in books:
            for one in _shipped(book, name, shape, terms):
                common = span.within(
                    Span(one.valid_from, one.valid_until, one.recorded_at, one.withdrawn_at)
                )
                if common is not None:
                    yield one if common == one[:4] else one._replace(**common._asdict())


def _shipped(
    book: ShippedBook, name: ModelName, shape: Shape, terms: Mapping[str, str]
) -> Iterator[Quote]:
    """What one state has for a model."""
    cards = book.cards(name, terms)
    known = book.recorded_at, book.withdrawn_at, CostSource.PRICE_BOOK, book.id
    if cards is None:
        by_time = _by_time_of_day(book, name, shape, terms)
        card_at = partial(book.card_at, name, terms=terms)
        yield Quote(EVER, NEVER, *known, None, by_time, card_at)
        return
    for valid_from, valid_until, card in cards:
        amount = amount_for(card, shape)
        yield Quote(valid_from, valid_until, *known, amount, None, partial(_card, card))


def _card(card: RateCard, moment: datetime) -> RateCard:
    return card


def _by_time_of_day(
    book: ShippedBook, name: ModelName, shape: Shape, terms: Mapping[str, str]
) -> Callable[[datetime], Amount | None]:
    ready: dict[int, Amount] = {}

    def amount_at(moment: datetime) -> Amount | None:
        card = book.card_at(name, moment, terms)
        if card is None:
            return None
        return ready.get(id(card)) or ready.setdefault(id(card), amount_for(card, shape))

    return amount_at


def amount_for(card: RateCard, shape: Shape) -> Amount:
    """The card's prices as a function of usage maps of this shape."""

    def by_kind(usage_details: Mapping[str, int]) -> int | None:
        """Sorts units by kind first: for usage that may count a unit twice, and for cards that lack
        a kind.
        """
        units = card.units_of(usage_details)
        if any(count.__class__ is not int for count in units.values()):
            raise TypeError(f"A usage count is not an integer: {dict(usage_details)}.")
        return card.picousd(units) if units else None

    rates = _rates(card, card.usd_per_million, shape)
    asks_for_requests = UnitKind.REQUEST in shape.kinds and UnitKind.REQUEST in card.usd_per_million
    is_of_some_calls = card.above_input_tokens >= 0 or bool(card.other_units)
    if rates is None or asks_for_requests or not shape.is_plain or is_of_some_calls:
        return by_kind
    if card.long_context:
        return _by_length(card, shape, rates, by_kind)
    for_request = card.usd_per_million.get(UnitKind.REQUEST, 0)

    def summed(usage_details: Mapping[str, int]) -> int | None:
        total = sum(map(mul, rates, usage_details.values()), for_request)
        return (
            (total + HALF) // MILLION
            if total.__class__ is int and total > for_request
            else by_kind(usage_details)
        )

    def summed_if_separate(usage_details: Mapping[str, int]) -> int | None:
        return (
            summed(usage_details)
            if stands_as_it_is(shape, usage_details)
            else by_kind(usage_details)
        )

    return summed_if_separate if shape.has_parts else summed


def _by_length(card: RateCard, shape: Shape, base: tuple[int, ...], by_kind: Amount) -> Amount:
    """For a card with other prices for long requests."""
    levels = [
        (threshold, _rates(card, prices, shape) or base, prices)
        for threshold, prices in card.long_context
    ]
    levels.append((-1, base, card.usd_per_million))
    ready = [
        (threshold, rates, prices.get(UnitKind.REQUEST, 0)) for threshold, rates, prices in levels
    ]
    input_keys = tuple(int(kind in INPUT_KINDS) for kind in shape.kinds)

    def summed(usage_details: Mapping[str, int]) -> int | None:
        if shape.has_parts and not stands_as_it_is(shape, usage_details):
            return by_kind(usage_details)
        counts = usage_details.values()
        input_tokens = sum(map(mul, input_keys, counts))
        for threshold, rates, for_request in ready:
            if input_tokens > threshold:
                total = sum(map(mul, rates, counts), for_request)
                return (
                    (total + HALF) // MILLION
                    if total.__class__ is int and total > for_request
                    else by_kind(usage_details)
                )
        return by_kind(usage_details)

    return summed


def _rates(card: RateCard, prices: Mapping[UnitKind, int], shape: Shape) -> tuple[int, ...] | None:
    """The price of each key of the shape, 0 for keys without a kind; None where the card lacks
    one.
    """
    rates = [
        0 if kind is None or kind is UnitKind.REQUEST else card.rate(kind, prices)
        for kind in shape.kinds
    ]
    return None if None in rates else tuple(rate or 0 for rate in rates)
