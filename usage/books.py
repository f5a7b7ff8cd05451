"""Checks the invariants over the whole database: what ``manage.py verify_books`` reports (domain.md, Invariants).

Each check is a question whose answer should be no rows; the rows that come are the evidence.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from django.db import connection
from django.db.backends.utils import CursorWrapper

from kluisz_analytics.bulk import insert_rows, stamp
from usage.analytics.question import fact_lines
from usage.models import TenantUsageStats, Trace
from usage.models.rollups import NUMBERS, UNATTRIBUTED
from usage.periods import period_of
from usage.sync.contributions import Grain
from usage.sync.rollups import RULES, STATS, RollupRule

EVIDENCE_ROWS = 20
ALL_TIME = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that doesn't hold: which, and the first rows that show it."""

    check: str
    rows: list[tuple[Any, ...]]


LEDGER_CHECKS = {
    "invariant 5: an account's transactions sum to its balance": """
        SELECT a.user_id, a.allocated - a.used, COALESCE(SUM(t.amount), 0) FROM credit_account a
        LEFT JOIN "transaction" t ON t.account_id = a.user_id GROUP BY a.user_id, a.allocated, a.used
        HAVING a.allocated - a.used <> COALESCE(SUM(t.amount), 0)""",
    "invariant 5: each transaction goes on from the balance before it": """
        SELECT id, account_id, balance_before, previous FROM (
            SELECT id, account_id, balance_before, LAG(balance_after, 1, 0) OVER (PARTITION BY account_id ORDER BY id) AS previous
            FROM "transaction") entries WHERE balance_before <> previous""",
    "invariant 5: an hour's transactions sum to what is posted for it": """
        SELECT c.account_id, c.hour, c.credits, COALESCE(SUM(t.amount), 0) FROM credit_usage_charge c
        LEFT JOIN "transaction" t ON t.account_id = c.account_id AND t.usage_hour = c.hour
        GROUP BY c.account_id, c.hour, c.credits HAVING c.credits <> -COALESCE(SUM(t.amount), 0)""",
    "invariant 4: what is held is the sum of the holds": """
        SELECT a.user_id, a.held, COALESCE(SUM(CASE h.state WHEN 'open' THEN h.credits WHEN 'settled' THEN h.settled_credits ELSE 0 END), 0)
        FROM credit_account a LEFT JOIN credit_hold h ON h.account_id = a.user_id GROUP BY a.user_id, a.held
        HAVING a.held <> COALESCE(SUM(CASE h.state WHEN 'open' THEN h.credits WHEN 'settled' THEN h.settled_credits ELSE 0 END), 0)""",
    "invariant 5: a grant's transactions sum to what is posted of it": """
        SELECT g.id, g.posted - g.returned, COALESCE(SUM(t.amount), 0) FROM credit_grant g
        LEFT JOIN "transaction" t ON t.grant_id = g.id GROUP BY g.id, g.posted, g.returned
        HAVING g.posted - g.returned <> COALESCE(SUM(t.amount), 0)""",
    "invariant 5: what is posted for an hour is its priced usage": """
        SELECT user_id, hour, SUM(priced), SUM(posted) FROM (
            SELECT user_id, hour, credits AS priced, 0 AS posted FROM usage_trace
            WHERE credits IS NOT NULL AND user_id IS NOT NULL AND tenant_id IS NOT NULL AND NOT is_voided
            UNION ALL SELECT account_id, hour, 0, credits FROM credit_usage_charge) both_sides
        GROUP BY user_id, hour HAVING SUM(priced) <> SUM(posted)""",
}
FACT_CHECKS = {
    "facts: a trace is the sum of its observations": """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t LEFT JOIN (
            SELECT trace_id, COUNT(*) AS steps, SUM(total_tokens) AS tokens, SUM(cost_usd) AS cost, SUM(credits) AS credits
            FROM usage_observation GROUP BY trace_id) o ON o.trace_id = t.id
        WHERE COALESCE(o.steps, 0) <> t.observations OR COALESCE(o.tokens, 0) <> t.total_tokens
            OR COALESCE(o.cost, 0) <> COALESCE(t.cost_usd, 0) OR COALESCE(o.credits, 0) <> COALESCE(t.credits, 0)""",
    "facts: a trace counts its observations that are gone": """
        SELECT t.id, t.langfuse_trace_id FROM usage_trace t LEFT JOIN (
            SELECT trace_id, COUNT(*) AS steps FROM usage_observation WHERE gone_since IS NOT NULL GROUP BY trace_id) o ON o.trace_id = t.id
        WHERE COALESCE(o.steps, 0) <> t.gone_observations""",
    "facts: every observation has its trace": """
        SELECT o.id, o.trace_id FROM usage_observation o LEFT JOIN usage_trace t ON t.id = o.trace_id WHERE t.id IS NULL""",
}


def verify_books() -> list[Finding]:
    """Everything that doesn't hold; an empty list when all of it does."""
    return list(_findings())


def _findings() -> Iterator[Finding]:
    with connection.cursor() as cursor:
        for check, sql in {**LEDGER_CHECKS, **FACT_CHECKS}.items():
            yield from _finding(cursor, check, sql, [])
        _load_periods(cursor)
        for rule in RULES:
            table = rule.model._meta.db_table
            stored, from_facts = _stored_rows(rule), _rows_from_facts(rule)
            yield from _finding(
                cursor, f"invariant 1: {table} has what the facts do not say", f"{stored[0]} EXCEPT {from_facts[0]}", from_facts[1]
            )
            yield from _finding(
                cursor, f"invariant 1: {table} lacks what the facts say", f"{from_facts[0]} EXCEPT {stored[0]}", from_facts[1]
            )


def _finding(cursor: CursorWrapper, check: str, sql: str, parameters: list[Any]) -> Iterator[Finding]:
    cursor.execute(f"SELECT * FROM ({sql}) found LIMIT {EVIDENCE_ROWS}", parameters)
    if rows := cursor.fetchall():
        yield Finding(check, rows)


def _load_periods(cursor: CursorWrapper) -> None:
    kind = Trace._meta.get_field("hour").db_type(connection)
    cursor.execute("DROP TABLE IF EXISTS books_period")
    cursor.execute(f"CREATE TEMPORARY TABLE books_period (hour {kind}, granularity varchar(5), period_start {kind}, period_end {kind})")
    hours = Trace.objects.order_by().values_list("hour", flat=True).distinct()
    rows = [(stamp(hour), granularity.value, *map(stamp, period_of(granularity, hour))) for hour in hours for granularity in STATS]
    insert_rows(cursor, "books_period", ["hour", "granularity", "period_start", "period_end"], rows)


def _stored_rows(rule: RollupRule) -> tuple[str, list[Any]]:
    columns = ["granularity", "period_start", "period_end", *rule.dimensions, *NUMBERS, *_distinct_counts(rule)]
    return f"SELECT {', '.join(columns)} FROM {rule.model._meta.db_table}", []


def _rows_from_facts(rule: RollupRule) -> tuple[str, list[Any]]:
    facts = fact_lines(*ALL_TIME, by_model=rule.grain is Grain.MODEL)
    keys = ["p.granularity", "p.period_start", "p.period_end", *(f"s.{column}" for column in rule.dimensions.values())]
    sums = [f"CAST(SUM(s.{name}) AS bigint)" for name in NUMBERS]
    counts = ["COUNT(DISTINCT s.user_key)"] if _distinct_counts(rule) else []
    granularities = ", ".join(f"'{granularity.value}'" for granularity in rule.granularities)
    nobody = UNATTRIBUTED.hex
    attributed = f"AND s.tenant_key <> '{nobody}' AND s.user_key <> '{nobody}'" if rule.only_attributed else ""
    sql = (
        f"SELECT {', '.join([*keys, *sums, *counts])} FROM ({facts.text}) s JOIN books_period p ON p.hour = s.hour "
        f"WHERE p.granularity IN ({granularities}) {attributed} GROUP BY {', '.join(keys)}"
    )
    return sql, facts.parameters


def _distinct_counts(rule: RollupRule) -> list[str]:
    return ["active_users_count"] if rule.model is TenantUsageStats else []
