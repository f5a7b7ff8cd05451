"""Usage keys as providers name them, and what they count."""

from collections.abc import Mapping

import pytest

from pricing.units import TokenCounts, UnitKind, count_tokens, units_of

FORMS = {
    "openai": (
        {"input": 60, "input_cached_tokens": 40, "output": 30, "output_reasoning_tokens": 20, "total": 150},
        TokenCounts(input=100, output=50, total=150, cached=40, reasoning=20),
    ),
    "anthropic": (
        {"input": 100, "output": 50, "cache_read_input_tokens": 2000, "cache_creation_input_tokens": 300, "total": 2450},
        TokenCounts(input=2400, output=50, total=2450, cached=2000, cache_write=300),
    ),
    "google": (
        {"input": 90, "input_cached_tokens": 10, "output": 5, "output_reasoning": 7, "total": 112},
        TokenCounts(input=100, output=12, total=112, cached=10, reasoning=7),
    ),
    "audio": (
        {"input": 1, "input_audio_tokens": 2, "output": 3, "output_audio_tokens": 4},
        TokenCounts(input=3, output=7, total=10, audio=6),
    ),
    "own keys": ({"searches": 3, "total": 7}, TokenCounts(total=7)),
    "nothing": ({}, TokenCounts()),
    "a total that differs": ({"input": 1, "output": 1, "total": 9}, TokenCounts(input=1, output=1, total=9)),
}


@pytest.mark.parametrize("form", FORMS)
def test_tokens_are_counted_once_in_every_providers_form(form: str) -> None:
    usage, expected = FORMS[form]
    assert count_tokens(usage) == expected


@pytest.mark.parametrize(
    ("usage", "units"),
    [
        ({"input": 60, "input_cached_tokens": 40, "total": 100}, {UnitKind.INPUT: 60, UnitKind.CACHED_INPUT: 40}),
        ({"input_cache_creation": 5, "input_cache_read": 6}, {UnitKind.CACHE_WRITE: 5, UnitKind.CACHED_INPUT: 6}),
        ({"input": 0, "output": 2}, {UnitKind.OUTPUT: 2}),
    ],
)
def test_units_are_sorted_by_kind(usage: Mapping[str, int], units: Mapping[UnitKind, int]) -> None:
    assert units_of(usage) == units
