"""The tracer, with the real SDK: what a flow engine's run leaves in Langfuse."""

import subprocess
import sys
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from django.conf import settings
from langchain_core.language_models.fake import FakeListLLM

from tests.conftest import People, RunningSandbox
from tests.usage.langfuse.test_sandbox_sdk import rows
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import TracingClient

RUN = uuid.UUID("12345678-1234-5678-1234-567812345678")


def tracer_for(client: TracingClient, **kwargs: object) -> LangfuseTracer:
    arguments = {
        "user_id": str(uuid.uuid4()),
        "session_id": "s-1",
        "tenant_id": "tenant-1",
        "kluisz_project_id": "project-1",
        "kluisz_flow_id": "flow-1",
        "client": client,
        **kwargs,
    }
    return LangfuseTracer("My flow", "chain", "Kanvas", RUN, **arguments)  # type: ignore[arg-type]


def test_all_ids_reach_every_observation(sandbox: RunningSandbox, tracing: TracingClient) -> None:
    tracer = tracer_for(tracing)
    tracer.add_trace("c1", "Prompt", "prompt", {"text": "hi"})
    tracer.add_generation("Model", "gpt-4o", {"input": 10, "output": 5}, parent_id="c1")
    tracer.end_trace("c1", "Prompt", {"text": "ho"})
    tracer.end(outputs={"answer": 42})
    tracing.flush()

    found = rows(sandbox)

    assert {row["name"] for row in found} == {"My flow", "Prompt", "Model"}
    for row in found:
        assert row["traceId"] == RUN.hex
        assert (row["userId"], row["sessionId"]) == (tracer.user_id, "s-1")
        assert row["traceName"] == "flow-1", "the trace is named by the flow id"
        expected = {
            "tenant_id": "tenant-1",
            "kluisz_project_id": "project-1",
            "kluisz_flow_id": "flow-1",
            "trace_type": "chain",
        }
        assert expected.items() <= row["metadata"].items()
    roots = [row for row in found if row["isRootObservation"]]
    assert [row["name"] for row in roots] == ["My flow"]
    assert roots[0]["parentObservationId"] is None


def test_llm_calls_are_generations_with_usage_and_cost(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    tracer = tracer_for(tracing)
    tracer.add_generation("Model", "gpt-4o", {"input": 1000, "output": 500})
    tracer.add_generation("Own", "acme-7b", {"input": 1}, cost_usd={"total": 0.25})
    tracer.end()
    tracing.flush()
    found = {row["name"]: row for row in rows(sandbox)}
    assert found["Model"]["type"] == "GENERATION"
    assert found["Model"]["usageDetails"] == {"input": 1000, "output": 500, "total": 1500}
    assert found["Model"]["totalCost"] == 0.0075
    assert found["Own"]["costDetails"] == {"total": 0.25}


def test_nested_and_concurrent_components_each_end_the_right_one(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    tracer = tracer_for(tracing)
    start = datetime(2026, 11, 10, tzinfo=UTC)

    def component(number: int) -> None:
        moment = start + timedelta(seconds=number)
        tracer.add_trace(f"outer{number}", f"outer{number}", "x", start_time=moment)
        tracer.add_trace(
            f"inner{number}", f"inner{number}", "x", parent_id=f"outer{number}", start_time=moment
        )
        tracer.add_trace("same", f"same{number}", "x", start_time=moment)
        tracer.end_trace(
            f"inner{number}", "", {"n": number}, end_time=moment + timedelta(seconds=1)
        )
        tracer.end_trace(
            f"outer{number}", "", {"n": number}, end_time=moment + timedelta(seconds=2)
        )

    threads = [threading.Thread(target=component, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(20):
        tracer.end_trace("same", "")
    tracer.end()
    tracing.flush()

    found = {row["name"]: row for row in rows(sandbox)}
    assert len(found) == 61
    for number in range(20):
        outer, inner = found[f"outer{number}"], found[f"inner{number}"]
        assert (outer["latency"], inner["latency"]) == (2, 1)
        assert inner["parentObservationId"] == outer["id"]
        assert outer["parentObservationId"] == found["My flow"]["id"]


def test_an_error_is_on_the_component_and_on_the_run(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    tracer = tracer_for(tracing)
    tracer.add_trace("c1", "Bad", "x")
    tracer.add_trace("c2", "Forgotten", "x")
    tracer.end_trace("c1", "Bad", error=ValueError("no such key"))
    tracer.end(error=ValueError("no such key"))
    tracing.flush()
    found = {row["name"]: row for row in rows(sandbox)}
    assert {row["level"] for row in found.values()} == {"ERROR"}
    assert found["My flow"]["statusMessage"] == "ValueError: no such key"


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_the_tenant_is_looked_up_from_the_user(
    sandbox: RunningSandbox, tracing: TracingClient, people: People
) -> None:
    """By the thread that sends, on a connection of its own."""
    for user in (people.acme_user, people.globex_user):
        tracer_for(tracing, user_id=str(user.pk), tenant_id=None).end()
        tracing.flush()
    tenants = [row["metadata"]["tenant_id"] for row in rows(sandbox)]
    assert sorted(tenants) == sorted([str(people.acme.pk), str(people.globex.pk)])


def test_without_a_flow_id_the_trace_has_the_runs_name(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    tracer_for(tracing, kluisz_flow_id=None).end()
    tracing.flush()
    assert rows(sandbox)[0]["traceName"] == "My flow"


def test_a_run_id_of_any_form_is_a_trace(sandbox: RunningSandbox, tracing: TracingClient) -> None:
    LangfuseTracer("a", "chain", "p", "run 17", client=tracing).end()
    LangfuseTracer("b", "chain", "p", "run 17", client=tracing).end()
    tracing.flush()
    assert len({row["traceId"] for row in rows(sandbox)}) == 1


def test_a_langchain_callback_traces_into_the_run(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    tracer = tracer_for(tracing)
    handler = tracer.get_langchain_callback()
    assert handler is not None
    FakeListLLM(responses=["ho"]).invoke("hi", config={"callbacks": [handler]})
    tracer.end()
    tracing.flush()
    found = rows(sandbox)
    assert {row["traceId"] for row in found} == {RUN.hex}
    assert "GENERATION" in {row["type"] for row in found}
    assert {row["metadata"]["tenant_id"] for row in found} == {"tenant-1"}


DOWN = """
import logging, os, sys, time
import django
django.setup()
logging.getLogger().setLevel(logging.DEBUG)
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import TracingClient
client = TracingClient("http://127.0.0.1:9", "pk-lf-down", "sk-lf-not-to-be-seen")
began = time.monotonic()
for number in range(200):
    tracer = LangfuseTracer("flow", "chain", "Kanvas", f"run {number}", user_id="u", tenant_id="t",
        client=client)
    tracer.add_trace("c1", "Prompt", "x", {"a": 1})
    tracer.end_trace("c1", "Prompt", {"b": 2})
    tracer.end()
print(time.monotonic() - began)
sys.stdout.flush()
client.flush()  # fails, and is logged
os._exit(0)
"""


@pytest.mark.both_databases
def test_a_langfuse_that_is_down_never_breaks_or_delays_a_run_and_no_key_is_logged() -> None:
    command = [sys.executable, "-c", DOWN]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=settings.BASE_DIR,
    )
    # Each of the 200 runs alone would wait for a time-out of seconds if it waited at all.
    assert float(done.stdout) < 5
    assert "Connection refused" in done.stderr
    assert "sk-lf-not-to-be-seen" not in done.stderr


def test_what_breaks_inside_tracing_stays_inside(
    tracing: TracingClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tracer = tracer_for(tracing)
    monkeypatch.setattr(tracing, "tracer", None)
    tracer.add_trace("c1", "Prompt", "x")
    tracer.add_generation("Model", "m", {"input": 1})
    tracer.end_trace("never opened", "x")
    tracer.end()
    tracer.end()
    broken = LangfuseTracer("a", "chain", "p", RUN, client=tracing)
    assert not broken.ready
    broken.add_trace("c1", "Prompt", "x")
    broken.end()
    assert "Tracing failed in add_trace (AttributeError)" in caplog.text
