"""A synthetic history, made by SQL inside PostgreSQL: 1,000 tenants, 50,000 users, 5,000 flows, 20
models, 90 days until now.

Few tenants and few users have most of the traffic; traces and stats lie in the order of their time,
as a sync stores them. Every second trace has one model call with usage, as of ten steps one has;
what Langfuse says of their steps is not made, since no question reads it. The rollups are then
built as they always are.
"""

from datetime import timedelta

from django.db import connection
from django.utils import timezone

from kluisz_analytics.tenants.models import Tenant, User
from usage.measures import SUM_NAMES
from usage.models import LangfuseConnection
from usage.periods import hour_of
from usage.rollups.build import build_rollups

TENANTS, USERS, FLOWS, MODELS, DAYS = 1_000, 50_000, 5_000, 20, 90
TABLES = ("usage_trace", "usage_observation", "user_usage_stats")
ZONES = ("UTC", "Europe/Amsterdam", "America/New_York", "Asia/Kolkata")

DIRECTORY = f"""
INSERT INTO tenant (id, name, slug, is_active, is_default, timezone, created_at,
    finds_users_by_email, finds_users_by_username)
    SELECT md5('t' || n)::uuid, 'Tenant ' || n, 'tenant-' || n, true, false,
        (ARRAY{list(ZONES)})[1 + n %% 4], now(), false, false
    FROM generate_series(0, {TENANTS - 1}) n;
INSERT INTO "user" (id, password, is_superuser, username, first_name, last_name, email, is_staff,
    is_active, date_joined, tenant_id,
        is_tenant_admin, is_service_account)
    SELECT md5('u' || n)::uuid, '!', false, 'user' || n, '', '', '', false, true, now(),
        md5('t' || (n %% {TENANTS}))::uuid,
        n < {TENANTS}, false
    FROM generate_series(0, {USERS - 1}) n;
INSERT INTO project (id, name, tenant_id)
    SELECT md5('p' || n)::uuid, 'Project ' || n, md5('t' || n)::uuid
        FROM generate_series(0, {TENANTS - 1}) n;
INSERT INTO flow (id, name, project_id)
    SELECT md5('f' || n)::uuid, 'Flow ' || n, md5('p' || (n %% {TENANTS}))::uuid
        FROM generate_series(0, {FLOWS - 1}) n;
"""
# The tenth tenant has some 80 times the traffic of the last; so has a tenant's first user of its
# last.
TRACES = f"""
CREATE UNLOGGED TABLE made AS
SELECT n, tenant, tenant + {TENANTS} * floor({USERS // TENANTS} * power(random(),
    2))::int AS member,
    tenant + {TENANTS} * floor({FLOWS // TENANTS} * random())::int AS flow,
        floor({MODELS} * power(random(), 2))::int AS model,
    began, (300 * exp(1.5 * random() + 1.5 * random() + 1.5 * random()))::bigint AS latency,
        random() < 0.03 AS failed,
    n %% 2 = 0 AS used, (100 + 4000 * random())::bigint AS input,
        (20 + 800 * random())::bigint AS output, random() < 0.001 AS lost
FROM (SELECT n, floor({TENANTS} * power(random(), 2))::int AS tenant,
        date_trunc('milliseconds', %s::timestamptz - random() * interval '{DAYS} days') AS began
            FROM generate_series(1, %s) n) drawn;
INSERT INTO usage_trace (id, connection_id, langfuse_trace_id, name, start_time, hour, latency_ms,
    is_failed, tenant_id, user_id,
        tenant_reference, user_reference, project_id, flow_id, environment, model,
        set_aside, uncharged, dispute, settled_as, observations, deleted_observations,
            priced_observations, unpriced_observations, partly_priced_observations,
            unmetered_observations, doubtful_observations,
        cost_usd, billed_cost_usd, credits, priced_as_of, is_voided,
        input_tokens, output_tokens, total_tokens, cached_tokens, cache_write_tokens,
            reasoning_tokens, audio_tokens)
    SELECT md5('r' || n)::uuid, %s, md5('r' || n), '', began, date_trunc('hour', began), latency,
        failed, md5('t' || tenant)::uuid,
        CASE WHEN NOT lost THEN md5('u' || member)::uuid END, '', '',
            md5('p' || tenant)::uuid::text, md5('f' || flow)::uuid::text, 'production',
        CASE WHEN used THEN 'model-' || model ELSE '' END,
        '', '', '', '', 5, 0, used::int, 0, 0, 0, 0, used::int * cost, used::int * cost, CASE
            WHEN NOT lost THEN used::int * cost / 10000 END, now(), false,
        used::int * input, used::int * output, used::int * (input + output), 0, 0, 0, 0
    FROM (SELECT *, (input * 2500000 + output * 10000000) * (1 + model) AS cost FROM made) priced
        ORDER BY began;
INSERT INTO usage_observation (trace_id, langfuse_observation_id, type, name, level, is_root,
    start_time, end_time,
        model, usage_details, uncosted, usage_doubt, cost_usd, billed_cost_usd, credits,
        cost_source,
        input_tokens, output_tokens, total_tokens, cached_tokens, cache_write_tokens,
            reasoning_tokens, audio_tokens)
    SELECT md5('r' || n)::uuid, md5('o' || n), 'GENERATION', 'call', 'DEFAULT', false, began, began,
        'model-' || model, '', '', '', cost, cost, CASE
            WHEN NOT lost THEN cost / 10000 END, 'langfuse',
            input, output, input + output, 0, 0, 0, 0
    FROM (SELECT *, (input * 2500000 + output * 10000000) * (1 + model) AS cost FROM made
        WHERE used) priced;
DROP TABLE made;
INSERT INTO usage_user_number (user_id)
    SELECT DISTINCT user_id FROM usage_trace WHERE user_id IS NOT NULL AND tenant_id IS NOT NULL
        ORDER BY user_id;
INSERT INTO stale_period (granularity, period_start) SELECT DISTINCT 'hour', hour FROM usage_trace;
INSERT INTO langfuse_connection_tenant (connection_id, tenant_id)
    SELECT DISTINCT connection_id, tenant_id FROM usage_trace WHERE tenant_id IS NOT NULL;
"""
STATS = f"""
INSERT INTO user_usage_stats (granularity, period_start, period_end, tenant_id, user_id,
    {", ".join(SUM_NAMES)})
    SELECT g.name, date_trunc(g.name, hour), date_trunc(g.name, hour) + ('1 ' || g.name)::interval,
        tenant_id, user_id,
        SUM(input_tokens), SUM(output_tokens), SUM(total_tokens), 0, 0, 0, 0, COUNT(*),
            SUM(is_failed::int), COUNT(latency_ms),
        SUM(latency_ms), SUM(priced_observations), 0, 0, 0, 0, COUNT(credits), SUM(cost_usd),
            SUM(billed_cost_usd), SUM(credits)
    FROM usage_trace CROSS JOIN (VALUES ('hour'), ('day'), ('week'), ('month')) g(name)
    WHERE user_id IS NOT NULL GROUP BY 1, 2, 3, 4, 5 ORDER BY 2, 1
"""


def load(traces: int) -> None:
    """Fill an empty, migrated database. Raises when the database is not PostgreSQL."""
    connection_row = LangfuseConnection(name="bench", host="http://127.0.0.1:9", public_key="pk")
    connection_row.secret_key = "sk"  # noqa: S105  (of no server)
    connection_row.save()
    User.objects.create_superuser("root", tenant=Tenant.objects.get(is_default=True))
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off")
        cursor.execute("SET maintenance_work_mem = '1GB'")
        cursor.execute("SET work_mem = '512MB'")
        fill_directory(cursor)
        indexes = _take_indexes(cursor)
        fill(cursor, traces, connection_row.pk)
        for definition in indexes:
            cursor.execute(definition)
        cursor.execute("ANALYZE")
    build_rollups()
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE")


# a cursor of Django's
def fill_directory(cursor) -> None:  # type: ignore[no-untyped-def]
    """The tenants, users, projects and flows."""
    _run(cursor, DIRECTORY, 0, 0)


# a cursor of Django's
def fill(cursor, traces: int, connection_pk: int) -> None:  # type: ignore[no-untyped-def]
    """The traces, and all that a sync adds up of them but the rollups."""
    cursor.execute("SELECT setseed(0.5)")
    for statement in (*TRACES.split(";\n"), STATS):
        _run(cursor, statement, traces, connection_pk)


# a cursor of Django's
def _run(cursor, statement: str, traces: int, connection_pk: int) -> None:  # type: ignore[no-untyped-def]
    parameters: list[object] = []
    if "generate_series(1, %s)" in statement:
        parameters = [hour_of(timezone.now()) + timedelta(minutes=1), traces]
    elif "INSERT INTO usage_trace" in statement:
        parameters = [connection_pk]
    if statement.strip():
        cursor.execute(
            statement if parameters else statement.replace("%%", "%"), parameters or None
        )


def _take_indexes(cursor) -> list[str]:  # type: ignore[no-untyped-def]
    """Drop the indexes that no constraint needs, and say how to make them again: much faster than
    filling them row by row.
    """
    cursor.execute(
        "SELECT i.indexname, i.indexdef FROM pg_indexes i WHERE i.tablename = ANY(%s)"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint c WHERE c.conname = i.indexname)",
        [list(TABLES)],
    )
    found = cursor.fetchall()
    for name, _ in found:
        cursor.execute(f'DROP INDEX "{name}"')
    cursor.execute(
        "SELECT c.conrelid::regclass::text, c.conname, pg_get_constraintdef(c.oid) FROM"
        " pg_constraint c WHERE c.conrelid::regclass::text = ANY(%s) AND c.contype IN ('p', 'u')"
        " AND NOT EXISTS (SELECT 1 FROM pg_constraint f WHERE f.confrelid = c.conrelid AND"
        " f.contype = 'f')",
        [list(TABLES)],
    )
    constraints = cursor.fetchall()
    for table, name, _ in constraints:
        cursor.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{name}"')
    return [definition for _, definition in found] + [
        f'ALTER TABLE {table} ADD CONSTRAINT "{name}" {definition}'
        for table, name, definition in constraints
    ]
