"""The gate before a run: may it start, and are its credits reserved (domain.md, Credits,
Enforcement). The rule is in :mod:`credits.gate`.

One conditional statement decides (:func:`credits.holds.insert`): it adds to what is held only where
enough remains. So any number of runs that start at once, in any number of processes, can never
together reserve more than remains, and nobody waits, sleeps or tries again for another. What has
expired, begun or ended since the account was last looked at is looked for only where the statement
says no.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from django.db import IntegrityError, transaction
from django.utils import timezone

from credits import budgets, grants, holds, ledger, top_up
from credits.budgets import Run, starts_of
from credits.estimate import estimate
from credits.gate import SMALLEST, InsufficientCredits, RunRefused, refusal, standing_of
from credits.holds import HoldConflict
from credits.models import Account, Hold
from kluisz_analytics.identifiers import as_trace_id, canonical_id
from kluisz_analytics.scales import Credits
from kluisz_analytics.tenants.models import User

DEFAULT_TTL = timedelta(hours=1)
LONGEST_TTL = timedelta(days=7)
ATTEMPTS = 25
"""How often what is due is looked at for one run: usage may come in each time."""
ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Checked:
    """A run that may start: what it is taken to cost, and what remains before it."""

    required: Credits
    remaining: Credits


@dataclass(frozen=True, slots=True)
class Reservation:
    """A hold, and whether this call made it."""

    hold: Hold
    is_new: bool


def check(
    user: User, flow_id: str = "", credits: Decimal | None = None, model: str = ""
) -> Checked:
    """Whether a run may start now; reserves nothing. Platform admins pass.

    What it needs is ``credits``, else the median of the flow's history. Raises RunRefused, and
    ValueError for an impossible amount.
    """
    now = timezone.now()
    required, run = (
        _amount(credits) or _expected(estimate(flow_id).median),
        Run(canonical_id(flow_id), model),
    )
    refused = _refusal(user, required, run, now)
    if isinstance(refused, InsufficientCredits) and _make_room(user, run, now):
        refused = _refusal(user, required, run, now)
    if refused is not None:
        raise refused
    return Checked(required, remaining_of(user, now))


def reserve_credits(
    user: User,
    trace_id: UUID | str,
    flow_id: str = "",
    credits: Decimal | None = None,
    ttl: timedelta = DEFAULT_TTL,
    model: str = "",
) -> Reservation:
    """Reserve credits for a run if enough remain; the same trace again returns the same hold, as
    long as that is open. Platform admins pass.

    ``trace_id`` is the run's id in any form that a tracer takes. What it needs is ``credits``, else
    the 90th percentile of the flow's history. ``model`` is what the run will use, where that is
    known: for budgets of a model. Raises RunRefused; ValueError for an impossible
    amount, time or trace id; IdempotencyConflict for a trace with a hold of another user or amount,
    HoldConflict for one whose hold has ended.
    """
    now = timezone.now()
    trace_id = _run(trace_id)
    _check_ttl(ttl)
    required = _amount(credits) or _expected(estimate(flow_id).p90)
    hold = Hold(
        id=uuid.uuid4(),
        account_id=user.pk,
        trace_id=trace_id,
        flow_id=canonical_id(flow_id),
        model=model,
        credits=required,
        created_at=now,
        expires_at=now + ttl,
    )
    run, starts = Run(hold.flow_id, model), starts_of(now, user.tenant.zone)
    try:
        if holds.insert(hold, starts):
            return Reservation(hold, is_new=True)
        # Only now is it asked why: an answer to a repeated call, something that is due, or a
        # refusal.
        if (existing := _existing(trace_id, user, credits, now)) is not None:
            return Reservation(existing, is_new=False)
        refused = _refusal(user, required, run, now)
        for _ in range(ATTEMPTS):
            if not _may_pass(refused):
                break
            # With nothing in the way any more, another call has made room since.
            if not _make_room(user, run, now) and refused is not None:
                break
            # The zone, too, may be another than whoever asks knows.
            if holds.insert(hold, starts_of(now, _known(user).tenant.zone)):
                return Reservation(hold, is_new=True)
            refused = _refusal(user, required, run, now)
    except IntegrityError:
        # Another call was faster with the same trace.
        existing = _existing(trace_id, user, credits, now)
        if existing is None:
            raise
        return Reservation(existing, is_new=False)
    # Where nothing stands in the way any more, too little remained when it was decided.
    raise refused or InsufficientCredits(required, remaining_of(user, now))


@contextmanager
def reserve(
    user: User,
    trace_id: UUID | str,
    flow_id: str = "",
    credits: Decimal | None = None,
    ttl: timedelta = DEFAULT_TTL,
    model: str = "",
) -> Iterator[Hold]:
    """For a flow engine in this process: ``with credits.reserve(user, trace_id, flow_id): …`` runs
    the flow with its credits reserved.

    Afterwards they stay held until the sync charges the trace. Where the block raises, the hold is
    left to its time: what the run used until then is charged from its trace, and without one it
    expires. Raises as :func:`reserve_credits`, before the block is entered.
    """
    hold = reserve_credits(user, trace_id, flow_id, credits, ttl, model).hold
    yield hold
    holds.settle(hold.pk)


def remaining_of(user: User, now: datetime) -> Decimal:
    """What the user may still use; holds that have expired by now don't count. 0 for a user without
    an account.
    """
    account = Account.objects.filter(pk=user.pk).first()
    return ZERO if account is None else account.remaining + holds.expired_credits(account, now)


def _refusal(user: User, required: Decimal, run: Run, now: datetime) -> RunRefused | None:
    return refusal(standing_of(user, now, required, run), required, remaining_of(user, now))


def _known(user: User) -> User:
    """The user as it is now, with its tenant: who asks may know it from long ago."""
    return User.objects.select_related("tenant").get(pk=user.pk)


def _may_pass(refused: RunRefused | None) -> bool:
    """Whether the run could start once what is due has been done."""
    return refused is None or isinstance(refused, InsufficientCredits)


def _amount(credits: Decimal | None) -> Decimal | None:
    if credits is not None:
        grants.check_amount(credits, "Reserving")
    return credits


def _expected(known: Decimal) -> Decimal:
    """What a flow's history says; a flow whose runs are free needs something left, too."""
    return max(known, SMALLEST)


def _run(trace_id: UUID | str) -> str:
    text = str(trace_id)
    if not text or len(text) > 200 or "\0" in text:
        raise ValueError(f"“{text[:50]}” is not a trace id: write 1 to 200 characters.")
    return as_trace_id(text)


def _check_ttl(ttl: timedelta) -> None:
    if not timedelta(0) < ttl <= LONGEST_TTL:
        raise ValueError(
            f"A hold of {ttl.total_seconds():.0f} seconds is not possible: at least 1 second, at"
            f" most {LONGEST_TTL.days} days."
        )


def _existing(trace_id: str, user: User, credits: Decimal | None, now: datetime) -> Hold | None:
    hold = Hold.objects.filter(trace_id=trace_id).first()
    if hold is None:
        return None
    grants.check_same(hold, account_id=user.pk)
    if (end := holds.end_of(hold, now)) is not None:
        raise HoldConflict(
            f"The hold of the run {trace_id} was {ENDS[end]}; a run that starts anew needs an id of"
            " its own."
        )
    if credits is not None:
        grants.check_same(hold, credits=credits)
    return hold


ENDS = {
    Hold.State.SETTLED: "settled",
    Hold.State.CHARGED: "charged",
    Hold.State.RELEASED: "released",
    Hold.State.EXPIRED: "not settled before it expired",
    Hold.State.UNCHARGED: "settled, and its run was never charged",
}


def _make_room(user: User, run: Run, now: datetime) -> bool:
    """Look at what is due: an account to open, holds that expired, grants that begin or end, the
    month's top-up, budgets to reckon. Whether anything was.
    """
    known = _known(user)
    if is_counted := budgets.is_due(known, run, now):
        budgets.reckon(budgets.hard_budgets(known, run), now)
    with transaction.atomic():
        is_new = not Account.objects.filter(pk=user.pk).exists()
        accounts = ledger.lock([user.pk])
        account = accounts[user.pk]
        freed = holds.expire(account, now)
        is_due = account.next_event_at is not None and account.next_event_at <= now
        if is_due:
            grants.catch_up_accounts(accounts, now)
        topped_up = top_up.top_up([known], now)
    return is_counted or is_new or bool(freed) or is_due or bool(topped_up)
