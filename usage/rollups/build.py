"""Builds the rollups from the facts, a day at a time, where they are stale.

A period's finest rows are sums of the facts, the others of the next finer rows. A period that is
still running is left to the facts and to its finer periods, but for the tenants' stats, which
people look at as they grow. Each step is one transaction; repeating it is harmless.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from kluisz_analytics.bulk import insert_rows, moment_of
from kluisz_analytics.sql import listed, numbers_in, stored
from usage.measures import SUM_NAMES
from usage.models import StalePeriod
from usage.periods import DAY as AN_DAY
from usage.periods import HOUR as AN_HOUR
from usage.periods import Granularity, period_of
from usage.rollups.rows import OF_ROWS, model_rows, trace_rows
from usage.rollups.rules import BUILT, DAY, HOUR, MONTH, WEEK, RollupRule
from usage.rollups.sketches import Sketch, bucket_sql, pack_latencies, pack_users
from usage.rollups.sources import build_sources

LOCK = 7_302_211
"""Of PostgreSQL's advisory locks: one builder at a time."""


PARENTS = (WEEK, MONTH)


DAYS_TOGETHER = 4
"""So many days are built at once: most of a small day's time is what each statement takes, however
little it reads.
"""


def build_rollups(now: datetime | None = None, built: Iterable[datetime] = ()) -> int:
    """Build whatever is stale and can be built, and the weeks and months of days that were
    ``built`` before. Returns how many days were.
    """
    moment, days = now or timezone.now(), set(built)
    while found := _stale_days(moment):
        _build_days(found, moment)
        days.update(found)
    touched = {
        (granularity, period_of(granularity, day)[0]) for granularity in PARENTS for day in days
    }
    for granularity in PARENTS:
        stale = StalePeriod.objects.filter(granularity=granularity).order_by("period_start")
        for start in stale.values_list("period_start", flat=True).distinct():
            if period_of(granularity, start)[1] <= moment or (granularity, start) in touched:
                _build_parent(granularity, start, moment)
    return len(days)


def build_days(days: Sequence[datetime], now: datetime) -> list[datetime]:
    """Build those of the days, all over, of which any is stale, and return them.

    Weeks and months are left to :func:`build_rollups`.
    """
    marks = StalePeriod.objects.filter(granularity=HOUR, period_start__in=hours_of(days))
    marks |= StalePeriod.objects.filter(granularity=DAY, period_start__in=days)
    stale = sorted(
        {period_of(DAY, start)[0] for start in marks.values_list("period_start", flat=True)}
    )
    if stale:
        _build_days(stale, now)
    return stale


def _stale_days(now: datetime) -> list[datetime]:
    """The latest days with a stale hour, or that are over by now and not yet built; today by
    itself.
    """
    today = period_of(DAY, now)[0]
    marks = StalePeriod.objects.filter(granularity=HOUR) | StalePeriod.objects.filter(
        granularity=DAY, period_start__lt=today
    )
    starts = marks.order_by("-period_start").values_list("period_start", flat=True).distinct()
    days = sorted({period_of(DAY, start)[0] for start in starts}, reverse=True)
    return days[:1] if days and days[0] + AN_DAY > now else days[:DAYS_TOGETHER]


def hours_of(days: Iterable[datetime]) -> list[datetime]:
    return [day + number * AN_HOUR for day in days for number in range(24)]


@transaction.atomic
def _build_days(days: Sequence[datetime], now: datetime) -> None:
    """Build the days' stale hours, and the days themselves: days that are over, or one that is
    not.
    """
    is_over = days[-1] + AN_DAY <= now
    with connection.cursor() as cursor:
        _take_turns(cursor)
        hours = _taken(cursor, HOUR, hours_of(days))
        if not is_over and not hours:
            # Whoever was building while this waited has built them.
            return
        if not _taken(cursor, DAY, days) and not is_over:
            # The day's first building; or a clock that is behind, by another of which the day was
            # over and its hours are gone.
            hours = hours_of(days)
        # Of a day that is still running only the stale hours are built from the facts.
        _load_rows(
            cursor,
            (
                [period_of(DAY, day) for day in days]
                if is_over
                else [period_of(HOUR, hour) for hour in hours]
            ),
        )
        for rule in BUILT:
            if hours and (rule.finest is HOUR or (rule.hours_while_running and not is_over)):
                _replace(cursor, rule, HOUR, hours, _from_facts(cursor, rule, HOUR, hours))
            elif rule.hours_while_running:
                _delete(cursor, rule, HOUR, hours_of(days))
            if is_over or rule.while_running:
                rows = (
                    _from_facts(cursor, rule, DAY)
                    if rule.finest is DAY
                    else _from_finer(cursor, rule, DAY, days)
                )
                _replace(cursor, rule, DAY, days, rows)
        if hours:
            build_sources(cursor, hours)
    for granularity in PARENTS if is_over else (DAY, *PARENTS):
        for start in {period_of(granularity, day)[0] for day in days}:
            # One mark will do: only who builds makes these, one after the other.
            StalePeriod.objects.get_or_create(granularity=granularity, period_start=start)


@transaction.atomic
def _build_parent(granularity: Granularity, start: datetime, now: datetime) -> None:
    """Build a week or a month from its days."""
    end = period_of(granularity, start)[1]
    with connection.cursor() as cursor:
        _take_turns(cursor)
        if end <= now:
            _taken(cursor, granularity, [start])
        for rule in BUILT:
            if granularity in rule.granularities and (end <= now or rule.while_running):
                _replace(
                    cursor,
                    rule,
                    granularity,
                    [start],
                    _from_finer(cursor, rule, granularity, [start]),
                )


def _take_turns(cursor: CursorWrapper) -> None:
    """Wait for whoever else is building. SQLite has one writer at a time anyway."""
    if connection.vendor == "postgresql":
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def _taken(
    cursor: CursorWrapper, granularity: Granularity, starts: Sequence[datetime]
) -> list[datetime]:
    """The periods of these whose marks are taken away herewith; what changes after that is marked
    anew.
    """
    cursor.execute(
        f"DELETE FROM stale_period WHERE granularity = %s AND period_start IN ({_places(starts)})"
        " RETURNING period_start",
        [granularity.value, *map(stored, starts)],
    )
    return sorted({_period(moment) for (moment,) in cursor.fetchall()})


def _places(values: Sequence[object]) -> str:
    return ", ".join(["%s"] * len(values))


_period = lru_cache(maxsize=1_000)(moment_of)
"""The start of a period; there are few, and each is read many times."""
Key = tuple[Any, ...]
"""When a row's period starts, and its dimensions."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The rows of a rollup that is being built: their sums (SUM_NAMES, then the last activity), and
    their sketches.
    """

    numbers: Mapping[Key, Sequence[Any]]
    sketches: Mapping[Key, Sketch]


DAY_ROWS = {False: "usage_day_rows", True: "usage_day_model_rows"}
"""The rows of the day that is being built; by model or not."""


def _load_rows(cursor: CursorWrapper, periods: Sequence[tuple[datetime, datetime]]) -> None:
    """The facts of these periods as rows, read once for all rollups."""
    for by_model, table in DAY_ROWS.items():
        rows = (model_rows if by_model else trace_rows)([(0, start, end) for start, end in periods])
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
        cursor.execute(
            f"CREATE TEMPORARY TABLE {table} AS SELECT s.*, {bucket_sql('s.latency_ms')} AS bucket"
            f" FROM ({rows.text}) s",
            rows.parameters,
        )


def _from_facts(
    cursor: CursorWrapper,
    rule: RollupRule,
    granularity: Granularity,
    hours: Sequence[datetime] = (),
) -> Sums:
    """The finest rows: of these hours, or of whole days."""
    columns, width = [*rule.columns.values()], len(rule.columns) + 1
    keys = ", ".join(
        [
            _text("s.hour" if granularity is HOUR else _day_sql("s.hour")),
            *(f"s.{column}" for column in columns),
        ]
    )
    conditions = [f"s.hour IN ({_places(hours)})"] if hours else []
    if condition := OF_ROWS[rule.ownership]:
        conditions.append(condition)
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    cursor.execute(
        f"SELECT {keys}, {listed('n.id')}, {listed('s.bucket')}, {_sums('s')},"
        f" {_text('MAX(s.moment)')} FROM {DAY_ROWS[rule.by_model]} s LEFT JOIN usage_user_number"
        f" n ON n.user_id = s.user_key {where} GROUP BY"
        f" {', '.join(str(place + 1) for place in range(width))}",
        [*map(stored, hours)],
    )
    numbers: dict[Key, Sequence[Any]] = {}
    sketches: dict[Key, Sketch] = {}
    for row in cursor.fetchall():
        key = (_period(row[0]), *row[1:width])
        users, latencies, *numbers[key] = row[width:]
        sketches[key] = sketch = Sketch()
        sketch.add(numbers_in(users), numbers_in(latencies))
    return Sums(numbers, sketches)


def _day_sql(hour: str) -> str:
    """The start of the hour's day."""
    return (
        f"date_trunc('day', {hour})"
        if connection.vendor == "postgresql"
        else f"substr({hour}, 1, 10) || ' 00:00:00'"
    )


def _text(expression: str) -> str:
    """A time as text, in the form in which it can be stored again."""
    return f"({expression})::text" if connection.vendor == "postgresql" else expression


def _from_finer(
    cursor: CursorWrapper, rule: RollupRule, granularity: Granularity, starts: Sequence[datetime]
) -> Sums:
    """Days' rows from those of their hours; a week's or a month's, one at a time, from those of its
    days.
    """
    finer = (
        hours_of(starts)
        if granularity is DAY
        else _days_between(*period_of(granularity, starts[0]))
    )
    period = _text(_day_sql("s.period_start")) if granularity is DAY else f"'{stored(starts[0])}'"
    width = len(rule.columns) + 1
    columns = ", ".join([period, *(f"s.{column}" for column in rule.columns)])
    source = (
        f"FROM {rule.table} s WHERE s.granularity = %s AND s.period_start IN ({_places(finer)})"
    )
    parameters = [(HOUR if granularity is DAY else DAY).value, *map(stored, finer)]
    groups = ", ".join(str(place + 1) for place in range(width))
    cursor.execute(
        f"SELECT {columns}, {_sums('s')}, {_text('MAX(s.last_activity)')} {source} GROUP BY"
        f" {groups}",
        parameters,
    )
    numbers = {(_period(row[0]), *row[1:width]): row[width:] for row in cursor.fetchall()}
    cursor.execute(f"SELECT {columns}, s.users, s.latencies {source}", parameters)
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    for row in cursor.fetchall():
        sketches[(_period(row[0]), *row[1:width])].merge(*row[width:])
    return Sums(numbers, sketches)


def _days_between(start: datetime, end: datetime) -> list[datetime]:
    return [start + number * AN_DAY for number in range((end - start).days)]


def _sums(alias: str) -> str:
    return ", ".join(f"CAST(SUM({alias}.{name}) AS bigint)" for name in SUM_NAMES)


def _replace(
    cursor: CursorWrapper,
    rule: RollupRule,
    granularity: Granularity,
    starts: Sequence[datetime],
    sums: Sums,
) -> None:
    """The rows of these periods become those."""
    _delete(cursor, rule, granularity, starts)
    periods = {start: tuple(map(stored, period_of(granularity, start))) for start in starts}
    nothing = Sketch()
    columns = [
        *("granularity", "period_start", "period_end", *rule.columns, *SUM_NAMES),
        *("last_activity", "active_users_count", "users", "latencies"),
    ]
    rows = []
    for key, numbers in sums.numbers.items():
        sketch = sums.sketches.get(key, nothing)
        packed = len(sketch.users), pack_users(sketch.users), pack_latencies(sketch.latencies)
        rows.append((granularity.value, *periods[key[0]], *key[1:], *numbers, *packed))
    insert_rows(cursor, rule.table, columns, rows)


def _delete(
    cursor: CursorWrapper, rule: RollupRule, granularity: Granularity, starts: Sequence[datetime]
) -> None:
    cursor.execute(
        f"DELETE FROM {rule.table} WHERE granularity = %s AND period_start IN ({_places(starts)})",
        [granularity.value, *map(stored, starts)],
    )
