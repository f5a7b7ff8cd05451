"""The shipped book beside other sources: where they differ by more than a hundredth
(docs/pricing.md, Checking the book). Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from kluisz_analytics.scales import USD_PLACES, from_scaled
from pricing.conditions import Conditions
from pricing.model_names import ModelName, understand
from pricing.shipped_book import ShippedPrices
from pricing.units import UnitKind

PERCENT = 1


class Offer(NamedTuple):
    """What a source says that calls of a model cost, under these conditions: USD for a million."""

    model: str
    conditions: str
    prices: Mapping[UnitKind, Decimal]


class Difference(NamedTuple):
    """A kind of unit that costs something else by another source; None where one has no price."""

    model: str
    conditions: str
    kind: UnitKind
    ours: Decimal | None
    theirs: Decimal | None


def differences(
    book: ShippedPrices, offers: Iterable[Offer], moment: datetime
) -> Iterator[Difference]:
    """Kinds that the offers have a price for and of which the price at ``moment`` is another by
    more than a hundredth of ours, or that we have none for; and requests that have one here alone.
    """
    for offer in offers:
        conditions = Conditions.parsed(offer.conditions)
        card = book.card_at(understand(offer.model), moment, dict(conditions.terms))
        own = {} if card is None else card.prices_beyond(conditions.above_input_tokens + 1)
        of_a_request = {UnitKind.REQUEST} & own.keys()
        for kind in sorted(offer.prices.keys() | of_a_request):
            rate = None if card is None else card.rate(kind, own)
            ours = None if rate is None else from_scaled(rate, USD_PLACES)
            theirs = offer.prices.get(kind)
            if _differ(ours, theirs):
                yield Difference(offer.model, offer.conditions, kind, ours, theirs)


def named_alike(offers: Iterable[Offer], names: Iterable[str]) -> Iterator[Offer]:
    """The offers for the models of these names, each under the name as it is given: as it is
    written there, else as it is understood; of several the dearest.
    """
    by_name: dict[tuple[str, ...], dict[str, Offer]] = {}
    for offer in offers:
        for key in ((offer.model,), _key(understand(offer.model))):
            known = by_name.setdefault(key, {}).setdefault(offer.conditions, offer)
            if _dearness(offer) > _dearness(known):
                by_name[key][offer.conditions] = offer
    for name in sorted(set(names)):
        found = by_name.get((name,)) or by_name.get(_key(understand(name)), {})
        for _, offer in sorted(found.items()):
            yield offer._replace(model=name)


def _dearness(offer: Offer) -> Decimal:
    return sum(offer.prices.values(), Decimal(0))


def _key(name: ModelName) -> tuple[str, str, str]:
    return name.provider, name.region, name.model


def _differ(ours: Decimal | None, theirs: Decimal | None) -> bool:
    if ours is None or theirs is None:
        return bool(ours or theirs)
    return abs(ours - theirs) * 100 > PERCENT * ours
