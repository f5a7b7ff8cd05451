"""Adds changes of traces to their users' stats and to the ledger, and marks the hours whose built
rollups they leave behind.

The sums of each user's hour (usage.facts.contributions) are loaded into a temporary table, grouped
by period, and added to what is there. The upsert runs in one order of keys, so that two workers
never deadlock; amounts are integers, so that the sums are exact whatever the order of the changes.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from credits import ledger
from credits.budgets import usage_changed
from kluisz_analytics.bulk import Statement, empty_table, execute_all, insert_rows, stamp
from kluisz_analytics.tenants.attributed import owned_sql
from usage.facts.contributions import TOTAL_TRACES, Change, Numbers, UserHour
from usage.measures import SUM_NAMES
from usage.models import UserUsageStats
from usage.periods import Granularity, period_of
from usage.rollups.stale import marks_of

TABLE = UserUsageStats._meta.db_table
KEYS = ("user_id", "period_start", "period_end", "tenant_id")
PERIOD_COLUMNS = ("hour", "granularity", "period_start", "period_end")


NUMBER_USERS = """
    INSERT INTO usage_user_number (user_id) SELECT DISTINCT c.user_id FROM usage_change c
    WHERE NOT EXISTS (SELECT 1 FROM usage_user_number n WHERE n.user_id = c.user_id)
        ORDER BY c.user_id
    ON CONFLICT (user_id) DO NOTHING"""


def apply_change(change: Change, adjustment: str = "") -> ledger.Posted:
    """Add the change to the stats, and post what its users' hours come to. Call it inside the
    transaction that writes the facts.

    What that changes is posted as usage, or with ``adjustment`` (a reason) as adjustments.
    """
    marks, sums, touched = marks_of(change.hours()), change.sums(), change.touched()
    with connection.cursor() as cursor:
        if not (sums or touched):
            execute_all(cursor, *marks)
            usage_changed(change.tenants())
            return ledger.Posted(0, Decimal(0))
        _stage(cursor, marks, sums, touched)
        is_taken_away = any(numbers[TOTAL_TRACES] < 0 for _, numbers in sums)
        # A temporary table has no statistics of its own; without them PostgreSQL joins the two row
        # by row.
        analyze = (
            ["ANALYZE usage_change (hour)", "ANALYZE usage_change_period"]
            if connection.vendor == "postgresql"
            else []
        )
        drop_empty = [DROP_EMPTY] if is_taken_away else []
        add = [*analyze, NUMBER_USERS, ADD_HOURS, ADD_LONGER, *drop_empty, STAGE_HOURS]
        posted = ledger.post_staged(
            cursor,
            timezone.now(),
            adjustment,
            before=add,
            comes_to=ledger.of_usage(WHOLE_HOURS),
        )
    usage_changed(change.tenants())
    return posted


def _stage(
    cursor: CursorWrapper,
    marks: Sequence[Statement],
    sums: Sequence[tuple[UserHour, Numbers]],
    touched: Collection[UserHour],
) -> None:
    """Mark the hours, and load the sums, the periods that their hours are in, and the hours whose
    traces may have moved within them.
    """
    key, time = (
        UserUsageStats._meta.get_field(name).db_type(connection)
        for name in ("user", "period_start")
    )
    numbers = ", ".join(f"{name} bigint" for name in SUM_NAMES)
    execute_all(
        cursor,
        *marks,
        *empty_table("usage_change", f"hour {time}, tenant_id {key}, user_id {key}, {numbers}"),
        *empty_table(
            "usage_change_period",
            f"hour {time}, granularity varchar(5), period_start {time}, period_end {time}",
        ),
        *empty_table("usage_change_within", f"hour {time}, user_id {key}"),
        *ledger.empty_staging(),
    )
    insert_rows(
        cursor,
        "usage_change",
        [*UserHour._fields, *SUM_NAMES],
        ((stamp(key.hour), key.tenant_id, key.user_id, *numbers) for key, numbers in sums),
    )
    insert_rows(
        cursor, "usage_change_period", PERIOD_COLUMNS, _periods({key.hour for key, _ in sums})
    )

    users = {(key.hour, key.user_id) for key in touched}
    insert_rows(
        cursor,
        "usage_change_within",
        ["hour", "user_id"],
        ((stamp(hour), user_id) for hour, user_id in users),
    )


def _periods(hours: Iterable[datetime]) -> Iterable[tuple[str, str, str, str]]:
    for hour in hours:
        for granularity in Granularity:
            start, end = period_of(granularity, hour)
            yield stamp(hour), granularity.value, stamp(start), stamp(end)


def _add(periods: str, numbers: Sequence[str], groups: str = "") -> str:
    """Add the staged sums to the stats of such periods."""
    columns = ", ".join(["granularity", *KEYS, *SUM_NAMES])
    keys = "p.granularity, c.user_id, p.period_start, p.period_end, c.tenant_id"
    additions = ", ".join(f"{name} = {TABLE}.{name} + EXCLUDED.{name}" for name in SUM_NAMES)
    return (
        f"INSERT INTO {TABLE} ({columns}) SELECT {keys}, {', '.join(numbers)} FROM usage_change c"
        f" JOIN usage_change_period p ON p.hour = c.hour WHERE {periods} {groups and groups + keys}"
        f" ORDER BY {keys} ON CONFLICT ({', '.join(KEYS)}) DO UPDATE SET {additions}"
    )


# There is one row a user's hour, so of hours there is nothing to sum; PostgreSQL's sums of
# integers are slow.
ADD_HOURS = _add("p.granularity = 'hour'", [f"c.{name}" for name in SUM_NAMES])
ADD_LONGER = _add("p.granularity <> 'hour'", [f"SUM(c.{name})" for name in SUM_NAMES], "GROUP BY ")
# A period from which the last trace went has no row, as if it never had one.
DROP_EMPTY = (
    f"DELETE FROM {TABLE} WHERE total_traces = 0 AND user_id IN (SELECT user_id FROM usage_change)"
    " AND period_start IN (SELECT period_start FROM usage_change_period)"
)
# The users' hours whose credits changed, and those in which a trace may have moved.
STAGE_HOURS = (
    f"INSERT INTO {ledger.COMES_TO} (account_id, hour) SELECT user_id, hour FROM usage_change"
    " GROUP BY user_id, hour HAVING SUM(credits_exact) <> 0 UNION SELECT w.user_id, w.hour FROM"
    " usage_change_within w WHERE EXISTS (SELECT 1 FROM credit_account a WHERE a.user_id ="
    " w.user_id)"
)
# What these come to now, as the stats say.
WHOLE_HOURS = (
    "SELECT s.account_id, s.hour, CAST(COALESCE(SUM(u.credits_exact), 0) AS bigint) AS credits"
    f" FROM {ledger.COMES_TO} s LEFT JOIN {TABLE} u ON u.user_id = s.account_id AND u.period_start"
    f" = s.hour AND u.granularity = 'hour' WHERE {ledger.IS_WHOLE} GROUP BY s.account_id, s.hour"
)
CHARGED_USAGE = (
    "SELECT t.user_id AS account_id, t.start_time AS at, t.credits FROM usage_trace t WHERE"
    f" t.credits IS NOT NULL AND {owned_sql('t')} AND NOT t.is_voided"
)
"""What is charged, by the runs' own time: for the parts of hours in which grants begin or end."""
