"""What bench_sync measures, each in a process of its own: ``python -m benchmarks.sync_measures WHAT
HOST`` prints it as JSON.
"""

import json
import os
import resource
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")
django.setup()

import msgspec
from django.conf import settings
from django.core.management import call_command
from django.db import connection as database
from django.db.models import Sum
from langfuse.api import LangfuseAPI, ObservationV2

from benchmarks.page_server import END
from usage.books import verify_books
from usage.demo.directory import write_demo_directory
from usage.directory.document import read_document
from usage.directory.load import load_directory
from usage.facts.identity import trace_key
from usage.langfuse.client import FIELD_GROUPS, LangfuseClientService
from usage.langfuse.wire import ReceivedObservation
from usage.models import LangfuseConnection, Observation, Trace
from usage.sync.reader import Reader
from usage.sync.runner import sync_connection

START = END - timedelta(days=40)
FLOOR_COLUMNS = (
    "id text PRIMARY KEY, trace_id text, type text, name text, level text, is_root bool, start_time"
    " timestamptz, end_time timestamptz, received_at timestamptz, tenant text, usr text, project"
    " text, flow text, environment text, trace_name text, model text, usage text, cost numeric"
)


def main(what: str, host: str) -> None:
    began = time.time()
    observations = MEASURES[what](host)
    ended = time.time()
    if what == "sync":
        check(observations)
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        json.dumps(
            {"began": began, "ended": ended, "observations": observations, "megabytes": megabytes}
        )
    )


def prepare(host: str) -> int:
    call_command("migrate", verbosity=0)
    path = Path(tempfile.mkdtemp()) / "directory.json"
    write_demo_directory(path)
    load_directory(read_document(path))
    return 0


def connection_to(host: str) -> LangfuseConnection:
    row, _ = LangfuseConnection.objects.get_or_create(
        name="bench", defaults={"host": host, "public_key": "pk"}
    )
    row.host, row.secret_key = host, "sk"
    row.save()
    return row


def sync(host: str) -> int:
    """Everything, by one worker."""
    result = sync_connection(connection_to(host), START, END)
    assert result.is_complete, result.error
    return result.observations_read


def check(observations_read: int) -> None:
    """That the sync did what it was measured for."""
    assert stored_observations() == observations_read
    assert Trace.objects.exclude(credits=None).count() == Trace.objects.count() > 0
    assert verify_books() == []


def sync_share(host: str) -> int:
    """As much of everything as other workers leave."""
    result = sync_connection(connection_to(host), START, END)
    assert not result.error, result.error
    return result.observations_read


def sync_again(host: str) -> int:
    """What is due, after everything has been read."""
    result = sync_connection(connection_to(host))
    assert result.observations_stored == 0
    return stored_observations()


def stored_observations() -> int:
    return Trace.objects.aggregate(steps=Sum("observations"))["steps"]


def floor(host: str) -> int:
    """Decode the same pages, COPY into a staging table, upsert into one table; nothing else."""
    with database.cursor() as cursor:
        cursor.execute(f"CREATE TABLE bench_floor ({FLOOR_COLUMNS})")
        cursor.execute("CREATE TEMPORARY TABLE bench_staging (LIKE bench_floor)")
        with LangfuseClientService(host, "pk", "sk") as client:
            batch: list[ReceivedObservation] = []
            with Reader(
                client, lambda page, _: page.observations, settings.SYNC_FETCHERS
            ) as reader:
                reader.add(START, END)
                while reader.unread():
                    fetched = reader.take(60)
                    assert fetched is not None
                    batch += fetched.content
                    if len(batch) >= settings.SYNC_BATCH_OBSERVATIONS:
                        _upsert(cursor, batch)
                        batch = []
            _upsert(cursor, batch)
        cursor.execute("SELECT count(*) FROM bench_floor")
        return cursor.fetchone()[0]


def _upsert(cursor: Any, batch: list[ReceivedObservation]) -> None:
    cursor.execute("BEGIN")
    cursor.execute("TRUNCATE bench_staging")
    with cursor.cursor.copy("COPY bench_staging FROM STDIN") as copy:
        for one in batch:
            step = one.step
            usage = msgspec.json.encode(step.usage_details).decode() if step.usage_details else ""
            key = f"{one.trace_id}/{step.observation_id}"
            times = (step.start_time, step.end_time, step.received_at)
            own = (step.type, step.name, step.level, step.is_root)
            copy.write_row(
                (
                    key,
                    one.trace_id,
                    *own,
                    *times,
                    *one.trace_attributes,
                    step.model,
                    usage,
                    step.cost_usd,
                )
            )
    columns = [part.split()[0] for part in FLOOR_COLUMNS.split(", ")]
    updates = ", ".join(f"{column} = EXCLUDED.{column}" for column in columns[1:])
    cursor.execute(
        "INSERT INTO bench_floor SELECT * FROM bench_staging ON CONFLICT (id) DO UPDATE SET"
        f" {updates}"
    )
    cursor.execute("COMMIT")


def obvious(host: str) -> int:
    """The SDK's client and models for the page, a model instance a row, bulk_create; the facts
    only.
    """
    api = LangfuseAPI(base_url=host, username="pk", password="sk", timeout=60)
    cursor: str | None = None
    while True:
        page = api.observations.get_many(
            fields=FIELD_GROUPS, limit=1000, cursor=cursor, from_start_time=START, to_start_time=END
        )
        Observation.objects.bulk_create(_instance(row) for row in page.data)
        cursor = page.meta.cursor
        if not cursor:
            return Observation.objects.count()


def _instance(row: ObservationV2) -> Observation:
    usage = row.usage_details or {}
    return Observation(
        trace_id=trace_key(0, row.trace_id or ""),
        langfuse_observation_id=row.id,
        type=row.type,
        name=row.name or "",
        level=row.level or "DEFAULT",
        is_root=row.parent_observation_id is None,
        start_time=row.start_time,
        end_time=row.end_time,
        model=row.model or "",
        usage_details=msgspec.json.encode(usage).decode(),
        total_tokens=usage.get("total", 0),
        cost_source="langfuse",
    )


MEASURES = {
    measure.__name__: measure for measure in (prepare, sync, sync_share, sync_again, floor, obvious)
}

if __name__ == "__main__":
    main(*sys.argv[1:])
