"""The gate before a run: may it start, and are its credits reserved (domain.md, Credits,
Enforcement).

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

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from credits import grants, holds, ledger, top_up
from credits.estimate import estimate
from credits.licences import licence_state
from credits.models import Account, Hold, TenantBudget
from credits.recurrence import month_of
from kluisz_analytics.tenants.models import User

DEFAULT_TTL = timedelta(hours=1)
LONGEST_TTL = timedelta(days=7)
SMALLEST = Decimal("0.000001")
ZERO = Decimal(0)


class NoActiveLicense(Exception):
    """The user has no active licence. The message says why."""


class InsufficientCredits(Exception):
    """Less remains than is required; both are said."""

    def __init__(self, required: Decimal, remaining: Decimal) -> None:
        super().__init__(f"{required:f} credits are required and {remaining:f} remain.")
        self.required, self.remaining = required, remaining


class BudgetExhausted(Exception):
    """The tenant's hard budget for the month is used up. The message says which."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A run that may start: what it is taken to cost, and what remains before it."""

    required: Decimal
    remaining: Decimal


@dataclass(frozen=True, slots=True)
class Reservation:
    """A hold, and whether this call made it."""

    hold: Hold
    is_new: bool


def check(user: User, flow_id: str = "", credits: Decimal | None = None) -> Checked:
    """Whether a run may start now; reserves nothing. Platform admins pass.

    What it needs is ``credits``, else the median of the flow's history. Raises NoActiveLicense,
    InsufficientCredits; ValueError for an impossible amount.
    """
    now = timezone.now()
    required = _amount(credits) or _expected(estimate(flow_id).median)
    grace = _grace(user, now)
    remaining = remaining_of(user, now)
    if not user.is_superuser and remaining + grace < required:
        _make_room(user, now)
        remaining = remaining_of(user, now)
        if remaining + grace < required:
            raise InsufficientCredits(required, remaining)
    return Checked(required, remaining)


def reserve_credits(
    user: User,
    trace_id: str,
    flow_id: str = "",
    credits: Decimal | None = None,
    ttl: timedelta = DEFAULT_TTL,
) -> Reservation:
    """Reserve credits for a run if enough remain; the same trace again returns the same hold.
    Platform admins pass.

    What it needs is ``credits``, else the 90th percentile of the flow's history. Raises
    NoActiveLicense, InsufficientCredits; ValueError for an impossible amount, time or trace id;
    IdempotencyConflict for a trace with a hold of another user or amount.
    """
    now = timezone.now()
    _check_request(trace_id, ttl)
    required = _amount(credits) or _expected(estimate(flow_id).p90)
    hold = Hold(
        id=uuid.uuid4(),
        account_id=user.pk,
        trace_id=trace_id,
        flow_id=flow_id,
        credits=required,
        created_at=now,
        expires_at=now + ttl,
    )
    month_start, _ = month_of(now, user.tenant.zone)
    try:
        if holds.insert(hold, month_start=month_start, is_free=user.is_superuser):
            return Reservation(hold, is_new=True)
        # Only now is it asked why: an answer to a repeated call, a refusal, or something that is
        # due.
        if (existing := _existing(trace_id, user, credits)) is not None:
            return Reservation(existing, is_new=False)
        _grace(user, now)
        if _make_room(user, now) and holds.insert(
            hold, month_start=month_start, is_free=user.is_superuser
        ):
            return Reservation(hold, is_new=True)
    except IntegrityError:
        # Another call was faster with the same trace.
        existing = _existing(trace_id, user, credits)
        if existing is None:
            raise
        return Reservation(existing, is_new=False)
    raise InsufficientCredits(required, remaining_of(user, now))


@contextmanager
def reserve(
    user: User,
    trace_id: str,
    flow_id: str = "",
    credits: Decimal | None = None,
    ttl: timedelta = DEFAULT_TTL,
) -> Iterator[Hold]:
    """For a flow engine in this process: ``with credits.reserve(user, trace_id, flow_id): …`` runs
    the flow with its credits reserved.

    Afterwards they stay held until the sync charges the trace. Where the block raises, the hold is
    left to its time: what the run used until then is charged from its trace, and without one it
    expires. Raises as :func:`reserve_credits`, before the block is entered.
    """
    hold = reserve_credits(user, trace_id, flow_id, credits, ttl).hold
    yield hold
    holds.settle(hold.pk)


def remaining_of(user: User, now: datetime) -> Decimal:
    """What the user may still use; holds that have expired by now don't count. 0 for a user without
    an account.
    """
    account = Account.objects.filter(pk=user.pk).first()
    return ZERO if account is None else account.remaining + holds.expired_credits(account, now)


def _amount(credits: Decimal | None) -> Decimal | None:
    if credits is not None:
        grants.check_amount(credits, "Reserving")
    return credits


def _expected(known: Decimal) -> Decimal:
    """What a flow's history says; a flow whose runs are free needs something left, too."""
    return max(known, SMALLEST)


def _check_request(trace_id: str, ttl: timedelta) -> None:
    if not trace_id or len(trace_id) > 200 or "\0" in trace_id:
        raise ValueError(f"“{trace_id[:50]}” is not a trace id: write 1 to 200 characters.")
    if not timedelta(0) < ttl <= LONGEST_TTL:
        raise ValueError(
            f"A hold of {ttl.total_seconds():.0f} seconds is not possible: at least 1 second, at"
            f" most {LONGEST_TTL.days} days."
        )


def _existing(trace_id: str, user: User, credits: Decimal | None) -> Hold | None:
    hold = Hold.objects.filter(trace_id=trace_id).first()
    if hold is not None:
        asked = {} if credits is None else {"credits": credits}
        grants.check_same(hold, account_id=user.pk, **asked)
    return hold


def _make_room(user: User, now: datetime) -> bool:
    """Look at what is due: an account to open, holds that expired, grants that begin or end, the
    month's top-up. Whether anything was.
    """
    with transaction.atomic():
        is_new = not Account.objects.filter(pk=user.pk).exists()
        accounts = ledger.lock([user.pk])
        account = accounts[user.pk]
        freed = holds.expire(account, now)
        is_due = account.next_event_at is not None and account.next_event_at <= now
        if is_due:
            grants.catch_up_accounts(accounts, now)
        topped_up = top_up.top_up([user], now)
    return is_new or bool(freed) or is_due or bool(topped_up)


def _grace(user: User, now: datetime) -> Decimal:
    """How far below zero the user may start runs.

    Raises NoActiveLicense for one who may start none; platform admins pass.
    """
    if user.is_superuser:
        return ZERO
    licence = licence_state(user, now)
    if not licence.is_active:
        raise NoActiveLicense(licence.reason)
    _check_budgets(user, now)
    return licence.grace


def _check_budgets(user: User, now: datetime) -> None:
    """A hard budget of the tenant that is used up refuses new runs until the month's end.

    It is reckoned once a minute by the beat.
    """
    for budget in TenantBudget.objects.filter(
        tenant=user.tenant_id, is_hard=True, used__gte=F("amount"), period_start__isnull=False
    ):
        if budget.period_start == month_of(now, user.tenant.zone)[0]:
            raise BudgetExhausted(
                f"{user.tenant.name} has used up this month's {budget.amount_text}: new runs are"
                " refused until the month's end."
            )
