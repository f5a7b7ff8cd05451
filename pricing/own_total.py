"""Usage counted by the producer's own total, where its parts come to more or less than that
(docs/pricing.md, Units). Pure.
"""

from collections.abc import Mapping

from pricing.units import INPUT_DETAILS, OUTPUT_DETAILS, Doubt, resolved
from pricing.vocabulary import UnitKind

CONTRADICTED = frozenset({Doubt.MORE_THAN_TOTAL, Doubt.LESS_THAN_TOTAL})
"""The doubts of which the total is another figure; the others say of none."""
NAMES: Mapping[UnitKind, str] = {
    UnitKind.INPUT: "input",
    UnitKind.CACHED_INPUT: "input_cached_tokens",
    UnitKind.CACHE_WRITE: "input_cache_creation_5m",
    UnitKind.CACHE_WRITE_1H: "input_cache_creation_1h",
    UnitKind.INPUT_AUDIO: "input_audio",
    UnitKind.INPUT_IMAGE: "input_image",
    UnitKind.OUTPUT: "output",
    UnitKind.REASONING: "output_reasoning_tokens",
    UnitKind.OUTPUT_AUDIO: "output_audio",
    UnitKind.OUTPUT_IMAGE: "output_image",
    UnitKind.IMAGES: "images",
    UnitKind.REQUEST: "request",
    UnitKind.WEB_SEARCH: "web_searches",
    UnitKind.STORAGE_SEARCH: "storage_searches",
    UnitKind.SEARCH_UNITS: "search_units",
    UnitKind.SECONDS: "seconds",
    UnitKind.CHARACTERS: "characters",
    UnitKind.PAGES: "pages",
}
"""A name of each kind, so that a map of any of them is read as beside one another."""
TAKEN_FROM = (UnitKind.INPUT, *INPUT_DETAILS, UnitKind.OUTPUT, *OUTPUT_DETAILS)


def by_own_total(usage_details: Mapping[str, int]) -> dict[str, int]:
    """The usage with as many tokens as its total says: what lacks is plain input, and what is too
    much is taken out of that first, then out of the other kinds in their order.
    """
    found = resolved(usage_details)
    units, too_many = dict(found.units), found.tokens.beyond_total
    if too_many < 0:
        units[UnitKind.INPUT] = units.get(UnitKind.INPUT, 0) - too_many
    for kind in [one for one in TAKEN_FROM if one in units]:
        taken = min(max(too_many, 0), units[kind])
        units[kind] -= taken
        too_many -= taken
    return {NAMES[kind]: count for kind, count in units.items() if count}
