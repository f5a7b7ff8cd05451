"""A Langfuse that costs nothing: v2 observations from rows that are encoded beforehand, so that a
benchmark measures the reader.

Run as a process: ``python -m benchmarks.page_server OBSERVATIONS LATENCY_MS``; prints its port.
"""

import base64
import json
import sys
import time
from bisect import bisect_left
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from usage.demo.directory import demo_directory
from usage.demo.traffic import DemoRun, demo_runs, read_requests
from usage.langfuse.sandbox.otlp import iso
from usage.langfuse.sandbox.prices import cost_details, find_model
from usage.langfuse.sandbox.store import trace_hash

END = datetime(2026, 11, 20, 12, tzinfo=UTC)
EMPTY: dict[str, Any] = {
    "projectId": "bench",
    "statusMessage": "",
    "version": "",
    "environment": "default",
    "completionStartTime": None,
    "model": "",
    "internalModelId": "",
    "modelParameters": {},
    "usageDetails": {},
    "inputUsage": 0,
    "outputUsage": 0,
    "totalUsage": 0,
    "costDetails": {},
    "inputCost": None,
    "outputCost": None,
    "totalCost": 0,
    "usagePricingTierId": None,
    "usagePricingTierName": None,
    "timeToFirstToken": None,
    "release": "",
    "tags": [],
    "bookmarked": False,
    "public": False,
    "modelId": None,
    "inputPrice": None,
    "outputPrice": None,
    "totalPrice": None,
    "level": "DEFAULT",
}
FOREIGN_METADATA = {
    "trace_type": "chain",
    "project_name": "Kluisz Kanvas",
    "resourceAttributes.telemetry.sdk.language": "python",
    "resourceAttributes.telemetry.sdk.name": "opentelemetry",
    "resourceAttributes.telemetry.sdk.version": "1.45.2",
    "resourceAttributes.service.instance.id": "90199e52-9130-4070-920d-4ff3d3cd7a9c",
    "resourceAttributes.service.name": "kanvas",
    "scope.attributes.public_key": "pk-lf-1234567890",
    "scope.version": "5.0.4",
    "scope.name": "langfuse-sdk",
}


def rows_of(run: DemoRun, copy: int) -> list[dict[str, Any]]:
    """The three observations of a run: flow, prompt, model call, as Langfuse gives them."""
    trace_id = f"{run.run_id.int ^ copy:032x}"
    start, asked, end = run.start_time, run.start_time + timedelta(milliseconds=40), run.end_time
    received = iso(end + timedelta(seconds=5))
    metadata = {
        "tenant_id": run.tenant_id,
        "kluisz_project_id": run.project_id,
        "kluisz_flow_id": run.flow_id,
        **FOREIGN_METADATA,
    }
    shared = {
        "traceId": trace_id,
        "createdAt": received,
        "updatedAt": received,
        "metadata": metadata,
        "userId": run.user_id,
    }
    shared |= {"sessionId": run.user_id[:8], "traceName": run.flow_id}

    def row(
        number: int, name: str, begin: datetime, finish: datetime, **fields: Any
    ) -> dict[str, Any]:
        own = {
            "id": f"{trace_id[:14]}{number:02x}",
            "startTime": iso(begin),
            "endTime": iso(finish),
            "name": name,
        }
        latency = (finish - begin).total_seconds()
        return {
            **EMPTY,
            **shared,
            **own,
            "type": "SPAN",
            "latency": latency,
            "parentObservationId": f"{trace_id[:14]}00",
            **fields,
        }

    usage = {
        "input": run.input_tokens,
        "output": run.output_tokens,
        "total": run.input_tokens + run.output_tokens,
    }
    model = find_model(run.model)
    costs = cost_details(model, usage) if model else {}
    return [
        row(
            0,
            "flow",
            start,
            end,
            parentObservationId=None,
            isRootObservation=True,
            level="ERROR" if run.is_failed else "DEFAULT",
        ),
        row(1, "Prompt", start, asked, isRootObservation=False),
        row(
            2,
            "ChatModel",
            asked,
            end,
            isRootObservation=False,
            type="GENERATION",
            model=run.model,
            usageDetails=usage,
            totalUsage=usage["total"],
            costDetails=costs,
            totalCost=costs.get("total", 0),
        ),
    ]


class Pages:
    """Encoded rows in the API's order, and pages of them."""

    def __init__(self, observations: int) -> None:
        runs = list(demo_runs(read_requests(), demo_directory(), END))
        rows: list[tuple[str, int, str, bytes]] = []
        copy = 0
        while len(rows) < observations:
            for run in runs[: (observations - len(rows) + 2) // 3]:
                rows += [
                    (
                        one["startTime"],
                        trace_hash(one["traceId"]),
                        one["id"],
                        json.dumps(one).encode(),
                    )
                    for one in rows_of(run, copy)
                ]
            copy += 1
        rows = sorted(rows, reverse=True)[:observations]
        self._times = [time for time, *_ in reversed(rows)]
        self._rows = [row for *_, row in rows]

    def page(self, start: str, end: str, limit: int, cursor: str | None) -> bytes:
        total = len(self._rows)
        first = int(base64.b64decode(cursor)) if cursor else total - bisect_left(self._times, end)
        stop = total - bisect_left(self._times, start)
        until = min(first + limit, stop)
        meta = {"cursor": base64.b64encode(str(until).encode()).decode()} if until < stop else {}
        return (
            b'{"data":['
            + b",".join(self._rows[first:until])
            + b'],"meta":'
            + json.dumps(meta).encode()
            + b"}"
        )


def serve(observations: int, latency_ms: int) -> None:
    pages = Pages(observations)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Headers and body in one write: two would wait for each other's acknowledgement.
        wbufsize = -1

        def do_GET(self) -> None:
            query = {
                name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()
            }
            time.sleep(latency_ms / 1000)
            path, status = urlsplit(self.path).path, 200
            if path == "/api/public/projects":
                body = b'{"data":[{"id":"bench","name":"bench"}]}'
            elif path == "/api/public/v2/metrics":
                body = b'{"data":[]}'
            elif path != "/api/public/v2/observations":
                body, status = b'{"message":"Not Found"}', 404
            else:
                start, end = query.get("fromStartTime", "2000"), query.get("toStartTime", "2100")
                body = pages.page(start, end, int(query["limit"]), query.get("cursor"))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
