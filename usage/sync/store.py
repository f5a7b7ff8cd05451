"""Loads and stores facts: whole batches, with the columns named once."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.db import connection, models

from kluisz_analytics.bulk import insert_rows, listed, update_rows
from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, to_scaled
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import CostSource
from pricing.units import TokenCounts
from usage.models import Observation, RejectedObservation, Trace
from usage.sync.identity import parse_uuid
from usage.sync.steps import Directory, Step, TraceFact

T = TypeVar("T")
TOKEN_FIELDS = ("input", "output", "total", "cached", "cache_write", "reasoning", "audio")
TOKEN_COLUMNS = tuple(f"{name}_tokens" for name in TOKEN_FIELDS)


def usd(value: Decimal | None) -> int | None:
    return None if value is None else to_scaled(value, USD_PLACES)


def credits(value: Decimal | None) -> int | None:
    return None if value is None else to_scaled(value, CREDIT_PLACES)


# The columns of a row, in its order: those that are stored as they are, then those that are not.
STEP_PLAIN = tuple(
    "id trace_id langfuse_observation_id type name level is_root start_time end_time received_at content_hash tenant_reference "
    "user_reference project_id flow_id trace_name model price_id".split()
)
STEP_MONEY = ("langfuse_cost_usd", "cost_usd", "billed_cost_usd", "credits")
STEP_COLUMNS = (*STEP_PLAIN, *TOKEN_COLUMNS, "cost_source", "usage_details", *STEP_MONEY)
TRACE_PLAIN = tuple(
    "id connection_id langfuse_trace_id name start_time hour latency_ms is_failed tenant_id user_id tenant_reference user_reference "
    "project_id flow_id observations priced_observations unpriced_observations rate_id".split()
)
TRACE_MONEY = ("cost_usd", "billed_cost_usd", "credits")
TRACE_COLUMNS = (*TRACE_PLAIN, *TOKEN_COLUMNS, *TRACE_MONEY)

_tokens = [f"tokens.{name}" for name in TOKEN_FIELDS]
_plain_of_step = attrgetter(*STEP_PLAIN, *_tokens)
_plain_of_trace = attrgetter(*TRACE_PLAIN, *_tokens)


def step_row(step: Step) -> tuple[Any, ...]:
    """The step as it is stored, in the order of STEP_COLUMNS. Two steps with equal rows are the same."""
    usage = msgspec.json.encode(step.usage_details).decode() if step.usage_details else ""
    money = (usd(step.langfuse_cost_usd), usd(step.cost_usd), usd(step.billed_cost_usd), credits(step.credits))
    return (*_plain_of_step(step), step.cost_source.value, usage, *money)


def trace_row(trace: TraceFact) -> tuple[Any, ...]:
    """The trace as it is stored, in the order of TRACE_COLUMNS."""
    return (*_plain_of_trace(trace), usd(trace.cost_usd), usd(trace.billed_cost_usd), credits(trace.credits))


def stored_traces(trace_ids: Iterable[UUID]) -> set[UUID]:
    """Those of the traces that are stored."""
    return set(Trace.objects.filter(pk__in=listed(trace_ids)).order_by().values_list("pk", flat=True))


def stored_versions(trace_ids: Iterable[UUID]) -> dict[UUID, tuple[datetime, int]]:
    """The version that is stored of each step of the traces."""
    found = Observation.objects.filter(trace_id__in=listed(trace_ids)).order_by().values_list("pk", "received_at", "content_hash")
    return {pk: (received_at, content_hash) for pk, received_at, content_hash in found}


def lock_traces(trace_ids: Iterable[UUID]) -> dict[UUID, TraceFact]:
    """The stored traces, locked in the order of their keys until the transaction ends."""
    names = [name for name in TRACE_COLUMNS if name not in TOKEN_COLUMNS]
    locked = Trace.objects.select_for_update(of=("self",)).filter(pk__in=listed(trace_ids)).order_by("pk")
    rows = _with_tokens(locked, names)
    return {values[0]: TraceFact(**dict(zip(names, values, strict=True)), tokens=tokens) for *values, tokens in rows}


def load_steps(trace_ids: Iterable[UUID]) -> Iterator[Step]:
    """All stored steps of the traces."""
    names = [name for name in STEP_COLUMNS if name not in TOKEN_COLUMNS]
    stored = Observation.objects.filter(trace_id__in=listed(trace_ids)).order_by()
    for *values, langfuse_trace_id, tokens in _with_tokens(stored, [*names, "trace__langfuse_trace_id"]):
        fields = dict(zip(names, values, strict=True))
        fields["usage_details"] = msgspec.json.decode(fields["usage_details"]) if fields["usage_details"] else {}
        fields["cost_source"] = CostSource(fields["cost_source"])
        yield Step(**fields, langfuse_trace_id=langfuse_trace_id, tokens=tokens)


def _with_tokens(rows: models.QuerySet[Any], names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for row in rows.values_list(*names, *TOKEN_COLUMNS).iterator(chunk_size=2000):
        yield *row[: len(names)], TokenCounts(*row[len(names) :])


def write(model: type[models.Model], columns: Sequence[str], new: list[tuple[Any, ...]], changed: list[tuple[Any, ...]]) -> None:
    """Insert the new rows and replace the changed ones. Raises IntegrityError when a new one is there already."""
    with connection.cursor() as cursor:
        if new:
            insert_rows(cursor, model._meta.db_table, columns, new)
        update_rows(cursor, model._meta.db_table, columns, changed)


def known_directory(traces: Iterable[Sequence[Step]]) -> Directory:
    """The tenants and users that the steps refer to and that we know."""
    tenant_ids, user_ids = set(), set()
    for steps in traces:
        for step in steps:
            tenant_ids.add(step.tenant_reference)
            user_ids.add(step.user_reference)
    users = User.objects.filter(pk__in=listed(_uuids(user_ids))).values_list("pk", "tenant_id")
    tenants = Tenant.objects.filter(pk__in=listed(_uuids(tenant_ids))).values_list("pk", flat=True)
    return Directory(frozenset(tenants), dict(users))


def known_ids(model: type[Tenant] | type[User], references: Collection[str]) -> list[str]:
    """Those of the references (canonical ids) that are keys of the model."""
    found = model._default_manager.filter(pk__in=listed(_uuids(references))).values_list("pk", flat=True)
    return [str(pk) for pk in found]


def _uuids(texts: Collection[str]) -> list[UUID]:
    return [parsed for text in texts if (parsed := parse_uuid(text))]


def set_aside(rows: Iterable[RejectedObservation]) -> int:
    """Store rows that break the contract; one that is there already is not stored again. Returns how many are new."""
    before = RejectedObservation.objects.count()
    RejectedObservation.objects.bulk_create(rows, ignore_conflicts=True)
    return RejectedObservation.objects.count() - before


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
