"""What each integration recorded: built from the facts with the other rollups, and kept by the
hour, as its rows are few.

Runs count under what recorded their first step, calls of models under what recorded each.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from django.db.backends.utils import CursorWrapper

from kluisz_analytics.sql import Range, Sql, stored
from kluisz_analytics.tenants.attributed import owned_sql
from pricing.engine import CostSource
from usage.models import SourceUsage
from usage.periods import HOUR
from usage.rollups.rows import traces_in

TABLE = SourceUsage._meta.db_table
DIMENSIONS = ("source", "source_version", "environment")
WITHOUT_PRICE = (CostSource.PARTLY_PRICED, CostSource.UNPRICED, CostSource.UNMETERED)


def _is(condition: str) -> str:
    return f"CASE WHEN {condition} THEN 1 ELSE 0 END"


UNPRICED = ", ".join(f"'{one.value}'" for one in WITHOUT_PRICE)
COUNTS = "o.cost_source <> 'no_usage'"
"""Of a step: it is a call that counts."""
OF_STEPS: Mapping[str, str] = {
    "priced_observations": _is(f"{COUNTS} AND o.cost_source NOT IN ({UNPRICED})"),
    **{f"{one.value}_observations": _is(f"o.cost_source = '{one.value}'") for one in WITHOUT_PRICE},
    "owned_observations": _is(f"{COUNTS} AND {owned_sql('t')}"),
    "repeated_observations": _is("o.counted_in <> ''"),
    "total_tokens": "o.total_tokens",
    "total_cost_usd": "COALESCE(o.cost_usd, 0)",
}
OF_TRACES: Mapping[str, str] = {
    "total_traces": "1",
    "owned_traces": _is(owned_sql("t")),
}
SUM_NAMES = (*OF_TRACES, *OF_STEPS)
KEPT = ("period_start", *DIMENSIONS, *SUM_NAMES, "first_activity", "last_activity")
"""The columns of its rows."""
TRACE_COLUMNS = ("id", "hour", "start_time", "tenant_id", "user_id", *DIMENSIONS)


def rows_of_facts(ranges: Sequence[Range]) -> Sql:
    """A row for each trace that began in one of the ranges, and one for each of its calls, with the
    number of the range.
    """
    traces, number = traces_in(ranges, Sql(""), TRACE_COLUMNS)
    steps = (
        f"{traces.text} JOIN usage_observation o ON o.trace_id = t.id"
        f" AND ({COUNTS} OR o.counted_in <> '')"
    )
    return Sql(
        f"{_rows(number, 't', OF_TRACES)} FROM {traces.text}"
        f" UNION ALL {_rows(number, 'o', OF_STEPS)} FROM {steps}",
        [*traces.parameters, *traces.parameters],
    )


def _rows(number: str, recorded: str, numbers: Mapping[str, str]) -> str:
    columns = [
        f"{number} AS number",
        "t.hour AS period_start",
        f"{recorded}.source",
        f"{recorded}.source_version",
        "t.environment",
        *(f"{numbers.get(name, '0')} AS {name}" for name in SUM_NAMES),
        "t.start_time AS first_activity",
        "t.start_time AS last_activity",
    ]
    return f"SELECT {', '.join(columns)}"


def summed(rows: str, *keys: str) -> str:
    """The sums of rows s by these columns, then when the first and the last was."""
    columns = [f"s.{key}" for key in keys]
    sums = [f"CAST(SUM(s.{name}) AS bigint)" for name in SUM_NAMES]
    moments = ["MIN(s.first_activity)", "MAX(s.last_activity)"]
    return (
        f"SELECT {', '.join([*columns, *sums, *moments])} FROM ({rows}) s"
        f" GROUP BY {', '.join(columns)}"
    )


def build_sources(cursor: CursorWrapper, hours: Sequence[datetime]) -> None:
    """Build these hours from the facts."""
    cursor.execute(
        f"DELETE FROM {TABLE} WHERE period_start IN ({', '.join(['%s'] * len(hours))})",
        [*map(stored, hours)],
    )
    rows = rows_of_facts(ranges_of(hours))
    cursor.execute(
        f"INSERT INTO {TABLE} ({', '.join(KEPT)}) {summed(rows.text, 'period_start', *DIMENSIONS)}",
        rows.parameters,
    )


def ranges_of(hours: Sequence[datetime], number: int = 0) -> list[Range]:
    """The hours, in their order, as stretches: those that follow each other together."""
    ranges: list[Range] = []
    for hour in hours:
        if ranges and ranges[-1][2] == hour:
            ranges[-1] = (number, ranges[-1][1], hour + HOUR)
        else:
            ranges.append((number, hour, hour + HOUR))
    return ranges
