"""What others' tracers send becomes in the sandbox what the real server makes of it, field by
field: sixteen recordings, and Langfuse's own mapping of them.
"""

import json
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox
from usage.langfuse.sandbox.otlp import METADATA_LENGTH
from usage.langfuse.sandbox.prices import as_stored, find_model
from usage.langfuse.sandbox.producers import RECORDINGS, producers

MAPPED = Path(__file__).parents[2] / "fixtures" / "producers"
COMPARED = (
    "id traceId parentObservationId type name startTime endTime level statusMessage environment"
    " model modelParameters usageDetails userId sessionId tags"
).split()
ALL_GROUPS = "core,basic,time,metadata,model,usage,prompt,metrics,trace_context"
# The recording says by name what an export in protobuf says by number, as the server reads it.
FAILED = "STATUS_CODE_ERROR"


def send(sandbox: RunningSandbox, content: bytes, content_type: str) -> httpx.Response:
    return httpx.post(
        f"{sandbox.url}/api/public/otel/v1/traces",
        content=content,
        headers={"Content-Type": content_type},
        auth=(PUBLIC_KEY, SECRET_KEY),
    )


def rows_of(sandbox: RunningSandbox, **query: str) -> dict[str, dict[str, Any]]:
    answer = httpx.get(
        f"{sandbox.url}/api/public/v2/observations",
        params={"fields": ALL_GROUPS, "limit": 1000, **query},
        auth=(PUBLIC_KEY, SECRET_KEY),
    )
    return {row["id"]: row for row in answer.raise_for_status().json()["data"]}


def exports(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECORDINGS / f"{name}.jsonl").open()]


def spans(name: str) -> list[dict[str, Any]]:
    return [
        span
        for export in exports(name)
        for resource_spans in export["resourceSpans"]
        for scope_spans in resource_spans["scopeSpans"]
        for span in scope_spans["spans"]
    ]


def as_protobuf(export: dict[str, Any]) -> bytes:
    return json_format.ParseDict(export, ExportTraceServiceRequest()).SerializeToString()


def as_json(export: dict[str, Any]) -> bytes:
    """As an exporter in JavaScript sends it: ids in hexadecimal, a status by its number."""
    said = json.loads(json.dumps(export))
    for resource_spans in said["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            for span in scope_spans["spans"]:
                message = json_format.ParseDict({"traceId": span["traceId"]}, a_span())
                span["traceId"] = message.trace_id.hex()
                for key in ("spanId", "parentSpanId"):
                    if span.get(key):
                        message = json_format.ParseDict({"spanId": span[key]}, a_span())
                        span[key] = message.span_id.hex()
                code = span.get("status", {}).get("code")
                if isinstance(code, str):
                    span["status"]["code"] = {"STATUS_CODE_OK": 1, FAILED: 2}[code]
    return orjson.dumps(said)


def a_span() -> Any:
    return ExportTraceServiceRequest().resource_spans.add().scope_spans.add().spans.add()


def expected(name: str) -> dict[str, dict[str, Any]]:
    """Langfuse's mapping, with "" and the level as the API gives them."""
    rows = json.loads((MAPPED / f"{name}.observations.json").read_text())
    failed = {
        message.span_id.hex()
        for span in spans(name)
        if span.get("status", {}).get("code") == FAILED
        and (message := json_format.ParseDict({"spanId": span["spanId"]}, a_span()))
    }
    for row in rows:
        for field in ("statusMessage", "model", "userId", "sessionId"):
            row[field] = row[field] or ""
        if row["id"] in failed:
            row["level"] = "ERROR"
    return {row["id"]: row for row in rows}


def shown(stored: str) -> Any:
    """A metadata value as the API shows it: cut off, then read."""
    try:
        return json.loads(stored[:METADATA_LENGTH])
    except ValueError:
        return stored[:METADATA_LENGTH]


def test_there_are_sixteen_recordings() -> None:
    assert len(producers()) == 16
    assert {path.name.removesuffix(".observations.json") for path in MAPPED.iterdir()} == set(
        producers()
    )


@pytest.mark.parametrize("form", ["protobuf", "json"])
@pytest.mark.parametrize("name", producers())
def test_a_recording_becomes_what_the_real_server_makes_of_it(
    sandbox: RunningSandbox, name: str, form: str
) -> None:
    for export in exports(name):
        body = as_json(export) if form == "json" else as_protobuf(export)
        kind = "application/json" if form == "json" else "application/x-protobuf"
        answer = send(sandbox, body, kind)
        assert (answer.status_code, answer.json()) == (200, {})

    found, wanted = rows_of(sandbox), expected(name)

    assert found.keys() == wanted.keys()
    for key, row in wanted.items():
        its = found[key]
        assert {field: its[field] for field in COMPARED} == {
            field: row[field] for field in COMPARED
        }
        assert its["metadata"] == {one: shown(value) for one, value in row["metadata"].items()}
        assert its["isRootObservation"] == (
            row["parentObservationId"] is None
            or row["metadata"].get("attributes.langfuse.internal.is_app_root") == "true"
            or is_app_root(name, key)
        )
        assert its["traceName"] == (
            row["traceName"] or (row["name"] if its["isRootObservation"] else None)
        )


def is_app_root(name: str, span_id: str) -> bool:
    """As Langfuse's own spans say it, which is not repeated in their metadata."""
    return any(
        attribute["key"] == "langfuse.internal.is_app_root" and attribute["value"]["boolValue"]
        for span in spans(name)
        for attribute in span.get("attributes", [])
        if json_format.ParseDict({"spanId": span["spanId"]}, a_span()).span_id.hex() == span_id
    )


@pytest.mark.parametrize("name", producers())
def test_a_cost_is_the_one_that_was_sent_or_else_that_of_the_servers_prices(
    sandbox: RunningSandbox, name: str
) -> None:
    for export in exports(name):
        send(sandbox, as_protobuf(export), "application/x-protobuf")
    found = rows_of(sandbox)
    for key, row in expected(name).items():
        costs, model = found[key]["costDetails"], find_model(row["model"] or "")
        if row["costDetails"]:
            # The store keeps twelve decimals.
            assert costs == {unit: as_stored(cost) for unit, cost in row["costDetails"].items()}
        elif model is None:
            assert costs == {}
        else:
            priced = row["usageDetails"].keys() & model.prices.keys() - {"total"}
            assert costs.keys() - {"total"} == priced
            assert all(
                costs[unit]
                == pytest.approx(float(row["usageDetails"][unit] * model.prices[unit]), abs=1e-12)
                for unit in priced
            )
            total = sum(costs[unit] for unit in priced)
            assert costs.get("total", 0) == pytest.approx(total, abs=2e-12)


def test_a_long_value_is_whole_where_it_is_asked_for(sandbox: RunningSandbox) -> None:
    for export in exports("litellm-proxy"):
        send(sandbox, as_protobuf(export), "application/x-protobuf")
    cut, whole = rows_of(sandbox), rows_of(sandbox, expandMetadata="attributes.metadata")
    for key, row in expected("litellm-proxy").items():
        said = row["metadata"].get("attributes.metadata")
        if said is not None:
            assert cut[key]["metadata"]["attributes.metadata"] == said[:METADATA_LENGTH]
            assert whole[key]["metadata"]["attributes.metadata"] == json.loads(said)
            assert "user_api_key_hash" in whole[key]["metadata"]["attributes.metadata"]


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        b"[]",
        b'{"resourceSpans": {}}',
        b'{"resourceSpans": ["x"]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": [{"name": "without ids"}]}]}]}',
        b'{"resourceSpans": [{"scopeSpans": [{"spans": ["x"]}]}]}',
        b'{"resourceSpans": [{"resource": {"attributes": {"a": 1}}}]}',
    ],
)
def test_json_that_is_no_export_is_refused(sandbox: RunningSandbox, body: bytes) -> None:
    answer = send(sandbox, body, "application/json; charset=utf-8")
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "Failed to parse OTel JSON Trace"},
    )
    assert sandbox.store.count() == 0
