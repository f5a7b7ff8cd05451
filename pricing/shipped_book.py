"""The price book that the ``genai-prices`` package ships: the last source of a cost (domain.md,
Price).

Its states are kept (pricing.models.ShippedPriceList), so that what was priced with one stays as it
was when the next comes. Prices are read from it as rate cards, and computed by the engine as any
other.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import cached_property, lru_cache
from importlib.metadata import version
from itertools import pairwise
from typing import Any, NamedTuple

from genai_prices import UpdatePrices
from genai_prices.data import providers as installed_providers
from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import (
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
    _providers_from_raw,
)  # the reader of its own data files

from kluisz_analytics.scales import USD_PLACES, round_half_up, to_scaled
from pricing.conditions import unanswered
from pricing.model_names import ModelName
from pricing.price_book import Cards
from pricing.prices import EVER, NEVER, RateCard
from pricing.shipped_corrections import VERSION as CORRECTED
from pricing.shipped_corrections import corrected
from pricing.units import UnitKind

Constraint = StartDateConstraint | TimeOfDateConstraint
USUAL: Mapping[str, str] = {}
"""The context of a call like any other."""
ONE, THOUSAND, HOURS = Decimal(1), Decimal(1000), Decimal(1_000_000) / Decimal(3600)
PRICE_KEYS: dict[UnitKind, tuple[tuple[str, Decimal], ...]] = {
    UnitKind.INPUT: (("input_mtok", ONE),),
    UnitKind.CACHED_INPUT: (("cache_read_mtok", ONE),),
    UnitKind.CACHE_WRITE: (("cache_write_5m_mtok", ONE), ("cache_write_mtok", ONE)),
    UnitKind.CACHE_WRITE_1H: (("cache_write_1h_mtok", ONE),),
    UnitKind.INPUT_AUDIO: (("input_audio_mtok", ONE),),
    UnitKind.INPUT_IMAGE: (("input_image_mtok", ONE),),
    UnitKind.OUTPUT: (("output_mtok", ONE),),
    UnitKind.REASONING: (("output_reasoning_mtok", ONE),),
    UnitKind.OUTPUT_AUDIO: (("output_audio_mtok", ONE),),
    UnitKind.OUTPUT_IMAGE: (("output_image_mtok", ONE),),
    UnitKind.REQUEST: (("requests_kcount", THOUSAND),),
    UnitKind.WEB_SEARCH: (("web_searches_kcount", THOUSAND),),
    UnitKind.STORAGE_SEARCH: (("storage_searches_kcount", THOUSAND),),
    UnitKind.SECONDS: (("input_audio_hours", HOURS), ("audio_hours", HOURS)),
    UnitKind.CHARACTERS: (("input_mchars", ONE),),
    UnitKind.PAGES: (("input_document_kpages", THOUSAND),),
}
"""The package's names for the price of a kind, the first that is there, and how often its unit goes
into a million.
"""
HALF_FOR_BATCH = frozenset({"aws", "azure", "google"})
"""Who takes half for a batch's tokens, also for models that the package has no price in batches of
(https://aws.amazon.com/bedrock/pricing,
https://learn.microsoft.com/azure/ai-services/openai/how-to/batch,
https://cloud.google.com/vertex-ai/generative-ai/pricing).
"""
SURCHARGES = {("anthropic", "inference_geo", "us"): 110}
"""Percent of the tokens' price where inference stays in a region
(https://docs.claude.com/en/docs/about-claude/pricing).
"""
SAME_PRICE = frozenset({("groq", "service_tier", "flex"), ("groq", "service_tier", "performance")})
"""What costs what any call costs (https://console.groq.com/docs/service-tiers)."""


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
        self._found: dict[ModelName, Listed | None] = {}
        self._cards: dict[tuple[int, ...], RateCard] = {}

    def card_at(
        self, name: ModelName, moment: datetime, terms: Mapping[str, str] = USUAL
    ) -> RateCard | None:
        """The model's prices at ``moment`` for a call of this context; None for a model that the
        book doesn't know, or not as it was asked.
        """
        found = self.listed(name)
        priced = None if found is None else found.priced(moment, terms)
        if priced is None:
            return None
        # The book keeps all of these, so that no other comes to have an id of theirs.
        key = (id(priced.standard), priced.share, *map(id, priced.variants))
        card = self._cards.get(key)
        if card is None:
            card = self._cards[key] = priced.card()
        return card

    def cards(self, name: ModelName, terms: Mapping[str, str] = USUAL) -> Cards | None:
        """The model's prices from when until when for calls of this context; none for an unknown
        one, None where they change with the time of day.
        """
        found = self.listed(name)
        if found is None:
            return []
        conditions = found.conditions(terms)
        dates = {one.start_date for one in conditions if isinstance(one, StartDateConstraint)}
        if any(one is not None and not isinstance(one, StartDateConstraint) for one in conditions):
            return None
        borders = [EVER, *(datetime.combine(day, time(), UTC) for day in sorted(dates)), NEVER]
        spans = [(start, end, self.card_at(name, start, terms)) for start, end in pairwise(borders)]
        return [(start, end, card) for start, end, card in spans if card is not None]

    def listed(self, name: ModelName) -> "Listed | None":
        """What the book has under a name."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def model_names(self) -> set[str]:
        """The names of the models that it knows; it knows more by pattern."""
        return {model.id for provider in self._read() for model in provider.models}

    @cached_property
    def _snapshot(self) -> DataSnapshot:
        return DataSnapshot(self._read(), from_auto_update=False)

    def _find(self, name: ModelName) -> "Listed | None":
        """With the provider that the name tells, else with the one that the package takes the model
        for; a reseller who takes the seller's price has that where it isn't listed itself.
        """
        for asked in name.asked:
            try:
                provider, model = self._snapshot.find_provider_model(
                    asked, None, name.provider or None, None
                )
            except LookupError:
                continue
            return Listed(model, provider.id, any(one is model for one in provider.models))
        return None if name.nested is None else self._find(name.nested)


class Priced(NamedTuple):
    """A model's prices for a call: its usual ones, those of its context in their place, and of how
    many percent.
    """

    standard: ModelPrice
    variants: tuple[PriceVariant, ...] = ()
    share: int = 100

    def card(self) -> RateCard:
        prices = copy(self.standard)
        for variant in reversed(self.variants):
            prices.__dict__.update(_without_none(variant.prices))
        card = card_of(prices)
        return card if self.share == 100 else card.of_tokens(self.share)


class Listed(NamedTuple):
    """A model as a provider sells it; ``is_own``: it is the provider's own entry, and not what its
    maker takes.
    """

    model: ModelInfo
    provider: str
    is_own: bool

    def conditions(self, terms: Mapping[str, str]) -> list[Constraint | None]:
        """Of all its prices for calls of a context."""
        prices = self.model.prices
        usual = [] if isinstance(prices, ModelPrice) else [one.constraint for one in prices]
        return usual + [one.constraint for one in self._variants(terms)]

    def priced(self, moment: datetime, terms: Mapping[str, str]) -> Priced | None:
        """Its prices at ``moment`` for a call of a context; None where the book has none."""
        standard = self.model.get_prices(moment)
        if not terms:
            return Priced(standard)
        variants = tuple(one for one in self._variants(terms) if self._holds(one, moment))
        open_terms = {
            (name, terms[name])
            for name in unanswered(terms, {name for one in variants for name in one.when})
            if (self.provider, name, terms[name]) not in SAME_PRICE
        }
        share = 100
        if open_terms == {("processing", "batch")} and self.provider in HALF_FOR_BATCH:
            share, open_terms = 50, set()
        for name, value in terms.items():
            share = share * SURCHARGES.get((self.provider, name, value), 100) // 100
        return None if open_terms else Priced(standard, variants, share)

    def _variants(self, terms: Mapping[str, str]) -> list[PriceVariant]:
        if not self.is_own:
            return []
        variants = self.model.price_variants or ()
        return [one for one in variants if one.when.items() <= terms.items()]

    def _holds(self, variant: PriceVariant, moment: datetime) -> bool:
        """The package says from when it knows a variant; it held before, too, for as long as the
        usual price has been what it was then.
        """
        begins = variant.constraint
        if begins is None or begins.active(moment):
            return True
        if not isinstance(begins, StartDateConstraint) or self._is_later(variant):
            return False
        then = datetime.combine(begins.start_date, time(), UTC)
        return self.model.get_prices(moment) == self.model.get_prices(then)

    def _is_later(self, variant: PriceVariant) -> bool:
        """Whether the same calls have had another variant before."""
        return any(
            one.when == variant.when
            and one is not variant
            and isinstance(one.constraint, StartDateConstraint)
            and isinstance(variant.constraint, StartDateConstraint)
            and one.constraint.start_date < variant.constraint.start_date
            for one in self.model.price_variants or ()
        )


def _without_none(prices: ModelPrice) -> dict[str, Any]:
    return {name: price for name, price in vars(prices).items() if price is not None}


def card_of(prices: ModelPrice) -> RateCard:
    """The package's prices of a model as a rate card."""
    own: dict[UnitKind, tuple[Decimal | TieredPrices, Decimal]] = {}
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


def _scaled(price: Decimal | TieredPrices, factor: Decimal, input_tokens: int) -> int:
    if isinstance(price, TieredPrices):
        reached = [tier.price for tier in price.tiers if input_tokens > tier.start]
        price = reached[-1] if reached else price.base
    return to_scaled(round_half_up(price * factor, USD_PLACES), USD_PLACES)


@lru_cache(maxsize=1)
def installed() -> list[Provider]:
    """What the installed package holds, put right."""
    return corrected(installed_providers)


def installed_version() -> str:
    """Of the package, and of what is put right."""
    return f"{version('genai-prices')}, {CORRECTED}"


def fetch() -> list[Provider]:
    """What the package's authors publish now, put right.

    Raises an OSError or ValueError where the network or the answer doesn't allow it.
    """
    snapshot = UpdatePrices().fetch()
    if snapshot is None:
        raise ValueError("The published price book is empty.")
    return corrected(snapshot.providers)


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
