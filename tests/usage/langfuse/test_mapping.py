"""Langfuse's mapping of spans, rule by rule. Expected values are those of the real mapping
(Langfuse 4.16.0, packages/shared/src/server/otel).
"""

from typing import Any

import pytest

from usage.langfuse.sandbox.mapping.javascript import parse_exactly
from usage.langfuse.sandbox.mapping.metadata import metadata
from usage.langfuse.sandbox.mapping.model_parameters import model_parameters
from usage.langfuse.sandbox.mapping.observation import Observation, observation_of
from usage.langfuse.sandbox.mapping.observation_type import observation_type
from usage.langfuse.sandbox.mapping.span import Scope, Span
from usage.langfuse.sandbox.mapping.usage_details import usage_details

PYTHON = {"telemetry.sdk.language": "python"}


def span(
    attributes: dict[str, Any] | None = None,
    scope: str = "x",
    version: str = "",
    resource: dict[str, Any] | None = None,
    **fields: Any,
) -> Span:
    said = {"name": "n", "start_ms": 0, "end_ms": 1, "parent_span_id": None, **fields}
    fields_of_scope = {"name": scope, **({"version": version} if version else {})}
    return Span(
        "t", "s", attributes=attributes or {}, resource=resource or {},
        scope=Scope(fields_of_scope), **said,
    )  # fmt: skip


def mapped(attributes: dict[str, Any], **fields: Any) -> Observation:
    return observation_of(span(attributes, **fields))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, "SPAN"),
        ({"langfuse.observation.type": "guardrail"}, "GUARDRAIL"),
        ({"langfuse.observation.type": "new", "openinference.span.kind": "LLM"}, "GENERATION"),
        ({"langfuse.observation.type": "span", "gen_ai.request.model": "m"}, "SPAN"),
        ({"openinference.span.kind": "RERANKER", "llm.model_name": "m"}, "GENERATION"),
        ({"openinference.span.kind": "RETRIEVER"}, "RETRIEVER"),
        ({"openinference.span.kind": "AGENT", "gen_ai.operation.name": "chat"}, "AGENT"),
        ({"gen_ai.operation.name": "text_completion"}, "GENERATION"),
        ({"gen_ai.operation.name": "embeddings"}, "EMBEDDING"),
        ({"gen_ai.operation.name": "create_agent"}, "AGENT"),
        ({"gen_ai.operation.name": "execute_tool"}, "TOOL"),
        ({"gen_ai.operation.name": "agent_step"}, "SPAN"),
        ({"genkit:metadata:subtype": "embedder"}, "EMBEDDING"),
        ({"operation.name": "ai.generateText.doGenerate f", "ai.model.id": "m"}, "GENERATION"),
        ({"ai.operationId": "ai.embed.doEmbed", "gen_ai.request.model": "m"}, "EMBEDDING"),
        ({"ai.operationId": "ai.embed.doEmbed"}, "SPAN"),
        ({"ai.operationId": "ai.toolCall"}, "TOOL"),
        ({"gen_ai.tool.call.id": "c"}, "TOOL"),
        ({"flue.task.id": "1"}, "AGENT"),
        ({"model": "m"}, "GENERATION"),
        ({"model": ""}, "SPAN"),
    ],
)
def test_the_first_convention_that_knows_a_type_gives_it(
    attributes: dict[str, Any], expected: str
) -> None:
    assert observation_type(span(attributes)) == expected


@pytest.mark.parametrize(
    ("version", "expected"),
    [("3.3.0", "GENERATION"), ("2.60.1", "GENERATION"), ("3.4.0", "SPAN"), ("5.0.4", "SPAN")],
)
def test_old_python_sdks_called_a_generation_a_span(version: str, expected: str) -> None:
    attributes = {"langfuse.observation.type": "span", "langfuse.observation.model.name": "m"}
    said = span(attributes, "langfuse-sdk", version, PYTHON)
    assert observation_type(said) == expected


@pytest.mark.parametrize(
    ("scope", "attributes", "expected"),
    [
        # OTel's old names and its new ones.
        ("x", {"gen_ai.usage.prompt_tokens": 9, "gen_ai.usage.completion_tokens": 2},
         {"input": 9, "output": 2}),
        ("x", {"gen_ai.usage.input_tokens": "9", "gen_ai.usage.cache_read.input_tokens": 4,
               "gen_ai.usage.output_tokens": 5, "gen_ai.usage.reasoning.output_tokens": 3,
               "gen_ai.usage.cost": 1.5},
         {"input": 5, "output": 2, "input_cached_tokens": 4, "output_reasoning_tokens": 3}),
        # OpenInference.
        ("x", {"llm.token_count.prompt": 9, "llm.token_count.completion": 5,
               "llm.token_count.total": 14, "llm.token_count.prompt_details.cache_read": 4,
               "llm.token_count.prompt_details.cache_write": 1,
               "llm.token_count.completion_details.audio": 2},
         {"input": 4, "output": 3, "total": 14, "input_cached_tokens": 4,
          "input_cache_creation": 1, "output_audio_tokens": 2}),
        # OpenLLMetry's and pydantic-ai's own names stay, and are taken out of nothing.
        ("x", {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5,
               "gen_ai.usage.reasoning_tokens": 3},
         {"input": 9, "output": 5, "reasoning_tokens": 3}),
        ("pydantic-ai", {"gen_ai.usage.details.audio_tokens": 3}, {"audio_tokens": 3}),
        # Nothing below zero, nothing broken, nothing that isn't a number.
        ("x", {"gen_ai.usage.input_tokens": 3, "gen_ai.usage.cache_read.input_tokens": 4,
               "gen_ai.usage.a": "x", "gen_ai.usage.b": 1.5, "gen_ai.usage.c": -1},
         {"input": 0, "input_cached_tokens": 4}),
        # The sums of an AI SDK's agent.
        ("x", {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 9}, {}),
        # Langfuse's own; OpenAI's form of it.
        ("x", {"langfuse.observation.usage_details": '{"input": 5, "a": "7", "b": -1, "c": null}'},
         {"input": 5, "a": 7}),
        ("x", {"langfuse.observation.usage_details":
               '{"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14,'
               ' "prompt_tokens_details": {"cached_tokens": 4},'
               ' "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": null}}'},
         {"input": 5, "output": 2, "total": 14, "input_cached_tokens": 4,
          "output_reasoning_tokens": 3}),
        ("x", {"langfuse.observation.usage_details": "[1]", "gen_ai.usage.input_tokens": 9}, {}),
        ("x", {"langfuse.observation.usage_details": "{", "gen_ai.usage.input_tokens": 9},
         {"input": 9}),
        # Vercel's AI SDK up to 6.
        ("ai", {"gen_ai.usage.input_tokens": 9, "gen_ai.usage.output_tokens": 5,
                "ai.usage.cachedInputTokens": 4, "ai.usage.reasoningTokens": 3},
         {"input": 5, "output": 2, "input_cached_tokens": 4, "output_reasoning_tokens": 3}),
        ("ai", {"gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 5,
                "ai.response.providerMetadata":
                '{"anthropic": {"usage": {"cache_creation_input_tokens": 30,'
                ' "cache_read_input_tokens": 20, "cache_creation":'
                ' {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20}}}}'},
         {"input": 50, "output": 5, "input_cached_tokens": 20, "input_cache_creation": 0,
          "input_cache_creation_5m": 10, "input_cache_creation_1h": 20}),
        ("ai", {}, {"input": 0, "output": 0}),
        ("ai", {"ai.response.providerMetadata": "{", "gen_ai.usage.prompt_tokens": 3},
         {"input": 3}),
        # Google ADK.
        ("gcp.vertex.agent", {"gen_ai.usage.input_tokens": 9, "gcp.vertex.agent.llm_response":
                              '{"usage_metadata": {"cached_content_token_count": 4}}'},
         {"input": 5, "input_cached_tokens": 4}),
        ("genkit-tracer", {"genkit:output":
                           '{"usage": {"inputTokens": 9, "outputTokens": 5, "thoughtsTokens": 3}}'},
         {"input": 9, "output": 2, "output_reasoning": 3}),
    ],
)  # fmt: skip
def test_usage_comes_in_langfuses_units(
    scope: str, attributes: dict[str, Any], expected: dict[str, int]
) -> None:
    assert usage_details(span(attributes, scope)) == expected


@pytest.mark.parametrize(
    ("attributes", "field", "expected"),
    [
        ({"gen_ai.response.model": "a", "gen_ai.request.model": "b"}, "model", "a"),
        ({"llm.model_name": "a", "langfuse.observation.model.name": "b"}, "model", "b"),
        ({"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "a"}, "model", None),
        ({"user.id": "a", "langfuse.user.id": "b"}, "user_id", "b"),
        ({"langfuse.trace.metadata.langfuse_user_id": '"a"'}, "user_id", '"a"'),
        ({"ai.telemetry.metadata.userId": "a"}, "user_id", "a"),
        ({"gen_ai.conversation.id": "a"}, "session_id", "a"),
        ({"gen_ai.tool.name": "a", "logfire.msg": "b"}, "name", "a"),
        ({"logfire.msg": "b"}, "name", "b"),
        ({"ai.operationId": "o", "ai.telemetry.functionId": "f"}, "name", "f:o"),
        ({}, "name", "n"),
        ({"langfuse.trace.tags": ["a", "b"]}, "tags", ["a", "b"]),
        ({"langfuse.tags": '["a", 1]'}, "tags", ["a", "1"]),
        ({"tag.tags": "a, b"}, "tags", ["a", "b"]),
        ({"langfuse.observation.level": "fatal"}, "level", "ERROR"),
        ({"langfuse.observation.level": "unheard of"}, "level", "DEFAULT"),
        ({"langfuse.environment": "Prod"}, "environment", "prod"),
        ({"deployment.environment": "langfuse-langfuse_x"}, "environment", "x"),
        ({"deployment.environment.name": "with space"}, "environment", "default"),
        ({"gen_ai.usage.cost": 0.5, "llm.cost.total": 1}, "cost_details", {"total": 0.5}),
        ({"llm.cost.total": "0.25"}, "cost_details", {"total": 0.25}),
        ({"langfuse.observation.cost_details": '{"input": -1}', "llm.cost.total": 1},
         "cost_details", {"input": -1}),
        ({"langfuse.internal.is_app_root": True}, "is_root", True),
        ({}, "is_root", False),
    ],
)  # fmt: skip
def test_the_first_attribute_that_says_something_is_taken(
    attributes: dict[str, Any], field: str, expected: Any
) -> None:
    assert getattr(mapped(attributes, parent_span_id="p"), field) == expected


def test_a_failed_span_is_an_error_and_a_resource_names_version_and_environment() -> None:
    resource = {"service.version": "1.2", "deployment.environment": "production"}
    said = mapped({}, resource=resource, status_code=2, status_message="boom")
    assert (said.level, said.status_message) == ("ERROR", "boom")
    assert (said.version, said.environment) == ("1.2", "production")


def test_a_prompt_belongs_to_a_generation() -> None:
    prompt = {"langfuse.observation.prompt.name": "p", "langfuse.observation.prompt.version": 3}
    assert mapped(prompt).prompt_name is None
    said = mapped({**prompt, "model": "m"})
    assert (said.prompt_name, said.prompt_version) == ("p", 3)


def test_metadata_is_flat_and_others_attributes_are_in_it_without_inputs_and_outputs() -> None:
    attributes = {
        "langfuse.trace.metadata": '{"a": {"b": [1, "x"]}, "c": 1.0}',
        "langfuse.trace.metadata.d": '"acme"',
        "ai.telemetry.metadata.e": True,
        "ai.telemetry.metadata.userId": "u",
        "input.value": "secret",
        "llm.input_messages.0.message.content": "secret",
        "gen_ai.usage.input_tokens": 1200,
        "llm.tools.0.tool.json_schema": '{"name": "t"}',
        "list": ["x", 1],
    }
    said = metadata(span(attributes, "x", "1.0", {"service.name": "s"}))
    assert said == {
        "attributes.gen_ai.usage.input_tokens": "1200",
        "attributes.list": '["x",1]',
        "resourceAttributes.service.name": "s",
        "scope.name": "x",
        "scope.version": "1.0",
        "a.b": '[1,"x"]',
        "c": "1",
        "d": '"acme"',
        "e": "true",
    }


@pytest.mark.parametrize(
    ("scope", "attributes", "expected"),
    [
        ("x", {"langfuse.observation.model.parameters": '{"t": 1, "s": true}'},
         {"t": 1, "s": "true"}),
        ("x", {"llm.invocation_parameters": '{"t": null, "l": [1]}'}, {"t": "null", "l": "[1]"}),
        ("x", {"gen_ai.request.model": "m", "gen_ai.request.temperature": 0.5},
         {"temperature": 0.5}),
        ("x", {}, {}),
    ],
)  # fmt: skip
def test_model_parameters_are_texts_and_numbers(
    scope: str, attributes: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert model_parameters(span(attributes, scope)) == expected


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ('"acme"', "acme"),
        ("acme", "acme"),
        ("1200", 1200),
        ("1.0", 1),
        ("true", True),
        ('{"a": 1}', {"a": 1}),
        ("12345678901234567890", "12345678901234567890"),
        ('"\\ud800"', '"\\ud800"'),
        ("NaN", "NaN"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_the_api_shows_what_a_stored_text_says_as_json(stored: str, shown: Any) -> None:
    assert parse_exactly(stored) == shown
