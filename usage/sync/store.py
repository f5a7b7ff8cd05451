"""Loads and stores facts: whole batches, with the columns named once.

A row is what insert_rows takes: primitives, in the order of the columns. Two facts with equal rows are the same.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import msgspec
from django.db import connection as database

from kluisz_analytics.bulk import among, insert_rows, stamp, stamps, update_rows
from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, to_scaled
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import WITHOUT_USAGE, CostSource
from pricing.price_book import Repriced
from pricing.units import NO_TOKENS, TokenCounts
from usage.identifiers import parse_uuid
from usage.langfuse.wire import ReceivedObservation, RejectedRow
from usage.models import LangfuseConnection, Observation, RejectedObservation, Repricing, Trace
from usage.sync.steps import Directory, Step, TraceFact

T = TypeVar("T")
Row = tuple[Any, ...]
TOKEN_COLUMNS = tuple(f"{name}_tokens" for name in TokenCounts._fields)

# What a step says of itself, and what it says of its trace; the latter is stored only where the trace was decided otherwise.
SAID = ("type", "name", "level", "is_root", "model")
SAID_OF_TRACE = ("tenant_reference", "user_reference", "project_id", "flow_id")
STEP_COLUMNS = (
    *("id", "trace_id", "content_hash", "langfuse_observation_id", *SAID, "start_time", "end_time", "received_at"),
    *("price_id", "langfuse_cost_usd", "cost_usd", "billed_cost_usd", "credits", "cost_source", *TOKEN_COLUMNS),
    *("usage_details", "gone_since", *SAID_OF_TRACE, "trace_name"),
)
# Most steps use nothing and say nothing of their own: their rows end here, and the database writes what these are in all others.
PLAIN_WIDTH = STEP_COLUMNS.index("price_id")
UNKNOWN = NOTHING = (None, None, None, None, None)
PLAIN: tuple[Any, ...] = (*UNKNOWN, CostSource.NO_USAGE.value, *NO_TOKENS, "", None, *NOTHING)
DECIDED = (
    *("connection_id", "langfuse_trace_id", "name", "latency_ms", "is_failed", "is_voided"),
    *("tenant_reference", "user_reference", "project_id", "flow_id", "model"),
    *("observations", "gone_observations", "priced_observations", "unpriced_observations", "rate_id"),
)
TRACE_COLUMNS = (
    *("id", "cost_usd", "billed_cost_usd", "credits", *DECIDED, *TOKEN_COLUMNS),
    *("start_time", "hour", "priced_as_of", "tenant_id", "user_id"),
)


def step_row(step: Step, trace: TraceFact) -> Row:
    """The step of the trace as it is stored, in the order of STEP_COLUMNS; without the columns of PLAIN where all of them are that."""
    received = step.received
    tenant, user, project, flow, name = (
        received.tenant_reference,
        received.user_reference,
        received.project_id,
        received.flow_id,
        received.trace_name,
    )
    row = (
        *(step.id, step.trace_id, step.content_hash, received.observation_id),
        *(received.type, received.name, received.level, received.is_root, received.model),
        *stamps((received.start_time, received.end_time, received.received_at)),
    )
    prices = (step.price_id, step.langfuse_cost_picousd, step.cost_picousd, step.billed_cost_picousd, step.microcredits)
    said = (
        None if tenant == trace.tenant_reference else tenant,
        None if user == trace.user_reference else user,
        None if project == trace.project_id else project,
        None if flow == trace.flow_id else flow,
        None if name == trace.name else name,
    )
    usage_details, gone_since = received.usage_details, step.gone_since
    if step.cost_source is WITHOUT_USAGE and not usage_details and gone_since is None and prices == UNKNOWN and said == NOTHING:
        return row
    usage = msgspec.json.encode(usage_details).decode() if usage_details else ""
    return (*row, *prices, step.cost_source.value, *step.tokens, usage, gone_since and stamp(gone_since), *said)


def trace_row(trace: TraceFact) -> Row:
    """The trace as it is stored, in the order of TRACE_COLUMNS."""
    return (
        *(trace.id, trace.cost_picousd, trace.billed_cost_picousd, trace.microcredits),
        *(trace.connection_id, trace.langfuse_trace_id, trace.name, trace.latency_ms, trace.is_failed, trace.is_voided),
        *(trace.tenant_reference, trace.user_reference, trace.project_id, trace.flow_id, trace.model),
        *(trace.observations, trace.gone_observations, trace.priced_observations, trace.unpriced_observations, trace.rate_id),
        *trace.tokens,
        *stamps((trace.start_time, trace.hour, trace.priced_as_of)),
        trace.tenant_id.hex if trace.tenant_id else None,
        trace.user_id.hex if trace.user_id else None,
    )


def stored_traces(trace_ids: Collection[str]) -> set[str]:
    """Those of the traces that are stored."""
    return {pk.hex for pk in Trace.objects.filter(among("usage_trace.id", trace_ids)).order_by().values_list("pk", flat=True)}


class StoredVersion(NamedTuple):
    """Which version of a step is stored, and whether Langfuse had it when it was last looked for."""

    received_at: datetime
    content_hash: int
    is_gone: bool

    def is_older_than(self, step: Step) -> bool:
        """Whether the step, as it comes from Langfuse now, is news."""
        return self.is_gone or (self.received_at, self.content_hash) < step.version


def stored_versions(trace_ids: Collection[str]) -> dict[str, StoredVersion]:
    """The version that is stored of each step of the traces."""
    stored = Observation.objects.filter(among("usage_observation.trace_id", trace_ids)).order_by()
    found = stored.values_list("pk", "received_at", "content_hash", "gone_since")
    return {pk.hex: StoredVersion(received_at, content_hash, gone_since is not None) for pk, received_at, content_hash, gone_since in found}


def lock_traces(trace_ids: Collection[str]) -> dict[str, TraceFact]:
    """The stored traces, locked in the order of their keys until the transaction ends."""
    locked = Trace.objects.select_for_update(of=("self",)).filter(among("usage_trace.id", trace_ids)).order_by("pk")
    facts = (_trace_fact(row) for row in locked.values(*TRACE_COLUMNS).iterator(chunk_size=2000))
    return {fact.id: fact for fact in facts}


def load_steps(traces: Mapping[str, TraceFact]) -> Iterator[Step]:
    """All stored steps of the traces."""
    stored = Observation.objects.filter(among("usage_observation.trace_id", traces)).order_by()
    for row in stored.values(*STEP_COLUMNS).iterator(chunk_size=2000):
        yield _step(row, traces[row["trace_id"].hex])


def _trace_fact(row: dict[str, Any]) -> TraceFact:
    return TraceFact(
        id=row["id"].hex,
        tokens=_tokens(row),
        cost_picousd=_scaled(row["cost_usd"], USD_PLACES),
        billed_cost_picousd=_scaled(row["billed_cost_usd"], USD_PLACES),
        microcredits=_scaled(row["credits"], CREDIT_PLACES),
        **{name: row[name] for name in (*DECIDED, "start_time", "hour", "priced_as_of", "tenant_id", "user_id")},
    )


def _step(row: dict[str, Any], trace: TraceFact) -> Step:
    langfuse_cost = row["langfuse_cost_usd"]
    received = ReceivedObservation(
        trace_id=trace.langfuse_trace_id,
        trace_name=trace.name if row["trace_name"] is None else row["trace_name"],
        observation_id=row["langfuse_observation_id"],
        usage_details=msgspec.json.decode(row["usage_details"]) if row["usage_details"] else {},
        cost_usd=langfuse_cost,
        **{name: getattr(trace, name) if row[name] is None else row[name] for name in SAID_OF_TRACE},
        **{name: row[name] for name in (*SAID, "start_time", "end_time", "received_at")},
    )
    return Step(
        id=row["id"].hex,
        trace_id=row["trace_id"].hex,
        received=received,
        content_hash=row["content_hash"],
        tokens=_tokens(row),
        langfuse_cost_picousd=_scaled(langfuse_cost, USD_PLACES),
        cost_picousd=_scaled(row["cost_usd"], USD_PLACES),
        cost_source=CostSource(row["cost_source"]),
        price_id=row["price_id"],
        billed_cost_picousd=_scaled(row["billed_cost_usd"], USD_PLACES),
        microcredits=_scaled(row["credits"], CREDIT_PLACES),
        gone_since=row["gone_since"],
    )


def _tokens(row: dict[str, Any]) -> TokenCounts:
    return TokenCounts(*[row[name] for name in TOKEN_COLUMNS])


def _scaled(value: Decimal | None, places: int) -> int | None:
    return None if value is None else to_scaled(value, places)


def write_traces(new: Iterable[Row], changed: Sequence[Row]) -> None:
    """Insert the new rows and replace the changed ones. Raises IntegrityError when a new one is there already."""
    with database.cursor() as cursor:
        insert_rows(cursor, Trace._meta.db_table, TRACE_COLUMNS, new)
        update_rows(cursor, Trace._meta.db_table, TRACE_COLUMNS, changed)


def write_steps(new: Iterable[Row], changed: Iterable[Row]) -> None:
    """The same of steps."""
    rows: dict[int, list[Row]] = {PLAIN_WIDTH: [], len(STEP_COLUMNS): []}
    for row in new:
        rows[len(row)].append(row)
    with database.cursor() as cursor:
        for width, alike in rows.items():
            insert_rows(cursor, Observation._meta.db_table, STEP_COLUMNS[:width], alike)
        whole = [row if len(row) == len(STEP_COLUMNS) else row + PLAIN for row in changed]
        update_rows(cursor, Observation._meta.db_table, STEP_COLUMNS, whole)


def load_directory_of_ids() -> Directory:
    """All tenants and users, by the ids that traces name them with."""
    tenants = {str(pk): pk for pk in Tenant.objects.order_by().values_list("pk", flat=True)}
    users = {str(pk): (pk, tenant_id) for pk, tenant_id in User.objects.order_by().values_list("pk", "tenant_id")}
    return Directory(tenants, users)


# Any number, the same in every process; PostgreSQL's own locks for what no row stands for.
REPRICINGS_LOCK = 4_711_201


def keep_repricings() -> None:
    """Let no repricing begin or be undone until this transaction ends; others may do the same at once."""
    _lock_repricings("pg_advisory_xact_lock_shared")


def change_repricings() -> None:
    """Wait for all transactions that store traces, and let none begin to until this one ends."""
    _lock_repricings("pg_advisory_xact_lock")


def _lock_repricings(function: str) -> None:
    # A transaction of SQLite has the database to itself.
    if database.vendor == "postgresql":
        with database.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [REPRICINGS_LOCK])


def load_repriced() -> list[Repriced]:
    """The periods whose repricing holds."""
    rows = Repricing.objects.filter(state__in=Repricing.HOLDING).order_by("as_of").values_list("start", "end", "as_of", "tenant_id")
    return [Repriced(*row) for row in rows]


def known_ids(model: type[Tenant] | type[User], references: Collection[str]) -> list[str]:
    """Those of the references (canonical ids) that are keys of the model."""
    parsed = [one.hex for text in references if (one := parse_uuid(text))]
    table = f'"{model._meta.db_table}"'
    return [str(pk) for pk in model._default_manager.filter(among(f"{table}.id", parsed)).values_list("pk", flat=True)]


def set_aside(connection: LangfuseConnection, rejected: Sequence[RejectedRow]) -> int:
    """Store rows that break the contract; one that is there already is not stored again. Returns how many are new."""
    if not rejected:
        return 0
    aside = RejectedObservation.objects.filter(connection=connection)
    before = aside.count()
    rows = [
        RejectedObservation(
            connection=connection,
            langfuse_observation_id=row.observation_id,
            langfuse_trace_id=row.trace_id,
            received_at=row.received_at,
            reason=row.reason,
            row=row.row,
        )
        for row in rejected
    ]
    RejectedObservation.objects.bulk_create(rows, ignore_conflicts=True)
    return aside.count() - before


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
