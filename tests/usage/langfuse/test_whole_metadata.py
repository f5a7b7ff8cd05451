"""Long metadata is read wholly where it can be believed: the team behind the first 200 characters
of what LiteLLM writes.
"""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from tests.conftest import SECRET_KEY, RunningSandbox
from usage.facts.received import is_newer
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.evidence import evidence_of
from usage.langfuse.wire import ReceivedObservation, StepVersion, TraceAttributes

START = datetime(2026, 11, 10, 12, tzinfo=UTC)
TEAM = "attributes.metadata.user_api_key_team_id"


def metadata(team: str, key: str = "k1") -> str:
    long = {f"user_api_key_spend_{number}": 0.0 for number in range(12)}
    return json.dumps({"user_api_key_hash": key, **long, "user_api_key_team_id": team})


def send(sandbox: RunningSandbox, text: str, span_id: str = "01" * 8, name: str = "call") -> None:
    nanoseconds = str(int(START.timestamp()) * 10**9)
    attributes = [{"key": "metadata", "value": {"stringValue": text}}]
    span = {
        "traceId": "ab" * 16,
        "spanId": span_id,
        "name": name,
        "startTimeUnixNano": nanoseconds,
        "endTimeUnixNano": nanoseconds,
        "attributes": attributes,
    }
    body = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": "litellm"}, "spans": [span]}]}]}
    httpx.post(
        f"{sandbox.url}/api/public/otel/v1/traces",
        json=body,
        auth=(sandbox.sandbox.public_key, SECRET_KEY),
    ).raise_for_status()


def read(sandbox: RunningSandbox) -> list[StepVersion]:
    client = LangfuseClientService(sandbox.url, sandbox.sandbox.public_key, SECRET_KEY, api="v2")
    hour = timedelta(hours=1)
    return [one.step for one in client.observations(START - hour, START + hour)]


@pytest.mark.both_databases
def test_the_text_is_read_wholly(sandbox: RunningSandbox) -> None:
    send(sandbox, metadata("acme"))
    (step,) = read(sandbox)
    assert step.evidence[TEAM] == "acme"
    assert "@cut" not in step.evidence


@pytest.mark.both_databases
def test_of_a_step_that_was_sent_again_no_version_has_anothers_team(
    sandbox: RunningSandbox,
) -> None:
    send(sandbox, metadata("acme"), name="first")
    send(sandbox, metadata("globex"), name="second")
    send(sandbox, metadata("globex"), "02" * 8)
    steps = read(sandbox)
    again = [step for step in steps if step.observation_id == "01" * 8]
    assert len(again) == 2
    for step in again:
        assert TEAM not in step.evidence
        assert step.evidence["@cut"] == '["attributes.metadata"]'
        assert step.evidence["attributes.metadata.user_api_key_hash"] == "k1"
    (other,) = [step for step in steps if step.observation_id == "02" * 8]
    assert other.evidence[TEAM] == "globex"


@pytest.mark.both_databases
@pytest.mark.parametrize("text", ["{}", '{"user_api_key_team_id": "acme"}', "no json" * 60])
def test_nothing_more_is_asked_where_nothing_was_cut_off(
    sandbox: RunningSandbox, text: str, monkeypatch: Any
) -> None:
    send(sandbox, text)
    asked: list[Any] = []
    get = LangfuseClientService._page
    monkeypatch.setattr(
        LangfuseClientService, "_page", lambda self, query: asked.append(query) or get(self, query)
    )
    read(sandbox)
    assert not [query for query in asked if "expandMetadata" in query]


def test_the_whole_is_newer_than_its_beginning_whichever_comes_first() -> None:
    def version(text: str) -> ReceivedObservation:
        step = StepVersion("o", "SPAN", "n", "DEFAULT", True, START, None, START, "", {}, None)
        told = msgspec.structs.replace(
            step, evidence=evidence_of({"attributes.metadata": text}, "s", ["t"])
        )
        return ReceivedObservation("t", TraceAttributes(), told)

    cut, whole = version(metadata("acme")[:200]), version(metadata("acme"))
    assert is_newer(whole, cut)
    assert not is_newer(cut, whole)
