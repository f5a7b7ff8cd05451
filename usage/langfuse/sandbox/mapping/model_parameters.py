"""How the model was asked: parameter → text or number."""

from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Langfuse

from usage.langfuse.sandbox.mapping.javascript import (
    json_text,
    parsed_or_none,
    record,
    to_string,
)
from usage.langfuse.sandbox.mapping.span import Attributes, Span

# A parameter for each attribute with such a name; or all of them as JSON in one.
PREFIXES = ("gen_ai.request.", "llm.invocation_parameters.")
AS_JSON = ("llm.invocation_parameters", "model_config")
# Of Vercel's AI SDK up to 6: parameter → where it is, the first that is there.
AI_SDK = {
    "maxSteps": ("ai.settings.maxSteps",),
    "toolChoice": ("ai.prompt.toolChoice",),
    "maxTokens": ("gen_ai.request.max_tokens",),
    "finishReason": ("gen_ai.response.finish_reasons", "gen_ai.finishReason"),
    "system": ("gen_ai.system", "ai.model.provider"),
    "maxRetries": ("ai.settings.maxRetries",),
    "mode": ("ai.settings.mode",),
    "temperature": ("gen_ai.request.temperature",),
    "service_tier": ("gen_ai.request.service_tier",),
}


def model_parameters(span: Span) -> dict[str, Any]:
    """The parameters of the model call; {} where none are known."""
    attributes = span.attributes
    own = _from_json(attributes, Langfuse.OBSERVATION_MODEL_PARAMETERS)
    if span.scope.name == "ai":
        return _ai_sdk(attributes) | (own or {})
    if own is not None:
        return own
    if span.scope.name == "genkit-tracer" and (config := _genkit_config(attributes)) is not None:
        return _as_texts(config)
    for name in AS_JSON:
        found = _from_json(attributes, name)
        if found is not None:
            return found
    return _as_texts(
        {
            name.removeprefix(prefix): value
            for prefix in PREFIXES
            for name, value in attributes.items()
            if name.startswith(prefix) and name != f"{prefix}model"
        }
    )


def _ai_sdk(attributes: Attributes) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        parameter: next((to_string(attributes[name]) for name in names if name in attributes), None)
        for parameter, names in AI_SDK.items()
    }
    provider = parsed_or_none(attributes.get("ai.response.providerMetadata"))
    openai = provider.get("openai") if isinstance(provider, dict) else None
    tier = openai.get("serviceTier") if isinstance(openai, dict) else None
    if isinstance(tier, str):
        parameters["service_tier"] = tier
    return parameters


def _genkit_config(attributes: Attributes) -> dict[str, Any] | None:
    asked = parsed_or_none(attributes.get("genkit:input"))
    answered = parsed_or_none(attributes.get("genkit:output"))
    request = answered.get("request") if isinstance(answered, dict) else None
    for place in (asked, request):
        config = place.get("config") if isinstance(place, dict) else None
        if isinstance(config, dict):
            return config
    return None


def _from_json(attributes: Attributes, name: str) -> dict[str, Any] | None:
    value = attributes.get(name)
    parameters = record(value) if isinstance(value, str) else None
    return None if parameters is None else _as_texts(parameters)


def _as_texts(parameters: dict[str, Any]) -> dict[str, Any]:
    """Each parameter as a text or a number; anything else as JSON."""
    return {
        name: value
        if isinstance(value, str | int | float) and not isinstance(value, bool)
        else json_text(value)
        for name, value in parameters.items()
    }
