"""The sandbox over HTTP: a WSGI application and a threaded server for it."""

import base64
import gzip
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from usage.langfuse.sandbox.ingestion import answer_to, read_batch
from usage.langfuse.sandbox.otlp import JSON, read_export
from usage.langfuse.sandbox.prices import answered_models
from usage.langfuse.sandbox.query import (
    BadRequest,
    StoreGaveUp,
    asked_time,
    list_observations,
    read_metrics,
)
from usage.langfuse.sandbox.store import SandboxStore
from usage.langfuse.sandbox.v1 import VERSION as V1_VERSION
from usage.langfuse.sandbox.v1 import find_v1_trace, list_v1_observations, list_v1_traces

VERSION = "4.16.0"
PROJECT_ID = "sandbox"
PROJECTS, MODELS = "/api/public/projects", "/api/public/models"
WRONG_KEY = {"message": "Invalid credentials. Confirm that you've configured the correct host."}
# Whatever it ran out of, time or memory.
TIMED_OUT = {
    "message": (
        "Your query could not be completed. Please narrow your request by adding more specific"
        " filters (e.g., a shorter date range).\nSee"
        " https://langfuse.com/docs/api-and-data-platform/features/public-api for more details."
    ),
    "error": "Request timed out",
}
ONLY_V2 = {
    "message": (
        "This endpoint is not available on deployments running in Langfuse v4 events_only mode."
        " Learn more about Langfuse v4 at: https://langfuse.com/docs/v4"
    )
}
OBSERVATIONS, METRICS = "/api/public/v2/observations", "/api/public/v2/metrics"
TIMED_READS = (OBSERVATIONS, METRICS, "/api/public/observations", "/api/public/traces")
V1_READS = ("/api/public/traces", "/api/public/observations", "/api/public/metrics/daily")


LEGACY_MESSAGE = (
    "The {what} v2 API is only available in a Langfuse v4 write mode. Learn more at:"
    " https://langfuse.com/docs/v4"
)
# The batch job runs once a minute, over what is older than ten.
BATCH_JOB_DELAY = timedelta(minutes=10)


class WriteMode(StrEnum):
    """LANGFUSE_MIGRATION_V4_WRITE_MODE: where what is received is stored."""

    EVENTS_ONLY = "events_only"
    DUAL = "dual"
    LEGACY = "legacy"


@dataclass
class RateLimit:
    """So many requests of each kind a minute, in a sliding window. As Langfuse's, it bites one
    early: the last of them is answered 429 already.
    """

    requests_a_minute: int
    _times: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def seconds_to_wait(self, path: str) -> float:
        """0 when the request may pass, and is counted; else how long to wait."""
        with self._lock:
            now, times = time.monotonic(), self._times[_kind_of(path)]
            while times and times[0] <= now - 60:
                times.popleft()
            if len(times) < max(1, self.requests_a_minute - 1):
                times.append(now)
                return 0
            return times[0] + 60 - now


def _kind_of(path: str) -> str:
    """What is limited together with the path."""
    if path == METRICS:
        return "metrics"
    return "legacy" if path.startswith(V1_READS) else "public-api"


@dataclass
class Sandbox:
    """A Langfuse server's public API over a store, for one pair of keys. A WSGI application.

    ``is_v1`` makes it a version 3, ``write_mode`` what the real server's setting of that name does.
    In ``dual``, what older SDKs send is in v2 after ``batch_job_delay``. Over reads of more time
    than ``longest_read``, its store runs out of time. ``projects_answer`` (status, body) is given
    in place of its project.
    """

    store: SandboxStore
    public_key: str
    secret_key: str
    rate_limit: RateLimit | None = None
    is_v1: bool = False
    write_mode: str = WriteMode.EVENTS_ONLY
    batch_job_delay: timedelta = BATCH_JOB_DELAY
    project_id: str = PROJECT_ID
    longest_read: timedelta | None = None
    projects_answer: tuple[int, Any] | None = None

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        request = Request(environ)
        return self.answer(request)(environ, start_response)

    def answer(self, request: Request) -> Response:
        if request.path == "/api/public/health":
            return _json({"status": "OK", "version": V1_VERSION if self.is_v1 else VERSION})
        if not self._is_known(request):
            return _json(WRONG_KEY, 401)
        if request.path == "/api/public/otel/v1/traces" and request.method == "POST":
            return self._ingest(request)
        if request.path == "/api/public/ingestion" and request.method == "POST":
            return self._ingest_events(request)
        if (
            self.rate_limit is not None
            and request.path != PROJECTS
            and (seconds := self.rate_limit.seconds_to_wait(request.path))
        ):
            return _too_many(self.rate_limit, seconds)
        try:
            return self._read(request)
        except BadRequest as error:
            return _json(error.body, 400)
        except StoreGaveUp:
            return _json(TIMED_OUT, 422)

    def _is_known(self, request: Request) -> bool:
        expected = base64.b64encode(f"{self.public_key}:{self.secret_key}".encode()).decode()
        return request.headers.get("Authorization") == f"Basic {expected}"

    def _ingest(self, request: Request) -> Response:
        body, content_type = request.get_data(), request.headers.get("Content-Type", "")
        try:
            if request.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            rows = list(read_export(body, self.project_id, datetime.now(UTC), content_type))
        except (DecodeError, ValueError, OSError, EOFError):
            form = "JSON" if JSON in content_type else "Protobuf"
            return _json({"error": f"Failed to parse OTel {form} Trace"}, 400)
        self.store.add(rows)
        return _json({})

    def _ingest_events(self, request: Request) -> Response:
        """What older SDKs send."""
        try:
            batch = orjson.loads(request.get_data())["batch"]
            rows = list(read_batch(batch, self.project_id, datetime.now(UTC)))
        except (ValueError, TypeError, KeyError):
            return _json({"message": "Invalid request data", "errors": []}, 400)
        is_events_only = self.write_mode == WriteMode.EVENTS_ONLY and not self.is_v1
        if not is_events_only:
            delay = timedelta(0) if self.is_v1 else self.batch_job_delay
            self.store.add_pending(rows, time.time() + delay.total_seconds())
        return _json(answer_to(batch, is_events_only), 207)

    def _read(self, request: Request) -> Response:
        if (
            self.longest_read is not None
            and request.path in TIMED_READS
            and asked_time(request.args) > self.longest_read
        ):
            raise StoreGaveUp
        if self.is_v1 and request.path != PROJECTS:
            return self._read_v1(request)
        if request.path == PROJECTS:
            return self._projects()
        if request.path == MODELS:
            return _json(answered_models())
        if request.path.startswith(V1_READS):
            if self.write_mode == WriteMode.EVENTS_ONLY:
                return _json(ONLY_V2, 404)
            return self._read_v1(request)
        if request.path in (OBSERVATIONS, METRICS):
            return self._read_v2(request)
        return _json({"message": "Not Found"}, 404)

    def _read_v2(self, request: Request) -> Response:
        is_legacy = self.write_mode == WriteMode.LEGACY
        if not is_legacy:
            self.store.move_pending(time.time())
        if request.path == METRICS:
            if is_legacy:
                message = LEGACY_MESSAGE.format(what="metrics")
                return _json({"message": message, "error": "LangfuseNotFoundError"}, 404)
            return _json(read_metrics(self.store, request.args.get("query", "")))
        answer = list_observations(self.store, request.args)
        # The table that it reads is there, and nothing is written to it.
        return _json({"data": [], "meta": {}} if is_legacy else answer)

    def _projects(self) -> Response:
        if self.projects_answer is not None:
            status, body = self.projects_answer
            return _json(body, status)
        project = {
            "id": self.project_id,
            "name": self.project_id,
            "organization": {"id": "sandbox", "name": "Sandbox"},
            "metadata": {},
        }
        return _json({"data": [project]})

    def _read_v1(self, request: Request) -> Response:
        if request.path == "/api/public/observations":
            return _json(list_v1_observations(self.store, request.args))
        if request.path == "/api/public/traces":
            return _json(list_v1_traces(self.store, request.args))
        if not request.path.startswith("/api/public/traces/"):
            return _json({"message": "Not Found"}, 404)
        trace = find_v1_trace(self.store, request.path.removeprefix("/api/public/traces/"))
        return _json({"message": "Not Found"}, 404) if trace is None else _json(trace)


def _json(body: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(body), status, content_type="application/json; charset=utf-8")


def _too_many(rate_limit: RateLimit, seconds: float) -> Response:
    response = _json({"message": "Rate limit exceeded"}, 429)
    response.headers["Retry-After"] = str(int(seconds) + 1)
    response.headers["X-RateLimit-Limit"] = str(rate_limit.requests_a_minute)
    response.headers["X-RateLimit-Remaining"] = "0"
    response.headers["X-RateLimit-Reset"] = datetime.fromtimestamp(
        time.time() + seconds, UTC
    ).isoformat()
    return response


class QuietHandler(WSGIRequestHandler):
    """Keeps connections open between requests, and logs none of them."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def make_sandbox_server(sandbox: Sandbox, port: int, host: str = "127.0.0.1") -> BaseWSGIServer:
    """A threaded server, bound but not yet serving; port 0 takes a free one.

    Raises OSError when the port is taken.
    """
    return make_server(host, port, sandbox, threaded=True, request_handler=QuietHandler)
