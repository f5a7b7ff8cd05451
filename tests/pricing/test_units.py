"""What producers write, and that each unit of it is counted once (docs/pricing.md, Units).

``producers.json`` holds what Langfuse stores of thirty SDKs and integrations, with what was truly
used; the tables here hold what else their sources say that they write.
"""

import json
import random
from pathlib import Path
from time import process_time
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pricing.prices import RateCard
from pricing.quotes import amount_for
from pricing.units import (
    COUNTED_AT,
    Doubt,
    TokenCounts,
    count_tokens,
    counted,
    shape_of,
    units_left_out,
    units_of,
)
from pricing.vocabulary import VOCABULARIES, Role, UnitKind, term_of

PRODUCERS = json.loads((Path(__file__).parent.parent / "fixtures/usage/producers.json").read_text())
# Langfuse has lost it, so nobody can know from what is stored; it is marked.
LOST = {
    "langfuse.openai -> xAI (num_sources_used, text_tokens)": (
        {"input": 1000, "output": 200},
        Doubt.DETAILS_DROPPED,
    ),
    "manual: transcription usage": ({"input": 1000, "output": 200}, Doubt.DETAILS_DROPPED),
    "Vercel ai anthropic, AI SDK 4 (input_tokens excludes cache; langfuse subtracts)": (
        {"output": 50, "cached_input": 2000, "cache_write": 300},
        Doubt.BELOW_ZERO,
    ),
}
# What was used is all there, but it can't be told from usage of which something was lost.
MAY_BE_DOUBTED = {
    "langfuse.openai -> Groq (times)": Doubt.DETAILS_DROPPED,
    "Perplexity via OpenAI client (citation_tokens, num_search_queries, cost obj)": (
        Doubt.DETAILS_DROPPED
    ),
    "pydantic-ai OpenAI audio (in 700, out 180, cached 400)": Doubt.OVERLAP,
}


def kinds(usage: dict[str, int]) -> dict[str, int]:
    return {kind.value: count for kind, count in units_of(usage).items()}


@pytest.mark.parametrize("one", PRODUCERS, ids=[one["producer"] for one in PRODUCERS])
def test_each_of_thirty_producers_units_are_counted_once(one: dict[str, object]) -> None:
    usage, used = one["stored_by_langfuse"], one["truly_used"]
    lost = LOST.get(str(one["producer"]))
    found = kinds(usage)  # type: ignore[arg-type]
    # The fixture says nothing of searches.
    found.pop(UnitKind.WEB_SEARCH, None)
    assert found == (lost[0] if lost else used)
    tokens, doubt = counted(usage)  # type: ignore[arg-type]
    if lost:
        assert doubt is lost[1]
    else:
        assert doubt in (Doubt.NONE, MAY_BE_DOUBTED.get(str(one["producer"]), Doubt.NONE))
        assert tokens.total == sum(
            count
            for kind, count in used.items()  # type: ignore[attr-defined]
            if UnitKind(kind) in COUNTED_AT
        )


class Usage(NamedTuple):
    """What is stored, what was used, and what is doubtful."""

    stored: dict[str, int]
    used: dict[str, int]
    doubt: Doubt = Doubt.NONE


CASES = {
    "Anthropic: lifetimes of a cache write that do not sum to it": Usage(
        {
            "input": 10,
            "cache_creation_input_tokens": 37175,
            "cache_creation_ephemeral_1h_input_tokens": 0,
            "cache_creation_ephemeral_5m_input_tokens": 0,
            "output": 10,
        },
        {"input": 10, "cache_write": 37175, "output": 10},
    ),
    "Anthropic: one lifetime is a part of the cache write": Usage(
        {
            "input": 10,
            "cache_creation_input_tokens": 300,
            "ephemeral_1h_input_tokens": 100,
            "output": 10,
        },
        {"input": 10, "cache_write": 200, "cache_write_1h": 100, "output": 10},
    ),
    "a total that contradicts its parts: the cache write is inside the input": Usage(
        {
            "input": 4000,
            "cache_creation_input_tokens": 3900,
            "cache_read_input_tokens": 6000,
            "output": 100,
            "total": 10100,
        },
        {"input": 100, "cache_write": 3900, "cached_input": 6000, "output": 100},
    ),
    "a total that contradicts its parts: the cache read is inside the input": Usage(
        {"input": 117231, "cache_read_input_tokens": 115584, "output": 225, "total": 117456},
        {"input": 1647, "cached_input": 115584, "output": 225},
    ),
    "xAI's text and cached tokens overlap": Usage(
        {
            "input": 0,
            "input_text_tokens": 1000,
            "input_image_tokens": 0,
            "input_cached_tokens": 400,
            "output": 200,
            "output_reasoning_tokens": 0,
            "total": 1200,
        },
        {"input": 600, "cached_input": 400, "output": 200},
    ),
    "xAI's image and cached tokens overlap: how much, nobody says": Usage(
        {
            "input": 0,
            "input_text_tokens": 200,
            "input_image_tokens": 800,
            "input_cached_tokens": 400,
            "output": 200,
            "total": 1200,
        },
        {"input": 200, "input_image": 800, "output": 200},
        Doubt.OVERLAP,
    ),
    "OpenAI's audio and cached tokens overlap, and what was left fell below zero": Usage(
        {
            "input": 0,
            "input_audio_tokens": 700,
            "input_cached_tokens": 400,
            "output": 20,
            "output_audio_tokens": 180,
            "output_reasoning_tokens": 0,
            "total": 1200,
        },
        {"input": 300, "input_audio": 700, "output": 20, "output_audio": 180},
        Doubt.OVERLAP,
    ),
    "langfuse.openai with audio": Usage(
        {
            "input": 300,
            "input_audio_tokens": 700,
            "input_cached_tokens": 0,
            "output": 20,
            "output_audio_tokens": 180,
            "output_reasoning_tokens": 0,
            "total": 1200,
        },
        {"input": 300, "input_audio": 700, "output": 20, "output_audio": 180},
    ),
    "OpenAI's images: text and image tokens are all of the input": Usage(
        {
            "input": 0,
            "input_text_tokens": 50,
            "input_image_tokens": 1000,
            "output": 4000,
            "total": 5050,
        },
        {"input": 50, "input_image": 1000, "output": 4000},
    ),
    "OpenAI's own, flat: cached inside the prompt, reasoning inside the completion": Usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_tokens_details.cached_tokens": 40,
            "completion_tokens_details.reasoning_tokens": 20,
            "total": 360,
        },
        {"input": 60, "cached_input": 40, "output": 30, "reasoning": 20},
    ),
    "xAI's reasoning is beside the completion, and Langfuse took it out": Usage(
        {"input": 1000, "output": 50, "output_reasoning_tokens": 150, "total": 1350},
        {"input": 1000, "output": 200, "reasoning": 150},
    ),
    "xAI's reasoning is more than the completion": Usage(
        {"input": 1000, "output": 0, "output_reasoning_tokens": 150, "total": 1200},
        {"input": 1000, "output": 50, "reasoning": 150},
    ),
    "DeepSeek": Usage(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_cache_hit_tokens": 400,
            "prompt_cache_miss_tokens": 600,
            "total": 3400,
        },
        {"input": 600, "cached_input": 400, "output": 200},
    ),
    "Groq: times are no tokens": Usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "queue_time": 0,
            "prompt_time": 1,
            "total_time": 1,
            "total": 242,
        },
        {"input": 100, "output": 20},
        Doubt.DETAILS_DROPPED,
    ),
    "Mistral: seconds of audio are no tokens": Usage(
        {
            "prompt_tokens": 100,
            "completion_tokens": 20,
            "total_tokens": 120,
            "prompt_audio_seconds": 14,
            "total": 254,
        },
        {"input": 100, "output": 20, "seconds": 14},
        Doubt.DETAILS_DROPPED,
    ),
    "Databricks": Usage(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "cache_read_input_tokens": 400,
            "reasoning_tokens": 50,
            "total": 2850,
        },
        {"input": 600, "cached_input": 400, "output": 150, "reasoning": 50},
    ),
    "Cohere: what is billed, and what the model saw": Usage(
        {
            "meta.billed_units.input_tokens": 100,
            "meta.billed_units.output_tokens": 20,
            "meta.billed_units.search_units": 1,
            "meta.tokens.input_tokens": 160,
            "meta.tokens.output_tokens": 20,
            "total": 301,
        },
        {"input": 100, "output": 20, "search_units": 1},
    ),
    "Ollama: durations are no tokens": Usage(
        {
            "prompt_eval_count": 100,
            "eval_count": 20,
            "total_duration": 123_456_789,
            "load_duration": 33,
            "prompt_eval_duration": 44,
            "eval_duration": 55,
        },
        {"input": 100, "output": 20},
    ),
    "Anthropic's own": Usage(
        {
            "input_tokens": 100,
            "output_tokens": 50,
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 2000,
            "cache_creation.ephemeral_5m_input_tokens": 200,
            "cache_creation.ephemeral_1h_input_tokens": 100,
            "server_tool_use.web_search_requests": 2,
            "total": 2752,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 200, "cache_write_1h": 100}
        | {"output": 50, "web_search": 2},
    ),
    "Anthropic's own tracer: the input includes the cache write": Usage(
        {
            "cache_write.input_tokens": 200,
            "input": 300,
            "output": 301,
            "input_cached_tokens": 900,
            "total": 1701,
        },
        {"input": 100, "cached_input": 900, "cache_write": 200, "output": 301},
    ),
    "Vertex by LangChain: cached tokens by modality": Usage(
        {
            "input": 0,
            "output": 0,
            "total": 1200,
            "input_modality_1": 600,
            "cached_modality_1": 400,
            "cached_content_token_count": 400,
            "output_modality_1": 50,
            "thoughts_token_count": 150,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "Vertex by an older LangChain callback: cached tokens inside their modality": Usage(
        {
            "input": 0,
            "output": 0,
            "total": 1050,
            "input_modality_1": 200,
            "input_modality_2": 800,
            "cached_modality_2": 300,
            "cached_content_token_count": 0,
            "output_modality_1": 50,
        },
        {"input": 200, "input_image": 500, "cached_input": 300, "output": 50},
    ),
    "cached tokens by modality alone": Usage(
        {"input": 600, "cached_modality_1": 400, "output": 5},
        {"input": 600, "cached_input": 400, "output": 5},
    ),
    "LangChain: the tier flex": Usage(
        {
            "input": 0,
            "output": 0,
            "total": 1200,
            "input_flex_cache_read": 400,
            "input_flex": 600,
            "output_flex_reasoning": 150,
            "output_flex": 50,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "LangChain Anthropic: lifetimes": Usage(
        {
            "input": 100,
            "output": 50,
            "total": 2450,
            "input_cache_read": 2000,
            "input_cache_creation": 0,
            "input_ephemeral_5m_input_tokens": 200,
            "input_ephemeral_1h_input_tokens": 100,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 200, "cache_write_1h": 100}
        | {"output": 50},
    ),
    "LangChain Anthropic, older: lifetimes and their sum, both taken out": Usage(
        {
            "input": 0,
            "output": 50,
            "total": 2450,
            "input_cache_read": 2000,
            "input_cache_creation": 300,
            "input_ephemeral_5m_input_tokens": 200,
            "input_ephemeral_1h_input_tokens": 100,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 200, "cache_write_1h": 100}
        | {"output": 50},
    ),
    "LiteLLM with OpenAI: cached inside the input": Usage(
        {
            "input": 1000,
            "output": 200,
            "cache_read_input_tokens": 400,
            "cache_creation_input_tokens": 0,
            "total": 1200,
        },
        {"input": 600, "cached_input": 400, "output": 200},
    ),
    "pydantic-ai with OpenAI": Usage(
        {
            "accepted_prediction_tokens": 20,
            "audio_tokens": 0,
            "reasoning_tokens": 128,
            "rejected_prediction_tokens": 10,
            "input": 176,
            "output": 301,
            "input_cached_tokens": 1024,
            "total": 1659,
        },
        {"input": 176, "cached_input": 1024, "output": 173, "reasoning": 128},
    ),
    "pydantic-ai with OpenAI: audio under two names": Usage(
        {
            "audio_tokens": 180,
            "input_audio_tokens": 700,
            "output_audio_tokens": 180,
            "input": 1000,
            "output": 200,
            "total": 2260,
        },
        {"input": 300, "input_audio": 700, "output": 20, "output_audio": 180},
    ),
    "pydantic-ai with Gemini: cached image tokens": Usage(
        {
            "cached_content_tokens": 400,
            "image_prompt_tokens": 800,
            "text_prompt_tokens": 200,
            "image_cache_tokens": 300,
            "text_cache_tokens": 100,
            "text_candidates_tokens": 50,
            "input": 600,
            "output": 50,
            "input_cached_tokens": 400,
            "total": 2900,
        },
        {"input": 100, "input_image": 500, "cached_input": 400, "output": 50},
    ),
    "pydantic-ai with Gemini: tools": Usage(
        {
            "tool_use_prompt_tokens": 300,
            "text_prompt_tokens": 1000,
            "text_tool_use_prompt_tokens": 300,
            "input": 1300,
            "output": 50,
            "total": 2950,
        },
        {"input": 1300, "output": 50},
    ),
    "pydantic-ai with Anthropic: Anthropic's names beside Langfuse's": Usage(
        {
            "cache_creation_input_tokens": 300,
            "cache_read_input_tokens": 2000,
            "input_tokens": 100,
            "output_tokens": 50,
            "input": 100,
            "output": 50,
            "input_cached_tokens": 2000,
            "input_cache_creation": 300,
            "total": 4900,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 300, "output": 50},
    ),
    "OpenLLMetry: reasoning inside the output": Usage(
        {
            "reasoning_tokens": 128,
            "input": 176,
            "output": 314,
            "total": 1514,
            "input_cached_tokens": 1024,
        },
        {"input": 176, "cached_input": 1024, "output": 186, "reasoning": 128},
    ),
    "OpenInference: counts of 0": Usage(
        {
            "prompt_details.audio": 0,
            "input": 176,
            "output": 182,
            "total": 1510,
            "input_cached_tokens": 1024,
            "output_reasoning_tokens": 128,
            "output_audio_tokens": 0,
        },
        {"input": 176, "cached_input": 1024, "output": 182, "reasoning": 128},
    ),
    "Vercel AI SDK's own": Usage(
        {
            "inputTokens": 1000,
            "outputTokens": 200,
            "totalTokens": 1200,
            "reasoningTokens": 150,
            "cachedInputTokens": 400,
            "total": 2950,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "Vercel AI SDK with Anthropic: lifetimes and the rest": Usage(
        {
            "input": 100,
            "output": 50,
            "input_cache_creation": 50,
            "input_cache_creation_5m": 200,
            "input_cache_creation_1h": 100,
            "input_cached_tokens": 2000,
            "total": 2500,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 250, "cache_write_1h": 100}
        | {"output": 50},
    ),
    "Vercel AI SDK on Bedrock: Langfuse takes cached tokens out twice": Usage(
        {
            "input": 1036,
            "output": 50,
            "input_cached_tokens": 4482,
            "input_cache_read": 4482,
            "input_cache_write": 0,
            "total": 10050,
        },
        {"input": 5518, "cached_input": 4482, "output": 50},
    ),
    "Bedrock's InvokeModel: latencies are no tokens": Usage(
        {
            "inputTokenCount": 100,
            "outputTokenCount": 50,
            "invocationLatency": 1200,
            "firstByteLatency": 300,
            "total": 1650,
        },
        {"input": 100, "output": 50},
    ),
    "ADK: Langfuse's names with a total": Usage(
        {
            "input": 176,
            "output": 327,
            "total": 1527,
            "input_cached_tokens": 1024,
            "output_reasoning_tokens": 128,
        },
        {"input": 176, "cached_input": 1024, "output": 199, "reasoning": 128},
    ),
    "an unknown name with a side is beside the others": Usage(
        {"input": 100, "input_foo_tokens": 20, "output": 5, "total": 125},
        {"input": 120, "output": 5},
    ),
    "an unknown name with a side is inside where the total says so": Usage(
        {"input": 100, "input_cached_foo": 20, "output": 5, "total": 105},
        {"input": 80, "cached_input": 20, "output": 5},
    ),
    "seconds of audio are no tokens": Usage(
        {"input_audio_seconds": 30, "total": 30}, {"seconds": 30}
    ),
    "characters are no tokens": Usage(
        {"input": 0, "characters": 500, "total": 500}, {"characters": 500}
    ),
    "images and requests are no tokens": Usage(
        {"input": 5, "images": 2, "requests": 1, "total": 8},
        {"input": 5, "images": 2, "request": 1},
    ),
    "a total of 0 is no total": Usage(
        {"input": 5, "output": 3, "total": 0}, {"input": 5, "output": 3}
    ),
    "a total alone": Usage({"total": 1000}, {"input": 1000}, Doubt.TOTAL_ALONE),
    "Voyage: a total alone": Usage(
        {"total_tokens": 1000, "total": 1000}, {"input": 1000}, Doubt.TOTAL_ALONE
    ),
    "Vercel AI SDK: an embedding": Usage(
        {"input": 0, "output": 0, "total": 1000}, {"input": 1000}, Doubt.TOTAL_ALONE
    ),
    "Vercel AI SDK with Google: Langfuse takes out thoughts that were beside": Usage(
        {"input": 1000, "output": 0, "output_reasoning_tokens": 150, "total": 1150},
        {"input": 1000, "reasoning": 150},
        Doubt.BELOW_ZERO,
    ),
    "LangChain OpenAI: audio and cached tokens overlap": Usage(
        {
            "input": 0,
            "output": 20,
            "total": 1200,
            "input_audio": 700,
            "input_cache_read": 400,
            "output_audio": 180,
            "output_reasoning": 0,
        },
        {"input": 300, "input_audio": 700, "output": 20, "output_audio": 180},
        Doubt.OVERLAP,
    ),
    "OpenInference: audio and cached tokens overlap": Usage(
        {
            "prompt_details.audio": 700,
            "input": 600,
            "input_cached_tokens": 400,
            "output": 20,
            "output_audio_tokens": 180,
            "total": 1200,
        },
        {"input": 300, "input_audio": 700, "output": 20, "output_audio": 180},
        Doubt.OVERLAP,
    ),
    "Nova by InvokeModel: the caches under two names": Usage(
        {
            "inputTokens": 100,
            "outputTokens": 50,
            "totalTokens": 2450,
            "cacheReadInputTokenCount": 2000,
            "cacheWriteInputTokenCount": 300,
            "cacheReadInputTokens": 2000,
            "cacheWriteInputTokens": 300,
            "total": 7200,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 300, "output": 50},
    ),
    "OpenAI's embeddings as they are": Usage(
        {"prompt_tokens": 1000, "total_tokens": 1000, "total": 2000}, {"input": 1000}
    ),
    "CrewAI": Usage(
        {
            "prompt_tokens": 1000,
            "cached_prompt_tokens": 400,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "successful_requests": 1,
            "total": 2801,
        },
        {"input": 600, "cached_input": 400, "output": 200},
    ),
    "pydantic-ai with Cohere: what is billed beside tokens": Usage(
        {"search_units": 1, "classifications": 2, "input": 100, "output": 50, "total": 153},
        {"input": 100, "output": 50, "search_units": 1},
    ),
    "OpenAI's images, with the output's details": Usage(
        {
            "input": 0,
            "input_text_tokens": 50,
            "input_image_tokens": 1000,
            "output": 0,
            "output_image_tokens": 4000,
            "output_text_tokens": 0,
            "total": 5050,
        },
        {"input": 50, "input_image": 1000, "output_image": 4000},
    ),
    "Llama on Bedrock": Usage(
        {"prompt_token_count": 100, "generation_token_count": 50, "total": 150},
        {"input": 100, "output": 50},
    ),
    "Gemini's live API": Usage(
        {
            "promptTokenCount": 100,
            "responseTokenCount": 50,
            "cachedContentTokenCount": 40,
            "totalTokenCount": 150,
            "total": 340,
        },
        {"input": 60, "cached_input": 40, "output": 50},
    ),
    "langfuse.openai for JavaScript with xAI: nothing is left of either side": Usage(
        {
            "input": 0,
            "output": 0,
            "total": 1200,
            "input_text_tokens": 1000,
            "input_audio_tokens": 0,
            "input_image_tokens": 0,
            "input_cached_tokens": 400,
            "output_reasoning_tokens": 150,
            "output_audio_tokens": 0,
            "output_accepted_prediction_tokens": 0,
            "output_rejected_prediction_tokens": 0,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "LangChain for JavaScript: the tier priority is all of the input": Usage(
        {
            "input": 0,
            "output": 0,
            "total": 1200,
            "input_priority_cache_read": 400,
            "input_priority": 600,
            "output_priority_reasoning": 150,
            "output_priority": 50,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "LangChain Perplexity: citations are no part of the output they were taken out of": Usage(
        {
            "input": 1000,
            "output": 0,
            "total": 1200,
            "output_reasoning": 0,
            "output_citation_tokens": 5000,
        },
        {"input": 1000, "output": 200},
    ),
    "LangChain Perplexity: few citations go back to the output": Usage(
        {
            "input": 1000,
            "output": 150,
            "total": 1200,
            "output_reasoning": 0,
            "output_citation_tokens": 50,
        },
        {"input": 1000, "output": 200},
    ),
    "LangChain Perplexity: citations and reasoning": Usage(
        {
            "input": 1000,
            "output": 0,
            "total": 1200,
            "output_reasoning": 100,
            "output_citation_tokens": 5000,
        },
        {"input": 1000, "output": 100, "reasoning": 100},
    ),
    "Vertex by LangChain: of which modality the cached tokens are is said": Usage(
        {
            "cached_content_token_count": 400,
            "thoughts_token_count": 150,
            "input": 0,
            "output": 0,
            "total": 1200,
            "input_modality_1": 200,
            "input_modality_4": 400,
            "output_modality_1": 50,
            "cached_modality_1": 100,
            "cached_modality_4": 300,
        },
        {"input": 200, "input_audio": 400, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "ADK before 2.3: thoughts beside, their limit no usage, the instruction inside": Usage(
        {
            "experimental.reasoning_tokens": 150,
            "experimental.reasoning_tokens_limit": 8192,
            "experimental.system_instruction_tokens": 300,
            "input": 1000,
            "output": 200,
            "total": 9842,
        },
        {"input": 1000, "output": 200, "reasoning": 150},
    ),
    "Gemini's Interactions API": Usage(
        {
            "total_input_tokens": 1000,
            "total_output_tokens": 50,
            "total_thought_tokens": 150,
            "total_cached_tokens": 400,
            "total_tool_use_tokens": 300,
            "total_tokens": 1500,
            "total": 3400,
        },
        {"input": 900, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "OpenAI's realtime API, flat: cached tokens by modality": Usage(
        {
            "total_tokens": 1200,
            "input_tokens": 1000,
            "output_tokens": 200,
            "input_token_details.text_tokens": 300,
            "input_token_details.audio_tokens": 700,
            "input_token_details.image_tokens": 0,
            "input_token_details.cached_tokens": 400,
            "input_token_details.cached_tokens_details.text_tokens": 100,
            "input_token_details.cached_tokens_details.audio_tokens": 300,
            "output_token_details.text_tokens": 20,
            "output_token_details.audio_tokens": 180,
            "total": 4400,
        },
        {"input": 200, "input_audio": 400, "cached_input": 400, "output": 20, "output_audio": 180},
    ),
    "Voyage with images: text tokens of no side, and a total": Usage(
        {
            "text_tokens": 50,
            "image_pixels": 2000000,
            "total_tokens": 3600,
            "total": 2003650,
        },
        {"input": 3600},
        Doubt.TOTAL_ALONE,
    ),
    "Mastra: reasoning inside the output": Usage(
        {
            "input": 600,
            "output": 200,
            "reasoning": 150,
            "cache_read_input_tokens": 400,
            "total": 1350,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "Mastra, its first version: the cache read inside the input": Usage(
        {
            "input": 2100,
            "output": 200,
            "total": 2600,
            "reasoning": 150,
            "cache_read_input_tokens": 2000,
            "cache_write_input_tokens": 300,
        },
        {"input": 100, "cached_input": 2000, "cache_write": 300, "output": 50, "reasoning": 150},
    ),
    "Codex": Usage(
        {
            "input_tokens": 1000,
            "cached_input_tokens": 400,
            "cache_write_input_tokens": 0,
            "output_tokens": 200,
            "reasoning_output_tokens": 150,
            "total": 1750,
        },
        {"input": 600, "cached_input": 400, "output": 50, "reasoning": 150},
    ),
    "SambaNova: rates and times are no tokens": Usage(
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "completion_tokens_per_sec": 50,
            "completion_tokens_after_first_per_sec": 60,
            "total_tokens_per_sec": 300,
            "time_to_first_token": 1,
            "total_latency": 4,
            "total": 2815,
        },
        {"input": 1000, "output": 200},
        Doubt.DETAILS_DROPPED,
    ),
    "limits and budgets are no usage": Usage(
        {
            "input": 1000,
            "output": 200,
            "max_output_tokens": 4096,
            "thinking_budget_tokens": 8000,
            "remaining_tokens": 100000,
            "total": 113296,
        },
        {"input": 1000, "output": 200},
    ),
    "Strands on Bedrock: Langfuse takes out a cache read that was beside": Usage(
        {
            "cache_write_input_tokens": 300,
            "input": 3000,
            "output": 50,
            "total": 7350,
            "input_cached_tokens": 2000,
        },
        {"input": 5000, "cached_input": 2000, "cache_write": 300, "output": 50},
    ),
    "Anthropic: thinking is inside the output": Usage(
        {
            "input_tokens": 100,
            "output_tokens": 200,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 0,
            "output_tokens_details.thinking_tokens": 150,
            "total": 2450,
        },
        {"input": 100, "cached_input": 2000, "output": 50, "reasoning": 150},
    ),
    "tokens of no side are in the total alone": Usage(
        {"input": 60, "output": 5, "foo_tokens": 30, "total": 95},
        {"input": 60, "output": 5},
        Doubt.LESS_THAN_TOTAL,
    ),
    "a total of own keys": Usage({"searches": 3, "total": 7}, {}, Doubt.LESS_THAN_TOTAL),
    "a total beyond any sum": Usage(
        {"input": 1, "output": 1, "total": 9}, {"input": 1, "output": 1}, Doubt.LESS_THAN_TOTAL
    ),
    "a total below any sum": Usage(
        {"input": 10, "input_cached_tokens": 40, "total": 10},
        {"input": 10, "cached_input": 40},
        Doubt.MORE_THAN_TOTAL,
    ),
    "nothing": Usage({}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_unit_is_counted_once_in_every_producers_form(case: str) -> None:
    usage = CASES[case]
    assert kinds(usage.stored) == usage.used
    tokens, doubt = counted(usage.stored)
    assert doubt is usage.doubt
    assert tokens.input + tokens.output == sum(
        count for kind, count in usage.used.items() if UnitKind(kind) in COUNTED_AT
    )


@pytest.mark.parametrize("case", CASES)
def test_the_order_of_keys_says_nothing(case: str) -> None:
    usage = CASES[case]
    for stored in (dict(sorted(usage.stored.items())), dict(reversed(usage.stored.items()))):
        assert kinds(stored) == usage.used


def test_kinds_are_told_apart_and_the_total_is_the_producers() -> None:
    assert count_tokens(CASES["LangChain Anthropic: lifetimes"].stored) == TokenCounts(
        input=2400, output=50, total=2450, cached=2000, cache_write=300
    )
    assert count_tokens(CASES["xAI's reasoning is more than the completion"].stored) == TokenCounts(
        input=1000, output=200, total=1200, reasoning=150
    )
    audio = count_tokens({"input": 1, "input_audio_tokens": 2, "output": 3, "output_audio": 4})
    assert audio == TokenCounts(input=3, output=7, total=10, audio=6)
    assert count_tokens(CASES["a total beyond any sum"].stored) == TokenCounts(1, 1, 9)
    assert count_tokens(CASES["a total beyond any sum"].stored).beyond_total == -7


@pytest.mark.parametrize(
    ("key", "kind", "role"),
    [
        ("input_cache_creation_1h", UnitKind.CACHE_WRITE_1H, Role.LIFETIME),
        ("gen_ai.usage.cache_read.input_tokens", UnitKind.CACHED_INPUT, Role.PART),
        ("llm.token_count.prompt_details.cache_write", UnitKind.CACHE_WRITE, Role.PART),
        ("output_modality_IMAGE", UnitKind.OUTPUT_IMAGE, Role.PART),
        ("toolUsePromptTokenCount", UnitKind.INPUT, Role.PART),
        ("cachedPromptTokens", UnitKind.CACHED_INPUT, Role.PART),
        ("numInputTokens", UnitKind.INPUT, Role.WHOLE),
        ("input_other", UnitKind.INPUT, Role.PART),
        ("thinking_tokens", UnitKind.REASONING, Role.PART),
        ("image_count", UnitKind.IMAGES, Role.OTHER),
        ("requests", UnitKind.REQUEST, Role.OTHER),
        ("server_tool_use.web_search_requests", UnitKind.WEB_SEARCH, Role.OTHER),
        ("input_audio_seconds", UnitKind.SECONDS, Role.OTHER),
        ("input_characters", UnitKind.CHARACTERS, Role.OTHER),
        ("output_images", UnitKind.IMAGES, Role.OTHER),
        ("total_duration", None, Role.OTHER),
        ("total", None, Role.TOTAL),
        ("llm.usage.total_tokens", None, Role.TOTAL),
        ("citation_tokens", None, Role.OTHER),
        ("foo_tokens", None, Role.UNKNOWN),
        ("searches", None, Role.OTHER),
    ],
)
def test_a_key_counts_one_kind_or_none(key: str, kind: UnitKind | None, role: Role) -> None:
    assert (term_of(key).kind, term_of(key).role) == (kind, role)


counts = st.integers(0, 10**6)
known_keys = sorted({key for terms in VOCABULARIES.values() for key in terms})
maps = st.dictionaries(
    st.sampled_from(known_keys) | st.sampled_from(["foo_tokens", "input_x", "output_y", "z"]),
    counts,
    max_size=9,
)


@given(maps)
@example({"input_cache_creation_1h": 2, "prompt_cache_hit_tokens": 1})
@example({"input": 1, "input_cache_creation_1h": 3, "prompt_cache_hit_tokens": 2})
@example({"input": 0, "input_cache_creation_1h": 3, "prompt_cache_hit_tokens": 2})
@example(
    {
        "audio_cache_tokens": 5,
        "audio_candidates_tokens": 1,
        "audio_prompt_tokens": 2,
        "audio_tokens": 9,
        "cache_audio_read_tokens": 1,
        "cache_creation.input_tokens": 1,
        "cache_creation_ephemeral_1h_input_tokens": 1,
        "prompt_tokens_details_cached_tokens": 3,
    }
)
def test_never_more_tokens_than_the_producers_total_without_a_mark(usage: dict[str, int]) -> None:
    tokens, doubt = counted(usage)
    units = units_of(usage)
    assert all(count > 0 for count in units.values())
    counted_tokens = sum(count for kind, count in units.items() if kind in COUNTED_AT)
    assert counted_tokens == tokens.input + tokens.output <= sum(usage.values())
    assert (tokens.beyond_total > 0) is (doubt is Doubt.MORE_THAN_TOTAL)
    assert (tokens.beyond_total < 0) is (doubt is Doubt.LESS_THAN_TOTAL)
    assert tokens.cached + tokens.cache_write <= tokens.input
    assert tokens.reasoning <= tokens.output


class Call(NamedTuple):
    """What a call truly used, by kind."""

    input: int
    cached_input: int
    cache_write: int
    output: int
    reasoning: int

    def forms(self) -> dict[str, dict[str, int]]:
        """What producers write of it that name all of these kinds."""
        i, c, w, o, r = self
        total = i + c + w + o + r
        return {
            "Langfuse, taken apart": {
                "input": i,
                "input_cached_tokens": c,
                "input_cache_creation": w,
                "output": o,
                "output_reasoning_tokens": r,
                "total": total,
            },
            "LangChain": {
                "input": i,
                "input_cache_read": c,
                "input_cache_creation": w,
                "output": o,
                "output_reasoning": r,
                "total": total,
            },
            "OpenAI, flat": {
                "prompt_tokens": i + c + w,
                "prompt_tokens_details.cached_tokens": c,
                "prompt_tokens_details.cache_write_tokens": w,
                "completion_tokens": o + r,
                "completion_tokens_details.reasoning_tokens": r,
                "total_tokens": total,
            },
            "Anthropic": {
                "input_tokens": i,
                "cache_read_input_tokens": c,
                "cache_creation_input_tokens": w,
                "output_tokens": o + r,
                "output_tokens_details.thinking_tokens": r,
            },
            "Mastra": {
                "input": i,
                "cache_read_input_tokens": c,
                "cache_write_input_tokens": w,
                "output": o + r,
                "reasoning": r,
                "total": total,
            },
            "pydantic-ai": {
                "input": i,
                "input_cached_tokens": c,
                "input_cache_creation": w,
                "output": o + r,
                "reasoning_tokens": r,
            },
            "OpenTelemetry, with a total": {
                "input": i,
                "input_cached_tokens": c,
                "input_cache_creation": w,
                "output": o + r,
                "reasoning_tokens": r,
                "total": total,
            },
            "Vercel AI SDK": {
                "inputTokens": i + c + w,
                "inputTokenDetails.noCacheTokens": i,
                "inputTokenDetails.cacheReadTokens": c,
                "inputTokenDetails.cacheWriteTokens": w,
                "outputTokens": o + r,
                "outputTokenDetails.textTokens": o,
                "outputTokenDetails.reasoningTokens": r,
                "totalTokens": total,
            },
        }


@given(st.builds(Call, *[st.just(0) | st.integers(1, 10**6)] * 5), st.randoms(), st.data())
def test_every_producers_form_of_a_call_counts_what_it_used(
    call: Call, shuffled: random.Random, data: st.DataObject
) -> None:
    forms = call.forms()
    stored = list(forms[data.draw(st.sampled_from(sorted(forms)))].items())
    if data.draw(st.booleans()) and not any(key.startswith("total") for key, _ in stored):
        stored.append(("total", sum(count for _, count in stored)))
    shuffled.shuffle(stored)
    assert kinds(dict(stored)) == {kind: n for kind, n in call._asdict().items() if n}


@given(st.dictionaries(st.text(max_size=20), counts, max_size=9))
def test_no_name_of_a_key_is_an_error(usage: dict[str, int]) -> None:
    tokens, _ = counted(usage)
    assert tokens.input + tokens.output <= sum(usage.values())


@given(maps)
def test_a_price_is_of_the_units_that_are_counted(usage: dict[str, int]) -> None:
    card = RateCard({kind: 10**6 * (at + 1) for at, kind in enumerate(UnitKind)})
    units = units_of(usage)
    priced = amount_for(card, shape_of(tuple(usage)))(usage)
    assert priced == (card.picousd(units) if units else None)


def test_a_map_with_hundreds_of_keys_is_counted_in_no_time() -> None:
    usage = {f"input_cache_read_{at}": 1 for at in range(500)}
    usage |= {f"output_reasoning_{at}": 1 for at in range(500)}
    usage["total"] = 17
    tokens, doubt = counted(usage)
    assert (tokens.input, tokens.output, doubt) == (500, 500, Doubt.MORE_THAN_TOTAL)


LEFT_OUT = {
    "nothing that counts": ({"input": 5, "output": 3, "total": 8}, {"total"}, {}),
    "a detail beside": (
        {"input": 60, "input_cache_read": 40, "output": 5, "total": 105},
        {"input_cache_read"},
        {"cached_input": 40},
    ),
    "a detail inside what has a cost": (
        {"input": 60, "output": 50, "reasoning_tokens": 20, "total": 130},
        {"reasoning_tokens"},
        {},
    ),
    "a detail inside what has none": (
        {"input": 60, "output": 50, "reasoning_tokens": 20, "total": 130},
        {"output", "reasoning_tokens"},
        {"output": 30, "reasoning": 20},
    ),
    "an echo": (
        {"input": 60, "input_tokens": 60, "output": 5, "total": 125},
        {"input_tokens"},
        {},
    ),
    "searches": (
        {"input": 60, "web_search_requests": 3, "total": 63},
        {"web_search_requests"},
        {"web_search": 3},
    ),
    "seconds beside tokens": ({"input": 60, "seconds": 3, "total": 63}, {"seconds"}, {}),
    "tokens that nobody knows": ({"input": 60, "foo_tokens": 3, "total": 63}, {"foo_tokens"}, None),
    "images": ({"input": 60, "images": 3, "total": 63}, {"images"}, {"images": 3}),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_a_partial_cost_leaves_out(case: str) -> None:
    usage, uncosted, expected = LEFT_OUT[case]
    found = units_left_out(usage, uncosted)
    named = None if found is None else {kind.value: count for kind, count in found.items()}
    assert named == expected


def test_usage_whose_keys_never_come_again_is_counted_as_fast() -> None:
    began = process_time()
    for number in range(2_000):
        usage = {f"input_cached_{number}_{at}": 1 for at in range(8)} | {"input": 9, "total": 17}
        assert count_tokens(usage).input == 17
    assert process_time() - began < 10
