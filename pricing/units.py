"""Which of a provider's usage keys is which kind of unit, each counted once (domain.md, What is
counted; docs/pricing.md).

Langfuse names units as the provider did. With "input" in it (or "prompt", as OpenAI's and Google's
own fields have it) a key counts an input kind; with "output" (or "completion", "candidates",
"thoughts") an output kind; else neither, images and requests apart.

Kinds beside one another or inside: Anthropic counts cached tokens beside ``input_tokens``, OpenAI
and Google inside the prompt's tokens. Langfuse takes OpenAI's apart, so its keys lie beside one
another. Where a usage map says otherwise, its ``total`` tells: if that is the sum without the
details of the input, of the output, or of both, then those details are inside and are taken out of
the plain kind.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


class UnitKind(StrEnum):
    """A kind of unit that can have a price of its own. No unit belongs to two."""

    INPUT = "input"
    CACHED_INPUT = "cached_input"
    CACHE_WRITE = "cache_write"
    CACHE_WRITE_1H = "cache_write_1h"
    INPUT_AUDIO = "input_audio"
    INPUT_IMAGE = "input_image"
    OUTPUT = "output"
    REASONING = "reasoning"
    OUTPUT_AUDIO = "output_audio"
    OUTPUT_IMAGE = "output_image"
    IMAGES = "images"
    REQUEST = "request"


PLAIN_KIND = {
    UnitKind.CACHED_INPUT: UnitKind.INPUT,
    UnitKind.CACHE_WRITE: UnitKind.INPUT,
    UnitKind.CACHE_WRITE_1H: UnitKind.CACHE_WRITE,
    UnitKind.INPUT_AUDIO: UnitKind.INPUT,
    UnitKind.INPUT_IMAGE: UnitKind.INPUT,
    UnitKind.REASONING: UnitKind.OUTPUT,
    UnitKind.OUTPUT_AUDIO: UnitKind.OUTPUT,
    UnitKind.OUTPUT_IMAGE: UnitKind.OUTPUT,
}
"""What a kind is charged as where it has no price of its own."""

INPUT_DETAILS = (
    UnitKind.CACHED_INPUT,
    UnitKind.CACHE_WRITE,
    UnitKind.CACHE_WRITE_1H,
    UnitKind.INPUT_AUDIO,
    UnitKind.INPUT_IMAGE,
)
OUTPUT_DETAILS = (UnitKind.REASONING, UnitKind.OUTPUT_AUDIO, UnitKind.OUTPUT_IMAGE)
INPUT_KINDS = frozenset({UnitKind.INPUT, *INPUT_DETAILS})
OUTPUT_KINDS = frozenset({UnitKind.OUTPUT, *OUTPUT_DETAILS})
TOTAL_KEYS = ("totaltokens", "totaltokencount", "total")
"""The provider's own total goes before the ``total`` that Langfuse adds: that one would count the
provider's again.
"""


def _plain_text(usage_key: str) -> str:
    return "".join(character for character in usage_key.lower() if character.isalnum())


@lru_cache(maxsize=4096)
def unit_kind(usage_key: str) -> UnitKind | None:
    """The kind that a usage key counts; None for totals and for what has no kind."""
    key = _plain_text(usage_key)
    if key in TOTAL_KEYS:
        return None
    if key in ("image", "images", "imagecount"):
        return UnitKind.IMAGES
    if key in ("request", "requests", "requestcount"):
        return UnitKind.REQUEST
    # Output first: "promptTokensDetails" never holds "completion", yet Google's "toolUsePrompt"
    # holds no "output".
    if any(word in key for word in ("output", "completion", "candidates", "thoughts")):
        return _output_kind(key)
    return (
        _input_kind(key)
        if "input" in key or "prompt" in key or key.startswith("cachedcontent")
        else None
    )


def _input_kind(key: str) -> UnitKind:
    if "creation" in key or "write" in key or "ephemeral" in key:
        return UnitKind.CACHE_WRITE_1H if "1h" in key else UnitKind.CACHE_WRITE
    if "cache" in key:
        return UnitKind.CACHED_INPUT
    if "audio" in key:
        return UnitKind.INPUT_AUDIO
    return UnitKind.INPUT_IMAGE if "image" in key else UnitKind.INPUT


def _output_kind(key: str) -> UnitKind:
    if "reasoning" in key or "thoughts" in key:
        return UnitKind.REASONING
    if "audio" in key:
        return UnitKind.OUTPUT_AUDIO
    return UnitKind.OUTPUT_IMAGE if "image" in key else UnitKind.OUTPUT


class TokenCounts(NamedTuple):
    """Tokens of one observation: ``input``, ``output`` and ``total``, and the kinds apart (parts of
    the first two).
    """

    input: int = 0
    output: int = 0
    total: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    audio: int = 0


NO_TOKENS = TokenCounts()
COUNTED_AS = {
    UnitKind.INPUT: ("input",),
    UnitKind.CACHED_INPUT: ("input", "cached"),
    UnitKind.CACHE_WRITE: ("input", "cache_write"),
    UnitKind.CACHE_WRITE_1H: ("input", "cache_write"),
    UnitKind.INPUT_AUDIO: ("input", "audio"),
    UnitKind.INPUT_IMAGE: ("input",),
    UnitKind.OUTPUT: ("output",),
    UnitKind.REASONING: ("output", "reasoning"),
    UnitKind.OUTPUT_AUDIO: ("output", "audio"),
    UnitKind.OUTPUT_IMAGE: ("output",),
}
"""Which counts the tokens of a kind are part of; images and requests are no tokens."""
COUNTED_AT = {
    kind: tuple(map(TokenCounts._fields.index, names)) for kind, names in COUNTED_AS.items()
}
TOTAL_AT = TokenCounts._fields.index("total")


class Shape(NamedTuple):
    """What the keys of a usage map say by themselves: the kind of each, and whether the map can
    count a unit twice.

    ``counted_at``: where in TokenCounts each key counts.
    """

    kinds: tuple[UnitKind | None, ...]
    counted_at: tuple[tuple[int, ...], ...]
    may_overlap: bool
    total_key: str | None
    lifetime_total: str | None


@lru_cache(maxsize=4096)
def shape_of(usage_keys: tuple[str, ...]) -> Shape:
    """The shape of a usage map with these keys."""
    kinds = tuple(unit_kind(key) for key in usage_keys)
    plain = {_plain_text(key): key for key in usage_keys}
    total_key = next((plain[name] for name in TOTAL_KEYS if name in plain), None)
    lifetime_total = (
        plain.get("cachecreationinputtokens")
        if any("ephemeral" in name for name in plain)
        else None
    )
    found = set(kinds)
    has_details = (UnitKind.INPUT in found and found & set(INPUT_DETAILS)) or (
        UnitKind.OUTPUT in found and found & set(OUTPUT_DETAILS)
    )
    counted_at = tuple(COUNTED_AT.get(kind, ()) if kind else () for kind in kinds)
    return Shape(
        kinds,
        counted_at,
        bool(lifetime_total) or bool(has_details and total_key),
        total_key,
        lifetime_total,
    )


def units_of(usage_details: Mapping[str, int]) -> dict[UnitKind, int]:
    """Units by kind, each counted once; kinds with no units are left out."""
    shape = shape_of(tuple(usage_details))
    units: dict[UnitKind, int] = {}
    for kind, count in zip(shape.kinds, usage_details.values(), strict=True):
        if kind is not None and count:
            units[kind] = units.get(kind, 0) + count
    if shape.may_overlap:
        _take_out_what_is_inside(units, shape, usage_details)
    return units


def _take_out_what_is_inside(
    units: dict[UnitKind, int], shape: Shape, usage_details: Mapping[str, int]
) -> None:
    if shape.lifetime_total is not None:
        # Anthropic's cache_creation_input_tokens is the sum of its lifetimes.
        _take_out(units, UnitKind.CACHE_WRITE, usage_details[shape.lifetime_total])
    if shape.total_key is None:
        return
    input_details = sum(units.get(kind, 0) for kind in INPUT_DETAILS)
    output_details = sum(units.get(kind, 0) for kind in OUTPUT_DETAILS)
    inside = (
        sum(units.get(kind, 0) for kind in INPUT_KINDS | OUTPUT_KINDS)
        - usage_details[shape.total_key]
    )
    input_can, output_can = (
        input_details <= units.get(UnitKind.INPUT, 0),
        output_details <= units.get(UnitKind.OUTPUT, 0),
    )
    if inside <= 0:
        return
    if input_can and output_can and inside == input_details + output_details:
        _take_out(units, UnitKind.INPUT, input_details)
        _take_out(units, UnitKind.OUTPUT, output_details)
    elif input_can and inside == input_details:
        _take_out(units, UnitKind.INPUT, input_details)
    elif output_can and inside == output_details:
        _take_out(units, UnitKind.OUTPUT, output_details)


def _take_out(units: dict[UnitKind, int], kind: UnitKind, count: int) -> None:
    left = units.pop(kind, 0) - count
    if left > 0:
        units[kind] = left


def count_tokens(usage_details: Mapping[str, int]) -> TokenCounts:
    """The token counts of a usage map.

    ``total`` is what the provider said, else the sum of all units.
    """
    if not usage_details:
        return NO_TOKENS
    shape = shape_of(tuple(usage_details))
    counted: Iterable[tuple[tuple[int, ...], int]] = zip(
        shape.counted_at, usage_details.values(), strict=True
    )
    if shape.may_overlap:
        counted = [
            (COUNTED_AT.get(kind, ()), count) for kind, count in units_of(usage_details).items()
        ]
    counts = [0] * len(NO_TOKENS)
    for places, count in counted:
        for place in places:
            counts[place] += count
    if shape.total_key is not None:
        counts[TOTAL_AT] = usage_details[shape.total_key]
    else:
        counts[TOTAL_AT] = (
            sum(counts[:TOTAL_AT]) if shape.may_overlap else sum(usage_details.values())
        )
    return TokenCounts(*counts)
