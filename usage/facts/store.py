"""Loads and stores facts: whole batches, with the columns named once.

A row is what insert_rows takes: primitives, in the order of the columns. Two facts with equal rows
are the same.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import connection as database

from kluisz_analytics.bulk import among, insert_rows, stamps, update_rows
from kluisz_analytics.identifiers import as_called, parse_uuid
from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, to_scaled
from kluisz_analytics.tenants.directory import directory_version, names_in_use, stays_of
from kluisz_analytics.tenants.models import Flow, Project, Standing, Tenant, TenantAlias, User
from pricing.price_book import Repriced
from pricing.units import TokenCounts
from usage.environments import BilledEnvironments, billed_environments
from usage.facts.decided import BilledStep, TraceFact
from usage.facts.findings import Finding, Ruling, Rulings
from usage.facts.owner import Directory, KnownUser, Outcome, Settlement
from usage.facts.received import Received, unpacked
from usage.facts.rules import Entries, FindsBy, Rule
from usage.langfuse.wire import RejectedRow, TraceAttributes
from usage.models import (
    AttributionRule,
    ConnectionTenant,
    LangfuseConnection,
    Observation,
    ReceivedTrace,
    RejectedObservation,
    Repricing,
    Trace,
    TraceSettlement,
    UsageRuling,
)
from usage.models.rework import Rework

T = TypeVar("T")
Row = tuple[Any, ...]
TOKEN_COLUMNS = tuple(f"{name}_tokens" for name in TokenCounts._fields)

STEP_COLUMNS = (
    *(
        "trace_id",
        "langfuse_observation_id",
        "type",
        "name",
        "level",
        "is_root",
        "model",
        "source",
        "source_version",
        "context",
        "start_time",
        "end_time",
    ),
    *(
        "price_id",
        "langfuse_cost_usd",
        "cost_usd",
        "billed_cost_usd",
        "credits",
        "cost_source",
        *TOKEN_COLUMNS,
        "usage_details",
        "uncosted",
        "usage_doubt",
        "finding",
        "other_cost_usd",
        "takes",
        "counted_in",
        "counted_in_trace",
    ),
)
DECIDED = (
    *("connection_id", "langfuse_trace_id", "latency_ms", "is_failed", "is_voided", "set_aside"),
    *("uncharged", "model", "attribution", "source", "source_version"),
    *(
        "observations",
        "deleted_observations",
        "priced_observations",
        "partly_priced_observations",
        "unpriced_observations",
        "unmetered_observations",
        "doubtful_observations",
        "rate_id",
    ),
)
TIMES = ("start_time", "hour", "last_step_hour", "priced_as_of", "unowned_as_of")
DISPUTE = ("dispute", "settled_as", "disputed_tenant_id", "disputed_user_id")
TRACE_COLUMNS = (
    "id",
    "cost_usd",
    "billed_cost_usd",
    "credits",
    *DECIDED,
    *TraceAttributes._fields,
    *TOKEN_COLUMNS,
    *TIMES,
    "tenant_id",
    "user_id",
    *DISPUTE,
)
RECEIVED_COLUMNS = ("trace_id", "steps", "deleted")
_encoder = msgspec.json.Encoder(order="deterministic")


# In C: naming each attribute in Python takes three times as long, and there are millions.
_of_version = attrgetter(
    *("observation_id", "type", "name", "level", "is_root", "model", "source", "source_version"),
    "context",
)
_of_step = attrgetter(
    "price_id", "langfuse_cost_picousd", "cost_picousd", "billed_cost_picousd", "microcredits"
)
_of_trace = attrgetter(
    *("id", "cost_picousd", "billed_cost_picousd", "microcredits", *DECIDED, "attributes", "tokens")
)
_times_of_trace = attrgetter(*TIMES)


def step_row(step: BilledStep, trace: TraceFact) -> Row:
    """A billed step of the trace as it is stored, in the order of STEP_COLUMNS."""
    version = step.version
    return (
        trace.id,
        *_of_version(version),
        *stamps((version.start_time, version.end_time)),
        *_of_step(step),
        step.cost_source.value,
        *step.tokens,
        _encoder.encode(version.usage_details).decode() if version.usage_details else "",
        _encoder.encode(version.uncosted).decode() if version.uncosted else "",
        # Most are "": asking a member of an enumeration for its value takes long.
        step.doubt and step.doubt.value,
        step.finding and step.finding.value,
        step.other_cost_picousd,
        step.takes and step.takes.value,
        step.counted_in,
        step.counted_in_trace,
    )


def trace_row(trace: TraceFact) -> Row:
    """The trace as it is stored, in the order of TRACE_COLUMNS."""
    *plain, attributes, tokens = _of_trace(trace)
    tenant_id, user_id = trace.tenant_id, trace.user_id
    dispute = NO_DISPUTE
    if trace.dispute:
        disputed = trace.disputed_tenant_id, trace.disputed_user_id
        dispute = trace.dispute, trace.settled_as, *map(_hex, disputed)
    return (
        *plain,
        *attributes,
        *tokens,
        *stamps(_times_of_trace(trace)),
        None if tenant_id is None else f"{tenant_id.int:032x}",
        None if user_id is None else f"{user_id.int:032x}",
        *dispute,
    )


NO_DISPUTE: Row = ("", "", None, None)


def _hex(key: UUID | None) -> str | None:
    return None if key is None else key.hex


def stored_traces(trace_ids: Collection[str]) -> set[str]:
    """Those of the traces that are stored."""
    return {
        pk.hex
        for pk in (
            Trace.objects.filter(among("usage_trace.id", trace_ids))
            .order_by()
            .values_list("pk", flat=True)
        )
    }


def load_received(trace_keys: Collection[str]) -> dict[str, Received]:
    """What is stored of these traces (keys as 32 hex digits), by their keys; one query."""
    stored = ReceivedTrace.objects.filter(
        among("usage_received_trace.trace_id", trace_keys)
    ).order_by()
    columns = (
        "trace_id",
        "trace__langfuse_trace_id",
        "steps",
        "deleted",
        *(f"trace__{name}" for name in TraceAttributes._fields),
    )
    return {
        key.hex: unpacked(trace_id, TraceAttributes(*decided), steps, deleted)
        for key, trace_id, steps, deleted, *decided in stored.values_list(*columns).iterator(
            chunk_size=5000
        )
    }


def received_of(trace: Trace) -> Received:
    """What Langfuse says of one trace."""
    return load_received([trace.pk.hex])[trace.pk.hex]


def lock_traces(trace_ids: Collection[str]) -> dict[str, TraceFact]:
    """The stored traces, locked in the order of their keys until the transaction ends."""
    locked = (
        Trace.objects.select_for_update(of=("self",))
        .filter(among("usage_trace.id", trace_ids))
        .order_by("pk")
    )
    facts = (_trace_fact(row) for row in locked.values(*TRACE_COLUMNS).iterator(chunk_size=2000))
    return {fact.id: fact for fact in facts}


def _trace_fact(row: dict[str, Any]) -> TraceFact:
    return TraceFact(
        id=row["id"].hex,
        attributes=TraceAttributes(*[row[name] for name in TraceAttributes._fields]),
        tokens=_tokens(row),
        cost_picousd=_scaled(row["cost_usd"], USD_PLACES),
        billed_cost_picousd=_scaled(row["billed_cost_usd"], USD_PLACES),
        microcredits=_scaled(row["credits"], CREDIT_PLACES),
        **{name: row[name] for name in (*DECIDED, *TIMES, "tenant_id", "user_id", *DISPUTE)},
    )


def _tokens(row: dict[str, Any]) -> TokenCounts:
    return TokenCounts(*[row[name] for name in TOKEN_COLUMNS])


def _scaled(value: Decimal | None, places: int) -> int | None:
    return None if value is None else to_scaled(value, places)


def write_traces(new: Iterable[Row], changed: Sequence[Row]) -> None:
    """Insert the new rows and replace the changed ones.

    Raises IntegrityError when a new one is there already.
    """
    with database.cursor() as cursor:
        insert_rows(cursor, Trace._meta.db_table, TRACE_COLUMNS, new)
        update_rows(cursor, Trace._meta.db_table, TRACE_COLUMNS, changed)


def write_received(new: Iterable[Row], changed: Sequence[Row]) -> None:
    """The same of what Langfuse says of them: rows of RECEIVED_COLUMNS, new ones without the last,
    since nothing of them is deleted.
    """
    with database.cursor() as cursor:
        insert_rows(cursor, ReceivedTrace._meta.db_table, RECEIVED_COLUMNS[:2], new)
        update_rows(cursor, ReceivedTrace._meta.db_table, RECEIVED_COLUMNS, changed)


def write_steps(rows: Iterable[Row], instead_of: Collection[str]) -> None:
    """Insert billed steps, in place of all that the traces ``instead_of`` have had."""
    if instead_of:
        Observation.objects.filter(among("usage_observation.trace_id", instead_of)).delete()
    with database.cursor() as cursor:
        insert_rows(cursor, Observation._meta.db_table, STEP_COLUMNS, rows)


def load_directory() -> Directory:
    """All tenants and users, by what runs name them with; a handful of queries.

    Who was merged into another one stands for it.
    """
    # Before all else: what changes meanwhile makes it a state that is asked for again.
    version, stays = directory_version(), stays_of()
    own = Tenant.objects.order_by().values_list("pk", "merged_into", "seen")
    into, seen = {pk: other for pk, other, _ in own}, {pk for pk, _, standing in own if standing}
    same = {pk: pk for pk in into}
    tenants = {str(pk): same.get(other or pk, pk) for pk, other in into.items()}
    rows = User.objects.order_by().values_list("pk", "tenant_id", "merged_into", "seen")
    users, merged = {}, {}
    for pk, tenant_id, other, standing in rows:
        stays_of_user = tuple(stays.get(pk, ()))
        users[str(pk)] = KnownUser(pk, same.get(tenant_id, tenant_id), stays_of_user)
        if other is not None:
            merged[str(pk)] = str(other)
        if standing:
            seen.add(pk)
    users |= {pk: users[other] for pk, other in merged.items() if other in users}
    aliases = TenantAlias.objects.order_by().values_list("name", "tenant")
    tenant_names = {as_called(name): same[pk] for name, pk in aliases if pk in same}
    names = load_names(users)
    return Directory(tenants, users, names, version, tenant_names, frozenset(seen))


def load_names(users: Mapping[str, KnownUser]) -> dict[str, dict[UUID, KnownUser | None]]:
    """What users are called beside their ids, and where."""
    return _by_name(names_in_use(), users)


def _called(column: str) -> Iterator[tuple[str, UUID, UUID]]:
    """What users are called in their tenants, also in those that they have left."""
    for where in ("tenant", "memberships__tenant"):
        found = User.objects.filter(**{f"{where}__isnull": False}, seen=Standing.ENTERED)
        found = found.exclude(**{column: ""})
        for name, tenant_id, user_id in found.order_by().values_list(column, where, "pk"):
            yield as_called(name), tenant_id, user_id


def _by_name(
    called: Iterable[tuple[str, UUID, UUID]], users: Mapping[str, KnownUser]
) -> dict[str, dict[UUID, KnownUser | None]]:
    names: dict[str, dict[UUID, KnownUser | None]] = defaultdict(dict)
    for name, tenant_id, user_id in called:
        user, of_name = users.get(str(user_id)), names[name]
        # One who came since the users were read is found the next time.
        if user is not None and of_name.setdefault(tenant_id, user) != user:
            of_name[tenant_id] = None
    return names


def load_settlements(trace_ids: Collection[str]) -> dict[str, Settlement]:
    """What holds of these traces, by their keys."""
    if not trace_ids:
        return {}
    rows = TraceSettlement.objects.filter(
        among("usage_trace_settlement.trace_id", trace_ids), undone_at=None
    ).order_by()
    return {
        key.hex: Settlement(Outcome(outcome), *claim)
        for key, outcome, *claim in rows.values_list(
            "trace", "outcome", "named_tenant", "named_user"
        )
    }


def load_billed_environments(connection_id: int) -> BilledEnvironments:
    """The environments of the connection that are billed now."""
    asked = LangfuseConnection.objects.filter(pk=connection_id)
    return billed_environments(asked.values_list("billed_environments", flat=True).get())


# Any number, the same in every process; PostgreSQL's own locks for what no row stands for.
REPRICINGS_LOCK = 4_711_201


def keep_repricings() -> None:
    """Let no repricing begin or be undone, and no other environments be billed, until this
    transaction ends; others may do the same at once.
    """
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
    rows = (
        Repricing.objects.filter(state__in=Repricing.HOLDING)
        .order_by("as_of")
        .values_list("start", "end", "as_of", "tenant_id")
    )
    return [Repriced(*row) for row in rows]


def load_rulings(connection_id: int) -> Rulings:
    """The rulings that hold on the connection's usage."""
    rows = list(
        UsageRuling.objects.filter(connection=connection_id).values_list(
            "state",
            "trace_key",
            "langfuse_observation_id",
            *("pk", "finding", "takes", "model", "source"),
        )
    )
    return Rulings(
        [
            Ruling(pk, finding, takes, model, None if key is None else (key.hex, step_id), source)
            for state, key, step_id, pk, finding, takes, model, source in rows
            if state in UsageRuling.HOLDING
        ],
        settings.COST_RATIO_PERCENT,
        looks_for_likely=any(finding == Finding.ALIKE.value for _, _, _, _, finding, *_ in rows),
    )


def load_attribution_rules(connection_id: int, **of: Any) -> list[Rule]:
    """The attribution rules that hold on the connection's runs, in their order; with ``of`` of
    these only.
    """
    rows = AttributionRule.objects.filter(
        rules__connection=connection_id, rules__state__in=Rework.HOLDING, **of
    )
    ordered = rows.select_related("rules").order_by("rules__position", "rules", "position")
    return [row.as_rule() for row in ordered]


def load_entries(directory: Directory) -> Entries:
    """What else than by ids and aliases rules find somebody by; nine queries."""
    entered = Tenant.objects.filter(seen=Standing.ENTERED).order_by()
    slugs = entered.values_list("slug", "pk")
    names: dict[str, UUID | None] = {}
    for name, pk in entered.values_list("name", "pk"):
        if names.setdefault(as_called(name), pk) != pk:
            names[as_called(name)] = None
    return Entries(
        {FindsBy.SLUG: {as_called(slug): pk for slug, pk in slugs}, FindsBy.NAME: names},
        {
            FindsBy.NAME: _by_name(_called("username"), directory.users),
            FindsBy.EMAIL: _by_name(_called("email"), directory.users),
        },
        _ids_by_name(Project.objects.order_by().values_list("name", "tenant", "pk")),
        _ids_by_name(Flow.objects.order_by().values_list("name", "project__tenant", "pk")),
        _seen_tenants(directory),
        _seen_users(directory),
    )


def _seen_tenants(directory: Directory) -> dict[str, UUID]:
    """Tenants by the names that rules entered them for."""
    rows = Tenant.objects.exclude(seen_as="").order_by().values_list("seen_as", "pk")
    # One that came since the directory was read is found the next time.
    return {
        as_called(name): directory.tenants[str(pk)]
        for name, pk in rows
        if str(pk) in directory.tenants
    }


def _seen_users(directory: Directory) -> dict[UUID, dict[str, KnownUser]]:
    """Users by the tenants where rules entered them, and the names."""
    seen: dict[UUID, dict[str, KnownUser]] = defaultdict(dict)
    rows = User.objects.exclude(seen_as="").order_by()
    for tenant_id, name, pk in rows.values_list("seen_in", "seen_as", "pk"):
        user = directory.users.get(str(pk))
        if user is not None:
            seen[tenant_id][as_called(name)] = user
    return seen


def _ids_by_name(
    rows: Iterable[tuple[str, UUID, UUID]],
) -> dict[str, dict[UUID, str | None]]:
    ids: dict[str, dict[UUID, str | None]] = defaultdict(dict)
    for name, tenant_id, pk in rows:
        of_name = ids[as_called(name)]
        if of_name.setdefault(tenant_id, str(pk)) != str(pk):
            of_name[tenant_id] = None
    return ids


def remember_tenants(connection_id: int, tenant_ids: Collection[UUID]) -> None:
    """Keep that something of these tenants was read by the connection."""
    ConnectionTenant.objects.bulk_create(
        [
            ConnectionTenant(connection_id=connection_id, tenant_id=one)
            for one in sorted(tenant_ids)
        ],
        ignore_conflicts=True,
    )


def known_ids(model: type[Tenant] | type[User], references: Collection[str]) -> list[str]:
    """Those of the references (canonical ids) that are keys of the model."""
    parsed = [one.hex for text in references if (one := parse_uuid(text))]
    table = f'"{model._meta.db_table}"'
    return [
        str(pk)
        for pk in model._default_manager.filter(among(f"{table}.id", parsed)).values_list(
            "pk", flat=True
        )
    ]


def set_aside(connection: LangfuseConnection, rejected: Sequence[RejectedRow]) -> int:
    """Store rows that break the contract; one that is there already is not stored again.

    Returns how many are new.
    """
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
