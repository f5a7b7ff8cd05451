"""The tracer inside a host application: whatever the host's environment, telemetry, event loop and
values are, its runs arrive.
"""

import asyncio
import os
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings

from kluisz_analytics.tenants.models import User
from tests.conftest import SECRET_KEY, People, RunningSandbox
from tests.usage.langfuse.test_sandbox_sdk import rows
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import TracingClient

RUNS = 40
HOST = f"""
import sys
import django
django.setup()
from langchain_core.language_models.fake import FakeListLLM
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import configured_tracing_client
for number in range({RUNS}):
    tracer = LangfuseTracer("flow", "chain", "Kanvas", f"run {{number}}",
        user_id=f"user-{{number}}", session_id="s-1", tenant_id="tenant-1",
        kluisz_project_id="p-1", kluisz_flow_id="f-1",
        inputs={{"text": "x" * 300}})
    tracer.add_trace("c1", "Prompt", "prompt", {{"a": 1}},
        {{f"key-{{key}}": "v" * 150 for key in range(40)}})
    tracer.add_generation("Model", "gpt-4o", {{"input": 10, "output": 5}}, parent_id="c1")
    FakeListLLM(responses=["ho"]).invoke("hi",
        config={{"callbacks": [tracer.get_langchain_callback()]}})
    tracer.end_trace("c1", "Prompt", {{"b": 2}})
    tracer.end(outputs={{"answer": "y" * 300}})
configured_tracing_client().flush()
"""
ENVIRONMENTS = {
    "nothing": {},
    "a sampler": {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"},
    "switched off": {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "LANGFUSE_TRACING_ENABLED": "false",
        "LANGFUSE_SAMPLE_RATE": "0",
        "LANGFUSE_MEDIA_UPLOAD_ENABLED": "false",
        "LANGFUSE_OBSERVE_DECORATOR_IO_CAPTURE_ENABLED": "false",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PROPAGATORS": "none",
    },
    "small queues": {
        "OTEL_BSP_MAX_QUEUE_SIZE": "8",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        "OTEL_BSP_SCHEDULE_DELAY": "3600000",
        "OTEL_BSP_EXPORT_TIMEOUT": "1",
        "LANGFUSE_FLUSH_AT": "1",
        "LANGFUSE_FLUSH_INTERVAL": "3600",
        "LANGFUSE_OTEL_MAX_BATCH_SIZE_BYTES": "10",
    },
    "low limits": {
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5",
        "OTEL_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "5",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2",
        "OTEL_SPAN_EVENT_COUNT_LIMIT": "0",
        "OTEL_SPAN_LINK_COUNT_LIMIT": "0",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT": "0",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT": "0",
    },
    "a resource": {
        "OTEL_RESOURCE_ATTRIBUTES": "langfuse.environment=langfuse-elsewhere,service.name=host",
        "OTEL_SERVICE_NAME": "host",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "process,os",
    },
    "a collector": {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_HEADERS": (
            "authorization=Basic%20bm8=,content-type=text/plain,content-encoding=identity,"
            "x-collector-key=secret-of-the-host"
        ),
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Basic%20bm8=",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "deflate",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/nowhere.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": "/nowhere.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/nowhere.pem",
        "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER": "nobody",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true",
        "LANGFUSE_OTEL_TRACES_EXPORT_PATH": "elsewhere",
        "LANGFUSE_OTEL_COMPRESSION": "none",
    },
    "talkative": {"LANGFUSE_DEBUG": "true", "OTEL_LOG_LEVEL": "debug"},
    "nonsense": {
        "OTEL_TRACES_SAMPLER": "sometimes",
        "OTEL_TRACES_SAMPLER_ARG": "often",
        "OTEL_BSP_MAX_QUEUE_SIZE": "0",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "-1",
        "OTEL_BSP_SCHEDULE_DELAY": "soon",
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": "zip",
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "soon",
        "LANGFUSE_SAMPLE_RATE": "often",
        "LANGFUSE_FLUSH_AT": "few",
        "LANGFUSE_FLUSH_INTERVAL": "soon",
        "LANGFUSE_TIMEOUT": "soon",
        "LANGFUSE_MEDIA_UPLOAD_THREAD_COUNT": "some",
        "LANGFUSE_OTEL_COMPRESSION": "zip",
        "LANGFUSE_OTEL_MAX_BATCH_SIZE_BYTES": "small",
        "LANGFUSE_TRACING_ENVIRONMENT": "Not One",
    },
    "an environment that Langfuse keeps for itself": {
        "LANGFUSE_TRACING_ENVIRONMENT": "langfuse-elsewhere",
        "LANGFUSE_RELEASE": "1.2.3",
    },
}


def run_host(sandbox: RunningSandbox, script: str, environment: dict[str, str]) -> None:
    """Runs the script in a process with this environment."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=settings.BASE_DIR,
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "kluisz_analytics.settings",
            "KLUISZ_LANGFUSE_HOST": sandbox.url,
            "KLUISZ_LANGFUSE_PUBLIC_KEY": sandbox.sandbox.public_key,
            "KLUISZ_LANGFUSE_SECRET_KEY": SECRET_KEY,
            **environment,
        },
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.both_databases
@pytest.mark.parametrize("host", ENVIRONMENTS)
def test_no_setting_of_the_host_touches_a_run(sandbox: RunningSandbox, host: str) -> None:
    run_host(sandbox, HOST, ENVIRONMENTS[host])

    found = rows(sandbox)

    assert Counter(row["name"] for row in found) == dict.fromkeys(
        ("flow", "Prompt", "Model", "FakeListLLM"), RUNS
    )
    for row in found:
        assert row["userId"].startswith("user-")
        assert (row["sessionId"], row["traceName"], row["environment"]) == ("s-1", "f-1", "default")
        assert row["metadata"]["tenant_id"] == "tenant-1"
        assert row["metadata"]["kluisz_project_id"] == "p-1"
    prompts = [row for row in found if row["name"] == "Prompt"]
    assert all(row["metadata"][f"key-{key}"] == "v" * 150 for row in prompts for key in range(40))
    calls = [row["usageDetails"] for row in found if row["name"] == "Model"]
    assert calls == [{"input": 10, "output": 5, "total": 15}] * RUNS


@pytest.mark.both_databases
def test_an_environment_of_langfuse_is_on_every_step(sandbox: RunningSandbox) -> None:
    """The one setting of Langfuse's that says what runs are, and not how they are sent."""
    run_host(sandbox, HOST, {"LANGFUSE_TRACING_ENVIRONMENT": "staging"})
    assert Counter(row["environment"] for row in rows(sandbox)) == {"staging": 4 * RUNS}


OWN_CLIENT = """
import django
django.setup()
import os
from langfuse import Langfuse, get_client, propagate_attributes
keys = dict(public_key=os.environ["KLUISZ_LANGFUSE_PUBLIC_KEY"],
    secret_key=os.environ["KLUISZ_LANGFUSE_SECRET_KEY"])
from usage.langfuse.tracer import LangfuseTracer
from usage.langfuse.tracing_client import configured_tracing_client
def run(number):
    with propagate_attributes(user_id="of the host", session_id="of the host",
            environment="of-the-host", tags=["of the host"], metadata={"tenant_id": "of the host"}):
        tracer = LangfuseTracer("flow", "chain", "Kanvas", f"run {number}", user_id="u-1")
        tracer.add_trace("c1", "Prompt", "prompt")
        assert tracer.get_langchain_callback() is not None
        tracer.end()
"""
FIRST = """
host = Langfuse(**keys, base_url=os.environ["KLUISZ_LANGFUSE_HOST"])
run(1)
"""
SECOND = """
run(1)
host = Langfuse(**keys, base_url=os.environ["KLUISZ_LANGFUSE_HOST"])
"""
BOTH = """
assert get_client()._resources is host._resources
with host.start_as_current_observation(name="of the host"):
    run(2)
host.flush()
configured_tracing_client().flush()
"""


@pytest.mark.both_databases
@pytest.mark.parametrize("order", [FIRST, SECOND], ids=["before ours", "after ours"])
def test_a_host_that_uses_langfuse_too_and_the_tracer_leave_each_other_alone(
    sandbox: RunningSandbox, order: str
) -> None:
    """Also with the same keys, which the SDK knows its clients by; and what the host says of its
    own traces is said of no run.
    """
    run_host(sandbox, OWN_CLIENT + order + BOTH, {})
    found = rows(sandbox)
    assert Counter(row["name"] for row in found) == {"flow": 2, "Prompt": 2, "of the host": 1}
    for row in found:
        if row["name"] != "of the host":
            assert (row["userId"], row["environment"], row["tags"]) == ("u-1", "default", [])
            assert (row["sessionId"], "tenant_id" in row["metadata"]) == ("", False)
    roots = [row for row in found if row["name"] == "flow"]
    assert [row["parentObservationId"] for row in roots] == [None, None]


# --- ids

USER, TENANT, PROJECT, FLOW = (uuid.UUID(int=number << 64 | 1) for number in range(1, 5))
RUN = uuid.UUID("12345678-1234-5678-1234-567812345678")
FORMS = {
    "UUID": lambda one: one,
    "text": str,
    "hex": lambda one: one.hex,
    "upper case": lambda one: str(one).upper(),
    "URN": lambda one: one.urn,
    "braces": lambda one: f"{{{one}}}",
    "spaces around": lambda one: f" {one} ",
}


@pytest.mark.parametrize("form", FORMS)
def test_an_id_is_the_same_in_any_form(
    sandbox: RunningSandbox, tracing: TracingClient, form: str
) -> None:
    written = FORMS[form]
    tracer = LangfuseTracer(
        "flow",
        "chain",
        "Kanvas",
        written(RUN),
        user_id=written(USER),
        tenant_id=written(TENANT),
        kluisz_project_id=written(PROJECT),
        kluisz_flow_id=written(FLOW),
        client=tracing,
    )
    assert tracer.ready
    tracer.add_trace(written(USER), "Prompt", "prompt")
    tracer.end_trace(str(USER), "Prompt", {"ended": True})
    tracer.end()
    tracing.flush()
    found = rows(sandbox)
    assert len(found) == 2
    for row in found:
        assert (row["traceId"], row["userId"]) == (RUN.hex, str(USER))
        assert row["metadata"]["tenant_id"] == str(TENANT)
        assert row["metadata"]["kluisz_project_id"] == str(PROJECT)
        assert row["metadata"]["kluisz_flow_id"] == row["traceName"] == str(FLOW)


@pytest.mark.parametrize(
    "run_id", [None, "", "  ", 17, uuid.UUID(int=0), b"run", object()], ids=type
)
def test_a_run_is_traced_whatever_its_id_is(
    sandbox: RunningSandbox, tracing: TracingClient, run_id: Any
) -> None:
    LangfuseTracer("flow", "chain", "Kanvas", run_id, user_id="u-1", client=tracing).end()
    tracing.flush()
    (row,) = rows(sandbox)
    assert row["userId"] == "u-1"


# --- event loops


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_an_async_caller_without_a_tenant_is_traced_with_its_users(
    sandbox: RunningSandbox, tracing: TracingClient, people: People
) -> None:
    async def run(user: User) -> None:
        tracer = LangfuseTracer("flow", "chain", "Kanvas", uuid.uuid4(), user.pk, client=tracing)
        assert tracer.ready
        tracer.add_generation("Model", "gpt-4o", {"input": 1})
        await asyncio.sleep(0)
        tracer.end()

    async def runs() -> None:
        await asyncio.gather(*(run(people.acme_user) for _ in range(20)), run(people.globex_user))

    asyncio.run(runs())
    tracing.flush()
    tenants = Counter(row["metadata"]["tenant_id"] for row in rows(sandbox))
    assert tenants == {str(people.acme.pk): 40, str(people.globex.pk): 2}


def test_a_directory_that_is_down_loses_no_run(
    sandbox: RunningSandbox, tracing: TracingClient
) -> None:
    """No database is allowed in this test, so asking it for the tenant fails."""
    LangfuseTracer("flow", "chain", "Kanvas", RUN, uuid.uuid4(), client=tracing).end()
    tracing.flush()
    (row,) = rows(sandbox)
    assert (row["name"], "tenant_id" in row["metadata"]) == ("flow", False)


# --- values


@dataclass
class Details:
    cached_tokens: int = 40
    audio_tokens: int | None = None


@dataclass
class ProvidersUsage:
    """As OpenAI's own: an object, with details of what is inside."""

    prompt_tokens: int = 100
    completion_tokens: int = 20
    total_tokens: int = 120
    prompt_tokens_details: Details | None = None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"input": 10, "output": 5}, {"input": 10, "output": 5, "total": 15}),
        ({"input": 10.0, "output": Decimal("5")}, {"input": 10, "output": 5, "total": 15}),
        ({"input": "10", "output": None}, {"input": 10, "total": 10}),
        ({"input": 2.5}, {"input": 3, "total": 3}),
        (
            {
                "input": 10,
                "a": -1,
                "b": float("nan"),
                "c": True,
                "d": "some",
                "e": [1],
                "f": 10**12,
            },
            {"input": 10, "total": 10},
        ),
        (
            ProvidersUsage(prompt_tokens_details=Details()),
            {
                "prompt_tokens": 60,
                "input_cached_tokens": 40,
                "completion_tokens": 20,
                "total_tokens": 120,
                "total": 240,
            },
        ),
        (
            {
                "output_tokens": 20,
                "output_tokens_details": {"reasoning_tokens": 5},
                "cache_creation": {"ephemeral_1h_input_tokens": 7},
            },
            {
                "output_tokens": 15,
                "output_reasoning_tokens": 5,
                "cache_creation_ephemeral_1h_input_tokens": 7,
                "total": 27,
            },
        ),
        (
            {
                "input_tokens": 3,
                "cache_creation_input_tokens": 7,
                "cache_creation": {"ephemeral_5m_input_tokens": 7},
            },
            {"input_tokens": 3, "cache_creation_input_tokens": 7, "total": 10},
        ),
        (None, {}),
        ("nothing", {}),
        (17, {}),
    ],
    ids=str,
)
def test_usage_is_sent_in_whole_counts_however_it_is_passed(
    sandbox: RunningSandbox, tracing: TracingClient, usage: Any, expected: dict[str, int]
) -> None:
    tracer = LangfuseTracer("flow", "chain", "Kanvas", RUN, client=tracing)
    tracer.add_generation("Model", "own-model", usage)
    tracer.end()
    tracing.flush()
    (call,) = [row for row in rows(sandbox) if row["name"] == "Model"]
    assert call["usageDetails"] == expected


@pytest.mark.parametrize(
    ("cost", "expected"),
    [
        ({"total": Decimal("0.25")}, {"total": 0.25}),
        ({"input": "0.5", "output": 1, "x": None}, {"input": 0.5, "output": 1, "total": 1.5}),
        ({"total": float("inf")}, {}),
        ({"total": -1}, {}),
        (0.5, {}),
    ],
    ids=str,
)
def test_costs_are_sent_as_numbers_however_they_are_passed(
    sandbox: RunningSandbox, tracing: TracingClient, cost: Any, expected: dict[str, float]
) -> None:
    tracer = LangfuseTracer("flow", "chain", "Kanvas", RUN, client=tracing)
    tracer.add_generation("Model", "own-model", {"input": 1}, cost_usd=cost)
    tracer.end()
    tracing.flush()
    (call,) = [row for row in rows(sandbox) if row["name"] == "Model"]
    assert call["costDetails"] == expected


class Unprintable(Exception):
    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


HALF_AN_EMOJI = "\ud83d"
CONTENTS = [
    None,
    "text",
    HALF_AN_EMOJI,
    {"text": HALF_AN_EMOJI},
    {("a", "tuple"): {1, 2}},
    {1: Decimal("1.5"), "when": datetime(2026, 11, 1, tzinfo=UTC), "who": RUN},
    ["a", object()],
    Unprintable(),
    {"deep": Unprintable()},
    float("nan"),
    b"\xff",
    lambda: None,
]


@pytest.mark.parametrize("content", CONTENTS, ids=lambda one: type(one).__name__)
def test_no_content_loses_a_step(
    sandbox: RunningSandbox, tracing: TracingClient, content: Any
) -> None:
    tracer = LangfuseTracer("flow", "chain", "Kanvas", RUN, inputs=content, client=tracing)
    tracer.add_trace("c1", "Prompt", "prompt", content, content, content)
    tracer.add_generation("Model", "m", {"input": 1}, inputs=content, outputs=content)
    tracer.end_trace("c1", "Prompt", content, logs=[content])
    tracer.add_trace("c2", "Failed", "prompt")
    tracer.end_trace("c2", "Failed", error=Unprintable())
    tracer.end(content, content, metadata=content)
    tracing.flush()
    found = {row["name"]: row for row in rows(sandbox)}
    assert found.keys() == {"flow", "Prompt", "Model", "Failed"}
    assert all(row["endTime"] for row in found.values())
    assert found["Failed"]["level"] == "ERROR"


@pytest.mark.parametrize("name", [None, 17, HALF_AN_EMOJI, RUN, "x" * 10_000], ids=type)
@pytest.mark.parametrize("moment", [None, "2026-11-01", 17, datetime(2026, 11, 1)], ids=str)  # noqa: DTZ001
def test_no_name_and_no_time_loses_a_run(
    sandbox: RunningSandbox, tracing: TracingClient, name: Any, moment: Any
) -> None:
    tracer = LangfuseTracer(
        name, name, name, RUN, session_id=name, start_time=moment, client=tracing
    )
    tracer.add_trace(name, name, name, parent_id=name, start_time=moment)
    tracer.add_generation(name, name, {"input": 1}, parent_id=name, end_time=moment)
    tracer.end_trace(name, name, end_time=moment)
    tracer.end(end_time=moment)
    tracing.flush()
    assert len(rows(sandbox)) == 3
