"""The presets on the recordings, through the sandbox's door and the sync: each finds whose its runs
are.
"""

from datetime import UTC, datetime

import httpx
import pytest

from tests.conftest import SECRET_KEY, People, RunningSandbox
from usage.books import verify_books
from usage.desk import attribution, presets
from usage.langfuse.sandbox.producers import exports_as_if_at, producers
from usage.models import AttributionRule, LangfuseConnection, Trace
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)
ANN = ("acme", "ann")
NOBODY = ("", "")
FOUND = {
    "adk": ("openinference", [ANN]),
    # Its agent is made in a trace of its own, of nobody.
    "autogen": ("openllmetry", [NOBODY, ANN]),
    "dspy": ("openinference", [ANN]),
    "dspy-and-litellm": ("openinference", [ANN]),
    "langchain-and-litellm-one-trace": ("litellm", [ANN]),
    "langchain-anthropic": ("litellm", [ANN]),
    "litellm-proxy": ("litellm", [ANN, ANN]),
    "litellm-proxy-anthropic-google": ("litellm", [ANN, ANN, ANN]),
    "llama-index": ("openinference", [ANN]),
    # Without a traceparent the gateway's trace knows the owner of its key only.
    "openai-and-litellm-two-traces": ("litellm", [NOBODY, ANN]),
    "openinference-google": ("openinference", [ANN]),
    "openllmetry": ("openllmetry", [ANN]),
    "pydantic-ai": ("openllmetry", [ANN]),
    "pydantic-ai-google": ("openllmetry", [ANN]),
    "smolagents": ("openinference", [ANN]),
    "vercel-ai-sdk": ("openllmetry", [ANN]),
}


def rules_of(name: str) -> list[AttributionRule]:
    """The rules of a preset, not stored."""
    return [AttributionRule(**fields) for fields in presets.PRESETS[name].rules]


def owners() -> list[tuple[str, str]]:
    return sorted(
        (trace.tenant.slug if trace.tenant else "", trace.user.username if trace.user else "")
        for trace in Trace.objects.select_related("tenant", "user")
    )


def test_every_recording_is_tried() -> None:
    assert sorted(FOUND) == sorted(producers())


@pytest.mark.parametrize("name", FOUND)
def test_a_preset_finds_whose_the_recorded_runs_are(
    name: str, people: People, sandbox: RunningSandbox, connection: LangfuseConnection
) -> None:
    preset, found = FOUND[name]
    for export in exports_as_if_at(name, datetime.now(UTC)):
        httpx.post(
            f"{sandbox.url}/api/public/otel/v1/traces",
            content=export.SerializeToString(),
            headers={"Content-Type": "application/x-protobuf"},
            auth=(sandbox.sandbox.public_key, SECRET_KEY),
        ).raise_for_status()
    sync_connection(connection)
    assert ANN not in owners(), "without rules nobody is known by a user name"
    assert verify_books() == []
    together = attribution.begin(
        connection, rules_of(preset), name=preset, reason="as agreed", by=None
    )
    attribution.advance(together)
    assert owners() == sorted(found)
    assert verify_books() == []


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_rules_of_a_preset_are_rules(name: str, connection: LangfuseConnection) -> None:
    rules = rules_of(name)
    attribution.begin(connection, rules, name=name, reason="as agreed", by=None)
    assert AttributionRule.objects.count() == len(rules)
