"""Whose run it is: its ids in one form, and on every one of its spans, whoever opens it."""

import json
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from django.core.cache import cache
from langfuse import LangfuseOtelSpanAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Span, SpanProcessor

from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.tenants.models import User

ATTRIBUTE_LENGTH = 200
REMEMBERED_RUNS = 10_000
TENANT_CACHE_SECONDS = 300
TENANT_ATTRIBUTE = f"{LangfuseOtelSpanAttributes.TRACE_METADATA}.tenant_id"


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


def id_text(given: object) -> str | None:
    """An id as text: a UUID in whatever form in Python's, anything else as it is; None for none."""
    if given is None:
        return None
    text = str(given).strip()
    return canonical_id(text) or None


def run_attributes(
    user_id: str | None,
    session_id: str | None,
    trace_name: str,
    environment: str,
    metadata: Mapping[str, str | None],
) -> dict[str, str]:
    """A run's identity as span attributes."""
    attributes = {
        LangfuseOtelSpanAttributes.TRACE_USER_ID: user_id,
        LangfuseOtelSpanAttributes.TRACE_SESSION_ID: session_id,
        LangfuseOtelSpanAttributes.TRACE_NAME: trace_name,
        LangfuseOtelSpanAttributes.ENVIRONMENT: environment,
    }
    for key, value in metadata.items():
        if value:
            attributes[f"{LangfuseOtelSpanAttributes.TRACE_METADATA}.{key}"] = metadata_text(value)
    return {key: value[:ATTRIBUTE_LENGTH] for key, value in attributes.items() if value}


def metadata_text(value: Any) -> str:
    """A value of a trace's metadata: JSON, as SDK 5 writes it."""
    return json.dumps(value, ensure_ascii=False)


def tenant_of(user_id: str) -> str | None:
    """The user's tenant, from the cache or the database; None for an unknown user."""
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
