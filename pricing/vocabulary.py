"""What a usage key counts: the names of the producers that we know, and how a name that nobody
knows is read (docs/pricing.md, Units). Pure.

Langfuse hands on what an SDK or integration wrote: OpenAI's fields taken apart, the names of
OpenTelemetry's attributes, a provider's own object as it is. A *term* says which kind of unit a key
counts, and where it may stand: separate from the plain count of its side, inside it, or as an echo
of what another key counts already. Which of these it is in one usage map, ``pricing.readings``
finds out.
"""

import re
from collections.abc import Mapping
from enum import IntEnum, StrEnum
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
    WEB_SEARCH = "web_search"
    STORAGE_SEARCH = "storage_search"
    SEARCH_UNITS = "search_units"
    SECONDS = "seconds"
    CHARACTERS = "characters"
    PAGES = "pages"
    OTHER = "other"
    """Of names that a price says itself (RateCard.other_units)."""


class Place(IntEnum):
    """How a key's count enters the sum of its side."""

    SEPARATE = 0
    """It is counted, and in no other key."""
    INSIDE = 1
    """It is counted, and taken out of what it is a part of."""
    ECHO = 2
    """Another key counts it."""
    UNTOLD = 3
    """It was taken out of the plain count, and is a part of something else, too: it goes back."""
    RETURNED = 4
    """It is counted, and what was taken out of the plain count for it goes back."""
    SHARED = 5
    """Another key counts it, and a third, of its modality, does as well: it is taken out there."""


class Role(StrEnum):
    """What a key is in a usage map."""

    WHOLE = "whole"  # the plain count of a side
    PART = "part"  # of a side
    LIFETIME = "lifetime"  # of a cache write, for which there may be a sum
    CACHED_PART = "cached_part"  # by modality, of the cached tokens, for which there may be a sum
    TOTAL = "total"
    OTHER = "other"  # no tokens
    UNKNOWN = "unknown"  # tokens of no side that we know


class Term(NamedTuple):
    """What a usage key counts. ``places``: where it may stand, the most likely first; ``modality``:
    of cached tokens, which.
    """

    role: Role
    kind: UnitKind | None = None
    places: tuple[Place, ...] = (Place.SEPARATE,)
    is_known: bool = True
    modality: UnitKind | None = None
    rank: int = 1
    """Of keys that count the same, the lowest is counted, and the others are its echoes."""


SEPARATE = (Place.SEPARATE, Place.INSIDE, Place.RETURNED)
INSIDE = (Place.INSIDE, Place.SEPARATE)
ECHO = (Place.ECHO, Place.SEPARATE)
RETURNED = (Place.INSIDE, Place.RETURNED, Place.SEPARATE)
GIVEN_BACK = (Place.UNTOLD, Place.ECHO)
TOTAL, OTHER, UNKNOWN = Term(Role.TOTAL), Term(Role.OTHER), Term(Role.UNKNOWN)
K = UnitKind


def whole(kind: UnitKind, rank: int = 1) -> Term:
    return Term(Role.WHOLE, kind, (Place.SEPARATE,), rank=rank)


def part(kind: UnitKind, places: tuple[Place, ...], rank: int = 1) -> Term:
    return Term(Role.PART, kind, places, rank=rank)


def other(kind: UnitKind) -> Term:
    return Term(Role.OTHER, kind)


def lifetime(kind: UnitKind, places: tuple[Place, ...]) -> Term:
    return Term(Role.LIFETIME, kind, places)


def cached_part(modality: UnitKind, places: tuple[Place, ...]) -> Term:
    return Term(Role.CACHED_PART, K.CACHED_INPUT, places, modality=modality)


SHARED = (Place.SHARED, Place.ECHO)
VOCABULARIES: Mapping[str, Mapping[str, Term]] = {
    # packages/shared/src/server/ingestion/types.ts and OtelIngestionProcessor.ts: what Langfuse
    # names itself has been taken out of `input` and `output`.
    "Langfuse": {
        "input": whole(K.INPUT, 0),
        "output": whole(K.OUTPUT, 0),
        "total": TOTAL,
        "input_cached_tokens": part(K.CACHED_INPUT, SEPARATE, 0),
        "input_cache_read": part(K.CACHED_INPUT, SEPARATE),
        "input_cache_creation": part(K.CACHE_WRITE, SEPARATE, 0),
        "input_cache_write": part(K.CACHE_WRITE, SEPARATE),
        "input_cache_write_tokens": part(K.CACHE_WRITE, SEPARATE),
        "input_cache_creation_5m": lifetime(K.CACHE_WRITE, SEPARATE),
        "input_cache_creation_1h": lifetime(K.CACHE_WRITE_1H, SEPARATE),
        "output_reasoning_tokens": part(K.REASONING, SEPARATE, 0),
        "output_reasoning": part(K.REASONING, SEPARATE),
        "output_accepted_prediction_tokens": part(K.OUTPUT, SEPARATE),
        "output_rejected_prediction_tokens": part(K.OUTPUT, SEPARATE),
        # Of pydantic-ai's, too, where they are inside: see TAKEN_APART.
        "input_audio_tokens": part(K.INPUT_AUDIO, INSIDE, 0),
        "input_image_tokens": part(K.INPUT_IMAGE, INSIDE, 0),
        "input_text_tokens": part(K.INPUT, INSIDE, 0),
        "output_audio_tokens": part(K.OUTPUT_AUDIO, INSIDE, 0),
        "output_image_tokens": part(K.OUTPUT_IMAGE, INSIDE, 0),
        "output_text_tokens": part(K.OUTPUT, INSIDE, 0),
    },
    # openai.types.CompletionUsage, ResponseUsage, and those who speak like it (Mistral, Groq,
    # Together, vLLM, OpenRouter): details are inside.
    "OpenAI": {
        "prompt_tokens": whole(K.INPUT),
        "completion_tokens": whole(K.OUTPUT),
        "input_tokens": whole(K.INPUT, 2),
        "output_tokens": whole(K.OUTPUT, 2),
        "total_tokens": TOTAL,
        "prompt_tokens_details_cached_tokens": part(K.CACHED_INPUT, INSIDE),
        "prompt_tokens_details_cache_write_tokens": part(K.CACHE_WRITE, INSIDE),
        "prompt_tokens_details_audio_tokens": part(K.INPUT_AUDIO, INSIDE),
        "prompt_tokens_details_image_tokens": part(K.INPUT_IMAGE, INSIDE),
        "prompt_tokens_details_text_tokens": part(K.INPUT, INSIDE),
        "completion_tokens_details_reasoning_tokens": part(K.REASONING, INSIDE),
        "completion_tokens_details_audio_tokens": part(K.OUTPUT_AUDIO, INSIDE),
        "completion_tokens_details_accepted_prediction_tokens": part(K.OUTPUT, INSIDE),
        "completion_tokens_details_rejected_prediction_tokens": part(K.OUTPUT, INSIDE),
        "input_tokens_details_cached_tokens": part(K.CACHED_INPUT, INSIDE),
        # Codex's.
        "reasoning_output_tokens": part(K.REASONING, INSIDE),
        # The realtime API says of which modality the cached tokens are.
        **{
            f"{details}_cached_tokens_details_{modality}_tokens": cached_part(kind, SHARED)
            for details in ("input_token_details", "input_tokens_details", "prompt_tokens_details")
            for modality, kind in (
                ("text", K.INPUT),
                ("image", K.INPUT_IMAGE),
                ("audio", K.INPUT_AUDIO),
            )
        },
        "output_tokens_details_reasoning_tokens": part(K.REASONING, INSIDE),
    },
    "DeepSeek": {
        "prompt_cache_hit_tokens": part(K.CACHED_INPUT, INSIDE),
        "prompt_cache_miss_tokens": part(K.INPUT, INSIDE),
    },
    "xAI": {
        "cached_prompt_text_tokens": part(K.CACHED_INPUT, INSIDE),
        "prompt_text_tokens": part(K.INPUT, INSIDE),
        "prompt_image_tokens": part(K.INPUT_IMAGE, INSIDE),
        "num_sources_used": OTHER,
        "cost_in_usd_ticks": OTHER,
        "image_tokens": part(K.INPUT_IMAGE, INSIDE, 2),
    },
    # anthropic.types.Usage: the caches beside the input, a creation the sum of its lifetimes.
    "Anthropic": {
        "cache_read_input_tokens": part(K.CACHED_INPUT, SEPARATE),
        "cache_creation_input_tokens": part(K.CACHE_WRITE, SEPARATE),
        "cache_creation_ephemeral_5m_input_tokens": lifetime(K.CACHE_WRITE, INSIDE),
        "cache_creation_ephemeral_1h_input_tokens": lifetime(K.CACHE_WRITE_1H, INSIDE),
        "ephemeral_5m_input_tokens": lifetime(K.CACHE_WRITE, INSIDE),
        "ephemeral_1h_input_tokens": lifetime(K.CACHE_WRITE_1H, INSIDE),
        "server_tool_use_web_search_requests": other(K.WEB_SEARCH),
        "web_search_requests": other(K.WEB_SEARCH),
        "web_fetch_requests": OTHER,
    },
    # GenerateContentResponse.usageMetadata: cached inside the prompt; thoughts beside the
    # candidates, and what tools were asked with beside the prompt.
    "Gemini, Vertex": {
        "prompt_token_count": whole(K.INPUT),
        "candidates_token_count": whole(K.OUTPUT),
        "response_token_count": whole(K.OUTPUT),
        "total_token_count": TOTAL,
        "thoughts_token_count": part(K.REASONING, SEPARATE),
        "cached_content_token_count": part(K.CACHED_INPUT, INSIDE),
        "tool_use_prompt_token_count": part(K.INPUT, SEPARATE),
        # The Interactions API.
        "total_input_tokens": whole(K.INPUT),
        "total_output_tokens": whole(K.OUTPUT),
        "total_thought_tokens": part(K.REASONING, SEPARATE),
        "total_cached_tokens": part(K.CACHED_INPUT, INSIDE),
        "total_tool_use_tokens": part(K.INPUT, SEPARATE),
    },
    # Converse's TokenUsage; InvokeModel's metrics and headers.
    "Bedrock": {
        "input_token_count": whole(K.INPUT),
        "output_token_count": whole(K.OUTPUT),
        "generation_token_count": whole(K.OUTPUT),
        "generated_token_count": whole(K.OUTPUT),
        "cache_write_input_tokens": part(K.CACHE_WRITE, SEPARATE),
        "cache_read_input_token_count": part(K.CACHED_INPUT, SEPARATE),
        "cache_write_input_token_count": part(K.CACHE_WRITE, SEPARATE),
        "invocation_latency": OTHER,
        "first_byte_latency": OTHER,
    },
    # langfuse.langchain's callback puts UsageMetadata's details beside; those of the tier
    # "priority" it leaves inside. Vertex' modalities are numbers: 1 text, 2 image, 3 video, 4
    # audio, 5 document; cached ones are taken out of them.
    "LangChain": {
        "input_audio": part(K.INPUT_AUDIO, SEPARATE),
        "output_audio": part(K.OUTPUT_AUDIO, SEPARATE),
        # Beside a sum of 0; older versions name the sum, too, and both are taken out of the input.
        "input_ephemeral_5m_input_tokens": lifetime(K.CACHE_WRITE, RETURNED),
        "input_ephemeral_1h_input_tokens": lifetime(K.CACHE_WRITE_1H, RETURNED),
        # Perplexity's: the callback takes them out of an output that they are no part of.
        "output_citation_tokens": part(K.OUTPUT, GIVEN_BACK),
        "input_priority": part(K.INPUT, INSIDE),
        "input_priority_cache_read": part(K.CACHED_INPUT, INSIDE),
        "output_priority": part(K.OUTPUT, INSIDE),
        "output_priority_reasoning": part(K.REASONING, INSIDE),
        "input_flex": part(K.INPUT, SEPARATE),
        "input_flex_cache_read": part(K.CACHED_INPUT, SEPARATE),
        "output_flex": part(K.OUTPUT, SEPARATE),
        "output_flex_reasoning": part(K.REASONING, SEPARATE),
        **{
            f"input_modality_{modality}": part(kind, SEPARATE)
            for modality, kind in (
                *((name, K.INPUT) for name in ("0", "1", "3", "5", "text", "video", "document")),
                *((name, K.INPUT_IMAGE) for name in ("2", "image")),
                *((name, K.INPUT_AUDIO) for name in ("4", "audio")),
            )
        },
        **{
            f"output_modality_{modality}": part(kind, SEPARATE)
            for modality, kind in (
                *((name, K.OUTPUT) for name in ("0", "1", "3", "5", "text", "video", "document")),
                *((name, K.OUTPUT_IMAGE) for name in ("2", "image")),
                *((name, K.OUTPUT_AUDIO) for name in ("4", "audio")),
            )
        },
        **{
            f"cached_modality_{modality}": cached_part(kind, ECHO)
            for modality, kind in (
                *((name, K.INPUT) for name in ("0", "1", "3", "5", "text", "video", "document")),
                *((name, K.INPUT_IMAGE) for name in ("2", "image")),
                *((name, K.INPUT_AUDIO) for name in ("4", "audio")),
            )
        },
    },
    # RequestUsage.details, as gen_ai.usage.details.…: all of them inside.
    "pydantic-ai": {
        "cached_content_tokens": part(K.CACHED_INPUT, INSIDE),
        "cached_tokens": part(K.CACHED_INPUT, INSIDE),
        "thoughts_tokens": part(K.REASONING, INSIDE),
        "reasoning_tokens": part(K.REASONING, INSIDE),
        "audio_tokens": part(K.OUTPUT_AUDIO, INSIDE, 2),
        "accepted_prediction_tokens": part(K.OUTPUT, INSIDE),
        "rejected_prediction_tokens": part(K.OUTPUT, INSIDE),
        "tool_use_prompt_tokens": part(K.INPUT, INSIDE),
        "cache_audio_read_tokens": cached_part(K.INPUT_AUDIO, SHARED),
        "cache_text_read_tokens": cached_part(K.INPUT, SHARED),
        "cache_image_read_tokens": cached_part(K.INPUT_IMAGE, SHARED),
        **{
            f"{modality}_{name}_tokens": term
            for modality, kind_in, kind_out in (
                ("text", K.INPUT, K.OUTPUT),
                ("video", K.INPUT, K.OUTPUT),
                ("document", K.INPUT, K.OUTPUT),
                ("image", K.INPUT_IMAGE, K.OUTPUT_IMAGE),
                ("audio", K.INPUT_AUDIO, K.OUTPUT_AUDIO),
            )
            for name, term in (
                ("prompt", part(kind_in, INSIDE)),
                ("tool_use_prompt", part(kind_in, (Place.ECHO,))),
                ("cache", cached_part(kind_in, SHARED)),
                ("candidates", part(kind_out, INSIDE)),
            )
        },
    },
    # Google's ADK before 2.3: the thoughts beside the candidates, the instruction in the prompt.
    "ADK": {
        "experimental.reasoning_tokens": part(K.REASONING, SEPARATE),
        "experimental.system_instruction_tokens": part(K.INPUT, INSIDE),
    },
    # LangfuseUsageMetrics of @mastra/langfuse.
    "Mastra": {"reasoning": part(K.REASONING, INSIDE)},
    # opentelemetry's gen_ai.usage.… and OpenLLMetry's: input includes the caches. What Langfuse
    # knows of them it has taken out and named itself; this is what is left.
    "OpenTelemetry": {
        "cache_read.input_tokens": part(K.CACHED_INPUT, INSIDE),
        "cache_write.input_tokens": part(K.CACHE_WRITE, INSIDE),
        "cache_creation.input_tokens": part(K.CACHE_WRITE, INSIDE),
        "reasoning.output_tokens": part(K.REASONING, INSIDE),
        "cache_read_tokens": part(K.CACHED_INPUT, INSIDE),
        "cache_write_tokens": part(K.CACHE_WRITE, INSIDE),
    },
    # openinference.semconv.trace: llm.token_count.…
    "OpenInference": {
        "prompt": whole(K.INPUT),
        "completion": whole(K.OUTPUT),
        "prompt_details_cache_input": part(K.CACHED_INPUT, INSIDE, 3),
        "prompt_details_cache_read": part(K.CACHED_INPUT, INSIDE),
        "prompt_details_cache_write": part(K.CACHE_WRITE, INSIDE),
        "prompt_details_audio": part(K.INPUT_AUDIO, INSIDE),
        "completion_details_reasoning": part(K.REASONING, INSIDE),
        "completion_details_audio": part(K.OUTPUT_AUDIO, INSIDE),
    },
    # LanguageModelUsage of AI SDK 4 to 7, and Genkit's.
    "Vercel AI SDK, Genkit": {
        "cached_input_tokens": part(K.CACHED_INPUT, INSIDE),
        "input_token_details_no_cache_tokens": part(K.INPUT, INSIDE),
        "input_token_details_cache_read_tokens": part(K.CACHED_INPUT, INSIDE),
        "input_token_details_cache_write_tokens": part(K.CACHE_WRITE, INSIDE),
        "output_token_details_text_tokens": part(K.OUTPUT, INSIDE),
        "output_token_details_reasoning_tokens": part(K.REASONING, INSIDE),
        "input_characters": other(K.CHARACTERS),
        "output_characters": OTHER,
        "input_images": OTHER,
    },
    # ApiMeta: the tokens that are billed, and all that the model saw.
    "Cohere": {
        "billed_units.input_tokens": whole(K.INPUT),
        "billed_units.output_tokens": whole(K.OUTPUT),
        "billed_units.search_units": other(K.SEARCH_UNITS),
        "tokens.input_tokens": whole(K.INPUT, 2),
        "tokens.output_tokens": whole(K.OUTPUT, 2),
    },
    "Ollama": {"prompt_eval_count": whole(K.INPUT), "eval_count": whole(K.OUTPUT)},
    "Perplexity": {"citation_tokens": OTHER, "num_search_queries": other(K.WEB_SEARCH)},
    # No tokens: what is counted one by one, or measured. Mistral's and Groq's names among them.
    "units": {
        name: other(kind)
        for kind, names in {
            K.IMAGES: "image images image_count output_images",
            K.REQUEST: "request requests request_count",
            K.WEB_SEARCH: "web_search web_searches web_search_calls web_search_queries"
            " web_search_count prompt_tokens_details_web_search_requests",
            K.STORAGE_SEARCH: "storage_search storage_searches file_search file_searches"
            " file_search_calls file_search_requests",
            K.SEARCH_UNITS: "search_units",
            K.SECONDS: "seconds audio_seconds input_audio_seconds prompt_audio_seconds"
            " duration_seconds billed_seconds",
            K.CHARACTERS: "characters character_count billed_characters",
            K.PAGES: "pages page_count pages_processed usage_info_pages_processed",
        }.items()
        for name in names.split()
    },
}
KNOWN: Mapping[str, Term] = {
    name: term for terms in VOCABULARIES.values() for name, term in terms.items()
}
TAKEN_APART = frozenset(
    {
        "output_reasoning_tokens",
        "output_accepted_prediction_tokens",
        "output_rejected_prediction_tokens",
        "prompt_details.audio",
        "prompt_details.cache_read",
    }
)
"""Where one of these is, Langfuse has taken OpenAI's or OpenInference's details out of the plain
counts; then audio, images and text of the same form are beside them, too.
"""
OUTSIDE_THE_TOTAL: Mapping[str, frozenset[str]] = {
    "reasoning_tokens": frozenset({"citation_tokens", "num_search_queries"}),
}
"""Counts that a producer's own tokens do not include, by what tells the producer: Perplexity's."""
OF_A_TIER = frozenset({"input_priority_cache_read", "output_priority_reasoning"})
"""LangChain's parts of a tier: beside the rest of the tier where nothing is left of the plain count
(langfuse's LangChain handler for JavaScript takes the tier out of it).
"""
SUBTRACTED_TWICE = frozenset({"input_cached_tokens", "input_cache_read"})
"""Two names of one count that Langfuse takes out of the input both (Vercel AI SDK on Bedrock)."""

# --- Names that are in no vocabulary -------------------------------------------------------------

WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+[a-z]*")
PREFIXES = ("gen_ai.usage.", "llm.token_count.", "llm.usage.", "usage_metadata.", "usage.", "meta.")
INPUT_WORDS = frozenset({"input", "inputs", "prompt", "prompts"})
OUTPUT_WORDS = frozenset(
    {"output", "outputs", "completion", "completions", "candidate", "candidates", "response"}
    | {"generated", "generation"}
)
REASONING_WORDS = frozenset({"reasoning", "thinking", "thoughts", "thought"})
CACHE_WORDS = frozenset({"cache", "cached", "caching"})
WRITE_WORDS = frozenset({"write", "writes", "written", "creation", "created", "ephemeral"})
MISS_WORDS = frozenset({"miss", "misses", "uncached", "no", "non", "other"})
IMAGE_WORDS, AUDIO_WORDS = frozenset({"image", "images", "vision"}), frozenset({"audio", "speech"})
DETAIL_WORDS = frozenset({"details", "detail", "breakdown"})
TOKEN_WORDS = frozenset({"token", "tokens"})
NO_COUNTS = frozenset(
    {"limit", "max", "budget", "remaining", "available", "quota"}
    | {"per", "rate", "time", "latency", "duration", "speed"}
)
"""Words of what was allowed or is left, of a time or a rate: of nothing that was used."""
FILLERS = TOKEN_WORDS | {"count", "counts", "total", "usage", "number", "num", "n", "of", "eval"}
OTHER_UNITS = frozenset(
    {"second", "seconds", "sec", "secs", "ms", "millis", "milliseconds", "minute", "minutes"}
    | {"hour", "hours", "time", "times", "duration", "latency", "speed"}
    | {"character", "characters", "chars", "char", "word", "words", "byte", "bytes"}
    | {"page", "pages", "pixel", "pixels", "frame", "frames", "image", "images", "video", "videos"}
    | {"request", "requests", "query", "queries", "search", "searches", "call", "calls"}
    | {"invocation", "invocations", "message", "messages", "source", "sources", "step", "steps"}
    | {"cost", "price", "usd", "ticks", "credit", "credits", "units", "rate", "ratio", "percent"}
)


@lru_cache(maxsize=4096)
def term_of(usage_key: str) -> Term:
    """What the key counts: by its name in a vocabulary, else by the words in it."""
    key = usage_key
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    dotted = ".".join("_".join(map(str.lower, WORDS.findall(one))) for one in key.split("."))
    name = dotted.replace(".", "_")
    known = KNOWN.get(dotted) or KNOWN.get(name)
    return known if known is not None else _by_words(name, frozenset(name.split("_")))


def _by_words(name: str, words: frozenset[str]) -> Term:
    """A name that is in no vocabulary: its side, its kind, and whether it is a part.

    Counts of something else than tokens, and what has no side, are no tokens of any kind.
    """
    if words & NO_COUNTS:
        return OTHER
    says_tokens = bool(words & TOKEN_WORDS)
    if not says_tokens and words & OTHER_UNITS and name.rpartition("_")[2] in OTHER_UNITS:
        is_image_tokens = words & IMAGE_WORDS and words & (INPUT_WORDS | OUTPUT_WORDS)
        if not is_image_tokens or "images" in words:
            return OTHER
    kind = _kind_by_words(words)
    if kind is None:
        if words <= FILLERS and "total" in words:
            return TOTAL
        return UNKNOWN if says_tokens else OTHER
    if words <= FILLERS | INPUT_WORDS or words <= FILLERS | OUTPUT_WORDS:
        return Term(Role.WHOLE, kind, is_known=False, rank=3)
    if kind in (K.CACHE_WRITE, K.CACHE_WRITE_1H) and words & {"1h", "5m", "ephemeral"}:
        is_separate = name.startswith("input_")
        return Term(Role.LIFETIME, kind, SEPARATE if is_separate else INSIDE, is_known=False)
    is_inside = bool(words & DETAIL_WORDS)
    return Term(Role.PART, kind, INSIDE if is_inside else SEPARATE, is_known=False, rank=3)


def _kind_by_words(words: frozenset[str]) -> UnitKind | None:
    """The kind that the words say. Output first: a prompt's details never hold "completion"."""
    if words & (OUTPUT_WORDS | REASONING_WORDS):
        if words & REASONING_WORDS:
            return K.REASONING
        if words & AUDIO_WORDS:
            return K.OUTPUT_AUDIO
        return K.OUTPUT_IMAGE if words & IMAGE_WORDS else K.OUTPUT
    is_cache = bool(words & CACHE_WORDS) and not words & MISS_WORDS
    if not words & INPUT_WORDS and not words & CACHE_WORDS and "ephemeral" not in words:
        return None
    if words & WRITE_WORDS and (is_cache or "ephemeral" in words):
        return K.CACHE_WRITE_1H if "1h" in words else K.CACHE_WRITE
    if is_cache:
        return K.CACHED_INPUT
    if words & AUDIO_WORDS:
        return K.INPUT_AUDIO
    return K.INPUT_IMAGE if words & IMAGE_WORDS else K.INPUT
