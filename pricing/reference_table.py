"""LiteLLM's public table of prices (MIT), as a reference beside the shipped book: nothing is priced
by it. Pure but for the files.

``reference_table.json.gz`` holds what is compared, made by ``check_prices --table FILE --keep
NAME``. Copyright (c) 2023 Berri AI, under the MIT licence.
"""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from kluisz_analytics.scales import USD_PLACES, round_half_up
from pricing.comparison import Offer
from pricing.prices import MILLION
from pricing.units import UnitKind

KEPT = Path(__file__).with_name("reference_table.json.gz")
K = UnitKind
KINDS = {
    "input_cost_per_token": K.INPUT,
    "cache_read_input_token_cost": K.CACHED_INPUT,
    "cache_creation_input_token_cost": K.CACHE_WRITE,
    "cache_creation_input_token_cost_above_1hr": K.CACHE_WRITE_1H,
    "input_cost_per_audio_token": K.INPUT_AUDIO,
    "input_cost_per_image_token": K.INPUT_IMAGE,
    "output_cost_per_token": K.OUTPUT,
    "output_cost_per_reasoning_token": K.REASONING,
    "output_cost_per_audio_token": K.OUTPUT_AUDIO,
    "output_cost_per_image_token": K.OUTPUT_IMAGE,
    "input_cost_per_request": K.REQUEST,
    "input_cost_per_query": K.SEARCH_UNITS,
    "input_cost_per_second": K.SECONDS,
    "input_cost_per_character": K.CHARACTERS,
    "ocr_cost_per_page": K.PAGES,
}
"""The table's names of prices for one unit."""
CONDITIONS = {
    "_batches": "processing=batch",
    "_flex": "service_tier=flex",
    "_priority": "service_tier=priority",
}
NAME = re.compile(
    rf"({'|'.join(sorted(KINDS, key=len, reverse=True))})"
    rf"(?:_above_(\d+)k_tokens)?({'|'.join(CONDITIONS)})?$"
)
SEARCH = "search_context_cost_per_query", "search_context_size_medium"
NEVER_FREE = frozenset({K.INPUT, K.OUTPUT})
"""Of the others a 0 stands for no price of its own."""
PREFIXES = {"vertex_ai-anthropic_models": "vertex_ai/", "vertex_ai-language-models": "vertex_ai/"}
"""In front of names that are another provider's without."""
SIZES = re.compile(r"\d+-x-\d+/|/\d+-steps/|^(?:low|medium|high|hd|standard)/")


def offers_of(table: Mapping[str, Any]) -> Iterator[Offer]:
    """What the table (its JSON, with decimals) says of models whose names stand in traces."""
    for name, model in table.items():
        if name == "sample_spec" or SIZES.search(name) or not isinstance(model, Mapping):
            continue
        prefix = PREFIXES.get(str(model.get("litellm_provider")), "")
        if prefix and not name.startswith(prefix):
            name = prefix + name  # noqa: PLW2901
        by_conditions: defaultdict[str, dict[UnitKind, Decimal]] = defaultdict(dict)
        for key, price in model.items():
            found = NAME.match(key)
            if found is None or not isinstance(price, Decimal):
                continue
            kind, above, how = KINDS[found[1]], found[2], found[3]
            if not price and kind not in NEVER_FREE:
                continue
            terms = [CONDITIONS[how]] if how else []
            if above:
                terms.append(f"input>{int(above) * 1000}")
            by_conditions[" ".join(terms)][kind] = round_half_up(price * MILLION, USD_PLACES)
        searches = model.get(SEARCH[0])
        if isinstance(searches, Mapping) and searches.get(SEARCH[1]):
            by_conditions[""][K.WEB_SEARCH] = searches[SEARCH[1]] * MILLION
        for conditions, prices in by_conditions.items():
            if conditions or K.INPUT in prices or K.SECONDS in prices or K.PAGES in prices:
                yield Offer(name, conditions, prices)


def read(path: Path) -> list[Offer]:
    """The offers of a copy of the table."""
    return list(offers_of(json.loads(path.read_text(), parse_float=Decimal, parse_int=Decimal)))


def keep(offers: Iterable[Offer], source: str) -> None:
    """Put what is compared into the repository's file."""
    rows = [
        [one.model, one.conditions, {kind.value: _text(usd) for kind, usd in one.prices.items()}]
        for one in sorted(offers, key=lambda one: one[:2])
    ]
    body = json.dumps({"source": source, "offers": rows}, separators=(",", ":"), sort_keys=True)
    KEPT.write_bytes(gzip.compress(body.encode(), 9, mtime=0))


def kept() -> tuple[str, list[Offer]]:
    """Which table it is, and its offers."""
    body = json.loads(gzip.decompress(KEPT.read_bytes()))
    offers = [
        Offer(model, conditions, {UnitKind(kind): Decimal(usd) for kind, usd in prices.items()})
        for model, conditions, prices in body["offers"]
    ]
    return body["source"], offers


def _text(usd: Decimal) -> str:
    return f"{usd.normalize():f}"
