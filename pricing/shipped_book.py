"""The price book that the ``genai-prices`` package ships: the last source of a cost (domain.md,
Price).

Its states are kept (pricing.models.ShippedPriceList), so that what was priced with one stays as it
was when the next comes. Prices are read from it as rate cards, and computed by the engine as any
other.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

from genai_prices import UpdatePrices
from genai_prices.data import providers as installed_providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    _providers_from_raw,
)  # the reader of its own data files

from kluisz_analytics.scales import USD_PLACES, to_scaled
from pricing.model_names import ModelName
from pricing.price_book import Cards
from pricing.prices import EVER, NEVER, RateCard
from pricing.units import UnitKind

PRICE_KEYS: dict[UnitKind, tuple[tuple[str, int], ...]] = {
    UnitKind.INPUT: (("input_mtok", 1),),
    UnitKind.CACHED_INPUT: (("cache_read_mtok", 1),),
    UnitKind.CACHE_WRITE: (("cache_write_5m_mtok", 1), ("cache_write_mtok", 1)),
    UnitKind.CACHE_WRITE_1H: (("cache_write_1h_mtok", 1),),
    UnitKind.INPUT_AUDIO: (("input_audio_mtok", 1),),
    UnitKind.INPUT_IMAGE: (("input_image_mtok", 1),),
    UnitKind.OUTPUT: (("output_mtok", 1),),
    UnitKind.REASONING: (("output_reasoning_mtok", 1),),
    UnitKind.OUTPUT_AUDIO: (("output_audio_mtok", 1),),
    UnitKind.OUTPUT_IMAGE: (("output_image_mtok", 1),),
    UnitKind.REQUEST: (("requests_kcount", 1000),),
}
"""The package's names for the price of a kind, the first that is there, and how often its unit goes
into a million.
"""


class ShippedPrices:
    """One state of the book: in the list from ``recorded_at`` until ``withdrawn_at``.

    Read when it is first asked.
    """

    def __init__(
        self,
        read: Callable[[], list[Provider]],
        *,
        state_id: int | None = None,
        recorded_at: datetime = EVER,
        withdrawn_at: datetime = NEVER,
    ) -> None:
        self.id, self.recorded_at, self.withdrawn_at = state_id, recorded_at, withdrawn_at
        self._read = read
        self._models: dict[ModelName, ModelInfo | None] = {}
        self._cards: dict[int, RateCard] = {}

    def card_at(self, name: ModelName, moment: datetime) -> RateCard | None:
        """The model's prices at ``moment``; None for a model that the book doesn't know."""
        found = self._model(name)
        if found is None:
            return None
        prices = found.prices if isinstance(found.prices, ModelPrice) else found.get_prices(moment)
        card = self._cards.get(id(prices))
        if card is None:
            card = self._cards[id(prices)] = card_of(prices)
        return card

    def cards(self, name: ModelName) -> Cards | None:
        """The model's prices from when until when; none for an unknown one, None where they change
        with the time of day.
        """
        found = self._model(name)
        if found is None:
            return []
        conditions = (
            []
            if isinstance(found.prices, ModelPrice)
            else [price.constraint for price in found.prices]
        )
        dates = [one.start_date for one in conditions if isinstance(one, StartDateConstraint)]
        if any(one is not None and not isinstance(one, StartDateConstraint) for one in conditions):
            return None
        borders = [EVER, *sorted(datetime.combine(day, time(), UTC) for day in dates), NEVER]
        spans = [(start, end, self.card_at(name, start)) for start, end in pairwise(borders)]
        return [(start, end, card) for start, end, card in spans if card is not None]

    def model_names(self) -> set[str]:
        """The names of the models that it knows; it knows more by pattern."""
        return {model.id for provider in self._read() for model in provider.models}

    def _model(self, name: ModelName) -> ModelInfo | None:
        if name not in self._models:
            self._models[name] = self._find(name)
        return self._models[name]

    @cached_property
    def _snapshot(self) -> DataSnapshot:
        return DataSnapshot(self._read(), from_auto_update=False)

    def _find(self, name: ModelName) -> ModelInfo | None:
        """With the provider that the name tells, else with the one that the package takes the model
        for; a reseller who takes the seller's price has that where it isn't listed itself.
        """
        for asked in name.asked:
            try:
                return self._snapshot.find_provider_model(asked, None, name.provider or None, None)[
                    1
                ]
            except LookupError:
                continue
        return None if name.nested is None else self._find(name.nested)


def card_of(prices: ModelPrice) -> RateCard:
    """The package's prices of a model as a rate card."""
    own: dict[UnitKind, tuple[Decimal | TieredPrices, int]] = {}
    for kind, names in PRICE_KEYS.items():
        for name, factor in names:
            price = getattr(prices, name, None)
            if price is not None:
                own[kind] = price, factor
                break
    thresholds = sorted(
        {
            tier.start
            for price, _ in own.values()
            if isinstance(price, TieredPrices)
            for tier in price.tiers
        },
        reverse=True,
    )
    return RateCard(
        {kind: _scaled(price, factor, 0) for kind, (price, factor) in own.items()},
        tuple(
            (
                start,
                {kind: _scaled(price, factor, start + 1) for kind, (price, factor) in own.items()},
            )
            for start in thresholds
        ),
    )


def _scaled(price: Decimal | TieredPrices, factor: int, input_tokens: int) -> int:
    if isinstance(price, TieredPrices):
        reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
        price = reached[-1] if reached else price.base
    return to_scaled(price * factor, USD_PLACES)


def installed() -> list[Provider]:
    """What the installed package holds."""
    return installed_providers


def fetch() -> list[Provider]:
    """What the package's authors publish now.

    Raises an OSError or ValueError where the network or the answer doesn't allow it.
    """
    snapshot = UpdatePrices().fetch()
    if snapshot is None:
        raise ValueError("The published price book is empty.")
    return snapshot.providers


def packed(providers: Sequence[Provider]) -> bytes:
    """The book as compressed JSON, in the form of the package's own data files; the same book gives
    the same bytes.
    """
    return zlib.compress(json.dumps(_plain(providers), sort_keys=True).encode(), 9)


@lru_cache(maxsize=1)
def installed_packed() -> bytes:
    """What the installed package holds, packed."""
    return packed(installed())


def unpacked(data: bytes) -> list[Provider]:
    """The book from its packed form."""
    return _providers_from_raw(json.loads(zlib.decompress(data)))


def _plain(value: Any) -> Any:
    if isinstance(value, ModelPrice):
        return _without_nothing(vars(value).items())
    if dataclasses.is_dataclass(value):
        # "or_" and "and_" are "or" and "and" in the files. Extractors read providers' answers,
        # which we do not.
        fields = (
            (field.name.rstrip("_"), getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name != "extractors"
        )
        return _without_nothing(fields)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value if isinstance(value, str | int | bool) else str(value)


def _without_nothing(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    return {key: _plain(value) for key, value in items if value is not None}
