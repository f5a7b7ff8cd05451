"""The real SDK sends to the sandbox, and what comes back is what was sent."""

import gzip
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from langfuse import Langfuse, propagate_attributes
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import SECRET_KEY, RunningSandbox, recorded
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.sandbox.server import RateLimit
from usage.langfuse.tracing_client import TracingClient

ALL_GROUPS = "core,basic,time,metadata,model,usage,prompt,metrics,trace_context"


def rows(sandbox: RunningSandbox, **query: str) -> list[dict]:
    answer = httpx.get(
        f"{sandbox.url}/api/public/v2/observations",
        params={"fields": ALL_GROUPS, "limit": 1000, **query},
        auth=(sandbox.sandbox.public_key, SECRET_KEY),
    )
    return answer.raise_for_status().json()["data"]


def send_a_flow(langfuse: Langfuse) -> None:
    with (
        propagate_attributes(
            user_id="u-1",
            session_id="s-1",
            metadata={"tenant_id": "acme", "trace_type": "chain"},
            tags=["a", "b"],
            trace_name="flow-7",
        ),
        langfuse.start_as_current_observation(name="flow") as root,
    ):
        with langfuse.start_as_current_observation(
            name="ChatModel",
            as_type="generation",
            model="gpt-4o",
            model_parameters={"temperature": 0.2},
            usage_details={
                "input": 60,
                "input_cached_tokens": 40,
                "output": 30,
                "output_reasoning_tokens": 20,
            },
        ):
            pass
        with langfuse.start_as_current_observation(name="lookup", as_type="tool") as tool:
            tool.update(level="ERROR", status_message="boom")
        root.update(metadata={"component_id": "c1"})
    langfuse.flush()


def test_what_comes_back_is_what_was_sent(sandbox: RunningSandbox, tracing: TracingClient) -> None:
    send_a_flow(tracing.langfuse)

    found = {row["name"]: row for row in rows(sandbox)}

    assert found.keys() == {"flow", "ChatModel", "lookup"}
    for row in found.values():
        assert (row["userId"], row["sessionId"], row["tags"], row["traceName"]) == (
            "u-1",
            "s-1",
            ["a", "b"],
            "flow-7",
        )
        assert row["metadata"]["tenant_id"] == "acme"
    call = found["ChatModel"]
    assert (call["type"], call["model"], call["modelParameters"]) == (
        "GENERATION",
        "gpt-4o",
        {"temperature": 0.2},
    )
    assert call["usageDetails"] == {
        "input": 60,
        "input_cached_tokens": 40,
        "output": 30,
        "output_reasoning_tokens": 20,
        "total": 150,
    }
    # The real server's answer for the same usage has no price for reasoning tokens apart in this
    # model's recorded cost.
    assert call["costDetails"]["input"] == 0.00015
    assert call["costDetails"]["input_cached_tokens"] == 5e-05
    assert found["flow"]["isRootObservation"] is True
    assert found["flow"]["metadata"]["component_id"] == "c1"
    assert call["parentObservationId"] == found["flow"]["id"]
    assert (
        found["lookup"]["type"],
        found["lookup"]["level"],
        found["lookup"]["statusMessage"],
    ) == ("TOOL", "ERROR", "boom")


def test_rows_have_the_fields_and_types_of_recorded_ones(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    send_a_flow(tracing.langfuse)
    real = recorded("observations_all_fields")["body"]["data"]
    types: dict[str, set[type]] = {}
    for row in real:
        for name, value in row.items():
            types.setdefault(name, set()).add(type(value))
    for row in rows(sandbox):
        assert row.keys() == types.keys()
        for name, value in row.items():
            allowed = types[name] | ({float, int} if types[name] & {float, int} else set())
            assert type(value) in allowed, (name, value)


def test_the_typed_client_of_the_sdk_can_read_it(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    send_a_flow(tracing.langfuse)
    assert tracing.langfuse.api.health.health().version == "4.16.0"
    assert [project.name for project in tracing.langfuse.api.projects.get().data] == ["sandbox"]
    observations = tracing.langfuse.api.observations.get_many(fields=ALL_GROUPS, limit=2)
    assert len(observations.data) == 2
    assert observations.meta.cursor


@pytest.mark.both_databases
def test_our_client_reads_what_the_sdk_sent(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    send_a_flow(tracing.langfuse)
    now = datetime.now(UTC)
    with LangfuseClientService(sandbox.url, tracing.public_key, SECRET_KEY) as client:
        found = {
            one.step.name: one
            for one in client.observations(now - timedelta(hours=1), now + timedelta(hours=1))
        }
    assert found["ChatModel"].step.usage_details["input_cached_tokens"] == 40
    assert {one.trace_attributes.tenant_reference for one in found.values()} == {"acme"}
    assert {one.trace_attributes.user_reference for one in found.values()} == {"u-1"}


def test_a_span_that_is_sent_again_is_another_version(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add()
    span.trace_id, span.span_id, span.name = bytes(16), bytes(8), "again"
    span.start_time_unix_nano = span.end_time_unix_nano = 1_700_000_000 * 10**9
    for body, headers in (
        (request.SerializeToString(), {}),
        (gzip.compress(request.SerializeToString()), {"Content-Encoding": "gzip"}),
    ):
        answer = httpx.post(
            f"{sandbox.url}/api/public/otel/v1/traces",
            content=body,
            headers=headers,
            auth=(tracing.public_key, SECRET_KEY),
        )
        assert (answer.status_code, answer.json()) == (200, {})
    assert [row["id"] for row in rows(sandbox)] == ["0" * 16] * 2


def test_what_is_no_export_is_refused(sandbox: RunningSandbox) -> None:
    for body, headers in ((b"nonsense\xff", {}), (b"not gzip", {"Content-Encoding": "gzip"})):
        answer = httpx.post(
            f"{sandbox.url}/api/public/otel/v1/traces",
            content=body,
            headers=headers,
            auth=(sandbox.sandbox.public_key, SECRET_KEY),
        )
        assert (answer.status_code, answer.json()) == (
            400,
            {"error": "Failed to parse OTel Protobuf Trace"},
        )


def test_it_asks_to_slow_down_when_told_to(sandbox: RunningSandbox) -> None:
    sandbox.sandbox.rate_limit = RateLimit(3)
    answers = [
        httpx.get(
            f"{sandbox.url}/api/public/v2/observations",
            auth=(sandbox.sandbox.public_key, SECRET_KEY),
        )
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["Retry-After"]) in range(1, 62)
    assert answers[2].headers["X-RateLimit-Limit"] == "3"
    assert answers[2].headers["X-RateLimit-Remaining"] == "0"
    assert answers[2].headers["X-RateLimit-Reset"]
