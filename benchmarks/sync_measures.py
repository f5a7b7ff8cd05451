"""What bench_sync measures, once Django is set up."""

import tempfile
from datetime import timedelta
from pathlib import Path

import httpx
import msgspec
from django.core.management import call_command
from django.db import connection as database
from langfuse.api import ObservationsV2Response

from benchmarks.bench_sync import BATCH, FLOOR_COLUMNS
from benchmarks.page_server import END
from usage.books import verify_books
from usage.demo.directory import write_demo_directory
from usage.directory.document import read_document
from usage.directory.load import load_directory
from usage.langfuse.client import FIELD_GROUPS, LangfuseClientService
from usage.langfuse.wire import ReceivedObservation
from usage.models import LangfuseConnection, Observation, Trace
from usage.sync.prefetch import prefetched
from usage.sync.runner import PAGES_AHEAD, sync_connection

START = END - timedelta(days=40)


def prepare() -> None:
    call_command("migrate", verbosity=0)
    path = Path(tempfile.mkdtemp()) / "directory.json"
    write_demo_directory(path)
    load_directory(read_document(path))


def connection_to(host: str) -> LangfuseConnection:
    row, _ = LangfuseConnection.objects.get_or_create(name="bench", defaults={"host": host, "public_key": "pk"})
    row.host, row.secret_key = host, "sk"
    row.save()
    return row


def sync(host: str) -> None:
    result = sync_connection(connection_to(host), START, END)
    assert result.is_complete, result.error
    assert result.observations_stored == result.observations_read == Observation.objects.count()
    assert Trace.objects.exclude(credits=None).count() == Trace.objects.count()


def sync_again(host: str) -> None:
    result = sync_connection(connection_to(host))
    assert result.observations_stored == 0


def floor(host: str) -> None:
    """Decode the same pages, COPY into a staging table, upsert into one table; nothing else."""
    with database.cursor() as cursor:
        cursor.execute(f"CREATE TABLE bench_floor ({FLOOR_COLUMNS})")
        cursor.execute("CREATE TEMPORARY TABLE bench_staging (LIKE bench_floor)")
        with LangfuseClientService(host, "pk", "sk") as client:
            batch: list[ReceivedObservation] = []
            for page in prefetched(client.pages(START, END), PAGES_AHEAD):
                batch += page.observations
                if len(batch) >= BATCH:
                    _upsert(cursor, batch)
                    batch = []
            _upsert(cursor, batch)


def _upsert(cursor: object, batch: list[ReceivedObservation]) -> None:
    cursor.execute("BEGIN")  # type: ignore[attr-defined]
    cursor.execute("TRUNCATE bench_staging")  # type: ignore[attr-defined]
    with cursor.cursor.copy("COPY bench_staging FROM STDIN") as copy:  # type: ignore[attr-defined]
        for one in batch:
            usage = msgspec.json.encode(one.usage_details).decode() if one.usage_details else ""
            copy.write_row(
                (
                    f"{one.trace_id}/{one.observation_id}",
                    one.trace_id,
                    one.type,
                    one.name,
                    one.level,
                    one.is_root,
                    one.start_time,
                    one.end_time,
                    one.received_at,
                    one.tenant_reference,
                    one.user_reference,
                    one.project_id,
                    one.flow_id,
                    one.trace_name,
                    one.model,
                    usage,
                    one.cost_usd,
                )  # fmt: skip
            )
    columns = [part.split()[0] for part in FLOOR_COLUMNS.split(", ")]
    updates = ", ".join(f"{column} = EXCLUDED.{column}" for column in columns[1:])
    cursor.execute(f"INSERT INTO bench_floor SELECT * FROM bench_staging ON CONFLICT (id) DO UPDATE SET {updates}")  # type: ignore[attr-defined]
    cursor.execute("COMMIT")  # type: ignore[attr-defined]


def obvious(host: str) -> None:
    """The SDK's models for the page, a model instance a row, bulk_create; the facts only."""
    Observation.objects.all().delete()
    query = {
        "fields": FIELD_GROUPS,
        "limit": 1000,
        "fromStartTime": START.isoformat()[:-6] + "Z",
        "toStartTime": END.isoformat()[:-6] + "Z",
    }
    cursor: str | None = None
    with httpx.Client(base_url=host) as http:
        while True:
            body = http.get("/api/public/v2/observations", params={**query, **({"cursor": cursor} if cursor else {})}).json()
            page = ObservationsV2Response.model_validate(body)
            Observation.objects.bulk_create(_instance(row) for row in page.data)
            cursor = page.meta.cursor
            if not cursor:
                return


def _instance(row: object) -> Observation:
    from usage.sync.identity import observation_key, trace_key

    usage = row.usage_details or {}  # type: ignore[attr-defined]
    return Observation(
        id=observation_key(0, row.trace_id, row.id),  # type: ignore[attr-defined]
        trace_id=trace_key(0, row.trace_id),  # type: ignore[attr-defined]
        langfuse_observation_id=row.id,  # type: ignore[attr-defined]
        type=row.type,  # type: ignore[attr-defined]
        name=row.name or "",  # type: ignore[attr-defined]
        level=row.level or "DEFAULT",  # type: ignore[attr-defined]
        is_root=row.parent_observation_id is None,  # type: ignore[attr-defined]
        start_time=row.start_time,  # type: ignore[attr-defined]
        end_time=row.end_time,  # type: ignore[attr-defined]
        received_at=row.updated_at,  # type: ignore[attr-defined]
        content_hash=0,
        user_reference=row.user_id or "",  # type: ignore[attr-defined]
        model=getattr(row, "provided_model_name", None) or getattr(row, "model", None) or "",
        usage_details=msgspec.json.encode(usage).decode(),
        total_tokens=usage.get("total", 0),
        cost_source="langfuse",
    )


def books_balance() -> bool:
    return verify_books() == []
