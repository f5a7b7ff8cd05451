"""LangfuseTracer: what a flow engine calls to trace a run (langfuse.md, Writing).

A tracer belongs to one run. It opens the run's root span when it is made, component spans as the
flow goes on, and generations for LLM calls; the SDK sends them from a thread of its own. Nothing in
here raises or waits: a Langfuse that is down costs a flow run nothing.
"""

import functools
import logging
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ParamSpec, TypeVar

from django.core.cache import cache
from langfuse import Langfuse, LangfuseGeneration, LangfuseSpan
from langfuse.types import TraceContext
from opentelemetry import trace as otel
from opentelemetry.context import Context

from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.tenants.models import User
from usage.langfuse.tracing_client import (
    TracingClient,
    configured_tracing_client,
    next_trace_id,
    run_attributes,
)

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

TENANT_CACHE_SECONDS = 300
NANOSECONDS = 1_000_000_000


def harmless(method: Callable[P, T]) -> Callable[P, T | None]:
    """The method, with any failure logged by its kind and place only: messages and values may hold
    keys or content of the flow.
    """

    @functools.wraps(method)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | None:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            logger.warning(
                "Tracing failed in %s (%s); the flow run goes on.",
                method.__name__,
                type(error).__name__,
            )
            return None

    return guarded


class LangfuseTracer:
    """Traces one flow run into Langfuse.

    ``trace_id`` is the run's id; a UUID becomes the Langfuse trace id as it is, anything else is
    hashed. The tenant is looked up from the user where it isn't given. The trace is named by the
    flow id where there is one, else by ``trace_name``.
    """

    def __init__(
        self,
        trace_name: str,
        trace_type: str,
        project_name: str,
        trace_id: uuid.UUID | str,
        user_id: str | None = None,
        session_id: str | None = None,
        tenant_id: str | None = None,
        kluisz_project_id: str | None = None,
        kluisz_flow_id: str | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        start_time: datetime | None = None,
        client: TracingClient | None = None,
    ) -> None:
        self.trace_name = trace_name
        self.trace_type = trace_type
        self.project_name = project_name
        self.user_id = user_id
        self.session_id = session_id
        self.tenant_id = tenant_id
        self.kluisz_project_id = kluisz_project_id
        self.kluisz_flow_id = kluisz_flow_id
        self.langfuse_trace_id = as_trace_id(trace_id or uuid.uuid4())
        self._lock = threading.Lock()
        self._open: dict[str, list[LangfuseSpan]] = {}
        self._root: LangfuseSpan | None = None
        self._start(inputs, start_time, client)

    @property
    def ready(self) -> bool:
        """Whether the run is being traced."""
        return self._root is not None

    @harmless
    def _start(
        self,
        inputs: Mapping[str, Any] | None,
        start_time: datetime | None,
        client: TracingClient | None,
    ) -> None:
        self._client = client or configured_tracing_client()
        self.tenant_id = self.tenant_id or tenant_of(self.user_id)
        metadata = {
            "tenant_id": self.tenant_id,
            "kluisz_project_id": self.kluisz_project_id,
            "kluisz_flow_id": self.kluisz_flow_id,
            "trace_type": self.trace_type,
            "project_name": self.project_name,
        }
        trace_id = int(self.langfuse_trace_id, 16)
        name = self.kluisz_flow_id or self.trace_name
        self._client.identity.remember(
            trace_id, run_attributes(self.user_id, self.session_id, name, metadata)
        )
        token = next_trace_id.set(trace_id)
        try:
            # An empty context: the run is a trace of its own, whatever the host application is
            # tracing around it.
            span = self._client.tracer.start_span(
                self.trace_name, context=Context(), start_time=_nanoseconds(start_time)
            )
        finally:
            next_trace_id.reset(token)
        self._root = LangfuseSpan(
            otel_span=span, langfuse_client=self._client.langfuse, input=inputs
        )

    @harmless
    def add_trace(
        self,
        trace_id: str,
        trace_name: str,
        trace_type: str,
        inputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        vertex: object = None,
        *,
        parent_id: str | None = None,
        start_time: datetime | None = None,
    ) -> None:
        """Open the span of a component.

        ``trace_id`` is the component's id; ``parent_id`` that of the open component it runs in.
        """
        if self._root is None:
            return
        parent = self._innermost(parent_id) or self._root
        span = LangfuseSpan(
            otel_span=self._start_span(trace_name, parent, start_time),
            langfuse_client=self._langfuse,
            input=inputs,
            metadata={**(metadata or {}), "component_id": trace_id, "component_type": trace_type},
        )
        with self._lock:
            self._open.setdefault(trace_id, []).append(span)

    @harmless
    def end_trace(
        self,
        trace_id: str,
        trace_name: str,
        outputs: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
        logs: Sequence[Any] = (),
        *,
        end_time: datetime | None = None,
    ) -> None:
        """Close the span of a component: the one that was opened last under this id."""
        with self._lock:
            opened = self._open.get(trace_id)
            span = opened.pop() if opened else None
        if span is None:
            return
        output = {**(outputs or {}), **({"logs": list(logs)} if logs else {})}
        _close(span, output, error, end_time)

    @harmless
    def add_generation(
        self,
        name: str,
        model: str,
        usage: Mapping[str, int],
        *,
        cost_usd: Mapping[str, float] | None = None,
        inputs: Any = None,
        outputs: Any = None,
        error: BaseException | None = None,
        parent_id: str | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
    ) -> None:
        """Record an LLM call: its model, its usage (unit → count) and, where the engine knows it,
        its cost (unit → USD).
        """
        if self._root is None:
            return
        generation = LangfuseGeneration(
            otel_span=self._start_span(name, self._innermost(parent_id) or self._root, start_time),
            langfuse_client=self._langfuse,
            input=inputs,
            model=model,
            usage_details=dict(usage),
            cost_details=dict(cost_usd) if cost_usd else None,
        )
        _close(generation, outputs, error, end_time)

    @harmless
    def end(
        self,
        inputs: Mapping[str, Any] | None = None,
        outputs: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        end_time: datetime | None = None,
    ) -> None:
        """Close the run with its outputs or its error; components that are still open are closed
        with it.
        """
        if self._root is None:
            return
        with self._lock:
            forgotten = [span for spans in self._open.values() for span in spans]
            self._open.clear()
        for span in reversed(forgotten):
            _close(span, None, error, end_time)
        root, self._root = self._root, None
        if inputs is not None or metadata is not None:
            root.update(input=inputs, metadata=dict(metadata) if metadata else None)
        _close(root, outputs, error, end_time)

    @harmless
    def get_langchain_callback(self) -> Any:
        """A LangChain callback handler that traces into this run, or None when LangChain isn't
        installed or the run isn't traced.
        """
        if self._root is None:
            return None
        try:
            from langfuse.langchain import CallbackHandler  # noqa: PLC0415  (LangChain is optional)
        except ImportError:
            return None
        context = TraceContext(trace_id=self.langfuse_trace_id, parent_span_id=self._root.id)
        return CallbackHandler(public_key=self._client.public_key, trace_context=context)

    @property
    def _langfuse(self) -> Langfuse:
        return self._client.langfuse

    def _innermost(self, component_id: str | None) -> LangfuseSpan | None:
        with self._lock:
            opened = self._open.get(component_id) if component_id else None
            return opened[-1] if opened else None

    def _start_span(
        self, name: str, parent: LangfuseSpan, start_time: datetime | None
    ) -> otel.Span:
        context = otel.set_span_in_context(parent._otel_span, Context())
        return self._client.tracer.start_span(
            name, context=context, start_time=_nanoseconds(start_time)
        )


def _close(
    span: LangfuseSpan | LangfuseGeneration,
    outputs: Any,
    error: BaseException | None,
    end_time: datetime | None,
) -> None:
    if error is not None:
        span.update(
            output=outputs or None, level="ERROR", status_message=f"{type(error).__name__}: {error}"
        )
    elif outputs:
        span.update(output=outputs)
    span.end(end_time=_nanoseconds(end_time))


def tenant_of(user_id: str | None) -> str | None:
    """The user's tenant, from the cache or the database; None for an unknown user."""
    if not user_id:
        return None
    return cache.get_or_set(
        f"tenant-of-user:{user_id}", lambda: _stored_tenant_of(user_id), TENANT_CACHE_SECONDS
    )


def _stored_tenant_of(user_id: str) -> str | None:
    try:
        key = uuid.UUID(user_id)
    except ValueError:
        return None
    tenant_id = User.objects.filter(pk=key).values_list("tenant_id", flat=True).first()
    return str(tenant_id) if tenant_id else None


def _nanoseconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000) * (NANOSECONDS // 1000)
