"""What recorded a step, and the id of its response: wherever each integration writes them."""

import json
from typing import Any

import msgspec
import pytest

from tests.usage.langfuse.test_wire import GOOD, page_of
from usage.langfuse.wire import decode_rows

SDK = {"scope.name": "langfuse-sdk"}
ANTHROPIC = "com.anthropic.sdk.python"


@pytest.mark.parametrize(
    ("metadata", "fields", "expected"),
    [
        ({}, {}, ("", "")),
        (SDK, {"name": "a call"}, ("", "")),
        (SDK, {"name": "OpenAI-generation"}, ("langfuse-sdk/openai", "")),
        ({**SDK, "ls_model_type": "chat"}, {}, ("langfuse-sdk/langchain", "")),
        # It is handed on to whatever is inside of an agent.
        ({**SDK, "ls_integration": "langchain_create_agent"}, {}, ("", "")),
        (
            {"scope.name": ANTHROPIC, "attributes.gen_ai.response.id": "msg_e59239009b6a"},
            {},
            (ANTHROPIC, "msg_e59239009b6a"),
        ),
        (
            {"scope.name": "litellm", "attributes.llm.response.id": "chatcmpl-1ef1e1e9c10d"},
            {},
            ("litellm", "chatcmpl-1ef1e1e9c10d"),
        ),
        (
            {"scope.name": "litellm", "attributes.llm.anthropic.id": "msg_1"},
            {},
            ("litellm", "msg_1"),
        ),
        (
            {"scope.name": "litellm", "attributes.llm.gemini.responseId": "45e12"},
            {},
            ("litellm", "45e12"),
        ),
        ({"scope.name": "ai", "attributes.ai.response.id": "resp_1"}, {}, ("ai", "resp_1")),
        # Langfuse reads digits as a number.
        ({"scope.name": "x", "attributes.gen_ai.response.id": 454126}, {}, ("x", "454126")),
        # LiteLLM's callback of Langfuse's older SDK.
        ({}, {"id": "time-10-48-27-123456_chatcmpl-1ef1e1"}, ("", "chatcmpl-1ef1e1")),
        ({}, {"id": "time-of-day"}, ("", "")),
        # These don't tell one response from another.
        ({"scope.name": "x", "attributes.gen_ai.response.id": "chatcmpl-417"}, {}, ("x", "")),
        ({"scope.name": "x", "attributes.gen_ai.response.id": "None"}, {}, ("x", "")),
        ({"scope.name": "x", "attributes.gen_ai.response.id": ""}, {}, ("x", "")),
        ({"scope.name": 3}, {}, ("", "")),
        # As v1 has it.
        (
            {
                "scope": {"name": ANTHROPIC, "version": "2"},
                "attributes": {"gen_ai.response.id": "msg_1"},
            },
            {},
            (ANTHROPIC, "msg_1"),
        ),
    ],
)
def test_where_it_is_said(
    metadata: dict[str, Any], fields: dict[str, Any], expected: tuple[str, str]
) -> None:
    row = {**GOOD, "metadata": metadata, **fields}
    if "scope" in metadata:
        (one,), _ = decode_rows([msgspec.Raw(json.dumps(row).encode())])
    else:
        (one,) = page_of(row).observations
    assert (one.step.source, one.step.response_id) == expected


@pytest.mark.parametrize(
    ("metadata", "version"),
    [
        ({"scope.version": "5.0.4"}, "5.0.4"),
        # Langfuse reads digits as a number.
        ({"scope.version": 2}, "2"),
        ({"scope.version": ""}, ""),
        ({"scope.version": "1" * 300}, "1" * 200),
        ({}, ""),
        ({"scope": {"name": ANTHROPIC, "version": "2.14.0"}}, "2.14.0"),
    ],
)
def test_in_which_version(metadata: dict[str, Any], version: str) -> None:
    row = {**GOOD, "metadata": metadata}
    (one,), _ = decode_rows([msgspec.Raw(json.dumps(row).encode())])
    assert one.step.source_version == version
    if "scope" not in metadata:
        (one,) = page_of(row).observations
        assert one.step.source_version == version
