"""The Langfuse SDK's client as our tracer uses it: run ids as trace ids, and nothing shared with
the host application's telemetry or with its own use of the SDK.
"""

import logging
import re
import uuid
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, ClassVar

import langfuse
from django.conf import settings
from langfuse import Langfuse
from langfuse._client.resource_manager import LangfuseResourceManager
from langfuse.types import TraceContext
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from usage.langfuse.run_identity import RunIdentity
from usage.langfuse.span_export import (
    EXPORT_TIMEOUT_SECONDS,
    SECONDS_BETWEEN_BATCHES,
    SPANS_A_BATCH,
    RunSpanProcessor,
)

logger = logging.getLogger(__name__)

NO_ENVIRONMENT = "default"
# Langfuse's rule; names of its own begin with its own.
ENVIRONMENT = re.compile(r"(?!langfuse)[a-z0-9_-]{1,40}")

next_trace_id: ContextVar[int | None] = ContextVar("next_trace_id", default=None)


class RunIdGenerator(RandomIdGenerator):
    """Gives a run's root span the trace id that :data:`next_trace_id` names, and any other trace a
    random one.
    """

    def generate_trace_id(self) -> int:
        return next_trace_id.get() or super().generate_trace_id()


class RunTracerProvider(TracerProvider):
    """Records every span whole: no OTEL_TRACES_SAMPLER, no limit, no OTEL_SDK_DISABLED."""

    def __init__(self) -> None:
        super().__init__(
            sampler=ALWAYS_ON,
            resource=Resource({"service.name": "kluisz-analytics"}),
            id_generator=RunIdGenerator(),
            span_limits=SpanLimits(
                max_attributes=SpanLimits.UNSET,
                max_events=SpanLimits.UNSET,
                max_links=SpanLimits.UNSET,
                max_span_attributes=SpanLimits.UNSET,
                max_event_attributes=SpanLimits.UNSET,
                max_link_attributes=SpanLimits.UNSET,
                max_attribute_length=SpanLimits.UNSET,
                max_span_attribute_length=SpanLimits.UNSET,
            ),
            meter_provider=NoOpMeterProvider(),
        )
        self._disabled = False


class RunClient(Langfuse):
    """The SDK's client on our provider; it doesn't ask LANGFUSE_TRACING_ENABLED."""

    def __init__(self, resources: LangfuseResourceManager) -> None:
        self._base_url = resources.base_url
        self._environment = resources.environment or NO_ENVIRONMENT
        self._release = None
        self._project_id = None
        self._tracing_enabled = True
        self._resources = resources
        self._mask = None
        self._otel_tracer = resources._otel_tracer


class TracingClient:
    """An SDK client with a tracer provider of its own, so that it never mixes with the host
    application's telemetry.
    """

    def __init__(
        self, host: str, public_key: str, secret_key: str, environment: str = NO_ENVIRONMENT
    ) -> None:
        self.public_key = public_key
        self.environment = environment
        self.identity = RunIdentity()
        self.provider = RunTracerProvider()
        # The scope by which the SDK knows its own spans.
        self.tracer = self.provider.get_tracer(
            "langfuse-sdk", langfuse.__version__, attributes={"public_key": public_key}
        )
        self.resources = self._resources(host, secret_key)
        self.provider.add_span_processor(
            RunSpanProcessor(host, public_key, secret_key, self.resources._media_manager)
        )
        # Last, so that it goes before what the host propagates.
        self.provider.add_span_processor(self.identity)
        self.langfuse = RunClient(self.resources)

    def _resources(self, host: str, secret_key: str) -> LangfuseResourceManager:
        """The SDK's API clients and media uploads, with all that it would take from LANGFUSE_….

        With tracing enabled it would make a processor of its own.
        """

        class RunResources(LangfuseResourceManager):
            # The SDK keeps one of these a public key and process: in its register a host that uses
            # the SDK with the same keys would get ours, or we its.
            _instances: ClassVar[dict[str, LangfuseResourceManager]] = {}  # type: ignore[misc]

        resources = RunResources(
            public_key=self.public_key,
            secret_key=secret_key,
            base_url=host,
            environment=self.environment,
            timeout=EXPORT_TIMEOUT_SECONDS,
            flush_at=SPANS_A_BATCH,
            flush_interval=SECONDS_BETWEEN_BATCHES,
            media_upload_thread_count=1,
            sample_rate=1.0,
            tracing_enabled=False,
        )
        resources.tracing_enabled = True
        resources.tracer_provider = self.provider
        resources._otel_tracer = self.tracer
        return resources

    def langchain_callback(self, context: TraceContext) -> Any:
        """LangChain's handler of the SDK, tracing with this client.

        Raises ImportError where LangChain isn't installed.
        """
        from langfuse.langchain import CallbackHandler  # noqa: PLC0415  (LangChain is optional)

        # It looks its client up in the SDK's register, and would make one of the host's settings
        # if it found none: ours is there for that moment only, under a name that nobody asks for.
        name = uuid.uuid4().hex
        with LangfuseResourceManager._lock:
            LangfuseResourceManager._instances[name] = self.resources
            try:
                handler = CallbackHandler(public_key=name, trace_context=context)
            finally:
                del LangfuseResourceManager._instances[name]
        handler._langfuse_client = self.langfuse
        return handler

    def flush(self) -> None:
        """Send what is waiting; for commands and tests, never within a flow run."""
        self.langfuse.flush()


def environment_of_runs(named: str) -> str:
    """The environment that runs are traced in; what Langfuse would not take is its default."""
    if not named:
        return NO_ENVIRONMENT
    if ENVIRONMENT.fullmatch(named):
        return named
    logger.warning(
        "“%s” is no environment of Langfuse's (lower case letters, digits, - and _, not beginning"
        " with langfuse); runs are traced in “%s”.",
        named,
        NO_ENVIRONMENT,
    )
    return NO_ENVIRONMENT


@lru_cache(maxsize=8)
def tracing_client(host: str, public_key: str, secret_key: str) -> TracingClient:
    """One client a Langfuse project and process."""
    environment = environment_of_runs(settings.LANGFUSE_TRACING_ENVIRONMENT)
    return TracingClient(host, public_key, secret_key, environment)


def configured_tracing_client() -> TracingClient:
    """The client for the Langfuse that the environment names, else for the embedded sandbox."""
    if settings.USES_SANDBOX:
        host = f"http://127.0.0.1:{settings.SANDBOX_PORT}"
        return tracing_client(host, settings.SANDBOX_PUBLIC_KEY, settings.SANDBOX_SECRET_KEY)
    return tracing_client(
        settings.LANGFUSE_HOST, settings.LANGFUSE_PUBLIC_KEY, settings.LANGFUSE_SECRET_KEY
    )
