"""Which type an observation has. The first rule that knows one wins; without any, it is a SPAN."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Langfuse

from usage.langfuse.sandbox.mapping.javascript import is_meaningful
from usage.langfuse.sandbox.mapping.span import Span

Rule = Callable[[Span], str | None]

LANGFUSE_TYPES = {
    name.lower(): name
    for name in (
        "SPAN GENERATION EVENT EMBEDDING AGENT TOOL CHAIN RETRIEVER GUARDRAIL EVALUATOR"
    ).split()
}
OPENINFERENCE_KINDS = {
    "LLM": "GENERATION",
    **{kind: kind for kind in "CHAIN RETRIEVER EMBEDDING AGENT TOOL GUARDRAIL EVALUATOR".split()},
}
GEN_AI_OPERATIONS = {
    **dict.fromkeys(
        "chat completion text_completion generate_content generate".split(), "GENERATION"
    ),
    "embeddings": "EMBEDDING",
    "invoke_agent": "AGENT",
    "create_agent": "AGENT",
    "execute_tool": "TOOL",
}
GENKIT_SUBTYPES = {
    "background-model": "GENERATION",
    "model": "GENERATION",
    "embedder": "EMBEDDING",
    "tool": "TOOL",
    "tool.v2": "TOOL",
    "retriever": "RETRIEVER",
    "evaluator": "EVALUATOR",
}
AI_SDK_CALLS = {
    "ai.generateText.doGenerate": "GENERATION",
    "ai.streamText.doStream": "GENERATION",
    "ai.generateObject.doGenerate": "GENERATION",
    "ai.streamObject.doStream": "GENERATION",
    "ai.embedMany.doEmbed": "EMBEDDING",
    "ai.embed.doEmbed": "EMBEDDING",
}
LIVEKIT = "livekit-agents"
LIVEKIT_SPANS = {"agent_turn": "AGENT", "start_agent_activity": "AGENT", "function_tool": "TOOL"}
# A span with one of them is a generation, if Langfuse's Python SDK up to 3.3.0 calls it a span.
OF_A_GENERATION = (
    Langfuse.OBSERVATION_MODEL,
    Langfuse.OBSERVATION_COST_DETAILS,
    Langfuse.OBSERVATION_USAGE_DETAILS,
    Langfuse.OBSERVATION_COMPLETION_START_TIME,
    Langfuse.OBSERVATION_MODEL_PARAMETERS,
    Langfuse.OBSERVATION_PROMPT_NAME,
    Langfuse.OBSERVATION_PROMPT_VERSION,
)
LATER_THAN_3_3 = re.compile(r"(?:[4-9]|\d{2,})(?:\.|$)|3\.(?:[4-9]|\d{2,})(?:\.|$)")
ANY_MODEL = (
    Langfuse.OBSERVATION_MODEL,
    "gen_ai.request.model",
    "gen_ai.response.model",
    "llm.model_name",
    "model",
)
AI_SDK_MODEL = (
    Langfuse.OBSERVATION_MODEL,
    "ai.model.id",
    "gen_ai.request.model",
    "gen_ai.response.model",
)


def observation_type(span: Span) -> str:
    """The type of the observation that a span becomes."""
    return next((found for rule in RULES if (found := rule(span))), "SPAN")


def _named(attribute: str, types: Mapping[str, str]) -> Rule:
    def rule(span: Span) -> str | None:
        value = span.attributes.get(attribute)
        return types.get(value) if isinstance(value, str) else None

    return rule


def _old_python_sdk(span: Span) -> str | None:
    is_one = (
        span.attributes.get(Langfuse.OBSERVATION_TYPE) == "span"
        and span.scope.name == "langfuse-sdk"
        and span.resource.get("telemetry.sdk.language") == "python"
        and not LATER_THAN_3_3.match(span.scope.version)
    )
    has_one = is_one and any(attribute in span.attributes for attribute in OF_A_GENERATION)
    return "GENERATION" if has_one else None


def _ai_sdk_call(span: Span) -> str | None:
    if not _has_any(span, AI_SDK_MODEL):
        return None
    return next((kind for call, kind in AI_SDK_CALLS.items() if _is_ai_sdk(span, call)), None)


def _ai_sdk_tool(span: Span) -> str | None:
    is_call = any(_is_ai_sdk(span, call) for call in AI_SDK_CALLS)
    return "TOOL" if _is_ai_sdk(span, "ai.toolCall") and not is_call else None


def _is_ai_sdk(span: Span, operation: str) -> bool:
    """The name of the operation may be followed by that of the function."""
    name: Any = span.attributes.get("operation.name")
    starts_so = isinstance(name, str) and name.startswith(operation)
    return starts_so or span.attributes.get("ai.operationId") == operation


def _gen_ai_tool(span: Span) -> str | None:
    return "TOOL" if _has_any(span, ("gen_ai.tool.name", "gen_ai.tool.call.id")) else None


def _flue(span: Span) -> str | None:
    if _has_any(span, ("flue.tool.name", "flue.tool.call_id")):
        return "TOOL"
    return "AGENT" if _has_any(span, ("flue.task.id", "flue.task.agent")) else None


def _livekit(span: Span) -> str | None:
    return LIVEKIT_SPANS.get(span.name) if span.scope.name == LIVEKIT else None


def _names_a_model(span: Span) -> str | None:
    return "GENERATION" if _has_any(span, ANY_MODEL) else None


def _has_any(span: Span, attributes: tuple[str, ...]) -> bool:
    return any(is_meaningful(span.attributes.get(attribute)) for attribute in attributes)


RULES: tuple[Rule, ...] = (
    _old_python_sdk,
    _named(Langfuse.OBSERVATION_TYPE, LANGFUSE_TYPES),
    _named("openinference.span.kind", OPENINFERENCE_KINDS),
    _named("gen_ai.operation.name", GEN_AI_OPERATIONS),
    _named("genkit:metadata:subtype", GENKIT_SUBTYPES),
    _ai_sdk_call,
    _ai_sdk_tool,
    _gen_ai_tool,
    _flue,
    _livekit,
    _names_a_model,
)
