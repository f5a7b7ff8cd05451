"""The price book that the ``genai-prices`` package ships: the last source of a cost (domain.md, Price).

Most models have one flat price for each kind of unit, for all time. Those are read from the package once a model and priced here; a model
whose price depends on the size or the time of a request is handed to the package each time.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache

from genai_prices import Usage, calc_price
from genai_prices.types import ModelPrice, PriceCalculation

from kluisz_analytics.fields import USD_PLACES, round_half_up
from pricing.engine import MILLION, PLAIN_KIND
from pricing.units import UnitKind

PRICE_KEYS = {
    UnitKind.INPUT: "input_mtok",
    UnitKind.CACHED_INPUT: "cache_read_mtok",
    UnitKind.CACHE_WRITE: "cache_write_mtok",
    UnitKind.INPUT_AUDIO: "input_audio_mtok",
    UnitKind.OUTPUT: "output_mtok",
    UnitKind.OUTPUT_AUDIO: "output_audio_mtok",
}


def shipped_price(model: str, counts: Mapping[UnitKind, int], moment: datetime) -> Decimal | None:
    """The cost by the shipped price book, USD at twelve places; None for a model that it doesn't know."""
    rates = _flat_rates(model)
    if rates is not None:
        total = sum((count * rates[kind] for kind, count in counts.items()), Decimal(0)) / MILLION
        return round_half_up(total, USD_PLACES)
    calculation = _calculated(model, counts, moment)
    return None if calculation is None else round_half_up(calculation.total_price, USD_PLACES)


@lru_cache(maxsize=4096)
def _flat_rates(model: str) -> Mapping[UnitKind, Decimal] | None:
    """USD for a million units of each kind; None for an unknown model, and for one without flat prices."""
    calculation = _calculated(model, {UnitKind.INPUT: 1}, datetime.now().astimezone())
    if calculation is None or not isinstance(calculation.model.prices, ModelPrice):
        return None
    own = {kind: price for kind, key in PRICE_KEYS.items() if (price := getattr(calculation.model.prices, key, None)) is not None}
    if not all(isinstance(price, Decimal) for price in own.values()):
        return None
    return {kind: own.get(kind, own.get(plain, Decimal(0))) for kind, plain in PLAIN_KIND.items()}


def _calculated(model: str, counts: Mapping[UnitKind, int], moment: datetime) -> PriceCalculation | None:
    usage = Usage(
        input_tokens=sum(counts.get(kind, 0) for kind, plain in PLAIN_KIND.items() if plain is UnitKind.INPUT),
        output_tokens=sum(counts.get(kind, 0) for kind, plain in PLAIN_KIND.items() if plain is UnitKind.OUTPUT),
        cache_read_tokens=counts.get(UnitKind.CACHED_INPUT, 0),
        cache_write_tokens=counts.get(UnitKind.CACHE_WRITE, 0),
        input_audio_tokens=counts.get(UnitKind.INPUT_AUDIO, 0),
        output_audio_tokens=counts.get(UnitKind.OUTPUT_AUDIO, 0),
    )
    try:
        return calc_price(usage, model_ref=model, genai_request_timestamp=moment)
    except LookupError:
        return None
