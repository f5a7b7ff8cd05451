"""Giving credits and taking them back: grants, refunds, adjustments, voiding, and what recurs
(domain.md, Credits).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Max, Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from credits import ledger
from credits.models import Account, Grant, Hold, Transaction
from credits.recurrence import Recurrence, occurrence
from kluisz_analytics.scales import CREDIT_PLACES, to_scaled
from kluisz_analytics.tenants.models import User
from pricing.bounds import LARGEST_CREDITS

ACCOUNTS_A_BATCH = 500
FARTHEST = timedelta(days=10 * 365)
"""A recurring grant that began longer ago would come thousands of times at once."""


def _now() -> datetime:
    return timezone.now()


class IdempotencyConflict(ValueError):
    """The key was used before, for something else."""


@dataclass(frozen=True, slots=True)
class NewGrant:
    """A grant to give.

    ``expires_at`` of a recurring one is set: the beginning of its next occurrence.
    """

    user: User
    amount: Decimal
    source: Grant.Source
    idempotency_key: str
    reason: str = ""
    priority: int = Grant.DEFAULT_PRIORITY
    starts_at: datetime = field(default_factory=_now)
    expires_at: datetime | None = None
    recurrence: Recurrence | None = None
    rollover_maximum: Decimal | None = Decimal(0)
    created_by: User | None = None


def grant(new: NewGrant) -> Grant:
    """Give credits; the same key again gives nothing and returns the grant of the first time.

    Raises ValueError for an amount that is not above 0 or has more than six decimals, and for an
    end that is not after the beginning; IdempotencyConflict when the key was used for another user
    or amount.
    """
    try:
        return give([new])[0]
    except IntegrityError:
        # Whoever used the key for another user at the same moment was faster; its grant is there
        # now.
        return give([new])[0]


@transaction.atomic
def give(many: Sequence[NewGrant]) -> list[Grant]:
    """Give any number of grants at once, in a handful of statements; those whose key is there
    already give nothing.
    """
    now = timezone.now()
    for new in many:
        _check(new)
    accounts = ledger.lock({new.user.pk for new in many})
    known = {
        one.idempotency_key: one
        for one in Grant.objects.filter(idempotency_key__in=[new.idempotency_key for new in many])
    }
    for new in many:
        if (first := known.get(new.idempotency_key)) is not None:
            check_same(first, account_id=new.user.pk, amount=new.amount, source=new.source.value)
    rows = [_row(new) for new in many if new.idempotency_key not in known]
    created = Grant.objects.bulk_create(rows, batch_size=1000)
    if created:
        _settle(accounts, created, now)
    by_key = {**known, **{one.idempotency_key: one for one in created}}
    return [by_key[new.idempotency_key] for new in many]


def check_amount(amount: Decimal, what: str) -> None:
    """Raises ValueError for an amount that can't be given or taken."""
    if not (amount.is_finite() and amount > 0):
        raise ValueError(f"{what} {amount} credits is not possible; write more than 0.")
    if amount > LARGEST_CREDITS:
        raise ValueError(
            f"{what} {amount} credits is not possible: at most {LARGEST_CREDITS:,f} at once."
        )
    to_scaled(amount, CREDIT_PLACES)


def _check(new: NewGrant) -> None:
    check_amount(new.amount, "Giving")
    check_term(new.starts_at, new.expires_at)


def check_term(starts_at: datetime, expires_at: datetime | None) -> None:
    """Raises ValueError for a term that no grant can have."""
    if abs(starts_at - timezone.now()) > FARTHEST:
        raise ValueError(
            f"The beginning, {starts_at.isoformat()}, is more than {FARTHEST.days // 365} years"
            " away."
        )
    if expires_at is not None and expires_at <= starts_at:
        raise ValueError(
            f"The end, {expires_at.isoformat()}, is not after the beginning,"
            f" {starts_at.isoformat()}."
        )


def check_same(first: Grant | Transaction | Hold, **body: Any) -> None:
    """Raises IdempotencyConflict when what was stored under a key is not what is asked for now."""
    for name, value in body.items():
        if getattr(first, name) != value:
            raise IdempotencyConflict(
                f"The idempotency key was used before with another {name.removesuffix('_id')}:"
                f" {getattr(first, name)}. Use a new key."
            )


def _row(new: NewGrant) -> Grant:
    expires_at = new.expires_at
    if new.recurrence is not None and expires_at is None:
        expires_at = occurrence(new.starts_at, new.recurrence, 1, new.user.tenant.zone)
    return Grant(
        account_id=new.user.pk,
        amount=new.amount,
        priority=new.priority,
        starts_at=new.starts_at,
        expires_at=expires_at,
        source=new.source,
        reason=new.reason,
        recurrence=new.recurrence.value if new.recurrence else "",
        rollover_maximum=new.rollover_maximum,
        idempotency_key=new.idempotency_key,
        created_by=new.created_by,
    )


def refund(
    user: User, amount: Decimal, *, reason: str, idempotency_key: str, by: User | None
) -> Grant:
    """Give credits back, without an end. Raises as :func:`grant`."""
    return grant(
        NewGrant(user, amount, Grant.Source.REFUND, idempotency_key, reason, created_by=by)
    )


@transaction.atomic
def adjust(
    user: User, amount: Decimal, *, reason: str, idempotency_key: str, by: User | None
) -> Grant | Transaction:
    """Correct a user's credits by ``amount``, up or down; down it burns grants as usage does.

    Raises as :func:`grant`.
    """
    if amount > 0 or not amount.is_finite():
        return grant(
            NewGrant(user, amount, Grant.Source.ADJUSTMENT, idempotency_key, reason, created_by=by)
        )
    check_amount(-amount, "Taking")
    ledger.lock([user.pk])
    first = Transaction.objects.filter(idempotency_key=idempotency_key).first()
    if first is not None:
        check_same(first, account_id=user.pk, amount=amount)
        return first
    return ledger.correct(
        user, -amount, idempotency_key=idempotency_key, reason=reason, by=by, now=timezone.now()
    )


@transaction.atomic
def void(given: Grant, by: User | None) -> Grant:
    """End a grant now: what is left of it goes back, and it is not given again.

    Voiding twice changes nothing.
    """
    now = timezone.now()
    accounts = ledger.lock([given.account_id])
    changed = Grant.objects.filter(
        Q(expires_at__isnull=True) | Q(expires_at__gt=now), pk=given.pk, voided_at__isnull=True
    )
    is_voided = changed.update(voided_at=now, voided_by=by)
    given.refresh_from_db()
    if is_voided:
        _settle(accounts, [given], now)
    return given


def _settle(accounts: dict[UUID, Account], changed: Sequence[Grant], now: datetime) -> None:
    """Post what follows from grants that are new or end at another time; their accounts are
    locked.
    """
    if ledger.cut(changed, now):
        accounts = ledger.lock(accounts.keys())
    mine = {one.account_id for one in changed}
    ledger.settle({user_id: accounts[user_id] for user_id in mine}, now)


@transaction.atomic
def end_at(ends: Mapping[Grant, datetime]) -> int:
    """Have these grants expire at these moments instead; what that changes of the past is posted as
    differences. One that was voided meanwhile stays as it is. Returns how many were changed.
    """
    if not ends:
        return 0
    accounts = ledger.lock({grant.account_id for grant in ends})
    changed = []
    for grant in Grant.objects.filter(pk__in=[one.pk for one in ends], voided_at__isnull=True):
        grant.expires_at = ends[grant]
        changed.append(grant)
    Grant.objects.bulk_update(changed, ["expires_at"], batch_size=500)
    _settle(accounts, changed, timezone.now())
    return len(changed)


def catch_up(now: datetime | None = None) -> int:
    """Post every beginning and end of a grant that is due, for all accounts.

    Returns how many accounts there were; beat calls it.
    """
    moment = now or timezone.now()
    done = 0
    while True:
        due = list(
            Account.objects.filter(next_event_at__lte=moment)
            .order_by("pk")
            .values_list("pk", flat=True)[:ACCOUNTS_A_BATCH]
        )
        if not due:
            return done
        with transaction.atomic():
            catch_up_accounts(ledger.lock(due), moment)
        done += len(due)


def catch_up_accounts(accounts: dict[UUID, Account], now: datetime) -> None:
    """The same for some accounts, which are locked."""
    due = _due_occurrences(accounts, now)
    Grant.objects.bulk_create(due, ignore_conflicts=True)
    if ledger.cut(due, now):
        accounts = ledger.lock(accounts.keys())
    ledger.settle(accounts, now)


def _due_occurrences(accounts: Iterable[Any], now: datetime) -> list[Grant]:
    """The occurrences of recurring grants that have begun by now and are not there yet, also those
    that were missed. Each begins where the one before ends, also where the tenant has another zone
    since.
    """
    series = Grant.objects.filter(
        account__in=accounts, series__isnull=True, voided_at__isnull=True
    ).exclude(recurrence="")
    series = series.annotate(
        last=Max("occurrences__occurrence"),
        reached=Coalesce(Max("occurrences__expires_at"), F("expires_at")),
        stopped=Max("occurrences__voided_at"),
    )
    rows = []
    for first in series.filter(stopped__isnull=True, expires_at__isnull=False).select_related(
        "account__user__tenant"
    ):
        number = (first.last or 0) + 1
        starts_at: datetime = first.reached
        zone, recurrence = first.account.user.tenant.zone, Recurrence(first.recurrence)
        while starts_at <= now:
            ends_at = occurrence(first.starts_at, recurrence, number + 1, zone)
            rows.append(
                Grant(
                    account_id=first.account_id,
                    amount=first.amount,
                    priority=first.priority,
                    starts_at=starts_at,
                    expires_at=ends_at,
                    source=first.source,
                    reason=first.reason,
                    rollover_maximum=first.rollover_maximum,
                    series=first,
                    occurrence=number,
                    idempotency_key=f"occurrence:{first.pk}:{number}",
                    created_by_id=first.created_by_id,
                )
            )
            number, starts_at = number + 1, ends_at
    return rows
