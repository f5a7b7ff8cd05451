"""The metadata of an observation: one flat map of texts, of what its trace and it were given, of
the attributes that other tracers than Langfuse's set, of its resource and of what recorded it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from langfuse import LangfuseOtelSpanAttributes as Langfuse

from usage.langfuse.sandbox.mapping.attributes import (
    AI_SDK_METADATA,
    COMMON_METADATA,
    INPUT_OR_OUTPUT,
    INPUT_OUTPUT_OR_METADATA,
    NOT_METADATA,
)
from usage.langfuse.sandbox.mapping.javascript import (
    is_truthy,
    json_text,
    parsed_or_none,
    record,
    text,
)
from usage.langfuse.sandbox.mapping.span import Attributes, Span

OWN_SCOPE = "langfuse-sdk"
# They go to the input, where they are definitions of tools.
TOOL_LISTS = ("ai.prompt.tools", "gen_ai.tool.definitions")
TOOL_SCHEMA = re.compile(r"llm\.tools\.\d+\.tool\.json_schema")
REQUEST_PARAMETERS = "model_request_parameters"
UNNAMED_TOOLS_ALLOWED = "ai.prompt.tools"


def metadata(span: Span) -> dict[str, str]:
    """The metadata of a span, as it is stored."""
    nested: dict[str, Any] = {}
    if not span.scope.name.startswith(OWN_SCOPE):
        nested["attributes"] = _foreign(span.attributes)
    nested["resourceAttributes"] = span.resource
    nested["scope"] = {**span.scope.fields, "attributes": span.scope.attributes}
    nested |= _given(span.attributes, Langfuse.OBSERVATION_METADATA)
    nested |= _given(span.attributes, Langfuse.TRACE_METADATA)
    flat: dict[str, str] = {}
    for name, value in _flattened(_without_tools(nested)):
        flat.setdefault(name, value)
    return flat


def _foreign(attributes: Attributes) -> dict[str, str]:
    return {
        name: text(value)
        for name, value in attributes.items()
        if name not in INPUT_OR_OUTPUT and not name.startswith(INPUT_OUTPUT_OR_METADATA)
    }


def _given(attributes: Attributes, prefix: str) -> dict[str, Any]:
    """Metadata of the trace or of the observation: a map in one attribute, and an attribute for
    each key.
    """
    whole = attributes.get(prefix)
    given = record(whole if is_truthy(whole) else attributes.get(COMMON_METADATA)) or {}
    prefixes = tuple(f"{one}." for one in (prefix, COMMON_METADATA, AI_SDK_METADATA))
    for name, value in attributes.items():
        if name.startswith(prefixes) and name not in NOT_METADATA:
            beginning = next(one for one in prefixes if name.startswith(one))
            if key := name.removeprefix(beginning):
                given[key] = value
    return given


def _flattened(nested: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, value in nested.items():
        name = f"{path}.{key}" if path else key
        if isinstance(value, Mapping):
            yield from _flattened(value, name)
        else:
            yield name, "" if value is None else text(value)


def _without_tools(nested: dict[str, Any]) -> dict[str, Any]:
    """The metadata without the definitions of tools, which the server moves to the input.

    It leaves them where the input is a mere number, which this doesn't look at.
    """
    cleaned, attributes = dict(nested), nested.get("attributes")
    if _tools(nested.get("tools"), unnamed=False):
        del cleaned["tools"]
    if isinstance(attributes, dict):
        cleaned["attributes"] = _attributes_without_tools(attributes)
    return cleaned


def _attributes_without_tools(attributes: dict[str, Any]) -> dict[str, Any]:
    cleaned = dict(attributes)
    lists = {
        name: _tools(attributes.get(name), unnamed=name == UNNAMED_TOOLS_ALLOWED)
        for name in TOOL_LISTS
    }
    schemas = [
        name
        for name, value in attributes.items()
        if TOOL_SCHEMA.fullmatch(name) and _is_tool(value, unnamed=False)
    ]
    parameters = _json_map(attributes.get(REQUEST_PARAMETERS))
    functions = _tools(parameters.get("function_tools"), unnamed=False)
    if not (any(lists.values()) or schemas or functions):
        return attributes
    for name in [*(name for name, tools in lists.items() if tools is not None), *schemas]:
        del cleaned[name]
    if parameters:
        rest = {
            name: value
            for name, value in parameters.items()
            if name != "function_tools" or functions is None
        }
        del cleaned[REQUEST_PARAMETERS]
        if rest:
            cleaned[REQUEST_PARAMETERS] = json_text(rest)
    return cleaned


def _tools(value: Any, *, unnamed: bool) -> list[Any] | None:
    """The definitions of tools in a list, if it is one and has nothing else; maybe as JSON."""
    tools = parsed_or_none(value)
    if isinstance(tools, list) and all(_is_tool(one, unnamed=unnamed) for one in tools):
        return tools
    return None


def _is_tool(value: Any, *, unnamed: bool) -> bool:
    """Whether a value, maybe as JSON, defines a tool: by its name, or only by a provider's type."""
    tool = _json_map(value)
    function = tool.get("function", tool)
    is_named = isinstance(function, dict) and bool(function.get("name"))
    return is_named or (unnamed and isinstance(tool.get("type"), str))


def _json_map(value: Any) -> dict[str, Any]:
    parsed = parsed_or_none(value)
    return parsed if isinstance(parsed, dict) else {}
