"""Applies a repricing, in batches that each commit whole: it can be stopped, continued and undone
(domain.md, Price).

A repricing is a row that holds from its beginning, and a trace's price is a function of the usage,
the lists and the repricings that hold (pricing.engine). So what a batch does is to decide its
traces anew; whatever stops it, going on ends in the same numbers, and undoing is the same walk with
the row no longer holding. The ledger gets adjustments; no entry of it is changed.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from kluisz_analytics.tenants.models import Tenant, User
from usage.facts.apply import Applied, Assembler, committed, load_assembler, reassemble
from usage.facts.store import change_repricings, keep_repricings
from usage.models import LangfuseConnection, Repricing
from usage.repricing.stored import after, traces_of

TRACES_A_BATCH = 5_000
State = Repricing.State


def begin(
    start: datetime, end: datetime, *, reason: str, by: User | None, tenant: Tenant | None = None
) -> Repricing:
    """A repricing with the lists as they are now; :func:`advance` does the work.

    Raises ValueError without a reason and for an empty period.
    """
    if not reason.strip():
        raise ValueError("Say why: the reason is kept with the repricing and with each adjustment.")
    if end <= start:
        raise ValueError(
            f"The end, {end.isoformat()}, is not after the beginning, {start.isoformat()}."
        )
    with transaction.atomic():
        change_repricings()
        return Repricing.objects.create(
            start=start,
            end=end,
            tenant=tenant,
            reason=reason.strip(),
            created_by=by,
            as_of=timezone.now(),
        )


def stop(repricing: Repricing) -> None:
    """Stop after the batch that is under way.

    What is done stays done; :func:`resume` goes on. Raises ValueError when it isn't applying.
    """
    _change_state(repricing, {State.APPLYING}, State.STOPPED, "stopped")


def resume(repricing: Repricing) -> None:
    """Let it go on. Raises ValueError when it isn't stopped."""
    _change_state(repricing, {State.STOPPED}, State.APPLYING, "continued")


def undo(repricing: Repricing) -> None:
    """From now on it holds no more; :func:`advance` brings the traces back.

    Raises ValueError when that is done or under way.
    """
    afresh = {
        "reached_start": None,
        "reached_trace_id": None,
        "traces_done": 0,
        "traces_changed": 0,
    }
    _change_state(repricing, set(Repricing.HOLDING), State.UNDOING, "undone", **afresh)


def _change_state(
    repricing: Repricing, allowed: set[State], to: State, verb: str, **fields: int | None
) -> None:
    with transaction.atomic():
        change_repricings()
        changed = Repricing.objects.filter(pk=repricing.pk, state__in=allowed).update(
            state=to, **fields
        )
    repricing.refresh_from_db()
    if not changed:
        raise ValueError(
            f"Repricing {repricing.pk} is “{repricing.get_state_display()}”, so it can't be {verb}."
        )


def advance(
    repricing: Repricing,
    seconds: float | None = None,
    report: Callable[[Repricing], None] | None = None,
) -> None:
    """Do the work that is left, for at most so many seconds (None: until it is done or stopped).
    ``report`` is called after each batch.

    Any number of workers may do so at once: one works, the others wait for it and go on where it
    is.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    state, assemblers = None, {}
    repricing.refresh_from_db()
    while repricing.state in Repricing.UNDER_WAY and (
        deadline is None or time.monotonic() < deadline
    ):
        if repricing.state != state:
            # Whether it holds is part of how traces are priced.
            state, assemblers = (
                repricing.state,
                {one.pk: load_assembler(one) for one in LangfuseConnection.objects.all()},
            )
        committed(lambda held=assemblers: _batch(repricing, held))  # type: ignore[misc]
        repricing.refresh_from_db()
        if report is not None:
            report(repricing)


def _batch(repricing: Repricing, assemblers: dict[int, Assembler]) -> Applied:
    """The next traces, decided anew, and how far it is; nothing if another has stopped or undone
    it. Call it in a transaction.
    """
    # Before the row, as whoever changes its state does.
    keep_repricings()
    locked = Repricing.objects.select_for_update().get(pk=repricing.pk)
    if locked.state != repricing.state:
        return Applied()
    applied = _reprice_next(locked, assemblers)
    locked.save()
    return applied


def _reprice_next(repricing: Repricing, assemblers: dict[int, Assembler]) -> Applied:
    reached = None
    if repricing.reached_start is not None and repricing.reached_trace_id is not None:
        reached = repricing.reached_start, repricing.reached_trace_id
    traces = after(traces_of(repricing.start, repricing.end, repricing.tenant_id), reached)
    rows: list[tuple[UUID, int, datetime]] = list(
        traces.values_list("pk", "connection_id", "start_time")[:TRACES_A_BATCH]
    )
    applied = Applied()
    by_connection: dict[int, list[str]] = defaultdict(list)
    for trace_id, connection_id, _ in rows:
        by_connection[connection_id].append(trace_id.hex)
    is_undoing = repricing.state == State.UNDOING
    for connection_id, trace_ids in by_connection.items():
        applied += reassemble(
            assemblers[connection_id],
            trace_ids,
            f"{'Undone: ' if is_undoing else ''}{repricing}"[:500],
        )
    if rows:
        repricing.reached_trace_id, _, repricing.reached_start = rows[-1]
    if len(rows) < TRACES_A_BATCH:
        repricing.state = State.UNDONE if is_undoing else State.APPLIED
    repricing.traces_done += len(rows)
    repricing.traces_changed += applied.traces_changed
    repricing.transactions_posted += applied.transactions_posted
    repricing.cost_usd_difference += from_scaled(applied.cost_picousd, USD_PLACES)
    repricing.credits_difference += from_scaled(applied.microcredits, CREDIT_PLACES)
    return applied
