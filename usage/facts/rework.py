"""Applies what changes how stored traces are decided, in batches that each commit whole, and undoes
it: repricings and rulings.

What is billed is a function of the facts, the lists, and the repricings and rulings that hold. So a
batch decides its traces anew, whatever stops it, and undoing is the same walk with the row no
longer holding.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from django.db import transaction

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from usage.facts.apply import Applied, committed
from usage.facts.store import change_repricings, keep_repricings
from usage.models.rework import Rework

TRACES_A_BATCH = 5_000
State = Rework.State
R = TypeVar("R", bound=Rework)


class Batch(NamedTuple):
    """So many traces, at most TRACES_A_BATCH, and what deciding them anew changed."""

    traces: int
    applied: Applied


def begin(row: R) -> R:
    """Store the row, which holds from now on; :func:`advance` does the work.

    Raises ValueError without a reason.
    """
    name, row.reason = row._meta.verbose_name, row.reason.strip()
    if not row.reason:
        raise ValueError(f"Say why: the reason is kept with the {name} and with each adjustment.")
    with transaction.atomic():
        change_repricings()
        row.save()
    return row


def stop(row: Rework) -> None:
    """Stop after the batch that is under way.

    What is done stays done; :func:`resume` goes on. Raises ValueError when it isn't applying.
    """
    _change_state(row, {State.APPLYING}, State.STOPPED, "stopped")


def resume(row: Rework) -> None:
    """Let it go on. Raises ValueError when it isn't stopped."""
    _change_state(row, {State.STOPPED}, State.APPLYING, "continued")


def undo(row: Rework) -> None:
    """From now on it holds no more; :func:`advance` brings the traces back.

    Raises ValueError when that is done or under way.
    """
    _change_state(row, set(row.HOLDING), State.UNDOING, "undone", is_afresh=True)


def _change_state(
    row: Rework, allowed: set[State], to: State, verb: str, *, is_afresh: bool = False
) -> None:
    with transaction.atomic():
        change_repricings()
        rows = type(row)._default_manager.filter(pk=row.pk, state__in=allowed)
        changed = rows.update(state=to, **(row.AFRESH if is_afresh else {}))
    row.refresh_from_db()
    if not changed:
        raise ValueError(f"{row.called} is “{row.get_state_display()}”, so it can't be {verb}.")


def advance(
    row: R,
    decide_next: Callable[[R], Batch],
    seconds: float | None = None,
    report: Callable[[R], None] | None = None,
) -> None:
    """Do the work that is left, for at most so many seconds (None: until it is done or stopped).
    ``decide_next`` decides the traces after those that the row says were reached, and says on it
    how far it came; ``report`` is called after each batch.

    Any number of workers may do so at once: one works, the others wait for it and go on where it
    is.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    row.refresh_from_db()
    while row.state in row.UNDER_WAY and (deadline is None or time.monotonic() < deadline):
        committed(lambda: _batch(row, decide_next))
        row.refresh_from_db()
        if report is not None:
            report(row)


def reason_of(row: Rework) -> str:
    """The reason of the adjustments that it makes."""
    return f"{'Undone: ' if row.state == State.UNDOING else ''}{row}"[:500]


def _batch(row: R, decide_next: Callable[[R], Batch]) -> None:
    """The next traces, decided anew, and how far it is; nothing if another has stopped or undone
    it. Call it in a transaction.
    """
    # Before the row, as whoever changes its state does.
    keep_repricings()
    locked = type(row)._default_manager.select_for_update().get(pk=row.pk)
    if locked.state != row.state:
        return
    traces, applied = decide_next(locked)
    if traces < TRACES_A_BATCH:
        locked.state = State.UNDONE if locked.state == State.UNDOING else State.APPLIED
    locked.traces_done += traces
    locked.traces_changed += applied.traces_changed
    locked.transactions_posted += applied.transactions_posted
    locked.cost_usd_difference += from_scaled(applied.cost_picousd, USD_PLACES)
    locked.credits_difference += from_scaled(applied.microcredits, CREDIT_PLACES)
    locked.save()
