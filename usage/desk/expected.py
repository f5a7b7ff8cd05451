"""What should have come and has not (domain.md, Expected but not seen): the report, for platform
admins. A handful of queries, whatever there is; :mod:`usage.desk.missing` has the rules.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection as database
from django.db.backends.utils import CursorWrapper
from django.db.models import Count, Q
from django.utils import timezone

from credits.models import Hold
from kluisz_analytics.bulk import stamp, uuid_of
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.periods import Period
from kluisz_analytics.scales import CREDIT_PLACES, Credits, from_scaled
from kluisz_analytics.tenants.models import Tenant, User
from usage.analytics import names
from usage.desk.missing import (
    WEEK,
    WEEKS_TO_KNOW_AN_HOUR,
    Gap,
    HoldFault,
    HoldState,
    always_calls,
    fault_of,
    gaps_in,
    hours_asked,
)
from usage.measures import Dimension
from usage.models import Trace
from usage.scope import Scope
from usage.sync.freshness import complete_through_of

ROWS = 200
"""So many of each list are named; the counts are of all."""
TRACE_BEFORE_ITS_HOLD = timedelta(hours=1)
TRACE_AFTER_ITS_HOLD = timedelta(days=3)
DAYS_BEFORE = timedelta(days=28)
"""What a flow always does is what it did in the four weeks before the period."""
HOLDS_ENDED = (Hold.State.CHARGED, Hold.State.EXPIRED, Hold.State.UNCHARGED, Hold.State.PRESUMED)


@dataclass(frozen=True, slots=True)
class HoldNotSeen:
    """A hold whose run was not charged as it said; ``charged_credits`` is null where it has no
    trace, or the trace no credits.
    """

    fault: str
    hold_id: UUID
    langfuse_trace_id: str
    user_id: UUID
    user: str
    tenant: str
    flow_id: str
    created_at: datetime
    state: str
    held_credits: Credits
    settled_credits: Credits | None
    charged_credits: Credits | None
    trace_id: UUID | None

    @property
    def at_stake(self) -> Decimal:
        """What was said, or else reserved, less what is charged; as it is, whatever its sign."""
        said = self.held_credits if self.settled_credits is None else self.settled_credits
        return abs(said - (self.charged_credits or Decimal(0)))


@dataclass(frozen=True, slots=True)
class RunsWithoutCalls:
    """A flow whose runs as good as always call a model, and runs of the period without any call.

    Runs that failed are left out, before and now.
    """

    flow_id: str
    flow: str
    runs: int
    runs_without_calls: int
    runs_before: int
    runs_before_without_calls: int
    example_langfuse_trace_id: str


@dataclass(frozen=True, slots=True)
class TenantGap:
    """Hours without a run of a tenant that had some in each of the four weeks before."""

    tenant_id: UUID
    tenant: str
    start: datetime
    end: datetime
    hours: int
    usual_runs: float


@dataclass(frozen=True, slots=True)
class Expected:
    """The report on a period: of each list the rows with the most at stake, and how many there
    are in all.
    """

    holds: list[HoldNotSeen]
    holds_by_fault: Mapping[HoldFault, int]
    flows: list[RunsWithoutCalls]
    gaps: list[TenantGap]
    gaps_count: int
    complete_through: datetime | None

    @property
    def is_all_seen(self) -> bool:
        return not (self.holds or self.flows or self.gaps)

    @property
    def holds_count(self) -> int:
        return sum(self.holds_by_fault.values())


def expected_usage(period: Period) -> Expected:
    """The report. Hours are asked about as far as everything is read: what is not read yet is not
    missing.
    """
    complete_through = complete_through_of(Scope())
    holds = _holds(period)
    gaps = _gaps(period, complete_through)
    return Expected(
        sorted(holds, key=lambda one: (-one.at_stake, one.created_at))[:ROWS],
        Counter(HoldFault(one.fault) for one in holds),
        _flows(period)[:ROWS],
        gaps[:ROWS],
        len(gaps),
        complete_through,
    )


# A run's trace begins about when its hold does. Ids are compared as holds spell them.
SPELLED = "REPLACE(LOWER(langfuse_trace_id), '-', '')"
HOLDS = f"""
    WITH t AS MATERIALIZED (
        SELECT id, credits, {SPELLED} AS run
        FROM usage_trace WHERE start_time >= %s AND start_time < %s AND NOT is_voided)
    SELECT h.id, h.trace_id, h.account_id, h.flow_id, h.created_at, h.state, h.expires_at,
        h.credits, h.settled_credits, t.id, t.credits
    FROM credit_hold h LEFT JOIN t ON t.run = h.trace_id
    WHERE h.created_at >= %s AND h.created_at < %s AND h.state <> 'released'
        AND (t.id IS NULL OR t.credits IS NULL OR h.settled_credits <> t.credits)
    ORDER BY h.created_at DESC, h.id"""
# Of an id that is none of Langfuse's own, a hold has a digest that no database makes.
OTHER_IDS = f"""
    SELECT id, credits, langfuse_trace_id FROM usage_trace
    WHERE start_time >= %s AND start_time < %s AND NOT is_voided
        AND (LENGTH({SPELLED}) <> 32 OR TRIM({SPELLED}, '0123456789abcdef') <> '')"""


def _holds(period: Period) -> list[HoldNotSeen]:
    now = timezone.now()
    traced_in = [
        stamp(period.start - TRACE_BEFORE_ITS_HOLD),
        stamp(period.end + TRACE_AFTER_ITS_HOLD),
    ]
    with database.cursor() as cursor:
        cursor.execute(HOLDS, [*traced_in, stamp(period.start), stamp(period.end)])
        rows = _with_other_ids(cursor, cursor.fetchall(), traced_in)
    found = [(row, fault) for row in rows if (fault := _fault(row, now))]
    users = names.users_by_id({uuid_of(row[2]) for row, _ in found}, Scope())
    return [_hold(row, fault, users) for row, fault in found]


def _with_other_ids(
    cursor: CursorWrapper, rows: Sequence[Sequence[Any]], traced_in: Sequence[Any]
) -> list[Sequence[Any]]:
    """The holds, those whose traces have ids of another form with these; what was charged and has
    no trace near it is no fault.
    """
    wanted = {row[1] for row in rows if row[9] is None}
    if not wanted:
        return list(rows)
    cursor.execute(OTHER_IDS, traced_in)
    traces = {
        run: (key, credits)
        for key, credits, trace_id in cursor
        if (run := as_trace_id(trace_id)) in wanted
    }
    found = [
        row if row[9] is not None else (*row[:9], *traces.get(row[1], (None, None))) for row in rows
    ]
    return [row for row in found if row[9] is not None or row[5] != Hold.State.CHARGED]


def _fault(row: Sequence[Any], now: datetime) -> HoldFault | None:
    _, _, _, _, _, state, expires_at, _, settled, trace_id, charged = row
    return fault_of(
        HoldState(
            state in HOLDS_ENDED or _moment(expires_at) <= now,
            _credits(settled),
            trace_id is not None,
            _credits(charged),
        )
    )


def _hold(row: Sequence[Any], fault: HoldFault, users: Mapping[UUID, User]) -> HoldNotSeen:
    hold_id, trace_id, user_id, flow_id, created_at, state, _, held, settled, key, charged = row
    user = users[uuid_of(user_id)]
    return HoldNotSeen(
        fault.value,
        uuid_of(hold_id),
        trace_id,
        user.pk,
        user.get_full_name() or user.username,
        user.tenant.name,
        flow_id,
        _moment(created_at),
        state,
        from_scaled(held, CREDIT_PLACES),
        _credits(settled),
        _credits(charged),
        None if key is None else uuid_of(key),
    )


def _credits(stored: int | None) -> Decimal | None:
    return None if stored is None else from_scaled(stored, CREDIT_PLACES)


def _moment(value: datetime | str) -> datetime:
    """SQLite says moments as text, or without their zone, in UTC."""
    moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


FLOWS = """
    SELECT flow_id, SUM(CASE WHEN is_now THEN 1 ELSE 0 END),
        SUM(CASE WHEN is_now AND calls = 0 THEN 1 ELSE 0 END),
        SUM(CASE WHEN is_now THEN 0 ELSE 1 END),
        SUM(CASE WHEN NOT is_now AND calls = 0 THEN 1 ELSE 0 END),
        MIN(CASE WHEN is_now AND calls = 0 THEN langfuse_trace_id END)
    FROM (
        SELECT flow_id, langfuse_trace_id, start_time >= %s AS is_now,
            priced_observations + partly_priced_observations + unpriced_observations
                + unmetered_observations AS calls
        FROM usage_trace WHERE start_time >= %s AND start_time < %s AND flow_id <> ''
            AND NOT is_failed AND NOT is_voided) t
    GROUP BY flow_id
    HAVING SUM(CASE WHEN is_now AND calls = 0 THEN 1 ELSE 0 END) > 0
    ORDER BY 3 DESC, flow_id"""


def _flows(period: Period) -> list[RunsWithoutCalls]:
    """The flows with the most such runs first."""
    with database.cursor() as cursor:
        cursor.execute(
            FLOWS, [stamp(period.start), stamp(period.start - DAYS_BEFORE), stamp(period.end)]
        )
        rows = cursor.fetchall()
    found = [
        (flow_id, *map(int, counts), example)
        for flow_id, *counts, example in rows
        if always_calls(counts[2], counts[2] - counts[3])
    ]
    named = names.names_of(Dimension.FLOW, {row[0] for row in found}, Scope())
    return [RunsWithoutCalls(row[0], named[row[0]].label, *row[1:]) for row in found]


def _gaps(period: Period, complete_through: datetime | None) -> list[TenantGap]:
    """The longest first, then the latest."""
    if complete_through is None:
        return []
    hours = hours_asked(period.start, min(period.end, complete_through))
    if not hours:
        return []
    found = [
        (tenant_id, gap)
        for tenant_id, runs in _runs_by_hour(hours).items()
        for gap in gaps_in(hours, runs)
    ]
    tenants = Tenant.objects.in_bulk({tenant_id for tenant_id, _ in found})
    gaps = [_tenant_gap(tenants[tenant_id], gap) for tenant_id, gap in found]
    return sorted(gaps, key=lambda one: (-one.hours, -one.start.timestamp(), one.tenant))


def _tenant_gap(tenant: Tenant, gap: Gap) -> TenantGap:
    hours = int((gap.end - gap.start).total_seconds() // 3600)
    return TenantGap(tenant.pk, tenant.name, gap.start, gap.end, hours, float(gap.usual_runs))


def _runs_by_hour(hours: Sequence[datetime]) -> dict[UUID, dict[datetime, int]]:
    """Runs by tenant and hour, in the hours and in those of the weeks before."""
    runs: dict[UUID, dict[datetime, int]] = defaultdict(dict)
    counted: Iterable[tuple[UUID, datetime, int]] = (
        Trace.objects.filter(_in_these_or_before(hours), is_voided=False, tenant__isnull=False)
        .order_by()
        .values_list("tenant", "hour")
        .annotate(runs=Count("pk"))
    )
    for tenant_id, hour, count in counted:
        runs[tenant_id][hour] = count
    return runs


def _in_these_or_before(hours: Sequence[datetime]) -> Q:
    """Of a period of less than a week, the same stretch of each week; of a longer one, all of
    the weeks.
    """
    start, end = hours[0], hours[-1] + timedelta(hours=1)
    if end - start >= WEEK:
        return Q(start_time__gte=start - WEEKS_TO_KNOW_AN_HOUR * WEEK, start_time__lt=end)
    stretches = Q()
    for number in range(WEEKS_TO_KNOW_AN_HOUR + 1):
        stretches |= Q(start_time__gte=start - number * WEEK, start_time__lt=end - number * WEEK)
    return stretches
