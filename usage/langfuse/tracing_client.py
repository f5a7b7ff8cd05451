"""The Langfuse SDK's client as our tracer uses it: run ids as trace ids, and a run's identity on
every one of its spans.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextvars import ContextVar
from functools import lru_cache

import langfuse
from django.conf import settings
from langfuse import Langfuse, LangfuseOtelSpanAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

EXPORT_TIMEOUT_SECONDS = 5
ATTRIBUTE_LENGTH = 200
REMEMBERED_RUNS = 10_000

next_trace_id: ContextVar[int | None] = ContextVar("next_trace_id", default=None)


class RunIdGenerator(RandomIdGenerator):
    """Gives a run's root span the trace id that :data:`next_trace_id` names, and any other trace a
    random one.
    """

    def generate_trace_id(self) -> int:
        return next_trace_id.get() or super().generate_trace_id()


class RunIdentity(SpanProcessor):
    """Writes a run's identity onto every span of its trace, whoever opens it and in whatever
    thread.
    """

    def __init__(self) -> None:
        self._attributes: OrderedDict[int, dict[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, trace_id: int, attributes: Mapping[str, str]) -> None:
        """From now on spans of the trace get the attributes.

        The oldest runs are forgotten beyond REMEMBERED_RUNS.
        """
        with self._lock:
            self._attributes[trace_id] = dict(attributes)
            while len(self._attributes) > REMEMBERED_RUNS:
                self._attributes.popitem(last=False)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.context is None:
            return
        attributes = self._attributes.get(span.context.trace_id)
        if attributes:
            span.set_attributes(attributes)


class TracingClient:
    """An SDK client with a tracer provider of its own, so that it never mixes with the host
    application's telemetry.
    """

    def __init__(self, host: str, public_key: str, secret_key: str) -> None:
        self.identity = RunIdentity()
        self.provider = TracerProvider(id_generator=RunIdGenerator())
        self.provider.add_span_processor(self.identity)
        self.public_key = public_key
        self.langfuse = Langfuse(
            public_key=public_key,
            secret_key=secret_key,
            base_url=host,
            timeout=EXPORT_TIMEOUT_SECONDS,
            tracer_provider=self.provider,
        )
        # The scope by which the SDK knows its own spans.
        self.tracer = self.provider.get_tracer(
            "langfuse-sdk", langfuse.__version__, attributes={"public_key": public_key}
        )

    def flush(self) -> None:
        """Send what is waiting; for commands and tests, never within a flow run."""
        self.langfuse.flush()


def run_attributes(
    user_id: str | None, session_id: str | None, trace_name: str, metadata: Mapping[str, str | None]
) -> dict[str, str]:
    """A run's identity as span attributes; metadata values are JSON-encoded, as SDK 5 writes
    them.
    """
    attributes = {
        LangfuseOtelSpanAttributes.TRACE_USER_ID: user_id,
        LangfuseOtelSpanAttributes.TRACE_SESSION_ID: session_id,
        LangfuseOtelSpanAttributes.TRACE_NAME: trace_name,
    }
    for key, value in metadata.items():
        if value:
            attributes[f"{LangfuseOtelSpanAttributes.TRACE_METADATA}.{key}"] = json.dumps(
                value, ensure_ascii=False
            )
    return {key: value[:ATTRIBUTE_LENGTH] for key, value in attributes.items() if value}


@lru_cache(maxsize=8)
def tracing_client(host: str, public_key: str, secret_key: str) -> TracingClient:
    """One client a Langfuse project and process."""
    return TracingClient(host, public_key, secret_key)


def configured_tracing_client() -> TracingClient:
    """The client for the Langfuse that the environment names, else for the embedded sandbox."""
    if settings.USES_SANDBOX:
        host = f"http://127.0.0.1:{settings.SANDBOX_PORT}"
        return tracing_client(host, settings.SANDBOX_PUBLIC_KEY, settings.SANDBOX_SECRET_KEY)
    return tracing_client(
        settings.LANGFUSE_HOST, settings.LANGFUSE_PUBLIC_KEY, settings.LANGFUSE_SECRET_KEY
    )
