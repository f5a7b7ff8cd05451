"""Finds data that came, changed or went after its hour was read: by asking Langfuse's metrics
whether they have changed.

Metrics count every version of a re-sent row until Langfuse merges it away, so they need not equal
our own figures. What tells is change: each window keeps what Langfuse said of it before it was last
read, and is read again when Langfuse says something else now.

Requests are dear (100 a day on the smallest plan), so days are asked first, all in one request, and
hours only of the days that differ.

An hour's totals stay as they were when a run of it is given to another owner; the figures of each
tenant's days, and of their users, are compared for that (usage.sync.tenant_days).

A v1 server has no such metrics, but gives each observation once and says how many it has: there a
day is read again when that number is another than what was read.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Literal

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from usage.connections import claim_project, client_for, remember_server
from usage.facts.rejections import retry_rejected
from usage.langfuse.client import MOST_FIGURES, V2, Figures, LangfuseClientService
from usage.langfuse.errors import BudgetSpent, ServerTrouble
from usage.models import LangfuseConnection, SyncDrift, SyncRun, SyncWindow
from usage.periods import DAY, hour_of
from usage.sync import tenant_days, windows
from usage.sync.result import SyncResult
from usage.sync.runner import Progress, no_progress, read_due, recorded_run
from usage.sync.tenant_days import Change
from usage.sync.windows import Span

NOTHING = Figures(0, 0, 0.0)
HOURS_A_DAY = 24
DAYS_OF_HOURS = MOST_FIGURES // HOURS_A_DAY


def reconcile_connection(
    connection: LangfuseConnection,
    start: datetime | None = None,
    end: datetime | None = None,
    progress: Progress = no_progress,
) -> SyncResult:
    """Compare the hours of the time (by default all that is synced, up to the running hour) with
    Langfuse, and read again what changed.
    """
    now = timezone.now()
    span = Span.around(
        start or now - timedelta(days=settings.SYNC_BACKFILL_DAYS),
        min(end, hour_of(now)) if end else hour_of(now),
    )
    with (
        recorded_run(connection, SyncRun.Kind.RECONCILIATION) as (result, sign_of_life),
        client_for(connection) as client,
    ):
        client.report_trouble_to(sign_of_life.trouble)
        claim_project(connection, client)
        # Its operator may have changed it.
        client.find_out()
        remember_server(connection, client.api, client.write_mode)
        windows.keep_complete_through(connection)
        result.add(retry_rejected(connection))
        windows.open_windows(connection, span)
        find = _drifted if client.api == V2 else _miscounted
        drifted = list(find(connection, client, span))
        days = _whole_days(span)
        found = tenant_days.fetch(connection, client, days) if client.api == V2 else {}
        changed_days = tenant_days.changes(connection, found, days)
        drifts = _drifts(drifted, changed_days)
        result.windows_drifted = len(drifts)
        changed = [_with_figures(window, figures) for window, figures in drifted]
        of_days = _windows_of(connection, span, {one.day for one in changed_days}, changed)
        with transaction.atomic():
            windows.make_due([*changed, *of_days])
            tenant_days.keep(connection, found, days, now)
            if days and _moment(days[-1]) + DAY > now - DAY:
                tenant_days.remember(connection, found.keys(), now)
        due = sorted([*changed, *of_days], key=lambda window: window.start, reverse=True)
        read_due(connection, client, due, now, result, progress, sign_of_life)
        result.record_drifts(drifts)
        tenant_days.keep(connection, found, {window.start.date() for window in due} & {*days}, now)
    return result


def _whole_days(span: Span) -> list[date]:
    """The days that are wholly in the span, the earliest first."""
    hours_a_day = Counter(hour.date() for hour in span.hours())
    return [day for day, hours in sorted(hours_a_day.items()) if hours == HOURS_A_DAY]


def _windows_of(
    connection: LangfuseConnection,
    span: Span,
    days: Collection[date],
    but: Collection[SyncWindow],
) -> list[SyncWindow]:
    """The windows of these days that are read and are not to be read again already; to be read
    again.
    """
    if not days:
        return []
    within = SyncWindow.objects.filter(
        connection=connection,
        start__gte=max(span.start, _moment(min(days))),
        end__lte=min(span.end, _moment(max(days)) + DAY),
        state=SyncWindow.State.DONE,
    ).exclude(pk__in=[window.pk for window in but])
    found = [window for window in within if window.start.date() in days]
    for window in found:
        window.state = SyncWindow.State.PENDING
    return found


def _drifts(
    drifted: Iterable[tuple[SyncWindow, Figures]], changed_days: Iterable[Change]
) -> list[SyncDrift]:
    """What is found, before it is repaired: hours, and days of which no hour has other totals."""
    known = [pair for pair in drifted if pair[0].langfuse_count is not None]
    days = {window.start.date() for window, _ in known}
    of_days = [
        SyncDrift(
            start=_moment(one.day),
            period=SyncDrift.Period.DAY,
            tenant_id=one.tenant_id,
            **_before_and_now(one.before, one.now),
        )
        for one in changed_days
        if one.day not in days
    ]
    return [
        *(
            SyncDrift(start=window.start, **_before_and_now(_said_of(window), figures))
            for window, figures in known
        ),
        *of_days,
    ]


def _before_and_now(before: Figures, now: Figures) -> dict[str, Any]:
    return {
        f"{column}_{moment}": getattr(figures, column)
        for moment, figures in (("before", before), ("now", now))
        for column in ("count", "tokens", "cost_usd", "users")
    }


def _moment(day: date) -> datetime:
    return datetime.combine(day, time(), tzinfo=UTC)


def _miscounted(
    connection: LangfuseConnection, client: LangfuseClientService, span: Span
) -> Iterator[tuple[SyncWindow, Figures]]:
    """The windows, oldest first, of the days of which a v1 server has another number of
    observations than were read; and that number.
    """
    by_day: dict[date, list[SyncWindow]] = defaultdict(list)
    stored = SyncWindow.objects.filter(
        connection=connection, start__gte=span.start, end__lte=span.end
    ).order_by("start")
    for window in stored.filter(state=SyncWindow.State.DONE):
        by_day[window.start.date()].append(window)
    for of_a_day in by_day.values():
        counted = client.count_observations(of_a_day[0].start, of_a_day[-1].end)
        if counted != sum(window.observations for window in of_a_day):
            for window in of_a_day:
                window.langfuse_count = window.observations
                yield window, Figures(client.count_observations(window.start, window.end), 0, 0.0)


def _drifted(
    connection: LangfuseConnection, client: LangfuseClientService, span: Span
) -> Iterator[tuple[SyncWindow, Figures]]:
    """The windows, oldest first, of which Langfuse says something else now, or of which nobody had
    asked; and what it says.
    """
    by_day: dict[date, list[SyncWindow]] = defaultdict(list)
    stored = SyncWindow.objects.filter(
        connection=connection, start__gte=span.start, end__lte=span.end
    ).order_by("start")
    for window in stored.exclude(state=SyncWindow.State.LEASED):
        by_day[window.start.date()].append(window)
    days = [day for day in sorted(by_day) if _is_unknown(by_day[day])]
    known = [day for day in sorted(by_day) if not _is_unknown(by_day[day])]
    for some in _neighbours(known, MOST_FIGURES):
        figures = _figures(client, some, "day")
        days += [
            day.date()
            for day in some
            if _summed(by_day[day.date()]).differ(figures.get(day, NOTHING))
        ]
    for some in _neighbours(sorted(days), DAYS_OF_HOURS):
        figures = _figures(client, some, "hour")
        for day in some:
            for window in by_day[day.date()]:
                now_said = figures.get(window.start, NOTHING)
                if window.langfuse_count is None or _said_of(window).differ(now_said):
                    yield window, now_said


def _figures(
    client: LangfuseClientService, days: list[datetime], granularity: Literal["hour", "day"]
) -> dict[datetime, Figures]:
    """What Langfuse says of these days, in one request; in two of half as many where its store
    gives up.
    """
    try:
        return client.figures(days[0], days[-1] + DAY, granularity)
    except BudgetSpent:
        raise
    except ServerTrouble:
        if len(days) == 1:
            raise
    middle = len(days) // 2
    newer = _figures(client, days[middle:], granularity)
    return _figures(client, days[:middle], granularity) | newer


def _is_unknown(of_a_day: Iterable[SyncWindow]) -> bool:
    """Whether the day can't be compared as a whole: nobody asked about one of its hours, or some
    are not of the span.
    """
    listed = list(of_a_day)
    return len(listed) < HOURS_A_DAY or any(window.langfuse_count is None for window in listed)


def _neighbours(days: list[date], longest: int) -> Iterator[list[datetime]]:
    """Days as their first moments, in groups that one request can span."""
    group: list[datetime] = []
    for day in days:
        moment = _moment(day)
        if group and (moment - group[0]).days >= longest:
            yield group
            group = []
        group.append(moment)
    if group:
        yield group


def _summed(of_a_day: Iterable[SyncWindow]) -> Figures:
    said = [_said_of(window) for window in of_a_day]
    return Figures(
        sum(one.count for one in said),
        sum(one.tokens for one in said),
        sum(one.cost_usd for one in said),
    )


def _said_of(window: SyncWindow) -> Figures:
    return Figures(
        window.langfuse_count or 0, window.langfuse_tokens or 0, window.langfuse_cost_usd or 0.0
    )


def _with_figures(window: SyncWindow, figures: Figures) -> SyncWindow:
    """The window, to be read again; the figures are older than that reading, so nothing that comes
    in between goes unnoticed.
    """
    window.state = SyncWindow.State.PENDING
    window.langfuse_count, window.langfuse_tokens, window.langfuse_cost_usd = (
        figures.count,
        figures.tokens,
        figures.cost_usd,
    )
    return window
