"""Checks the invariants over the whole database: what ``manage.py verify_books`` reports
(domain.md, Invariants).

The ledger by itself is checked by ``credits.books``.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Count, OuterRef, Subquery

from credits.books import ledger_findings
from kluisz_analytics.bulk import insert_rows, stamp
from kluisz_analytics.findings import EVIDENCE_ROWS, Finding, finding, findings
from kluisz_analytics.snapshot import one_snapshot
from kluisz_analytics.tenants.attributed import owned_sql
from usage.facts.identity import response_key
from usage.facts.received import Received, unpacked
from usage.facts.ties import OF_MANY
from usage.facts.twins import response_ids
from usage.facts.unmetered import unmetered_calls
from usage.langfuse.wire import TraceAttributes
from usage.measures import SUM_NAMES, UNDECIDED_STEP
from usage.models import Observation, ReceivedTrace, ResponseTraces, Trace
from usage.periods import Granularity, hour_of, period_of
from usage.rollups import sources
from usage.rollups.build import hours_of
from usage.rollups.rules import BUILT, TENANTS, USERS, WITHOUT_USER, RollupRule
from usage.rollups.sketches import Sketch
from usage.rollups.stale import stale_periods

SKETCHES_A_FETCH = 10_000
RECEIVED_A_FETCH = 5_000
ALL_TIME = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))

CHARGE_CHECKS = {
    # Of an hour that is cut, each part by itself.
    "invariant 5: what is posted for an hour is its priced usage": (
        f"""
        SELECT user_id, hour, SUM(priced), SUM(posted) FROM (
            SELECT user_id, COALESCE((SELECT MAX(k.at) FROM credit_hour_cut k
                WHERE k.account_id = t.user_id AND k.hour = t.hour AND k.at <= t.start_time),
                t.hour) AS hour, credits AS priced, 0 AS posted FROM usage_trace t
            WHERE credits IS NOT NULL AND {owned_sql("t")} AND NOT is_voided
            UNION ALL SELECT account_id, hour, 0, credits FROM credit_usage_charge) both_sides
        GROUP BY user_id, hour HAVING SUM(priced) <> SUM(posted)"""
    ),
}
FACT_CHECKS = {
    "facts: a trace is the sum of its billed observations": (
        f"""
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t LEFT JOIN (
            SELECT trace_id, SUM(total_tokens) AS tokens, SUM(cost_usd) AS cost,
                SUM(credits) AS credits,
                SUM(CASE WHEN cost_source = 'partly_priced' THEN 1 ELSE 0 END) AS partly,
                SUM(CASE WHEN cost_source = 'unpriced' THEN 1 ELSE 0 END) AS unpriced,
                SUM(CASE WHEN cost_source = 'unmetered' THEN 1 ELSE 0 END) AS unmetered,
                SUM({UNDECIDED_STEP.in_sql("u")}) AS doubtful,
                SUM(CASE WHEN cost_source
                    IN ('partly_priced', 'unpriced', 'unmetered', 'no_usage')
                    THEN 0 ELSE 1 END) AS priced
            FROM usage_observation u GROUP BY trace_id) o ON o.trace_id = t.id
        WHERE COALESCE(o.tokens, 0) <> t.total_tokens
            OR COALESCE(o.cost, 0) <> COALESCE(t.cost_usd, 0)
            OR COALESCE(o.credits, 0) <> COALESCE(t.credits, 0)
            OR COALESCE(o.priced, 0) <> t.priced_observations
            OR COALESCE(o.partly, 0) <> t.partly_priced_observations
            OR COALESCE(o.unpriced, 0) <> t.unpriced_observations
            OR COALESCE(o.unmetered, 0) <> t.unmetered_observations
            OR COALESCE(o.doubtful, 0) <> t.doubtful_observations"""
    ),
    "facts: a trace names the model of its usage": (
        """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t LEFT JOIN (
            SELECT trace_id, COUNT(DISTINCT model) AS models, MIN(model) AS model
                FROM usage_observation
            WHERE cost_source <> 'no_usage' GROUP BY trace_id) o ON o.trace_id = t.id
        WHERE CASE WHEN o.models > 1 THEN t.model IS NOT NULL ELSE t.model IS NULL
            OR t.model <> COALESCE(o.model, '') END"""
    ),
    "facts: every trace has what Langfuse says of it": (
        """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t
        WHERE NOT EXISTS (SELECT 1 FROM usage_received_trace r WHERE r.trace_id = t.id)"""
    ),
    "facts: what Langfuse says is of a trace": (
        """
        SELECT r.trace_id FROM usage_received_trace r
            WHERE NOT EXISTS (SELECT 1 FROM usage_trace t WHERE t.id = r.trace_id)"""
    ),
    "facts: every observation has its trace": (
        """
        SELECT o.id, o.trace_id FROM usage_observation o LEFT JOIN usage_trace t
            ON t.id = o.trace_id WHERE t.id IS NULL"""
    ),
    "facts: whose traces a connection has is known": (
        """
        SELECT t.tenant_id, t.connection_id FROM usage_trace t WHERE t.tenant_id IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM langfuse_connection_tenant c
                WHERE c.connection_id = t.connection_id AND c.tenant_id = t.tenant_id)"""
    ),
    "facts: the user of a trace was of its tenant when it began": (
        """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t JOIN "user" u ON u.id = t.user_id
        WHERE t.tenant_id IS NOT NULL AND NOT CASE
            WHEN EXISTS (SELECT 1 FROM membership m WHERE m.user_id = t.user_id) THEN
                EXISTS (SELECT 1 FROM membership m WHERE m.user_id = t.user_id
                    AND m.tenant_id = t.tenant_id
                    AND (m.since IS NULL OR m.since <= t.start_time)
                    AND (m.until IS NULL OR t.start_time < m.until))
            ELSE t.tenant_id = u.tenant_id END
            AND NOT EXISTS (SELECT 1 FROM directory_change c
                WHERE c.user_id = t.user_id AND NOT c.is_done)"""
    ),
    "facts: a disputed trace is nobody's unless it is settled": (
        """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t
        LEFT JOIN usage_trace_settlement s ON s.trace_id = t.id AND s.undone_at IS NULL
            AND s.named_tenant_id = t.disputed_tenant_id AND s.named_user_id = t.disputed_user_id
        WHERE CASE WHEN t.dispute = '' THEN t.settled_as <> '' OR t.disputed_tenant_id IS NOT NULL
                OR t.disputed_user_id IS NOT NULL
            WHEN t.dispute = 'steps_disagree' THEN t.settled_as <> ''
            ELSE t.disputed_tenant_id IS NULL OR t.disputed_user_id IS NULL
                OR t.settled_as <> COALESCE(s.outcome, '') END
            OR t.dispute <> '' AND CASE t.settled_as
                WHEN 'named_tenant' THEN t.user_id IS NOT NULL
                    OR COALESCE(t.tenant_id <> t.disputed_tenant_id, true)
                WHEN 'users_tenant' THEN (t.tenant_id IS NULL) <> (t.user_id IS NULL)
                    OR t.user_id <> t.disputed_user_id
                ELSE t.tenant_id IS NOT NULL OR t.user_id IS NOT NULL END"""
    ),
    "facts: a step that is counted in another one costs nothing, and that one is counted": (
        """
        SELECT o.trace_id, o.langfuse_observation_id, o.counted_in FROM usage_observation o
        WHERE o.counted_in <> '' AND (o.finding NOT IN ('sum', 'twice', 'alike')
            OR o.cost_source <> 'no_usage' OR o.total_tokens <> 0 OR o.cost_usd IS NOT NULL
            OR o.billed_cost_usd IS NOT NULL OR o.credits IS NOT NULL
            OR NOT EXISTS (SELECT 1 FROM usage_observation c
                WHERE c.trace_id = COALESCE(o.counted_in_trace, o.trace_id)
                    AND c.langfuse_observation_id = o.counted_in AND c.counted_in = ''
                    AND c.cost_source <> 'no_usage'))"""
    ),
    "facts: nothing is counted in another tenant's trace": (
        """
        SELECT o.trace_id, o.langfuse_observation_id, o.counted_in FROM usage_observation o
        JOIN usage_trace t ON t.id = o.trace_id JOIN usage_trace c ON c.id = o.counted_in_trace
        WHERE o.counted_in <> '' AND t.tenant_id <> c.tenant_id"""
    ),
    "directory: a user is of the tenant that its history says": (
        """
        SELECT u.id, u.username FROM "user" u
        WHERE EXISTS (SELECT 1 FROM membership m WHERE m.user_id = u.id)
            AND NOT EXISTS (SELECT 1 FROM membership m WHERE m.user_id = u.id
                AND m.until IS NULL AND m.tenant_id = u.tenant_id)"""
    ),
    "directory: a user is of one tenant at a time": (
        """
        SELECT a.user_id, a.id, b.id FROM membership a
        JOIN membership b ON b.user_id = a.user_id AND b.id > a.id
            AND (a.until IS NULL OR b.since IS NULL OR b.since < a.until)
            AND (b.until IS NULL OR a.since IS NULL OR a.since < b.until)"""
    ),
    "facts: what a trace names exists": (
        """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t LEFT JOIN langfuse_connection c
            ON c.id = t.connection_id
        LEFT JOIN tenant ON tenant.id = t.tenant_id LEFT JOIN "user" u ON u.id = t.user_id
        WHERE c.id IS NULL OR (t.tenant_id IS NOT NULL AND tenant.id IS NULL)
            OR (t.user_id IS NOT NULL AND u.id IS NULL)"""
    ),
}


def verify_books() -> list[Finding]:
    """Everything that doesn't hold; an empty list when all of it does.

    All checks look at one state of the database, so whatever is stored meanwhile raises no alarm.
    """
    with connection.cursor() as cursor:
        _make_tables(cursor)
        with one_snapshot():
            return list(_findings(cursor))


def _findings(cursor: CursorWrapper) -> Iterator[Finding]:
    yield from ledger_findings()
    yield from findings(cursor, {**CHARGE_CHECKS, **FACT_CHECKS})
    yield from _received()
    _load_periods(cursor)
    for rule in (USERS, *BUILT):
        yield from _differing(cursor, rule.table, _stored_rows(rule), *_rows_from_facts(rule))
    yield from _differing(cursor, sources.TABLE, _stored_sources(), *_sources_from_facts())
    yield from findings(cursor, {NO_USER_CHECK: _tenants_and_users()})
    for rule in BUILT:
        yield from _sketches(cursor, rule)


def _differing(
    cursor: CursorWrapper, table: str, stored: str, from_facts: str, parameters: Sequence[Any]
) -> Iterator[Finding]:
    """Where a rollup and the facts differ."""
    yield from finding(
        cursor,
        f"invariant 1: {table} has what the facts do not say",
        f"{stored} EXCEPT {from_facts}",
        parameters,
    )
    yield from finding(
        cursor,
        f"invariant 1: {table} lacks what the facts say",
        f"{from_facts} EXCEPT {stored}",
        parameters,
    )


NO_USER_CHECK = "invariant 1: a tenant's numbers are its users' and those of no user"


def _tenants_and_users() -> str:
    """Of the days and longer periods that all three rollups have."""
    sums = ", ".join(f"SUM({name}) AS {name}" for name in SUM_NAMES)
    parts = [
        f"SELECT {tenant} AS tenant_id, granularity, period_start,"
        f" {', '.join(f'{sign}{name} AS {name}' for name in SUM_NAMES)} FROM {rule.table} r"
        f" WHERE r.granularity <> 'hour' AND {_is_reliable(TENANTS, 'r')}"
        f" AND {_is_reliable(WITHOUT_USER, 'r')}"
        for rule, tenant, sign in (
            (TENANTS, "tenant_id", ""),
            (USERS, "tenant_id", "-"),
            (WITHOUT_USER, "tenant_key", "-"),
        )
    ]
    differs = " OR ".join(f"SUM({name}) <> 0" for name in SUM_NAMES)
    return (
        f"SELECT tenant_id, granularity, period_start, {sums} FROM ({' UNION ALL '.join(parts)}) b"
        f" GROUP BY tenant_id, granularity, period_start HAVING {differs}"
    )


def _make_tables(cursor: CursorWrapper) -> None:
    """The tables of :func:`_load_periods`; a transaction that only reads makes none."""
    kind = Trace._meta.get_field("hour").db_type(connection)
    period = f"granularity varchar(5), period_start {kind}"
    cursor.execute("DROP TABLE IF EXISTS books_period")
    cursor.execute("DROP TABLE IF EXISTS books_stale")
    cursor.execute("DROP TABLE IF EXISTS books_kept_hour")
    cursor.execute(
        f"CREATE TEMPORARY TABLE books_period (hour {kind}, {period}, period_end {kind})"
    )
    cursor.execute(f"CREATE TEMPORARY TABLE books_stale ({period})")
    cursor.execute(f"CREATE TEMPORARY TABLE books_kept_hour (period_start {kind})")


def _load_periods(cursor: CursorWrapper) -> None:
    """The periods that have traces, and those that are stale: what is built of these is read by
    nobody.
    """
    hours = Trace.objects.order_by().values_list("hour", flat=True).distinct()
    periods = [
        (stamp(hour), granularity.value, *map(stamp, period_of(granularity, hour)))
        for hour in hours
        for granularity in Granularity
    ]
    insert_rows(
        cursor, "books_period", ["hour", "granularity", "period_start", "period_end"], periods
    )
    stale = stale_periods()
    marks = [
        (granularity.value, stamp(start))
        for granularity, starts in stale.periods.items()
        for start in starts
    ]
    insert_rows(cursor, "books_stale", ["granularity", "period_start"], marks)
    kept = ((stamp(hour),) for hour in hours_of(stale.unbuilt_days))
    insert_rows(cursor, "books_kept_hour", ["period_start"], kept)


def _is_reliable(rule: RollupRule, alias: str) -> str:
    """Whether a period is one that the rollup is read of."""
    granularities = ", ".join(f"'{granularity.value}'" for granularity in rule.granularities)
    is_its = f"{alias}.granularity IN ({granularities})"
    if not rule.is_built:
        return is_its
    if rule.hours_while_running:
        kept = f"SELECT 1 FROM books_kept_hour k WHERE k.period_start = {alias}.period_start"
        is_its = f"({is_its} OR {alias}.granularity = 'hour' AND EXISTS ({kept}))"
    same = f"b.granularity = {alias}.granularity AND b.period_start = {alias}.period_start"
    return f"{is_its} AND NOT EXISTS (SELECT 1 FROM books_stale b WHERE {same})"


def _stored_rows(rule: RollupRule) -> str:
    columns = [
        "granularity",
        "period_start",
        "period_end",
        *rule.columns,
        *SUM_NAMES,
        *_more(rule),
    ]
    return f"SELECT {', '.join(columns)} FROM {rule.table} r WHERE {_is_reliable(rule, 'r')}"


def _rows_from_facts(rule: RollupRule) -> tuple[str, list[Any]]:
    facts = rule.rows(*ALL_TIME)
    keys = [
        "p.granularity",
        "p.period_start",
        "p.period_end",
        *(f"s.{column}" for column in rule.columns.values()),
    ]
    sums = [f"CAST(SUM(s.{name}) AS bigint)" for name in SUM_NAMES]
    counts = (
        ["COUNT(DISTINCT CASE WHEN s.is_owned THEN s.user_key END)", "MAX(s.moment)"]
        if _more(rule)
        else []
    )
    sql = (
        f"SELECT {', '.join([*keys, *sums, *counts])} FROM ({facts.text}) s JOIN books_period p ON"
        f" p.hour = s.hour WHERE {_is_reliable(rule, 'p')} GROUP BY {', '.join(keys)}"
    )
    return sql, facts.parameters


def _stored_sources() -> str:
    return f"SELECT {', '.join(sources.KEPT)} FROM {sources.TABLE} r WHERE {IS_BUILT_HOUR}"


def _sources_from_facts() -> tuple[str, list[Any]]:
    facts = sources.rows_of_facts([(0, *ALL_TIME)])
    built = f"SELECT * FROM ({facts.text}) r WHERE {IS_BUILT_HOUR}"
    return sources.summed(built, "period_start", *sources.DIMENSIONS), facts.parameters


IS_BUILT_HOUR = (
    "NOT EXISTS (SELECT 1 FROM books_stale b WHERE b.granularity = 'hour'"
    " AND b.period_start = r.period_start)"
)


def _more(rule: RollupRule) -> list[str]:
    return [] if not rule.is_built else ["active_users_count", "last_activity"]


def _received() -> Iterator[Finding]:
    """Traces that are not what Langfuse says of their steps, and those of which other steps are
    billed than used something.
    """
    found, calls_found = [], []
    responses = Responses()
    elsewhere = _counted_elsewhere()
    columns = (
        "trace_id",
        "trace__langfuse_trace_id",
        "steps",
        "deleted",
        "trace__connection",
        *(f"trace__{name}" for name in (*TraceAttributes._fields, *COUNTED, *CALLS)),
    )
    billed = Subquery(
        Observation.objects.filter(trace=OuterRef("trace"))
        .exclude(usage_details="", langfuse_cost_usd=None)
        .order_by()
        .values("trace")
        .annotate(count=Count("pk"))
        .values("count")
    )
    for key, trace_id, steps, deleted, connection_id, *decided in (
        ReceivedTrace.objects.order_by().values_list(*columns, billed).iterator(RECEIVED_A_FETCH)
    ):
        width = len(TraceAttributes._fields)
        attributes, counted = TraceAttributes(*decided[:width]), decided[width:]
        calls = [*counted[len(COUNTED) : -1], elsewhere[key]]
        del counted[len(COUNTED) : -1]
        received = unpacked(trace_id, attributes, steps, deleted)
        responses.add(key, connection_id, received)
        if (
            _counted(received) != [*counted[:-1], counted[-1] or 0]
            or not received.deleted.keys() <= received.observations.keys()
        ):
            found.append((key, trace_id))
        if sum(calls) != _calls(received):
            calls_found.append((key, trace_id, *calls, _calls(received)))
    if found:
        yield Finding("facts: a trace is what Langfuse says of its steps", found[:EVIDENCE_ROWS])
    if not responses.are_stored():
        yield Finding("facts: which traces say a response's id is known", [])
    if calls_found:
        yield Finding(
            "facts: every call is priced, partly priced, unpriced, unmetered or counted elsewhere",
            calls_found[:EVIDENCE_ROWS],
        )


class Responses:
    """Which traces say which responses' ids, as a sum over all of them: so it takes no room."""

    def __init__(self) -> None:
        rows = ResponseTraces.objects.filter(traces=OF_MANY).values_list("pk", flat=True)
        self._of_many = {key.hex for key in rows}
        self._sum = 0

    def add(self, trace: UUID, connection_id: int, received: Received) -> None:
        steps = [one.step for one in received.observations.values()]
        for one in response_ids(steps):
            if (key := response_key(connection_id, one)) not in self._of_many:
                self._sum += hash((key, trace.hex))

    def are_stored(self) -> bool:
        """Whether the table says the same."""
        rows = ResponseTraces.objects.filter(is_sign=False).exclude(traces=OF_MANY).order_by()
        for key, traces in rows.values_list("pk", "traces").iterator(RECEIVED_A_FETCH):
            self._sum -= sum(hash((key.hex, trace)) for trace in traces.split())
        return not self._sum


def _counted_elsewhere() -> Counter[UUID]:
    """By trace, how many of its steps are counted in another one, by an index of these alone."""
    found = Observation.objects.exclude(finding="").exclude(counted_in="")
    return Counter(found.order_by().values_list("trace", flat=True).iterator())


COUNTED = (
    *("observations", "deleted_observations", "start_time", "last_step_hour"),
    *("source", "source_version"),
)
CALLS = tuple(f"{one}_observations" for one in ("priced", "partly_priced", "unpriced", "unmetered"))


def _calls(received: Received) -> int:
    """How many steps used something or cost something, and how many calls of models say neither."""
    steps = [one.step for one in received.observations.values()]
    metered = sum(step.cost_usd is not None or any(step.usage_details.values()) for step in steps)
    return metered + len(unmetered_calls(steps))


def _counted(received: Received) -> list[Any]:
    """The columns COUNTED, and how many steps used something, as the steps say."""
    steps = [one.step for one in received.observations.values()]
    first, last_hour = (
        min(step.start_time for step in steps),
        hour_of(max(step.start_time for step in steps)),
    )
    using = sum(bool(step.usage_details) or step.cost_usd is not None for step in steps)
    recorded = min(steps, key=lambda step: (not step.is_root, step.start_time, step.observation_id))
    return [
        len(steps),
        len(received.deleted),
        first,
        last_hour if last_hour > first else None,
        recorded.source,
        recorded.source_version,
        using,
    ]


def _sketches(cursor: CursorWrapper, rule: RollupRule) -> Iterator[Finding]:
    """Sketches that hold another number of users or of latencies than their row says."""
    cursor.execute(
        "SELECT id, granularity, period_start, active_users_count, timed_traces, users, latencies"
        f" FROM {rule.table}"
    )
    found = []
    while rows := cursor.fetchmany(SKETCHES_A_FETCH):
        for key, granularity, start, users_count, timed_traces, users, latencies in rows:
            sketch = Sketch()
            sketch.merge(users, latencies)
            if (len(sketch.users), sum(sketch.latencies.values())) != (users_count, timed_traces):
                found.append((key, granularity, start, users_count, timed_traces))
    if found:
        yield Finding(
            f"invariant 1: {rule.table} has sketches that are not of its traces",
            found[:EVIDENCE_ROWS],
        )
