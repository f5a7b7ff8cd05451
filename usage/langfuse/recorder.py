"""What recorded a step, in which version, and the provider's id of the response that it is of:
wherever each integration writes them (docs/sources.md, Counted once). Pure.
"""

import re
from functools import lru_cache
from typing import Any

import msgspec

OWN_SCOPE = "langfuse-sdk"
LANGCHAIN = f"{OWN_SCOPE}/langchain"
OPENAI = f"{OWN_SCOPE}/openai"
# How ``langfuse.openai`` calls what it records, where nobody gave it a name.
OPENAI_NAMES = "OpenAI-"
# LiteLLM's callback of Langfuse's older SDK makes the id of its observation of the response's.
ID_OF_LITELLM = re.compile(r"time-\d\d-\d\d-\d\d-\d+_(.+)$", re.DOTALL)
# Ollama numbers its responses at random, below a thousand; and what servers write for no id.
NO_ID = re.compile(r"chatcmpl-\d{1,3}$|(?:none|null|undefined|unknown|n/a|0|-)$", re.IGNORECASE)
LONGEST = 200


NAMES = {
    "scope": "scope.name",
    "version": "scope.version",
    # Only on what the callback records; ls_integration goes to the steps inside it, too.
    "langchain": "ls_model_type",
    "gen_ai": "attributes.gen_ai.response.id",
    "llm": "attributes.llm.response.id",
    "ai": "attributes.ai.response.id",
    "openai": "attributes.llm.openai.id",
    "azure": "attributes.llm.azure.id",
    "anthropic": "attributes.llm.anthropic.id",
    "gemini": "attributes.llm.gemini.responseId",
    "vertex_ai": "attributes.llm.vertex_ai.responseId",
}


class Recorder(msgspec.Struct, gc=False, rename=NAMES):
    """The keys of the metadata that say it. Of the names of a response's id the first that is there
    counts: what a gateway hands on of the provider's own answer comes last.
    """

    scope: Any = None
    version: Any = None
    langchain: Any = None
    gen_ai: Any = None
    llm: Any = None
    ai: Any = None
    openai: Any = None
    azure: Any = None
    anthropic: Any = None
    gemini: Any = None
    vertex_ai: Any = None


def recorded_by(recorder: Recorder, observation_id: str) -> tuple[str, str]:
    """Which integration recorded a step, and the id of its response; of one that Langfuse's own SDK
    recorded :func:`by_own_sdk` says it.

    "" is what doesn't say; and no id, or one that doesn't tell responses apart.
    """
    scope = recorder.scope
    source = scope[:LONGEST] if isinstance(scope, str) else ""
    return source, _response_id(recorder, observation_id)


def version_of(recorder: Recorder) -> str:
    """Of what recorded a step; "" where it doesn't say."""
    version = recorder.version
    if not version:
        return ""
    # Langfuse reads what is digits alone as a number.
    text = version if isinstance(version, str) else msgspec.json.encode(version).decode()
    return text.replace("\x00", "")[:LONGEST]


@lru_cache(maxsize=4096)
def by_own_sdk(name: str | None, is_of_langchain: bool) -> tuple[str, str]:
    """The same of a step of this name that Langfuse's own SDK recorded: "" is the SDK by itself, as
    our tracer uses it. Of its own spans Langfuse hands on no attributes, so no id.
    """
    if is_of_langchain:
        return LANGCHAIN, ""
    return (OPENAI if name and name.startswith(OPENAI_NAMES) else ""), ""


def _response_id(recorder: Recorder, observation_id: str) -> str:
    said = (
        recorder.gen_ai
        or recorder.llm
        or recorder.ai
        or recorder.openai
        or recorder.azure
        or recorder.anthropic
        or recorder.gemini
        or recorder.vertex_ai
    )
    if said is None:
        found = ID_OF_LITELLM.match(observation_id)
        said = found[1] if found else ""
    # Langfuse reads what is digits alone as a number.
    text = said if isinstance(said, str) else msgspec.json.encode(said).decode()
    return "" if NO_ID.match(text) else text.replace("\x00", "")[:LONGEST]
