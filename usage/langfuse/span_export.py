"""How spans leave the process: to our Langfuse, in our way, whatever the host application has set.

The OpenTelemetry SDK and Langfuse's read sampler, limits, queue, endpoint, headers, certificates
and more from variables that belong to the host's own telemetry. Each is given here by us instead
(docs/tracing.md, Inside a host application).
"""

import copy
import logging
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import close_old_connections
from langfuse import LangfuseOtelSpanAttributes
from langfuse._client.span_exporter import LangfuseTransformingSpanExporter
from langfuse._client.span_processor import LangfuseSpanProcessor
from langfuse._task_manager.media_manager import MediaManager
from langfuse._version import __version__ as sdk_version
from opentelemetry.exporter.http.transport._base import BaseHTTPResult
from opentelemetry.exporter.http.transport._requests import RequestsHTTPTransport
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from usage.langfuse.run_identity import TENANT_ATTRIBUTE, metadata_text, tenant_of

logger = logging.getLogger(__name__)

EXPORT_TIMEOUT_SECONDS = 5
QUEUED_SPANS = 16_384
SPANS_A_BATCH = 512
SECONDS_BETWEEN_BATCHES = 5


class LangfuseTransport(RequestsHTTPTransport):
    """Posts with our headers alone.

    The exporter adds the ones of OTEL_EXPORTER_OTLP_HEADERS, which may be keys of the host's own
    collector. Proxies and the machine's certificates are the network's, and stay as they are.
    """

    def __init__(self, public_key: str, secret_key: str) -> None:
        super().__init__()
        keys = b64encode(f"{public_key}:{secret_key}".encode()).decode("ascii")
        self._headers = {
            "Authorization": f"Basic {keys}",
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": Compression.Gzip.value,
            "User-Agent": f"langfuse-python/{sdk_version}",
            "x-langfuse-sdk-name": "python",
            "x-langfuse-sdk-version": sdk_version,
            "x-langfuse-public-key": public_key,
            "x-langfuse-ingestion-version": "4",
        }
        # A ~/.netrc would go before the header.
        self._session.auth = (public_key, secret_key)

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
        data: bytes | None = None,
    ) -> BaseHTTPResult:
        return super().request(method, url, headers=self._headers, timeout=timeout, data=data)


class LangfuseExporter(SpanExporter):
    """Sends spans to Langfuse, made complete first: with the tenant where only the user was told,
    and in text that can be encoded, since one broken character would lose its whole batch.
    """

    def __init__(self, host: str, public_key: str, secret_key: str) -> None:
        self._exporter = OTLPSpanExporter(
            endpoint=f"{host.rstrip('/')}/api/public/otel/v1/traces",
            timeout=EXPORT_TIMEOUT_SECONDS,
            compression=Compression.Gzip,
            meter_provider=NoOpMeterProvider(),
            _transport=LangfuseTransport(public_key, secret_key),
        )

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        tenants = _looked_up_tenants(spans)
        return self._exporter.export([_complete(span, tenants) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class SizedBatches(BatchSpanProcessor):
    """A queue whose size no OTEL_BSP_… sets."""

    def __init__(
        self,
        span_exporter: SpanExporter,
        max_export_batch_size: int,
        schedule_delay_millis: float,
        export_timeout_millis: float,
    ) -> None:
        super().__init__(
            span_exporter,
            max_queue_size=QUEUED_SPANS,
            schedule_delay_millis=schedule_delay_millis,
            max_export_batch_size=max_export_batch_size,
            export_timeout_millis=export_timeout_millis,
            meter_provider=NoOpMeterProvider(),
        )


class RunSpanProcessor(LangfuseSpanProcessor, SizedBatches):
    """The SDK's processor, with our exporter and our queue: it builds the latter by its own
    ``super().__init__``, which is SizedBatches here.
    """

    def __init__(
        self, host: str, public_key: str, secret_key: str, media_manager: MediaManager
    ) -> None:
        exporter = LangfuseExporter(host, public_key, secret_key)
        super().__init__(
            public_key=public_key,
            secret_key=secret_key,
            base_url=host,
            timeout=EXPORT_TIMEOUT_SECONDS,
            flush_at=SPANS_A_BATCH,
            flush_interval=SECONDS_BETWEEN_BATCHES,
            span_exporter=LangfuseTransformingSpanExporter(
                exporter=exporter, media_manager=media_manager, mask_otel_spans=None
            ),
        )


def _complete(span: ReadableSpan, tenants: Mapping[str, str]) -> ReadableSpan:
    """The span as it is sent: itself, or a copy where something had to be added or mended."""
    given = dict(span.attributes or {})
    attributes = {name: _encodable(value) for name, value in given.items()}
    if (user_id := _user_without_tenant(span)) in tenants:
        attributes[TENANT_ATTRIBUTE] = metadata_text(tenants[user_id])
    name = _encodable(span.name)
    if attributes == given and name == span.name:
        return span
    completed = copy.copy(span)
    completed._attributes, completed._name = attributes, name
    return completed


def _user_without_tenant(span: ReadableSpan) -> str:
    """The user of a span for which the host has named no tenant, else ""."""
    attributes = span.attributes or {}
    return (
        ""
        if TENANT_ATTRIBUTE in attributes
        else str(attributes.get(LangfuseOtelSpanAttributes.TRACE_USER_ID, ""))
    )


def _looked_up_tenants(spans: Sequence[ReadableSpan]) -> dict[str, str]:
    """The known tenants of the users for whom the host has named none.

    They are asked for here, in the exporter's thread: in the host's event loop the database can't
    be asked, and in any thread of a run it may be slow.
    """
    users = {user_id for span in spans if (user_id := _user_without_tenant(span))}
    if not users:
        return {}
    try:
        found = _tenants_in_this_thread(users)
    except Exception as error:
        # The sync finds the tenant of a known user too; the runs must not be lost for it.
        logger.warning("No tenants could be looked up (%s); sent without.", type(error).__name__)
        return {}
    return {user_id: tenant_id for user_id, tenant_id in found.items() if tenant_id}


def _tenants_in_this_thread(users: Iterable[str]) -> dict[str, str | None]:
    """The users' tenants; as in a request, a connection that is too old isn't used or kept."""
    close_old_connections()
    try:
        return {user_id: tenant_of(user_id) for user_id in users}
    finally:
        close_old_connections()


def _encodable(value: Any) -> Any:
    """Text without halves of a character pair (of a stream that was cut inside an emoji)."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value
