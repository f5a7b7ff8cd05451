"""Which of a provider's usage keys is which kind of unit (domain.md, What is counted; langfuse.md, v2 observations).

Langfuse names units as the provider did and has already taken overlaps out: the keys of one observation never count a token
twice. So a key is only sorted: with "input" in it an input kind, with "output" in it an output kind, else neither.
"""

from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


class UnitKind(StrEnum):
    """A kind of token that can have a price of its own. No token belongs to two."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    INPUT_AUDIO = "input_audio"
    OUTPUT = "output"
    REASONING = "reasoning"
    OUTPUT_AUDIO = "output_audio"


INPUT_KINDS = frozenset({UnitKind.INPUT, UnitKind.CACHED_INPUT, UnitKind.CACHE_WRITE, UnitKind.INPUT_AUDIO})
AUDIO_KINDS = frozenset({UnitKind.INPUT_AUDIO, UnitKind.OUTPUT_AUDIO})


@lru_cache(maxsize=4096)
def unit_kind(usage_key: str) -> UnitKind | None:
    """The kind that a usage key counts; None for keys that count neither input nor output tokens."""
    key = usage_key.lower()
    if "input" in key:
        if "cache" in key:
            return UnitKind.CACHE_WRITE if "creation" in key or "write" in key else UnitKind.CACHED_INPUT
        return UnitKind.INPUT_AUDIO if "audio" in key else UnitKind.INPUT
    if "output" in key:
        if "reasoning" in key:
            return UnitKind.REASONING
        return UnitKind.OUTPUT_AUDIO if "audio" in key else UnitKind.OUTPUT
    return None


class TokenCounts(NamedTuple):
    """Tokens of one observation: ``input``, ``output`` and ``total``, and the kinds apart (parts of the first two)."""

    input: int = 0
    output: int = 0
    total: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    audio: int = 0


NO_TOKENS = TokenCounts()


def units_of(usage_details: Mapping[str, int]) -> dict[UnitKind, int]:
    """Units by kind; kinds with no units are left out."""
    units: dict[UnitKind, int] = {}
    for key, count in usage_details.items():
        kind = unit_kind(key)
        if kind is not None and count:
            units[kind] = units.get(kind, 0) + count
    return units


def count_tokens(usage_details: Mapping[str, int]) -> TokenCounts:
    """The token counts of a usage map. ``total`` is what the provider said, else the sum of all units."""
    if not usage_details:
        return NO_TOKENS
    units = units_of(usage_details)
    input_tokens = sum(count for kind, count in units.items() if kind in INPUT_KINDS)
    output_tokens = sum(count for kind, count in units.items() if kind not in INPUT_KINDS)
    total = usage_details.get("total")
    if total is None:
        total = sum(usage_details.values())
    return TokenCounts(
        input=input_tokens,
        output=output_tokens,
        total=total,
        cached=units.get(UnitKind.CACHED_INPUT, 0),
        cache_write=units.get(UnitKind.CACHE_WRITE, 0),
        reasoning=units.get(UnitKind.REASONING, 0),
        audio=sum(count for kind, count in units.items() if kind in AUDIO_KINDS),
    )
