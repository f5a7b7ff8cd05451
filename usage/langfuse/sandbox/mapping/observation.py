"""What a span says of an observation and of its trace."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Langfuse

from usage.langfuse.sandbox.mapping.attributes import (
    AI_SDK_PROMPT,
    ENVIRONMENT,
    MILLISECONDS_TO_FIRST_CHUNK,
    MODEL,
    OPERATION,
    OPERATIONS_OF_SUMS,
    PROMPT_NAME,
    PROMPT_VERSION,
    PUBLIC,
    SESSION_ID,
    TAGS,
    TOTAL_COST,
    USER_ID,
)
from usage.langfuse.sandbox.mapping.javascript import (
    is_truthy,
    json_text,
    parse_json,
    parsed_or_none,
    text,
    to_number,
)
from usage.langfuse.sandbox.mapping.metadata import metadata
from usage.langfuse.sandbox.mapping.model_parameters import model_parameters
from usage.langfuse.sandbox.mapping.observation_type import LIVEKIT, observation_type
from usage.langfuse.sandbox.mapping.span import Attributes, Span
from usage.langfuse.sandbox.mapping.usage_details import json_map, usage_details

ERROR_STATUS = 2
# How others name a level.
LEVELS = {
    **dict.fromkeys("DEBUG TRACE VERBOSE".split(), "DEBUG"),
    **dict.fromkeys("DEFAULT INFO LOG NOTICE OK SUCCESS".split(), "DEFAULT"),
    **dict.fromkeys("WARNING WARN".split(), "WARNING"),
    **dict.fromkeys("ERROR FATAL CRITICAL".split(), "ERROR"),
}
LIVEKIT_DEBUG_SPANS = frozenset(
    """
    user_speaking eou_detection llm_request_run tts_node tts_request tts_request_run
    tts_stream_adapter agent_speaking drain_agent_activity on_exit on_enter llm_fallback_adapter
    tts_fallback_adapter start_agent_activity
    """.split()
)
NO_ENVIRONMENT = "default"
LONGEST_ENVIRONMENT = 40
ENVIRONMENT_NAME = re.compile(r"[a-z0-9_-]+")
# Langfuse's own names are nobody else's.
RESERVED_BEGINNING = re.compile(r"^(?:langfuse[-_]?)+")


@dataclass(frozen=True, slots=True)
class Observation:
    """What is stored of a span, before prices. None and empty stand for what it doesn't say."""

    type: str
    name: str
    level: str
    status_message: str | None
    environment: str
    version: str | None
    release: str | None
    model: str | None
    model_parameters: dict[str, Any]
    usage_details: dict[str, int]
    cost_details: dict[str, float]
    prompt_name: str | None
    prompt_version: int | None
    completion_start: datetime | None
    user_id: str | None
    session_id: str | None
    trace_name: str | None
    tags: list[str]
    is_public: bool
    is_root: bool
    metadata: dict[str, str]


def observation_of(span: Span) -> Observation:
    """The observation that a span becomes."""
    attributes = span.attributes
    kind = observation_type(span)
    is_sum = attributes.get(OPERATION) in OPERATIONS_OF_SUMS
    prompt = _prompt(attributes) if kind == "GENERATION" else (None, None)
    return Observation(
        type=kind,
        name=_name(span),
        level=_level(span),
        status_message=_text_or(
            attributes.get(Langfuse.OBSERVATION_STATUS_MESSAGE), span.status_message
        ),
        environment=_environment(span),
        version=_text_or(attributes.get(Langfuse.VERSION), span.resource.get("service.version")),
        release=_text_or(attributes.get(Langfuse.RELEASE), span.resource.get(Langfuse.RELEASE)),
        model=None if is_sum else _model(attributes),
        model_parameters=model_parameters(span),
        usage_details=usage_details(span),
        cost_details={} if is_sum else _costs(attributes),
        prompt_name=prompt[0],
        prompt_version=prompt[1],
        completion_start=_completion_start(span),
        user_id=_first(attributes, USER_ID),
        session_id=_first(attributes, SESSION_ID),
        trace_name=_text_or(attributes.get(Langfuse.TRACE_NAME), None),
        tags=_tags(attributes),
        is_public=_is_true(_first_given(attributes, PUBLIC)),
        is_root=not span.parent_span_id or _is_true(attributes.get(Langfuse.IS_APP_ROOT)),
        metadata=metadata(span),
    )


def _first(attributes: Attributes, names: tuple[str, ...]) -> str | None:
    found = next((attributes[one] for one in names if is_truthy(attributes.get(one))), None)
    return None if found is None else text(found)


def _first_given(attributes: Attributes, names: tuple[str, ...]) -> Any:
    return next((attributes[one] for one in names if attributes.get(one) is not None), None)


def _text_or(value: Any, otherwise: Any) -> str | None:
    found = otherwise if value is None else value
    return None if found is None else text(found)


def _is_true(value: Any) -> bool:
    return value is True or value == "true"


def _name(span: Span) -> str:
    """The name of a tool or of what a framework calls it, else the span's."""
    attributes = span.attributes
    if tool := _first(attributes, ("gen_ai.tool.name",)):
        return tool
    if "genkit:name" in attributes:
        return text(attributes["genkit:name"])
    if message := _first(attributes, ("logfire.msg",)):
        return message
    if "ai.toolCall.name" in attributes:
        return text(attributes["ai.toolCall.name"])
    if "ai.operationId" in attributes:
        function = _first(attributes, ("ai.telemetry.functionId",))
        operation = text(attributes["ai.operationId"])
        return f"{function}:{operation}" if function else operation
    return span.name


def _level(span: Span) -> str:
    said = span.attributes.get(Langfuse.OBSERVATION_LEVEL)
    if isinstance(said, str) and (level := LEVELS.get(said.strip().upper())):
        return level
    if span.status_code == ERROR_STATUS:
        return "ERROR"
    is_detail = span.scope.name == LIVEKIT and span.name in LIVEKIT_DEBUG_SPANS
    return "DEBUG" if is_detail else "DEFAULT"


def _environment(span: Span) -> str:
    for name in ENVIRONMENT:
        for place in (span.attributes, span.resource):
            if is_truthy(value := place.get(name)):
                return environment_name(value)
    return NO_ENVIRONMENT


def environment_name(value: Any) -> str:
    """The environment that is stored for what was said; what can't be one is the default."""
    if not isinstance(value, str):
        return NO_ENVIRONMENT
    name = RESERVED_BEGINNING.sub("", value.lower())[:LONGEST_ENVIRONMENT]
    return name if ENVIRONMENT_NAME.fullmatch(name) else NO_ENVIRONMENT


def _model(attributes: Attributes) -> str | None:
    is_genkit_model = attributes.get("genkit:metadata:subtype") == "model"
    return _first(attributes, (*MODEL, "genkit:name") if is_genkit_model else MODEL)


def _costs(attributes: Attributes) -> dict[str, float]:
    """Unit → USD, as given; {} where no cost was."""
    own = json_map(attributes, Langfuse.OBSERVATION_COST_DETAILS)
    if own is None:
        total = next((attributes[one] for one in TOTAL_COST if _is_given(attributes, one)), None)
        own = {} if total is None else {"total": total}
    costs = {unit: to_number(cost) for unit, cost in own.items() if cost is not None}
    return {unit: cost for unit, cost in costs.items() if cost is not None}


def _is_given(attributes: Attributes, name: str) -> bool:
    return attributes.get(name) not in (None, "")


def _prompt(attributes: Attributes) -> tuple[str | None, int | None]:
    of_ai_sdk = parsed_or_none(attributes.get(AI_SDK_PROMPT))
    linked = of_ai_sdk if isinstance(of_ai_sdk, dict) else {}
    name = _text_or(_first_given(attributes, PROMPT_NAME), linked.get("name"))
    given = _first_given(attributes, PROMPT_VERSION)
    version = to_number(linked.get("version") if given is None else given)
    return name, version if isinstance(version, int) and version else None


def _completion_start(span: Span) -> datetime | None:
    """When the model began to answer: said as a time (older SDKs: JSON in JSON), or as how long
    after the beginning.
    """
    said = span.attributes.get(Langfuse.OBSERVATION_COMPLETION_START_TIME)
    if isinstance(said, str) and (moment := _moment(said)):
        return moment
    milliseconds = to_number(_first_given(span.attributes, MILLISECONDS_TO_FIRST_CHUNK))
    if not milliseconds:
        return None
    return datetime.fromtimestamp(span.start_ms / 1000, UTC) + timedelta(
        milliseconds=math.ceil(milliseconds)
    )


def _moment(said: str) -> datetime | None:
    try:
        unquoted = parse_json(said) if said.startswith('"') else said
        moment = datetime.fromisoformat(unquoted)
    except (ValueError, TypeError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tags(attributes: Attributes) -> list[str]:
    """A list, a list as JSON, or texts between commas."""
    last = attributes.get(TAGS[-1])
    said = next((attributes[one] for one in TAGS if is_truthy(attributes.get(one))), last)
    if isinstance(said, str) and said.strip().startswith("["):
        parsed = parsed_or_none(said)
        said = parsed if isinstance(parsed, list) else said
    if isinstance(said, list):
        return [one if isinstance(one, str) else json_text(one) for one in said]
    if not isinstance(said, str):
        return []
    return [one.strip() for one in said.split(",")] if "," in said else [said]
