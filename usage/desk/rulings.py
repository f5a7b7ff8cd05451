"""Makes a ruling hold, in batches that each commit whole, and undoes it: as a repricing
(:mod:`usage.repricing.repricing`), of the traces that it is about.

What is billed is a function of the facts, the lists and the rulings that hold. So a batch decides
its traces anew, whatever stops it, and undoing is the same walk with the row no longer holding.
"""

import time
from collections.abc import Callable
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from kluisz_analytics.tenants.models import User
from usage.facts.apply import Applied, committed, load_assembler, reassemble
from usage.facts.findings import CHOICES, Finding, Takes
from usage.facts.store import change_repricings, keep_repricings
from usage.models import LangfuseConnection, Observation, UsageRuling

TRACES_A_BATCH = 5_000
State = UsageRuling.State


def begin(
    finding: Finding,
    takes: Takes,
    connection: LangfuseConnection,
    *,
    reason: str,
    by: User | None,
    model: str | None = None,
    step: tuple[UUID, str] | None = None,
) -> UsageRuling:
    """A ruling on one observation (``step``: its trace's key and its id), on a model of the
    connection, or on all of it; :func:`advance` does the work.

    Raises ValueError without a reason, and for a choice that isn't one of the finding's.
    """
    if not reason.strip():
        raise ValueError("Say why: the reason is kept with the ruling and with each adjustment.")
    if takes not in CHOICES[finding]:
        choices = ", ".join(one.value for one in CHOICES[finding])
        raise ValueError(f"“{takes.value}” is no choice for “{finding.value}”: write {choices}.")
    with transaction.atomic():
        change_repricings()
        return UsageRuling.objects.create(
            finding=finding.value,
            takes=takes.value,
            connection=connection,
            model=None if step else model,
            trace_key=step[0] if step else None,
            langfuse_observation_id=step[1] if step else "",
            reason=reason.strip(),
            created_by=by,
        )


def stop(ruling: UsageRuling) -> None:
    """Stop after the batch that is under way. Raises ValueError when it isn't applying."""
    _change_state(ruling, {State.APPLYING}, State.STOPPED, "stopped")


def resume(ruling: UsageRuling) -> None:
    """Let it go on. Raises ValueError when it isn't stopped."""
    _change_state(ruling, {State.STOPPED}, State.APPLYING, "continued")


def undo(ruling: UsageRuling) -> None:
    """From now on it holds no more; :func:`advance` brings the traces back.

    Raises ValueError when that is done or under way.
    """
    _change_state(ruling, set(UsageRuling.HOLDING), State.UNDOING, "undone", is_afresh=True)


def _change_state(
    ruling: UsageRuling, allowed: set[State], to: State, verb: str, *, is_afresh: bool = False
) -> None:
    afresh = {"reached_trace_id": None, "traces_done": 0, "traces_changed": 0} if is_afresh else {}
    with transaction.atomic():
        change_repricings()
        changed = UsageRuling.objects.filter(pk=ruling.pk, state__in=allowed).update(
            state=to, **afresh
        )
    ruling.refresh_from_db()
    if not changed:
        raise ValueError(
            f"Ruling {ruling.pk} is “{ruling.get_state_display()}”, so it can't be {verb}."
        )


def advance(
    ruling: UsageRuling,
    seconds: float | None = None,
    report: Callable[[UsageRuling], None] | None = None,
) -> None:
    """Do the work that is left, for at most so many seconds (None: until it is done or stopped).
    ``report`` is called after each batch.

    Any number of workers may do so at once: one works, the others wait for it.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    ruling.refresh_from_db()
    while ruling.state in UsageRuling.UNDER_WAY and (
        deadline is None or time.monotonic() < deadline
    ):
        committed(lambda: _batch(ruling))
        ruling.refresh_from_db()
        if report is not None:
            report(ruling)


def _batch(ruling: UsageRuling) -> Applied:
    """The next traces, decided anew, and how far it is. Call it in a transaction."""
    # Before the row, as whoever changes its state does.
    keep_repricings()
    locked = UsageRuling.objects.select_for_update().get(pk=ruling.pk)
    if locked.state != ruling.state:
        return Applied()
    keys = list(_traces_after(locked)[:TRACES_A_BATCH])
    is_undoing = locked.state == State.UNDOING
    applied = reassemble(
        load_assembler(locked.connection),
        [key.hex for key in keys],
        f"{'Undone: ' if is_undoing else ''}{locked}"[:500],
    )
    if keys:
        locked.reached_trace_id = keys[-1]
    if len(keys) < TRACES_A_BATCH:
        locked.state = State.UNDONE if is_undoing else State.APPLIED
    locked.traces_done += len(keys)
    locked.traces_changed += applied.traces_changed
    locked.transactions_posted += applied.transactions_posted
    locked.cost_usd_difference += from_scaled(applied.cost_picousd, USD_PLACES)
    locked.credits_difference += from_scaled(applied.microcredits, CREDIT_PLACES)
    locked.save()
    return applied


def _traces_after(ruling: UsageRuling) -> QuerySet[Observation, UUID]:
    """The keys of the traces that it is about, after the one that was reached, in their order."""
    found = observations_of(ruling.finding).filter(trace__connection=ruling.connection_id)
    if ruling.trace_key is not None:
        found = found.filter(
            trace=ruling.trace_key, langfuse_observation_id=ruling.langfuse_observation_id
        )
    elif ruling.model is not None:
        found = found.filter(model=ruling.model)
    if ruling.reached_trace_id is not None:
        found = found.filter(trace_id__gt=ruling.reached_trace_id)
    return found.order_by("trace_id").values_list("trace_id", flat=True).distinct()


def observations_of(finding: str) -> QuerySet[Observation]:
    """The observations with the finding, by an index of these alone."""
    if finding == Finding.UNITS:
        return Observation.objects.exclude(usage_doubt="")
    # Both conditions: the first is that of the index.
    return Observation.objects.exclude(finding="").filter(finding=finding)
