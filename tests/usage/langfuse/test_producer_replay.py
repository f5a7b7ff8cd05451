"""The sandbox speaks as another tracer: recordings, sent as if they were made now."""

import io
import os
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from usage.langfuse.sandbox.otlp import read_export
from usage.langfuse.sandbox.producers import (
    RECORDINGS,
    exports_as_if_at,
    producers,
    producers_named,
)

NOW = datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)
RESPONSE_IDS = ("attributes.llm.response.id", "attributes.gen_ai.response.id")


def rows(name: str, now: datetime, salt: str | None = None) -> list[dict[str, Any]]:
    return [
        row
        for export in exports_as_if_at(name, now, salt)
        for row in read_export(export.SerializeToString(), "p", now)
    ]


def recorded_rows(name: str) -> list[dict[str, Any]]:
    return [
        row
        for line in (RECORDINGS / f"{name}.jsonl").read_text().splitlines()
        for row in read_export(
            json_format.Parse(line, ExportTraceServiceRequest()).SerializeToString(), "p", NOW
        )
    ]


@pytest.mark.parametrize("name", producers())
def test_a_replay_says_what_was_recorded_with_other_ids_and_as_of_now(name: str) -> None:
    was, first, second = recorded_rows(name), rows(name, NOW), rows(name, NOW)
    for before, after in zip(was, first, strict=True):
        for field in "type name model usageDetails costDetails userId latency level tags".split():
            assert after[field] == before[field]
        assert after["id"] != before["id"]
        assert after["traceId"] != before["traceId"]
    # What was one trace, and below one parent, is so again.
    assert shape(was) == shape(first) == shape(second)
    for replays in ((was, first), (first, second)):
        for field in ("id", "traceId"):
            assert not {one[field] for one in replays[0]} & {one[field] for one in replays[1]}
        assert not response_ids(replays[0]) & response_ids(replays[1])
    assert len(response_ids(was)) == len(response_ids(first))
    assert max(row["endTime"] for row in first) == "2031-05-06T07:08:09.000Z"


def shape(rows: list[dict[str, Any]]) -> list[tuple[int, int | None]]:
    """For each row, which trace and which parent it has, by the place of their first row."""
    traces, places = [row["traceId"] for row in rows], [row["id"] for row in rows]
    return [
        (
            traces.index(row["traceId"]),
            places.index(parent) if (parent := row["parentObservationId"]) in places else None,
        )
        for row in rows
    ]


def response_ids(rows: list[dict[str, Any]]) -> set[str]:
    return {
        str(row["metadata"][key]) for row in rows for key in RESPONSE_IDS if key in row["metadata"]
    }


def test_some_recordings_have_response_ids() -> None:
    with_them = Counter(len(response_ids(rows(name, NOW))) > 0 for name in producers())
    assert with_them[True] >= 7


def test_the_same_salt_gives_the_same_ids() -> None:
    assert rows("openllmetry", NOW, "a") == rows("openllmetry", NOW, "a")
    assert rows("openllmetry", NOW, "a") != rows("openllmetry", NOW, "b")


def test_a_name_or_the_beginning_of_several_chooses() -> None:
    assert producers_named("dspy") == ["dspy"]
    assert producers_named("litellm") == ["litellm-proxy", "litellm-proxy-anthropic-google"]


def test_list_names_them_all() -> None:
    out = io.StringIO()
    call_command("langfuse_sandbox", "--producer", "list", stdout=out)
    assert out.getvalue().split() == producers()


def test_an_unknown_name_is_refused_with_the_nearest_ones(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"no producer “smolagent5”; near are smolagents"):
        call_command(
            "langfuse_sandbox", "--producer", "smolagent5", "--database", str(tmp_path / "s")
        )
    assert not (tmp_path / "s").exists()


@pytest.mark.both_databases
def test_the_command_sends_them_and_serves_what_became_of_them(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "manage.py", "langfuse_sandbox", "--port", "0"),
        *("--database", str(tmp_path / "sandbox.sqlite3"), "--producer", "litellm", "smolagents"),
    ]
    # As most environments are: what is not flushed stays in the process.
    environment = {key: text for key, text in os.environ.items() if key != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        command,
        cwd=settings.BASE_DIR,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines: list[str] = []
        deadline = time.monotonic() + 120
        while not lines or "Stop with" not in lines[-1]:
            assert time.monotonic() < deadline, lines
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        url = next(line for line in lines if "Langfuse sandbox at" in line).split()[3].rstrip(",")
        answer = httpx.get(
            f"{url}/api/public/v2/observations",
            params={"limit": 100, "fields": "core,basic,usage"},
            auth=(settings.SANDBOX_PUBLIC_KEY, settings.SANDBOX_SECRET_KEY),
        )
    finally:
        process.terminate()
        process.wait(30)
    found = answer.raise_for_status().json()["data"]
    assert len(found) == 4 + 6 + 8
    assert {row["userId"] for row in found} >= {"ann"}
    newest = datetime.fromisoformat(found[0]["startTime"])
    assert (datetime.now(UTC) - newest).total_seconds() < 300
