"""Builds the rollups from the facts, a day at a time, where they are stale.

A period's finest rows are sums of the facts, the others of the next finer rows. A period that is still running is left to the facts and to
its finer periods, but for the tenants' stats, which people look at as they grow. Each step is one transaction; repeating it is harmless.
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
from usage.models import FlowUsage, Granularity, ModelUsage, PlatformModelUsage, PlatformUsage, StalePeriod, TenantUsageStats
from usage.models.rollups import NUMBERS, BuiltRollup
from usage.periods import HOUR as AN_HOUR
from usage.periods import period_of
from usage.rollups.lines import Sql, listed, model_lines, numbers_in, stored, trace_lines
from usage.rollups.sketches import Sketch, bucket_sql, pack_latencies, pack_users

HOUR, DAY, WEEK, MONTH = Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH
LOCK = 7_302_211
"""Of PostgreSQL's advisory locks: one builder at a time."""


@dataclass(frozen=True, slots=True)
class BuiltRule:
    """What a rollup sums: by these dimensions (its columns, and the lines' columns that they are), for these periods, finest first.

    ``while_running`` builds also days, weeks and months that are not over; ``hours_while_running`` has hours of a day until it is over.
    """

    model: type[BuiltRollup]
    dimensions: Mapping[str, str]
    granularities: Sequence[Granularity]
    by_model: bool = False
    only_attributed: bool = False
    while_running: bool = False
    hours_while_running: bool = False

    @property
    def table(self) -> str:
        return self.model._meta.db_table

    @property
    def finest(self) -> Granularity:
        return self.granularities[0]

    def lines(self, start: datetime, end: datetime) -> Sql:
        """The facts that it sums, of the traces in [start, end)."""
        conditions = Sql(" AND t.tenant_id IS NOT NULL AND t.user_id IS NOT NULL") if self.only_attributed else None
        return (model_lines if self.by_model else trace_lines)([(0, start, end)], conditions)


RULES = (
    BuiltRule(PlatformUsage, {"is_attributed": "is_attributed"}, (HOUR, DAY, MONTH)),
    BuiltRule(PlatformModelUsage, {"model": "model"}, (HOUR, DAY, MONTH), by_model=True),
    BuiltRule(TenantUsageStats, {"tenant_id": "tenant_key"}, (HOUR, DAY, WEEK, MONTH), only_attributed=True, while_running=True),
    BuiltRule(FlowUsage, {name: name for name in FlowUsage.DIMENSIONS}, (DAY, WEEK, MONTH), hours_while_running=True),
    BuiltRule(ModelUsage, {name: name for name in ModelUsage.DIMENSIONS}, (DAY, MONTH), by_model=True, hours_while_running=True),
)
PARENTS = (WEEK, MONTH)


def build_rollups(now: datetime | None = None, built: Iterable[datetime] = ()) -> int:
    """Build whatever is stale and can be built, and the weeks and months of days that were ``built`` before. Returns how many days were."""
    moment, days = now or timezone.now(), set(built)
    while (day := _next_stale_day(moment)) is not None:
        _build_day(day, moment)
        days.add(day)
    touched = {(granularity, period_of(granularity, day)[0]) for granularity in PARENTS for day in days}
    for granularity in PARENTS:
        waiting = StalePeriod.objects.filter(granularity=granularity).order_by("period_start")
        for start in waiting.values_list("period_start", flat=True).distinct():
            if period_of(granularity, start)[1] <= moment or (granularity, start) in touched:
                _build_parent(granularity, start, moment)
    return len(days)


def build_day(day: datetime, now: datetime) -> bool:
    """Build a day that is over, if any of it is stale; whether it was. Its weeks and months are left to :func:`build_rollups`."""
    marks = StalePeriod.objects.filter(granularity__in=(HOUR, DAY), period_start__gte=day, period_start__lt=period_of(DAY, day)[1])
    if is_stale := marks.exists():
        _build_day(day, now)
    return is_stale


def _next_stale_day(now: datetime) -> datetime | None:
    """The latest day with a stale hour, or one that is over by now and not yet built."""
    today = period_of(DAY, now)[0]
    marks = StalePeriod.objects.filter(granularity=HOUR) | StalePeriod.objects.filter(granularity=DAY, period_start__lt=today)
    latest = marks.order_by("-period_start").values_list("period_start", flat=True).first()
    return period_of(DAY, latest)[0] if latest else None


@transaction.atomic
def _build_day(day: datetime, now: datetime) -> None:
    """Build the day's stale hours, and the day itself."""
    start, end = period_of(DAY, day)
    with connection.cursor() as cursor:
        _take_turns(cursor)
        hours = _taken(cursor, HOUR, start, end)
        if end > now and not hours:
            # Whoever was building while this waited has built them.
            return
        if not _taken(cursor, DAY, start, end) and end > now:
            # The day's first building; or a clock that is behind, by another of which the day was over and its hours are gone.
            hours = [start + number * AN_HOUR for number in range(24)]
        _number_users(cursor, start, end)
        # Of a day that is still running only the stale hours are built from the facts.
        _load_lines(cursor, [(start, end)] if end <= now else [period_of(HOUR, hour) for hour in hours])
        for rule in RULES:
            if hours and (rule.finest is HOUR or (rule.hours_while_running and end > now)):
                _replace(cursor, rule, HOUR, hours, _from_facts(cursor, rule, start, hours))
            elif rule.hours_while_running:
                _delete(cursor, rule, HOUR, [start + number * AN_HOUR for number in range(24)])
            if end <= now or rule.while_running:
                rows = _from_facts(cursor, rule, start) if rule.finest is DAY else _from_finer(cursor, rule, DAY, start)
                _replace(cursor, rule, DAY, [start], rows)
    for granularity in PARENTS if end <= now else (DAY, *PARENTS):
        # One mark will do: only who builds makes these, one after the other.
        StalePeriod.objects.get_or_create(granularity=granularity, period_start=period_of(granularity, start)[0])


@transaction.atomic
def _build_parent(granularity: Granularity, start: datetime, now: datetime) -> None:
    """Build a week or a month from its days."""
    end = period_of(granularity, start)[1]
    with connection.cursor() as cursor:
        _take_turns(cursor)
        if end <= now:
            _taken(cursor, granularity, start, end)
        for rule in RULES:
            if granularity in rule.granularities and (end <= now or rule.while_running):
                _replace(cursor, rule, granularity, [start], _from_finer(cursor, rule, granularity, start))


def _take_turns(cursor: CursorWrapper) -> None:
    """Wait for whoever else is building. SQLite has one writer at a time anyway."""
    if connection.vendor == "postgresql":
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])


def _taken(cursor: CursorWrapper, granularity: Granularity, start: datetime, end: datetime) -> list[datetime]:
    """The periods whose marks are taken away herewith; what changes after that is marked anew."""
    cursor.execute(
        "DELETE FROM stale_period WHERE granularity = %s AND period_start >= %s AND period_start < %s RETURNING period_start",
        [granularity.value, stored(start), stored(end)],
    )
    return sorted({_period(moment) for (moment,) in cursor.fetchall()})


def _number_users(cursor: CursorWrapper, start: datetime, end: datetime) -> None:
    """Give the period's users a number who have none."""
    cursor.execute(
        "INSERT INTO usage_user_number (user_id) SELECT DISTINCT t.user_id FROM usage_trace t"
        " WHERE t.start_time >= %s AND t.start_time < %s AND t.user_id IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM usage_user_number n WHERE n.user_id = t.user_id)",
        [stored(start), stored(end)],
    )


_period = lru_cache(maxsize=1_000)(moment_of)
"""The start of a period; there are few, and each is read many times."""
Key = tuple[Any, ...]
"""When a row's period starts, and its dimensions."""


@dataclass(frozen=True, slots=True)
class Sums:
    """The rows of a rollup that is being built: their sums (NUMBERS, then the last activity), and their sketches."""

    numbers: Mapping[Key, Sequence[Any]]
    sketches: Mapping[Key, Sketch]


DAYS_LINES = {False: "usage_day_lines", True: "usage_day_model_lines"}
"""The lines of the day that is being built; by model or not."""


def _load_lines(cursor: CursorWrapper, periods: Sequence[tuple[datetime, datetime]]) -> None:
    """The facts of these periods as lines, read once for all rollups."""
    for by_model, table in DAYS_LINES.items():
        lines = (model_lines if by_model else trace_lines)([(0, start, end) for start, end in periods])
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
        cursor.execute(
            f"CREATE TEMPORARY TABLE {table} AS SELECT s.*, {bucket_sql('s.latency_ms')} AS bucket, n.id AS user_number"
            f" FROM ({lines.text}) s LEFT JOIN usage_user_number n ON n.user_id = s.user_key",
            lines.parameters,
        )


def _from_facts(cursor: CursorWrapper, rule: BuiltRule, day: datetime, hours: Sequence[datetime] = ()) -> Sums:
    """The finest rows: of these hours, or of the whole day."""
    columns, width = [*rule.dimensions.values()], len(rule.dimensions) + 1
    keys = ", ".join([_text("s.hour") if hours else "NULL", *(f"s.{column}" for column in columns)])
    conditions = [f"s.hour IN ({', '.join(['%s'] * len(hours))})"] if hours else []
    if rule.only_attributed:
        conditions.append("s.is_attributed")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    cursor.execute(
        f"SELECT {keys}, {listed('s.user_number')}, {listed('s.bucket')}, {_sums('s')}, {_text('MAX(s.moment)')}"
        f" FROM {DAYS_LINES[rule.by_model]} s {where} GROUP BY {', '.join(str(place + 1) for place in range(width))}",
        [*map(stored, hours)],
    )
    numbers: dict[Key, Sequence[Any]] = {}
    sketches: dict[Key, Sketch] = {}
    for row in cursor.fetchall():
        key = (_period(row[0]) if hours else day, *row[1:width])
        users, latencies, *numbers[key] = row[width:]
        sketches[key] = sketch = Sketch()
        sketch.add(numbers_in(users), numbers_in(latencies))
    return Sums(numbers, sketches)


def _text(expression: str) -> str:
    """A time as text, in the form in which it can be stored again."""
    return f"({expression})::text" if connection.vendor == "postgresql" else expression


def _from_finer(cursor: CursorWrapper, rule: BuiltRule, granularity: Granularity, start: datetime) -> Sums:
    """A period's rows from those of the next finer periods; a week's and a month's from days."""
    finer = HOUR if granularity is DAY else DAY
    columns = ", ".join(f"s.{column}" for column in rule.dimensions)
    source = f"FROM {rule.table} s WHERE s.granularity = %s AND s.period_start >= %s AND s.period_start < %s"
    parameters = [finer.value, stored(start), stored(period_of(granularity, start)[1])]
    width = len(rule.dimensions)
    cursor.execute(f"SELECT {columns}, {_sums('s')}, {_text('MAX(s.last_activity)')} {source} GROUP BY {columns}", parameters)
    numbers = {(start, *row[:width]): row[width:] for row in cursor.fetchall()}
    cursor.execute(f"SELECT {columns}, s.users, s.latencies {source}", parameters)
    sketches: dict[Key, Sketch] = defaultdict(Sketch)
    for row in cursor.fetchall():
        sketches[(start, *row[:width])].merge(*row[width:])
    return Sums(numbers, sketches)


def _sums(alias: str) -> str:
    return ", ".join(f"CAST(SUM({alias}.{name}) AS bigint)" for name in NUMBERS)


def _replace(cursor: CursorWrapper, rule: BuiltRule, granularity: Granularity, starts: Sequence[datetime], sums: Sums) -> None:
    """The rows of these periods become those."""
    _delete(cursor, rule, granularity, starts)
    periods = {start: tuple(map(stored, period_of(granularity, start))) for start in starts}
    nothing = Sketch()
    columns = [
        *("granularity", "period_start", "period_end", *rule.dimensions, *NUMBERS),
        *("last_activity", "active_users_count", "users", "latencies"),
    ]
    rows = []
    for key, numbers in sums.numbers.items():
        sketch = sums.sketches.get(key, nothing)
        packed = len(sketch.users), pack_users(sketch.users), pack_latencies(sketch.latencies)
        rows.append((granularity.value, *periods[key[0]], *key[1:], *numbers, *packed))
    insert_rows(cursor, rule.table, columns, rows)


def _delete(cursor: CursorWrapper, rule: BuiltRule, granularity: Granularity, starts: Sequence[datetime]) -> None:
    cursor.execute(
        f"DELETE FROM {rule.table} WHERE granularity = %s AND period_start IN ({', '.join(['%s'] * len(starts))})",
        [granularity.value, *map(stored, starts)],
    )
