"""The sandbox over HTTP: a WSGI application and a threaded server for it."""

import base64
import gzip
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from usage.langfuse.sandbox.otlp import JSON, read_export
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
PROJECTS = "/api/public/projects"
WRONG_KEY = {"message": "Invalid credentials. Confirm that you've configured the correct host."}
TIMED_OUT = {
    "message": (
        "The store ran out of resources over this request. Please narrow your request by adding"
        " more specific filters (e.g., a shorter date range)."
    ),
    "error": "Request timed out",
}
ONLY_V2 = {
    "message": (
        "This endpoint is not available on deployments running in Langfuse v4 events_only mode."
        " Learn more about Langfuse v4 at: https://langfuse.com/docs/v4"
    )
}
TIMED_READS = (
    "/api/public/v2/observations",
    "/api/public/v2/metrics",
    "/api/public/observations",
    "/api/public/traces",
)
V1_READS = ("/api/public/traces", "/api/public/observations", "/api/public/metrics/daily")


@dataclass
class RateLimit:
    """So many requests a minute, in a sliding window; the next one is answered 429."""

    requests_a_minute: int
    _times: deque[float] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def seconds_to_wait(self) -> float:
        """0 when the request may pass, and is counted; else how long to wait."""
        with self._lock:
            now = time.monotonic()
            while self._times and self._times[0] <= now - 60:
                self._times.popleft()
            if len(self._times) < self.requests_a_minute:
                self._times.append(now)
                return 0
            return self._times[0] + 60 - now


@dataclass
class Sandbox:
    """A Langfuse server's public API over a store, for one pair of keys. A WSGI application.

    ``is_v1`` makes it a version 3. Over reads of more time than ``longest_read``, its store runs
    out of time. ``projects_answer`` (status, body) is given in place of its project.
    """

    store: SandboxStore
    public_key: str
    secret_key: str
    rate_limit: RateLimit | None = None
    is_v1: bool = False
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
        if self.rate_limit is not None and (seconds := self.rate_limit.seconds_to_wait()):
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

    def _read(self, request: Request) -> Response:
        if (
            self.longest_read is not None
            and request.path in TIMED_READS
            and asked_time(request.args) > self.longest_read
        ):
            raise StoreGaveUp
        if self.is_v1 and request.path != PROJECTS:
            return self._read_v1(request)
        if request.path == "/api/public/v2/observations":
            return _json(list_observations(self.store, request.args))
        if request.path == "/api/public/v2/metrics":
            return _json(read_metrics(self.store, request.args.get("query", "")))
        if request.path == PROJECTS:
            return self._projects()
        if request.path in V1_READS:
            return _json(ONLY_V2, 404)
        return _json({"message": "Not Found"}, 404)

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
