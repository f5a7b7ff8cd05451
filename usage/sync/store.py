"""Loads and stores facts: whole batches, with the columns named once."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.db import connection, models

from kluisz_analytics.bulk import insert_rows
from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, to_scaled
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import CostSource
from pricing.units import TokenCounts
from usage.models import Observation, RejectedObservation, Trace
from usage.sync.identity import parse_uuid
from usage.sync.steps import Directory, Step, TraceFact

T = TypeVar("T")
# Below every database's limit of parameters in one statement.
IDS_A_QUERY = 10_000
TOKEN_FIELDS = ("input", "output", "total", "cached", "cache_write", "reasoning", "audio")
TOKEN_COLUMNS = tuple(f"{name}_tokens" for name in TOKEN_FIELDS)


def usd(value: Decimal | None) -> int | None:
    return None if value is None else to_scaled(value, USD_PLACES)


def credits(value: Decimal | None) -> int | None:
    return None if value is None else to_scaled(value, CREDIT_PLACES)


# Column → what is stored in it. The order is that of the rows.
STEP_COLUMNS: dict[str, Callable[[Step], Any]] = {
    "id": attrgetter("id"),
    "trace_id": attrgetter("trace_id"),
    "langfuse_observation_id": attrgetter("langfuse_observation_id"),
    "type": attrgetter("type"),
    "name": attrgetter("name"),
    "level": attrgetter("level"),
    "is_root": attrgetter("is_root"),
    "start_time": attrgetter("start_time"),
    "end_time": attrgetter("end_time"),
    "received_at": attrgetter("received_at"),
    "content_hash": attrgetter("content_hash"),
    "tenant_reference": attrgetter("tenant_reference"),
    "user_reference": attrgetter("user_reference"),
    "project_id": attrgetter("project_id"),
    "flow_id": attrgetter("flow_id"),
    "trace_name": attrgetter("trace_name"),
    "model": attrgetter("model"),
    "usage_details": lambda step: msgspec.json.encode(step.usage_details).decode() if step.usage_details else "",
    "langfuse_cost_usd": lambda step: usd(step.langfuse_cost_usd),
    "cost_usd": lambda step: usd(step.cost_usd),
    "cost_source": lambda step: step.cost_source.value,
    "price_id": attrgetter("price_id"),
    "billed_cost_usd": lambda step: usd(step.billed_cost_usd),
    "credits": lambda step: credits(step.credits),
    **{f"{name}_tokens": attrgetter(f"tokens.{name}") for name in TOKEN_FIELDS},
}
TRACE_COLUMNS: dict[str, Callable[[TraceFact], Any]] = {
    **{
        name: attrgetter(name)
        for name in (
            "id connection_id langfuse_trace_id name start_time hour latency_ms is_failed tenant_id user_id tenant_reference "
            "user_reference project_id flow_id observations priced_observations unpriced_observations"
        ).split()
    },
    "cost_usd": lambda trace: usd(trace.cost_usd),
    "billed_cost_usd": lambda trace: usd(trace.billed_cost_usd),
    "credits": lambda trace: credits(trace.credits),
    "rate_id": attrgetter("rate_id"),
    **{f"{name}_tokens": attrgetter(f"tokens.{name}") for name in TOKEN_FIELDS},
}


def row_of(columns: dict[str, Callable[[T], Any]], fact: T) -> tuple[Any, ...]:
    """The fact as it is stored. Two facts with equal rows are the same."""
    return tuple(value(fact) for value in columns.values())


def stored_versions(step_ids: Iterable[UUID]) -> dict[UUID, tuple[datetime, int]]:
    """The version that is stored of each of the steps; steps that are not stored are left out."""
    versions = {}
    for ids in chunks(step_ids):
        found = Observation.objects.filter(pk__in=ids).values_list("pk", "received_at", "content_hash")
        versions.update({pk: (received_at, content_hash) for pk, received_at, content_hash in found})
    return versions


def lock_traces(trace_ids: Iterable[UUID]) -> dict[UUID, TraceFact]:
    """The stored traces, locked in the order of their keys until the transaction ends."""
    traces = {}
    names = [name for name in TRACE_COLUMNS if name not in TOKEN_COLUMNS]
    for ids in chunks(sorted(trace_ids)):
        locked = Trace.objects.select_for_update(of=("self",)).filter(pk__in=ids).order_by("pk")
        for *values, tokens in _with_tokens(locked, names):
            trace = TraceFact(**dict(zip(names, values, strict=True)), tokens=tokens)
            traces[trace.id] = trace
    return traces


def load_steps(trace_ids: Iterable[UUID]) -> Iterator[Step]:
    """All stored steps of the traces."""
    names = [name for name in STEP_COLUMNS if name not in TOKEN_COLUMNS]
    for ids in chunks(trace_ids):
        stored = Observation.objects.filter(trace_id__in=ids).order_by()
        for *values, langfuse_trace_id, tokens in _with_tokens(stored, [*names, "trace__langfuse_trace_id"]):
            fields = dict(zip(names, values, strict=True))
            fields["usage_details"] = msgspec.json.decode(fields["usage_details"]) if fields["usage_details"] else {}
            fields["cost_source"] = CostSource(fields["cost_source"])
            yield Step(**fields, langfuse_trace_id=langfuse_trace_id, tokens=tokens)


def _with_tokens(rows: models.QuerySet[Any], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for row in rows.values_list(*names, *TOKEN_COLUMNS).iterator(chunk_size=2000):
        yield *row[: len(names)], TokenCounts(*row[len(names) :])


def write(model: type[models.Model], columns: Iterable[str], new: list[tuple[Any, ...]], changed: list[tuple[Any, ...]]) -> None:
    """Insert the new rows and replace the changed ones. Raises IntegrityError when a new one is there already."""
    columns, table = list(columns), model._meta.db_table
    with connection.cursor() as cursor:
        if new:
            insert_rows(cursor, table, columns, new)
        if changed:
            staged = f"changed_{table}"
            cursor.execute(f"DROP TABLE IF EXISTS {staged}")
            listed = ", ".join(columns)
            cursor.execute(f"CREATE TEMPORARY TABLE {staged} AS SELECT {listed} FROM {table} WHERE 1 = 0")
            insert_rows(cursor, staged, columns, changed)
            assignments = ", ".join(f"{column} = s.{column}" for column in columns if column != "id")
            cursor.execute(f"UPDATE {table} SET {assignments} FROM {staged} s WHERE {table}.id = s.id")


def known_directory(traces: Iterable[Sequence[Step]]) -> Directory:
    """The tenants and users that the steps refer to and that we know."""
    tenant_ids, user_ids = set(), set()
    for steps in traces:
        for step in steps:
            tenant_ids.add(step.tenant_reference)
            user_ids.add(step.user_reference)
    users: dict[UUID, UUID] = {}
    for ids in chunks(_uuids(user_ids)):
        users.update(User.objects.filter(pk__in=ids).values_list("pk", "tenant_id"))
    tenants: set[UUID] = set()
    for ids in chunks(_uuids(tenant_ids)):
        tenants.update(Tenant.objects.filter(pk__in=ids).values_list("pk", flat=True))
    return Directory(frozenset(tenants), users)


def known_ids(model: type[Tenant] | type[User], references: Collection[str]) -> list[str]:
    """Those of the references (canonical ids) that are keys of the model."""
    known: list[str] = []
    for ids in chunks(_uuids(references)):
        known += [str(pk) for pk in model._default_manager.filter(pk__in=ids).values_list("pk", flat=True)]
    return known


def _uuids(texts: Collection[str]) -> list[UUID]:
    return [parsed for text in texts if (parsed := parse_uuid(text))]


def set_aside(rows: Iterable[RejectedObservation]) -> int:
    """Store rows that break the contract; one that is there already is not stored again. Returns how many are new."""
    before = RejectedObservation.objects.count()
    RejectedObservation.objects.bulk_create(rows, ignore_conflicts=True)
    return RejectedObservation.objects.count() - before


def chunks(items: Iterable[T], size: int = IDS_A_QUERY) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
