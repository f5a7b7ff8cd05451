"""What an observation used: unit → count, in the units that Langfuse names, without a total that
nobody gave.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from langfuse import LangfuseOtelSpanAttributes as Langfuse

from usage.langfuse.sandbox.mapping.attributes import OPERATION, OPERATIONS_OF_SUMS
from usage.langfuse.sandbox.mapping.javascript import (
    is_truthy,
    leading_integer,
    number,
    parse_json,
    parsed_or_none,
    record,
    to_number,
)
from usage.langfuse.sandbox.mapping.span import Attributes, Span

Counts = dict[str, Any]

COUNT_PREFIXES = ("gen_ai.usage.", "llm.token_count.")
NOT_A_COUNT = "gen_ai.usage.cost"
# How the conventions (OTel's old and new, OpenInference, OpenLLMetry, pydantic-ai) name a count
# behind these prefixes, by the unit that it becomes. The first that is there counts.
UNITS = {
    "input": ("prompt_tokens", "input_tokens", "prompt"),
    "output": ("completion_tokens", "output_tokens", "completion"),
    "total": ("total_tokens", "total"),
    "input_cached_tokens": (
        "cache_read.input_tokens",
        "cache_read_input_tokens",
        "cache_read_tokens",
        "details.cache_read_tokens",
        "details.cache_read_input_tokens",
        "prompt_details.cache_read",
        "input_cached_tokens",
    ),
    "input_cache_creation": (
        "cache_creation.input_tokens",
        "cache_creation_input_tokens",
        "cache_write_tokens",
        "details.cache_write_tokens",
        "details.cache_creation_input_tokens",
        "prompt_details.cache_write",
        "input_cache_creation",
    ),
    "output_reasoning_tokens": ("reasoning.output_tokens", "completion_details.reasoning"),
    "output_audio_tokens": ("completion_details.audio",),
}
KNOWN_NAMES = frozenset(name for names in UNITS.values() for name in names)
# What an input and an output include, and is taken out of them.
INCLUDED = {
    "input": ("input_cached_tokens", "input_cache_creation"),
    "output": ("output_reasoning_tokens", "output_audio_tokens"),
}
AI_SDK_INCLUDED = {
    "input": (
        "input_cached_tokens",
        "input_cache_creation",
        "input_cache_creation_5m",
        "input_cache_creation_1h",
        "input_cache_read",
    ),
    "output": ("output_reasoning_tokens",),
}
GENKIT_UNITS = {
    "input": "inputTokens",
    "output": "outputTokens",
    "total": "totalTokens",
    "output_reasoning": "thoughtsTokens",
}
GENKIT_INCLUDED = {"output": ("output_reasoning",)}
# Vercel's AI SDK up to 6: of the provider's own figures, which is which unit.
OPENAI_UNITS = {
    "input_cached_tokens": "cachedPromptTokens",
    "accepted_prediction_tokens": "acceptedPredictionTokens",
    "rejected_prediction_tokens": "rejectedPredictionTokens",
    "output_reasoning_tokens": "reasoningTokens",
}
ANTHROPIC_UNITS = {
    "input_cache_creation": "cache_creation_input_tokens",
    "input_cached_tokens": "cache_read_input_tokens",
}
ANTHROPIC_LIFETIMES = {
    "input_cache_creation_5m": "ephemeral_5m_input_tokens",
    "input_cache_creation_1h": "ephemeral_1h_input_tokens",
}
BEDROCK_UNITS = {
    "input_cache_read": "cacheReadInputTokens",
    "input_cache_write": "cacheWriteInputTokens",
    "input_cache_creation": "cacheCreationInputTokens",
}
# OpenAI's own forms: what stands beside each other there, and nothing else.
OPENAI_FORMS = (
    ("prompt_tokens", "completion_tokens", "total_tokens"),
    ("input_tokens", "output_tokens", "total_tokens"),
)


def usage_details(span: Span) -> dict[str, int]:
    """The usage of a span, as it is stored; {} where it has none, or the sum of the calls below."""
    if span.attributes.get(OPERATION) in OPERATIONS_OF_SUMS:
        return {}
    return _stored(_given(span))


def with_total(usage: Mapping[str, int]) -> dict[str, int]:
    """The usage with the total that the server adds where none was given."""
    if not usage or "total" in usage:
        return dict(usage)
    return {**usage, "total": sum(usage.values())}


def json_map(attributes: Attributes, name: str) -> dict[str, Any] | None:
    """A map that an attribute has as JSON. {} where it is something else; None where there is
    none, or no JSON.
    """
    value = attributes.get(name)
    if not is_truthy(value):
        return None
    if not isinstance(value, str):
        return {}
    try:
        parsed = parse_json(value)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) else {}


def _given(span: Span) -> Counts:
    attributes, scope = span.attributes, span.scope.name
    own = json_map(attributes, Langfuse.OBSERVATION_USAGE_DETAILS)
    if own is not None:
        return own
    if scope == "genkit-tracer" and (found := _genkit(attributes)) is not None:
        return found
    if scope == "ai" and (found := _ai_sdk(attributes)) is not None:
        return found
    if scope == "gcp.vertex.agent" and "gcp.vertex.agent.llm_response" in attributes:
        return _google_adk(attributes)
    return _conventional(attributes)


def _conventional(attributes: Attributes) -> Counts:
    """OTel's conventions and their kin, by :data:`UNITS`; other names stay as they are."""
    raw: Counts = {}
    for name, value in attributes.items():
        if name.startswith(COUNT_PREFIXES) and name != NOT_A_COUNT:
            count = to_number(value)
            if count is not None:
                raw[_without_prefixes(name)] = count
    usage = {
        name.removeprefix("details."): count
        for name, count in raw.items()
        if name not in KNOWN_NAMES
    }
    for unit, names in UNITS.items():
        found = next((raw[name] for name in names if name in raw), None)
        if found is not None:
            usage[unit] = found
    return _without_included(usage, INCLUDED)


def _without_prefixes(name: str) -> str:
    for prefix in COUNT_PREFIXES:
        name = name.replace(prefix, "", 1)
    return name


def _without_included(usage: Counts, included: Mapping[str, tuple[str, ...]]) -> Counts:
    for unit, parts in included.items():
        if unit in usage:
            usage[unit] = max(usage[unit] - sum(usage.get(part, 0) for part in parts), 0)
    return usage


def _genkit(attributes: Attributes) -> Counts | None:
    usage = _map(parsed_or_none(attributes.get("genkit:output"))).get("usage")
    if not isinstance(usage, dict):
        return None
    named = {unit: to_number(usage[name]) for unit, name in GENKIT_UNITS.items() if usage.get(name)}
    counts = {unit: count for unit, count in named.items() if count is not None}
    return _without_included(counts, GENKIT_INCLUDED)


def _google_adk(attributes: Attributes) -> Counts:
    usage = _conventional(attributes)
    if "input_cached_tokens" in usage:
        return usage
    response = _map(parsed_or_none(attributes["gcp.vertex.agent.llm_response"]))
    cached = _map(response.get("usage_metadata")).get("cached_content_token_count")
    if isinstance(cached, int | float) and cached > 0:
        usage["input_cached_tokens"] = cached
        if "input" in usage:
            usage["input"] = max(usage["input"] - cached, 0)
    return usage


def _ai_sdk(attributes: Attributes) -> Counts | None:
    """Vercel's AI SDK up to 6; None where its figures can't be read."""
    usage: Counts = {
        "input": _first_count(
            attributes, "gen_ai.usage.prompt_tokens", "gen_ai.usage.input_tokens"
        ),
        "output": _first_count(
            attributes, "gen_ai.usage.completion_tokens", "gen_ai.usage.output_tokens"
        ),
        "total": _first_count(attributes, "ai.usage.tokens"),
    }
    try:
        for unit, name in (
            ("input_cached_tokens", "ai.usage.cachedInputTokens"),
            ("output_reasoning_tokens", "ai.usage.reasoningTokens"),
        ):
            if name in attributes:
                usage[unit] = _number_in(attributes[name])
        provider = attributes.get("ai.response.providerMetadata")
        if provider:
            _add_providers(usage, _by_provider(provider))
        usage["input"], usage["output"] = usage["input"] or 0, usage["output"] or 0
        known = {unit: count for unit, count in usage.items() if count is not None}
        return _without_included(known, AI_SDK_INCLUDED)
    except (ValueError, TypeError):
        return None


def _add_providers(usage: Counts, provider: Mapping[str, Any]) -> None:
    """The figures of the provider, where the SDK has none of its own."""
    _add(usage, _map(provider.get("openai")), OPENAI_UNITS)
    anthropic = _map(_map(provider.get("anthropic")).get("usage"))
    _add(usage, anthropic, ANTHROPIC_UNITS)
    lifetimes = anthropic.get("cache_creation")
    if isinstance(lifetimes, dict):
        _add(usage, lifetimes, ANTHROPIC_LIFETIMES)
        written = usage.get("input_cache_creation") or 0
        of_lifetimes = sum(usage.get(unit) or 0 for unit in ANTHROPIC_LIFETIMES)
        usage["input_cache_creation"] = max(written - of_lifetimes, 0)
    _add(usage, _map(_map(provider.get("bedrock")).get("usage")), BEDROCK_UNITS)


def _add(usage: Counts, figures: Mapping[str, Any], units: Mapping[str, str]) -> None:
    for unit, name in units.items():
        if usage.get(unit) is None and figures.get(name) is not None:
            usage[unit] = figures[name]


def _first_count(attributes: Attributes, *names: str) -> float | None:
    """The first that is there; NaN, which is not stored, where that is no number."""
    found = next((attributes[name] for name in names if name in attributes), None)
    count = None if found is None else leading_integer(found)
    return math.nan if count is None and found is not None else count


def _by_provider(provider: Any) -> dict[str, Any]:
    """The figures by provider. Raises ValueError where they are something else."""
    figures = record(provider)
    if figures is None:
        raise ValueError(f"No figures by provider: {provider!r}")
    return figures


def _number_in(value: Any) -> Any:
    """A count that is a number, or the map of an OTLP integer, given as JSON."""
    parsed = parse_json(value) if isinstance(value, str) else value
    return parsed.get("intValue") if isinstance(parsed, dict) else parsed


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _stored(given: Counts) -> dict[str, int]:
    """The counts that are stored: whole and not negative, and OpenAI's form taken apart."""
    for input_name, output_name, total_name in OPENAI_FORMS:
        form = _openai_form(given, input_name, output_name, total_name)
        if form is not None:
            return form
    stored = {}
    for unit, count in given.items():
        whole = leading_integer(count) if isinstance(count, str) else count
        whole = number(whole) if isinstance(whole, float) else whole
        if _is_count(whole):
            stored[unit] = whole
    return stored


def _openai_form(
    given: Counts, input_name: str, output_name: str, total_name: str
) -> dict[str, int] | None:
    """OpenAI's usage with the details taken out of what includes them; None where it is another
    form.
    """
    details = {"input": f"{input_name}_details", "output": f"{output_name}_details"}
    counts = {"input": input_name, "output": output_name, "total": total_name}
    if not set(counts.values()) <= given.keys() <= {*counts.values(), *details.values()}:
        return None
    usage = {unit: given[name] for unit, name in counts.items()}
    if not all(_is_count(count) for count in usage.values()):
        return None
    for unit, name in details.items():
        if given.get(name) is None:
            continue
        parts = record(given[name]) if isinstance(given[name], dict) else None
        if parts is None or not all(one is None or _is_count(one) for one in parts.values()):
            return None
        for part, count in parts.items():
            if count is not None:
                usage[f"{unit}_{part}"] = count
                usage[unit] = max(usage[unit] - count, 0)
    return usage


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
