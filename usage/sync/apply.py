"""Applies what was received to everything that depends on it, in one transaction (invariant 2).

What is stored is a function of the newest version of each observation. A batch makes it so for the traces that it touches: the
traces are locked, decided and priced anew from all their steps, and the differences go into facts, rollups, stats and the ledger.
So the order, overlap and repetition of batches leave no trace of their own.
"""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, OperationalError, transaction
from django.utils import timezone

from credits import ledger
from kluisz_analytics.bulk import listed
from pricing.engine import PriceBook
from usage.langfuse.wire import ReceivedObservation, RejectedRow
from usage.models import Granularity, LangfuseConnection, Observation, RejectedObservation, Trace, UserUsageStats
from usage.models.rollups import UNATTRIBUTED
from usage.sync import store
from usage.sync.assemble import assemble
from usage.sync.contributions import Line, lines_of
from usage.sync.rollups import apply_lines
from usage.sync.steps import Step, TraceFact, newest_versions, step_from

logger = logging.getLogger(__name__)

ATTEMPTS = 5
ZERO = Decimal(0)


@dataclass(slots=True)
class Applied:
    """What a batch changed."""

    observations_stored: int = 0
    observations_rejected: int = 0
    traces_changed: int = 0
    transactions_posted: int = 0

    def __iadd__(self, other: "Applied") -> "Applied":
        self.observations_stored += other.observations_stored
        self.observations_rejected += other.observations_rejected
        self.traces_changed += other.traces_changed
        self.transactions_posted += other.transactions_posted
        return self


def apply_received(
    connection: LangfuseConnection, received: Iterable[ReceivedObservation], rejected: Iterable[RejectedRow], book: PriceBook
) -> Applied:
    """Store a batch and all that follows from it. Call it in a transaction; :func:`committed` makes one."""
    return apply_steps(connection, [step_from(connection.pk, one) for one in received], rejected, book)


def apply_steps(connection: LangfuseConnection, steps: Iterable[Step], rejected: Iterable[RejectedRow], book: PriceBook) -> Applied:
    """As apply_received, for observations that are steps already."""
    newest = newest_versions(steps)
    stored = store.stored_traces({step.trace_id for step in newest.values()})
    known = store.stored_versions(stored) if stored else {}
    changed = {step.id: step for step in newest.values() if step.id not in known or known[step.id] < step.version}
    applied = Applied(observations_rejected=_set_aside(connection, rejected))
    if changed:
        # A trace that another worker stores in the meantime makes the insert fail, and the batch run again.
        touched = {step.trace_id for step in changed.values()} & stored
        applied += _change_traces(connection, touched, changed, book)
        applied.observations_stored = len(changed)
    return applied


def reassemble(connection: LangfuseConnection, trace_ids: Iterable[UUID], book: PriceBook) -> Applied:
    """Decide and price stored traces anew, after a tenant, a user or a price became known. Call it in a transaction."""
    return _change_traces(connection, set(trace_ids), {}, book)


def committed(work: Callable[[], Applied]) -> Applied:
    """Run ``work`` in a transaction of its own, again when another worker was faster with the same new trace."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with transaction.atomic():
                return work()
        except (IntegrityError, OperationalError):
            if attempt == ATTEMPTS:
                raise
            logger.info("Another worker stored the same traces; trying again (%d of %d)", attempt, ATTEMPTS)
    raise AssertionError("unreachable")


def _change_traces(connection: LangfuseConnection, stored_ids: set[UUID], changed: dict[UUID, Step], book: PriceBook) -> Applied:
    old_traces = store.lock_traces(stored_ids) if stored_ids else {}
    old_steps: dict[UUID, list[Step]] = defaultdict(list)
    for step in store.load_steps(old_traces) if old_traces else ():
        old_steps[step.trace_id].append(step)
    # What is stored, before pricing anew changes the steps in place.
    old_rows = {step.id: store.step_row(step) for steps in old_steps.values() for step in steps}
    lines = [line.negated() for trace in old_traces.values() for line in lines_of(trace, old_steps[trace.id])]
    new_steps = _merged(old_steps, changed)
    directory = store.known_directory(new_steps.values())
    new_traces = {trace_id: assemble(connection.pk, steps, directory, book, connection.tenant_id) for trace_id, steps in new_steps.items()}
    unchanged = _write(old_traces, new_traces, old_rows, new_steps)
    lines += [line for trace in new_traces.values() for line in lines_of(trace, new_steps[trace.id])]
    apply_lines(lines)
    posted = _post_usage(lines, timezone.now())
    return Applied(traces_changed=len(new_traces) - unchanged, transactions_posted=posted.transactions)


def _merged(old_steps: dict[UUID, list[Step]], changed: dict[UUID, Step]) -> dict[UUID, list[Step]]:
    """The steps of each trace: the changed ones where they are newer than what is stored under the lock."""
    merged = {trace_id: {step.id: step for step in steps} for trace_id, steps in old_steps.items()}
    for step in changed.values():
        steps = merged.setdefault(step.trace_id, {})
        known = steps.get(step.id)
        if known is None or known.version < step.version:
            steps[step.id] = step
    return {trace_id: list(steps.values()) for trace_id, steps in merged.items() if steps}


def _write(
    old_traces: dict[UUID, TraceFact],
    new_traces: dict[UUID, TraceFact],
    old_rows: dict[UUID, tuple[object, ...]],
    new_steps: dict[UUID, list[Step]],
) -> int:
    """Write what differs; returns how many traces are as they were."""
    added, altered, unchanged = [], [], 0
    for trace in new_traces.values():
        row = store.trace_row(trace)
        if trace.id not in old_traces:
            added.append(row)
        elif row != store.trace_row(old_traces[trace.id]):
            altered.append(row)
        else:
            unchanged += 1
    store.write(Trace, store.TRACE_COLUMNS, added, altered)
    added, altered = [], []
    for steps in new_steps.values():
        for step in steps:
            row = store.step_row(step)
            if step.id not in old_rows:
                added.append(row)
            elif row != old_rows[step.id]:
                altered.append(row)
    store.write(Observation, store.STEP_COLUMNS, added, altered)
    return unchanged


def _post_usage(lines: Sequence[Line], now: datetime) -> ledger.Posted:
    """Bring the ledger to the new sums of every (user, hour) that a line touches."""
    touched = {(line.user_key, line.hour) for line in lines if line.user_key != UNATTRIBUTED}
    if not touched:
        return ledger.Posted(0, ZERO)
    sums: dict[tuple[UUID, datetime], Decimal] = dict.fromkeys(touched, ZERO)
    users = listed({user_id for user_id, _ in touched})
    rows = UserUsageStats.objects.filter(
        granularity=Granularity.HOUR, user__in=users, period_start__in={hour for _, hour in touched}
    ).values_list("user_id", "period_start", "credits_exact")
    sums.update({(user_id, hour): credits for user_id, hour, credits in rows if (user_id, hour) in touched})
    return ledger.post_usage(sums, now)


def _set_aside(connection: LangfuseConnection, rejected: Iterable[RejectedRow]) -> int:
    rows = [
        RejectedObservation(
            connection=connection,
            langfuse_observation_id=row.observation_id,
            langfuse_trace_id=row.trace_id,
            received_at=row.received_at,
            reason=row.reason,
            row=row.row,
        )
        for row in rejected
    ]
    return store.set_aside(rows) if rows else 0
