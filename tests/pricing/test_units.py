"""Usage keys as providers name them, what they count, and that nothing counts twice
(docs/pricing.md).
"""

import pytest

from pricing.units import TokenCounts, UnitKind, count_tokens, unit_kind, units_of

FORMS = {
    "OpenAI's, as Langfuse takes it apart": (
        {
            "input": 60,
            "input_cached_tokens": 40,
            "output": 30,
            "output_reasoning_tokens": 20,
            "total": 150,
        },
        {"input": 60, "cached_input": 40, "output": 30, "reasoning": 20},
        TokenCounts(input=100, output=50, total=150, cached=40, reasoning=20),
    ),
    "OpenAI's own: cached inside the prompt, reasoning inside the completion": (
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details.cached_tokens": 40,
            "completion_tokens_details.reasoning_tokens": 20,
            "total": 360,
        },
        {"input": 60, "cached_input": 40, "output": 30, "reasoning": 20},
        TokenCounts(input=100, output=50, total=150, cached=40, reasoning=20),
    ),
    "OpenAI's responses, flat: cached inside the input, as the total says": (
        {"input": 100, "input_cached_tokens": 40, "output": 50, "total": 150},
        {"input": 60, "cached_input": 40, "output": 50},
        TokenCounts(input=100, output=50, total=150, cached=40),
    ),
    "Anthropic's: cached beside the input": (
        {
            "input": 100,
            "output": 50,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
            "total": 2450,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 300, "output": 50},
        TokenCounts(input=2400, output=50, total=2450, cached=2000, cache_write=300),
    ),
    "Anthropic's with lifetimes: the creation is their sum": (
        {
            "input": 100,
            "output": 50,
            "cache_creation_input_tokens": 300,
            "ephemeral_5m_input_tokens": 100,
            "ephemeral_1h_input_tokens": 200,
        },
        {"input": 100, "cache_write": 100, "cache_write_1h": 200, "output": 50},
        TokenCounts(input=400, output=50, total=450, cache_write=300),
    ),
    "Google's, as Langfuse takes it apart": (
        {"input": 90, "input_cached_tokens": 10, "output": 5, "output_reasoning": 7, "total": 112},
        {"input": 90, "cached_input": 10, "output": 5, "reasoning": 7},
        TokenCounts(input=100, output=12, total=112, cached=10, reasoning=7),
    ),
    "Google's own: cached inside the prompt, thoughts beside the candidates": (
        {
            "promptTokenCount": 100,
            "candidatesTokenCount": 50,
            "thoughtsTokenCount": 20,
            "cachedContentTokenCount": 40,
            "totalTokenCount": 170,
        },
        {"input": 60, "cached_input": 40, "output": 50, "reasoning": 20},
        TokenCounts(input=100, output=70, total=170, cached=40, reasoning=20),
    ),
    "audio": (
        {"input": 1, "input_audio_tokens": 2, "output": 3, "output_audio_tokens": 4},
        {"input": 1, "input_audio": 2, "output": 3, "output_audio": 4},
        TokenCounts(input=3, output=7, total=10, audio=6),
    ),
    "images and requests are no tokens": (
        {"input": 5, "images": 2, "requests": 1, "total": 8},
        {"input": 5, "images": 2, "request": 1},
        TokenCounts(input=5, total=8),
    ),
    "own keys": ({"searches": 3, "total": 7}, {}, TokenCounts(total=7)),
    "nothing": ({}, {}, TokenCounts()),
    "a total that differs from any sum": (
        {"input": 1, "output": 1, "total": 9},
        {"input": 1, "output": 1},
        TokenCounts(1, 1, 9),
    ),
    "a total that would take more out than there is": (
        {"input": 10, "input_cached_tokens": 40, "total": 10},
        {"input": 10, "cached_input": 40},
        TokenCounts(input=50, total=10, cached=40),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_unit_is_counted_once_in_every_providers_form(form: str) -> None:
    usage, units, tokens = FORMS[form]
    assert units_of(usage) == {UnitKind(kind): count for kind, count in units.items()}
    assert count_tokens(usage) == tokens


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("input_cache_creation_1h", UnitKind.CACHE_WRITE_1H),
        ("input_cache_creation_5m", UnitKind.CACHE_WRITE),
        ("input_cache_creation", UnitKind.CACHE_WRITE),
        ("input_cache_read", UnitKind.CACHED_INPUT),
        ("input_image_tokens", UnitKind.INPUT_IMAGE),
        ("output_modality_IMAGE", UnitKind.OUTPUT_IMAGE),
        ("toolUsePromptTokenCount", UnitKind.INPUT),
        ("image_count", UnitKind.IMAGES),
        ("requests", UnitKind.REQUEST),
        ("server_tool_use.web_search_requests", None),
        ("total", None),
        ("total_tokens", None),
        ("characters", None),
    ],
)
def test_a_key_counts_one_kind_or_none(key: str, kind: UnitKind | None) -> None:
    assert unit_kind(key) is kind
