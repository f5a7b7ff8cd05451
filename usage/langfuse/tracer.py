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

from langfuse import Langfuse, LangfuseGeneration, LangfuseSpan
from langfuse.types import TraceContext
from opentelemetry import trace as otel
from opentelemetry.context import Context

from kluisz_analytics.identifiers import as_trace_id
from usage.langfuse.reported_usage import costs_of, counts_of
from usage.langfuse.run_identity import id_text, run_attributes
from usage.langfuse.tracing_client import TracingClient, configured_tracing_client, next_trace_id

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Observation = TypeVar("Observation", LangfuseSpan, LangfuseGeneration)
Id = uuid.UUID | str

NANOSECONDS = 1_000_000_000
NOT_SHOWN = "(could not be written as JSON)"


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
    hashed. Ids are UUIDs or text in any form. Where no tenant is given, the user's is sent. The
    trace is named by the flow id where there is one, else by ``trace_name``.
    """

    def __init__(
        self,
        trace_name: str,
        trace_type: str,
        project_name: str,
        trace_id: Id,
        user_id: Id | None = None,
        session_id: Id | None = None,
        tenant_id: Id | None = None,
        kluisz_project_id: Id | None = None,
        kluisz_flow_id: Id | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        start_time: datetime | None = None,
        client: TracingClient | None = None,
    ) -> None:
        self.trace_name = _name(trace_name)
        self.trace_type = _name(trace_type)
        self.project_name = _name(project_name)
        self.user_id = id_text(user_id)
        self.session_id = None if session_id is None else str(session_id)
        self.tenant_id = id_text(tenant_id)
        self.kluisz_project_id = id_text(kluisz_project_id)
        self.kluisz_flow_id = id_text(kluisz_flow_id)
        self.langfuse_trace_id = _traceable(trace_id)
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
            trace_id,
            run_attributes(self.user_id, self.session_id, name, self._client.environment, metadata),
        )
        token = next_trace_id.set(trace_id)
        try:
            span = self._client.tracer.start_span(
                self.trace_name, context=OUTSIDE, start_time=_nanoseconds(start_time)
            )
        finally:
            next_trace_id.reset(token)
        self._root = self._observed(LangfuseSpan, span, input=inputs)

    @harmless
    def add_trace(
        self,
        trace_id: Id,
        trace_name: str,
        trace_type: str,
        inputs: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        vertex: object = None,
        *,
        parent_id: Id | None = None,
        start_time: datetime | None = None,
    ) -> None:
        """Open the span of a component.

        ``trace_id`` is the component's id; ``parent_id`` that of the open component it runs in.
        """
        if self._root is None:
            return
        parent = self._innermost(parent_id) or self._root
        component = {"component_id": _key(trace_id), "component_type": _name(trace_type)}
        span = self._observed(
            LangfuseSpan,
            self._start_span(_name(trace_name), parent, start_time),
            input=inputs,
            metadata={**_map_of("metadata", metadata), **component},
        )
        with self._lock:
            self._open.setdefault(_key(trace_id), []).append(span)

    @harmless
    def end_trace(
        self,
        trace_id: Id,
        trace_name: str,
        outputs: Mapping[str, Any] | None = None,
        error: BaseException | None = None,
        logs: Sequence[Any] = (),
        *,
        end_time: datetime | None = None,
    ) -> None:
        """Close the span of a component: the one that was opened last under this id."""
        with self._lock:
            opened = self._open.get(_key(trace_id))
            span = opened.pop() if opened else None
        if span is None:
            return
        output = {**_map_of("output", outputs), "logs": logs} if logs else outputs
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
        parent_id: Id | None = None,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
    ) -> None:
        """Record an LLM call: its model, its usage (unit → count) and, where the engine knows it,
        its cost (unit → USD).
        """
        if self._root is None:
            return
        generation = self._observed(
            LangfuseGeneration,
            self._start_span(_name(name), self._innermost(parent_id) or self._root, start_time),
            input=inputs,
            model=_name(model) or None,
            usage_details=counts_of(usage),
            cost_details=costs_of(cost_usd) or None,
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
            _update(root, input=inputs, metadata=_map_of("metadata", metadata) or None)
        _close(root, outputs, error, end_time)

    @harmless
    def get_langchain_callback(self) -> Any:
        """A LangChain callback handler that traces into this run, or None when LangChain isn't
        installed or the run isn't traced.
        """
        if self._root is None:
            return None
        context = TraceContext(trace_id=self.langfuse_trace_id, parent_span_id=self._root.id)
        try:
            return self._client.langchain_callback(context)
        except ImportError:
            return None

    @property
    def _langfuse(self) -> Langfuse:
        return self._client.langfuse

    def _innermost(self, component_id: Id | None) -> LangfuseSpan | None:
        if component_id is None:
            return None
        with self._lock:
            opened = self._open.get(_key(component_id))
            return opened[-1] if opened else None

    def _observed(
        self, kind: type[Observation], span: otel.Span, *, input: Any = None, **said: Any
    ) -> Observation:
        """The span as an observation of Langfuse's; contents that can't be written are left out,
        and not the step.
        """
        observation = kind(otel_span=span, langfuse_client=self._langfuse)
        said = {name: value for name, value in said.items() if value is not None}
        for name, value in {**said, **({} if input is None else {"input": input})}.items():
            _update(observation, **{name: value})
        return observation

    def _start_span(
        self, name: str, parent: LangfuseSpan, start_time: datetime | None
    ) -> otel.Span:
        context = otel.set_span_in_context(parent._otel_span, Context())
        return self._client.tracer.start_span(
            name, context=context, start_time=_nanoseconds(start_time)
        )


OUTSIDE = otel.set_span_in_context(otel.INVALID_SPAN, Context())
"""The run is a trace of its own, whatever the host application is tracing around it.

An empty context is none for the SDK's processor: it would take the current one.
"""


def _close(
    observation: LangfuseSpan | LangfuseGeneration,
    outputs: Any,
    error: BaseException | None,
    end_time: datetime | None,
) -> None:
    try:
        if outputs:
            _update(observation, output=outputs)
        if error is not None:
            _update(observation, level="ERROR", status_message=_message(error))
    finally:
        # What isn't ended is never sent.
        observation.end(end_time=_nanoseconds(end_time))


def _update(observation: LangfuseSpan | LangfuseGeneration, **said: Any) -> None:
    """Say more of an observation; contents that can't be written are told to be missing."""
    try:
        observation.update(**said)
    except Exception as error:
        logger.warning("Tracing could not write %s (%s).", *said, type(error).__name__)
        missing: dict[str, Any] = dict.fromkeys(said, NOT_SHOWN)
        observation.update(**missing)


def _message(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _traceable(run_id: object) -> str:
    """The run's trace id; one of its own where the host has none (or the nil UUID, which no trace
    may have).
    """
    if not isinstance(run_id, uuid.UUID):
        run_id = str(run_id or "").strip()
    trace_id = as_trace_id(run_id) if run_id else ""
    return trace_id if trace_id.strip("0") else uuid.uuid4().hex


def _name(given: object) -> str:
    return "" if given is None else str(given)


def _key(component_id: object) -> str:
    return id_text(component_id) or ""


def _map_of(name: str, given: Any) -> dict[str, Any]:
    """A map as it is, anything else under a name."""
    if not given:
        return {}
    return dict(given) if isinstance(given, Mapping) else {name: given}


def _nanoseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        logger.warning(
            "A time of a run is %s and no datetime; now is taken.", type(moment).__name__
        )
        return None
    return int(moment.timestamp() * 1000) * (NANOSECONDS // 1000)
