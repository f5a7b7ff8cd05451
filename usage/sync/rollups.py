"""Adds changes of traces to their users' stats and to the ledger, and marks the hours whose built rollups they leave behind.

Lines (usage.sync.contributions) are loaded into a temporary table, grouped by period, and added to what is there. The upsert runs in one
order of keys, so that two workers never deadlock; amounts are integers, so that the sums are exact whatever the order of the changes.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from credits import ledger
from kluisz_analytics.bulk import empty_table, insert_rows, moment_of, stamp
from usage.models import Granularity, UserUsageStats
from usage.models.rollups import NUMBERS
from usage.periods import period_of
from usage.rollups.stale import mark_hours
from usage.sync.contributions import TOTAL_TRACES, Change, LineKey, Numbers

TABLE = UserUsageStats._meta.db_table
KEYS = ("user_id", "period_start", "period_end", "tenant_id")
PERIOD_COLUMNS = ("hour", "granularity", "period_start", "period_end")


def apply_change(change: Change, adjustment: str = "") -> ledger.Posted:
    """Add the change, and bring the ledger to what its users' hours come to. Call it inside the transaction that writes the facts.

    What that changes is posted as usage, or with ``adjustment`` (a reason) as adjustments.
    """
    mark_hours(change.hours())
    lines = change.lines()
    if not lines:
        return ledger.Posted(0, Decimal(0))
    with connection.cursor() as cursor:
        _stage(cursor, lines)
        _add(cursor)
        if any(numbers[TOTAL_TRACES] < 0 for _, numbers in lines):
            _drop_empty(cursor)
        ledger.begin_posting(cursor)
        _stage_credits(cursor)
        return ledger.post_staged(cursor, timezone.now(), adjustment)


def _stage(cursor: CursorWrapper, lines: Sequence[tuple[LineKey, Numbers]]) -> None:
    """Load the lines, and the periods that their hours are in."""
    key, time = (UserUsageStats._meta.get_field(name).db_type(connection) for name in ("user", "period_start"))
    numbers = ", ".join(f"{name} bigint" for name in NUMBERS)
    empty_table(cursor, "usage_change", f"hour {time}, tenant_id {key}, user_id {key}, {numbers}")
    empty_table(cursor, "usage_change_period", f"hour {time}, granularity varchar(5), period_start {time}, period_end {time}")
    insert_rows(cursor, "usage_change", [*LineKey._fields, *NUMBERS], ((*key, *numbers) for key, numbers in lines))
    insert_rows(cursor, "usage_change_period", PERIOD_COLUMNS, _periods({key.hour for key, _ in lines}))
    if connection.vendor == "postgresql":
        # A temporary table has no statistics of its own; without them PostgreSQL joins the two row by row.
        cursor.execute("ANALYZE usage_change (hour)")
        cursor.execute("ANALYZE usage_change_period")


def _periods(hours: Iterable[str]) -> Iterable[tuple[str, str, str, str]]:
    for hour in hours:
        moment = moment_of(hour)
        for granularity in Granularity:
            start, end = period_of(granularity, moment)
            yield hour, granularity.value, stamp(start), stamp(end)


def _add(cursor: CursorWrapper) -> None:
    """Add the staged lines to the stats."""
    columns = ", ".join(["granularity", *KEYS, *NUMBERS])
    keys = "p.granularity, c.user_id, p.period_start, p.period_end, c.tenant_id"
    sums = ", ".join(f"SUM(c.{name})" for name in NUMBERS)
    additions = ", ".join(f"{name} = {TABLE}.{name} + EXCLUDED.{name}" for name in NUMBERS)
    cursor.execute(
        f"INSERT INTO {TABLE} ({columns}) SELECT {keys}, {sums} "
        "FROM usage_change c JOIN usage_change_period p ON p.hour = c.hour "
        # "WHERE true" tells SQLite that ON belongs to the conflict and not to a join.
        f"WHERE true GROUP BY {keys} ORDER BY {keys} ON CONFLICT ({', '.join(KEYS)}) DO UPDATE SET {additions}"
    )


def _drop_empty(cursor: CursorWrapper) -> None:
    """A period from which the last trace went has no row, as if it never had one."""
    cursor.execute(
        f"DELETE FROM {TABLE} WHERE total_traces = 0"
        " AND user_id IN (SELECT user_id FROM usage_change) AND period_start IN (SELECT period_start FROM usage_change_period)"
    )


def _stage_credits(cursor: CursorWrapper) -> None:
    """What the users' hours whose credits the lines changed come to now, as the stats say."""
    cursor.execute(
        f"INSERT INTO {ledger.COMES_TO} (account_id, hour, credits)"
        " SELECT c.user_id, c.hour, CAST(COALESCE(SUM(u.credits_exact), 0) AS bigint) FROM ("
        " SELECT user_id, hour FROM usage_change GROUP BY user_id, hour HAVING SUM(credits_exact) <> 0) c"
        f" LEFT JOIN {TABLE} u ON u.user_id = c.user_id AND u.period_start = c.hour AND u.granularity = 'hour'"
        " GROUP BY c.user_id, c.hour"
    )
