"""Reservations: the statement that makes one, and what becomes of it (domain.md, Credits, Hold).

An account's ``held`` is the sum of its open and settled holds, always. Who changes a hold locks its account first, so nobody waits in a
circle.
"""

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Value
from django.utils import timezone

from credits import ledger
from credits.models import Account, Hold
from kluisz_analytics.bulk import sqlite_value
from kluisz_analytics.fields import CREDIT_PLACES, CreditsField, to_scaled

SETTLED_TTL = timedelta(days=2)
"""How long what a run says that it used stays held, if its trace is never charged."""
ZERO = Decimal(0)
# An account with a grant that should have begun or ended by now is looked at first.
RESERVE = """
    UPDATE credit_account SET held = held + %s
    WHERE user_id = %s AND (%s OR (allocated - used - held + %s >= %s AND (next_event_at IS NULL OR next_event_at > %s)))
"""
COLUMNS = "id, account_id, trace_id, flow_id, credits, state, created_at, expires_at"


def insert(hold: Hold, *, grace: Decimal, is_free: bool) -> bool:
    """Reserve and store the hold in one statement, if enough remains (or ``is_free``); whether it was.

    Raises IntegrityError when its trace has a hold; nothing is reserved then.
    """
    amount = to_scaled(hold.credits, CREDIT_PLACES)
    condition = [amount, hold.account_id, is_free, to_scaled(grace, CREDIT_PLACES), amount, hold.created_at]
    row = [hold.id, hold.account_id, hold.trace_id, hold.flow_id, amount, hold.state, hold.created_at, hold.expires_at]
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            values = "%s, user_id, %s, %s, %s, %s, %s, %s"
            sql = f"WITH reserved AS ({RESERVE} RETURNING user_id) INSERT INTO credit_hold ({COLUMNS}) SELECT {values} FROM reserved"
            with _one_statement():
                cursor.execute(sql, [*condition, row[0], *row[2:]])
            return cursor.rowcount > 0
        with transaction.atomic():
            cursor.execute(RESERVE, [sqlite_value(value) for value in condition])
            if cursor.rowcount:
                places = ", ".join("%s" for _ in row)
                cursor.execute(f"INSERT INTO credit_hold ({COLUMNS}) VALUES ({places})", [sqlite_value(value) for value in row])
                return True
        return False


def _one_statement() -> AbstractContextManager[Any]:
    """A statement is a transaction by itself; within one of the caller's, its failure has to leave that as it was."""
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


def settle(hold_id: UUID, credits: Decimal | None = None) -> Hold:
    """The run says what it used: that stays held until the sync charges its trace. Without an amount, what was reserved stays held.

    Repeating it, and settling what has ended, changes nothing. Raises Hold.DoesNotExist.
    """
    now = timezone.now()
    with transaction.atomic():
        hold = _locked(hold_id)
        if hold.state == Hold.State.OPEN:
            used = hold.credits if credits is None else credits
            _change(hold, used - hold.credits, state=Hold.State.SETTLED, settled_credits=used, expires_at=now + SETTLED_TTL)
    return hold


def release(hold_id: UUID) -> Hold:
    """Free what is held. Repeating it, and releasing what has ended, changes nothing. Raises Hold.DoesNotExist."""
    with transaction.atomic():
        hold = _locked(hold_id)
        if hold.state in Hold.HOLDING:
            _change(hold, -hold.held, state=Hold.State.RELEASED, ended_at=timezone.now())
    return hold


def _locked(hold_id: UUID) -> Hold:
    owner = Hold.objects.values_list("account_id", flat=True).get(pk=hold_id)
    Account.objects.select_for_update().get(pk=owner)
    return Hold.objects.get(pk=hold_id)


def _change(hold: Hold, difference: Decimal, **fields: Any) -> None:
    for name, value in fields.items():
        setattr(hold, name, value)
    hold.save(update_fields=list(fields))
    if difference:
        Account.objects.filter(pk=hold.account_id).update(held=F("held") + Value(difference, CreditsField()))


def expire(account: Account, now: datetime) -> Decimal:
    """Free what has expired of the account, which is locked. Returns how much."""
    expired = list(Hold.objects.filter(account=account, state__in=Hold.HOLDING, expires_at__lte=now))
    return _end(account, expired, Hold.State.EXPIRED, now)


def _end(account: Account, ended: Collection[Hold], state: Hold.State, now: datetime) -> Decimal:
    freed = sum((hold.held for hold in ended), ZERO)
    if ended:
        Hold.objects.filter(pk__in=[hold.pk for hold in ended]).update(state=state, ended_at=now)
        Account.objects.filter(pk=account.pk).update(held=F("held") - Value(freed, CreditsField()))
        account.held -= freed
    return freed


def charged(trace_ids: Iterable[str]) -> int:
    """The traces have been charged, so nothing is held for them any more. Call it in the transaction that charges them.

    Returns how many holds ended. A hold that had expired or was released stays as it is: it holds nothing.
    """
    if not Hold.objects.filter(state__in=Hold.HOLDING).exists():
        return 0
    found = list(Hold.objects.filter(trace_id__in=list(trace_ids), state__in=Hold.HOLDING).values_list("pk", "account_id"))
    if not found:
        return 0
    accounts = ledger.lock({account_id for _, account_id in found})
    # What was found may have ended while the accounts were waited for.
    still = Hold.objects.filter(pk__in=[pk for pk, _ in found], state__in=Hold.HOLDING)
    ended = 0
    for account in accounts.values():
        mine = [hold for hold in still if hold.account_id == account.pk]
        _end(account, mine, Hold.State.CHARGED, timezone.now())
        ended += len(mine)
    return ended


def expire_all(now: datetime | None = None, at_most: int = 10_000) -> int:
    """Free expired holds of all accounts, for those who look at the table; the gate needs no one to. Returns how many accounts."""
    moment = now or timezone.now()
    due = Hold.objects.filter(state__in=Hold.HOLDING, expires_at__lte=moment).order_by().values_list("account_id", flat=True).distinct()
    done = 0
    for account_id in list(due[:at_most]):
        with transaction.atomic():
            expire(ledger.lock([account_id])[account_id], moment)
        done += 1
    return done


def expired_credits(account: Account, now: datetime) -> Decimal:
    """What the account still counts as held although it has expired."""
    if not account.held:
        return ZERO
    return sum((hold.held for hold in Hold.objects.filter(account=account, state__in=Hold.HOLDING, expires_at__lte=now)), ZERO)
