"""Fills the rollups from changes of traces. Each rollup is declared once; one loop fills them all.

A change is a set of lines (usage.sync.contributions). They are loaded into a temporary table, grouped by each rollup's dimensions and
periods, and added to what is there. The upserts run in one order of keys, so that two workers never deadlock; amounts are integers, so
that the sums are exact whatever the order of the changes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection, models
from django.db.backends.utils import CursorWrapper

from kluisz_analytics.bulk import insert_rows, stamp
from usage.models import FlowUsage, Granularity, ModelUsage, TenantUsageStats, UserUsageStats
from usage.models.rollups import NUMBERS
from usage.periods import period_of
from usage.sync.contributions import NOBODY, TOTAL_TRACES, Change, Grain, LineKey, Numbers

Lines = Sequence[tuple[LineKey, Numbers]]

STATS = (Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH)
CUBES = (Granularity.HOUR, Granularity.DAY)


@dataclass(frozen=True, slots=True)
class RollupRule:
    """What a rollup sums: lines of one grain, by these dimensions (its column → the line's), for these periods."""

    model: type[models.Model]
    grain: Grain
    dimensions: Mapping[str, str]
    unique: Sequence[str]
    granularities: Sequence[Granularity]
    only_attributed: bool = False


CUBE_PERIOD = ("granularity", "period_start")
RULES = (
    RollupRule(TenantUsageStats, Grain.TRACE, {"tenant_id": "tenant_key"}, ("tenant_id", "period_start", "period_end"), STATS, True),
    RollupRule(UserUsageStats, Grain.TRACE, {"user_id": "user_key"}, ("user_id", "period_start", "period_end"), STATS, True),
    RollupRule(
        FlowUsage,
        Grain.TRACE,
        {name: name for name in ("tenant_key", "user_key", "project_id", "flow_id")},
        (*CUBE_PERIOD, "tenant_key", "user_key", "project_id", "flow_id"),
        CUBES,
    ),
    RollupRule(
        ModelUsage,
        Grain.MODEL,
        {name: name for name in ("tenant_key", "user_key", "model")},
        (*CUBE_PERIOD, "tenant_key", "user_key", "model"),
        CUBES,
    ),
)

LINE_COLUMNS = [*LineKey._fields, *NUMBERS]


def apply_change(change: Change) -> dict[tuple[UUID, datetime], int]:
    """Add the change to every rollup. Call it inside the transaction that writes the facts.

    Returns what each (user, hour) whose credits changed comes to now, in millionths of a credit.
    """
    lines = change.lines()
    if not lines:
        return {}
    with connection.cursor() as cursor:
        _stage(cursor, lines)
        takes_away = any(numbers[TOTAL_TRACES] < 0 for _, numbers in lines)
        for rule in RULES:
            _add(cursor, rule)
            if takes_away:
                _drop_empty(cursor, rule)
        _count_active_users(cursor)
        return _changed_credits(cursor)


def _stage(cursor: CursorWrapper, lines: Lines) -> None:
    """Load the lines, and the periods that their hours are in."""
    text = "varchar(200)"
    key, time = (FlowUsage._meta.get_field(name).db_type(connection) for name in ("tenant_key", "period_start"))
    numbers = ", ".join(f"{name} bigint" for name in NUMBERS)
    dimensions = f"tenant_key {key}, user_key {key}, project_id {text}, flow_id {text}, model {text}"
    _empty_table(cursor, "usage_change", f"grain {text}, hour {time}, {dimensions}, {numbers}")
    _empty_table(cursor, "usage_change_period", f"hour {time}, granularity {text}, period_start {time}, period_end {time}")
    insert_rows(cursor, "usage_change", LINE_COLUMNS, ((*key, *numbers) for key, numbers in lines))
    insert_rows(
        cursor,
        "usage_change_period",
        ["hour", "granularity", "period_start", "period_end"],
        _periods({key.hour for key, _ in lines}),
    )
    if connection.vendor == "postgresql":
        # A temporary table has no statistics of its own; without them PostgreSQL joins the two row by row.
        cursor.execute("ANALYZE usage_change (hour, grain)")
        cursor.execute("ANALYZE usage_change_period")


def _empty_table(cursor: CursorWrapper, name: str, columns: str) -> None:
    """A temporary table of this connection's, made once and emptied each time."""
    on_commit = "ON COMMIT DELETE ROWS" if connection.vendor == "postgresql" else ""
    cursor.execute(f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns}) {on_commit}")
    cursor.execute(f"DELETE FROM {name}")


def _periods(hours: Iterable[str]) -> Iterable[tuple[str, str, str, str]]:
    for hour in hours:
        moment = datetime.fromisoformat(hour).replace(tzinfo=UTC)
        for granularity in STATS:
            start, end = period_of(granularity, moment)
            yield hour, granularity.value, stamp(start), stamp(end)


def _add(cursor: CursorWrapper, rule: RollupRule) -> None:
    """Add the staged lines to the rollup."""
    table = rule.model._meta.db_table
    columns = ["granularity", "period_start", "period_end", *rule.dimensions, *NUMBERS]
    keys = ["p.granularity", "p.period_start", "p.period_end", *(f"c.{column}" for column in rule.dimensions.values())]
    sums = [f"SUM(c.{name})" for name in NUMBERS]
    # total_traces of a stats table feeds its generated columns, which the database fills itself.
    additions = ", ".join(f"{name} = {table}.{name} + EXCLUDED.{name}" for name in NUMBERS)
    extra_columns, extra_values = ("", "") if rule.model is not TenantUsageStats else (", active_users_count", ", 0")
    conditions = ["c.grain = %s", f"p.granularity IN ({', '.join(['%s'] * len(rule.granularities))})"]
    parameters: list[Any] = [rule.grain.value, *rule.granularities]
    if rule.only_attributed:
        conditions += ["c.tenant_key <> %s", "c.user_key <> %s"]
        parameters += [NOBODY, NOBODY]
    cursor.execute(
        f"INSERT INTO {table} ({', '.join(columns)}{extra_columns}) "
        f"SELECT {', '.join(keys + sums)}{extra_values} "
        "FROM usage_change c JOIN usage_change_period p ON p.hour = c.hour "
        f"WHERE {' AND '.join(conditions)} "
        f"GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)} "
        f"ON CONFLICT ({', '.join(rule.unique)}) DO UPDATE SET {additions}",
        parameters,
    )


def _changed_credits(cursor: CursorWrapper) -> dict[tuple[UUID, datetime], int]:
    """What the user stats say now of the hours whose credits the lines changed."""
    cursor.execute(
        "SELECT c.user_key, c.hour, COALESCE(u.credits_exact, 0) FROM ("
        " SELECT user_key, hour FROM usage_change WHERE grain = 'trace' AND user_key <> %s AND tenant_key <> %s"
        " GROUP BY user_key, hour HAVING SUM(credits_exact) <> 0) c"
        " LEFT JOIN user_usage_stats u ON u.user_id = c.user_key AND u.period_start = c.hour AND u.granularity = 'hour'",
        [NOBODY, NOBODY],
    )
    return {(_uuid(user), _moment(hour)): int(credits) for user, hour, credits in cursor.fetchall()}


def _uuid(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(value)


def _moment(value: Any) -> datetime:
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _drop_empty(cursor: CursorWrapper, rule: RollupRule) -> None:
    """A period from which the last trace went has no row, as if it never had one."""
    table = rule.model._meta.db_table
    cursor.execute(f"DELETE FROM {table} WHERE total_traces = 0 AND period_start IN (SELECT period_start FROM usage_change_period)")


def _count_active_users(cursor: CursorWrapper) -> None:
    """Distinct users of the tenants and periods that changed, counted anew: distinct counts don't add up."""
    cursor.execute(
        "UPDATE tenant_usage_stats SET active_users_count = ("
        " SELECT COUNT(DISTINCT f.user_key) FROM flow_usage f"
        " WHERE f.tenant_key = tenant_usage_stats.tenant_id AND f.user_key <> %s"
        " AND f.granularity = CASE tenant_usage_stats.granularity WHEN 'hour' THEN 'hour' ELSE 'day' END"
        " AND f.period_start >= tenant_usage_stats.period_start AND f.period_start < tenant_usage_stats.period_end) "
        "WHERE (tenant_id, period_start, period_end) IN ("
        " SELECT DISTINCT c.tenant_key, p.period_start, p.period_end"
        " FROM usage_change c JOIN usage_change_period p ON p.hour = c.hour WHERE c.grain = 'trace')",
        [NOBODY],
    )
