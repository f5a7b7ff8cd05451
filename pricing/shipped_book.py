"""The price book that the ``genai-prices`` package ships: the last source of a cost (domain.md, Price)."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal

from genai_prices import Usage, calc_price

from kluisz_analytics.fields import USD_PLACES, round_half_up
from pricing.engine import PLAIN_KIND
from pricing.units import UnitKind


def shipped_price(model: str, counts: Mapping[UnitKind, int], moment: datetime) -> Decimal | None:
    """The cost by the price book that ``genai-prices`` ships, USD at twelve places; None for a model that it doesn't know."""
    usage = Usage(
        input_tokens=sum(counts.get(kind, 0) for kind in PLAIN_KIND if PLAIN_KIND[kind] is UnitKind.INPUT),
        output_tokens=sum(counts.get(kind, 0) for kind in PLAIN_KIND if PLAIN_KIND[kind] is UnitKind.OUTPUT),
        cache_read_tokens=counts.get(UnitKind.CACHED_INPUT, 0),
        cache_write_tokens=counts.get(UnitKind.CACHE_WRITE, 0),
        input_audio_tokens=counts.get(UnitKind.INPUT_AUDIO, 0),
        output_audio_tokens=counts.get(UnitKind.OUTPUT_AUDIO, 0),
    )
    try:
        calculation = calc_price(usage, model_ref=model, genai_request_timestamp=moment)
    except LookupError:
        return None
    return round_half_up(calculation.total_price, USD_PLACES)
