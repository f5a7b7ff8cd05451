"""Fills the rollups from changes of traces. Each rollup is declared once; one loop fills them all.

A change is a set of lines (usage.sync.contributions). They are loaded into a temporary table, grouped by each rollup's dimensions and
periods, and added to what is there. The upserts run in one order of keys, so that two workers never deadlock; amounts are integers, so
that the sums are exact whatever the order of the changes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection, models
from django.db.backends.utils import CursorWrapper

from kluisz_analytics.bulk import insert_rows, sqlite_value
from usage.models import FlowUsage, Granularity, ModelUsage, TenantUsageStats, UserUsageStats
from usage.models.rollups import NUMBERS, UNATTRIBUTED
from usage.periods import period_of
from usage.sync.contributions import Grain, Line

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

LINE_COLUMNS = ["grain", "hour", "tenant_key", "user_key", "project_id", "flow_id", "model", *NUMBERS]


def apply_lines(lines: Sequence[Line]) -> None:
    """Add the lines to every rollup. Call it inside the transaction that writes the facts."""
    if not lines:
        return
    with connection.cursor() as cursor:
        _stage(cursor, lines)
        takes_away = any(line.numbers[NUMBERS.index("total_traces")] < 0 for line in lines)
        for rule in RULES:
            _add(cursor, rule)
            if takes_away:
                _drop_empty(cursor, rule)
        _count_active_users(cursor)


def _stage(cursor: CursorWrapper, lines: Sequence[Line]) -> None:
    types = {
        "text": "varchar(200)",
        "key": FlowUsage._meta.get_field("tenant_key").db_type(connection),
        "time": FlowUsage._meta.get_field("period_start").db_type(connection),
    }
    numbers = ", ".join(f"{name} bigint" for name in NUMBERS)
    cursor.execute("DROP TABLE IF EXISTS usage_change")
    cursor.execute("DROP TABLE IF EXISTS usage_change_period")
    cursor.execute(
        "CREATE TEMPORARY TABLE usage_change (grain {text}, hour {time}, tenant_key {key}, user_key {key}, project_id {text}, "
        "flow_id {text}, model {text}, {numbers})".format(**types, numbers=numbers)
    )
    cursor.execute(
        "CREATE TEMPORARY TABLE usage_change_period (hour {time}, granularity {text}, period_start {time}, period_end {time})".format(
            **types
        )
    )
    insert_rows(
        cursor,
        "usage_change",
        LINE_COLUMNS,
        (
            (line.grain.value, line.hour, line.tenant_key, line.user_key, line.project_id, line.flow_id, line.model, *line.numbers)
            for line in lines
        ),
    )
    insert_rows(
        cursor,
        "usage_change_period",
        ["hour", "granularity", "period_start", "period_end"],
        _periods({line.hour for line in lines}),
    )


def _periods(hours: Iterable[datetime]) -> Iterable[tuple[datetime, str, datetime, datetime]]:
    for hour in hours:
        for granularity in STATS:
            yield (hour, granularity.value, *period_of(granularity, hour))


def _add(cursor: CursorWrapper, rule: RollupRule) -> None:
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
        parameters += [_key(UNATTRIBUTED), _key(UNATTRIBUTED)]
    cursor.execute(
        f"INSERT INTO {table} ({', '.join(columns)}{extra_columns}) "
        f"SELECT {', '.join(keys + sums)}{extra_values} "
        "FROM usage_change c JOIN usage_change_period p ON p.hour = c.hour "
        f"WHERE {' AND '.join(conditions)} "
        f"GROUP BY {', '.join(keys)} ORDER BY {', '.join(keys)} "
        f"ON CONFLICT ({', '.join(rule.unique)}) DO UPDATE SET {additions}",
        parameters,
    )


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
        [_key(UNATTRIBUTED)],
    )


def _key(value: UUID) -> Any:
    return value if connection.vendor == "postgresql" else sqlite_value(value)
