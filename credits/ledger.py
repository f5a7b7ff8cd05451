"""The one place that writes a balance (domain.md, Credits).

Rules, before any code:

- An account's balance is ``allocated - used`` and equals the sum of its transactions, always.
- Whoever posts first locks the account rows, in the order of their keys, so that two posters never deadlock.
- Usage is posted for each user and hour as the difference between what that hour comes to now and what has been posted for it:
  a deduction, or a refund when the usage became less. Posting the same again posts nothing.
- Usage that already happened is charged even beyond zero; only starting new runs is refused.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from credits.models import Account, Grant, Transaction, UsageCharge
from kluisz_analytics.bulk import among, insert_rows, stamp, update_rows
from kluisz_analytics.fields import CREDIT_PLACES, from_scaled, to_scaled
from kluisz_analytics.tenants.models import User

ZERO = Decimal(0)
UsageHours = Mapping[tuple[UUID, datetime], Decimal]


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting of usage did: entries written, and the credits deducted less those refunded."""

    transactions: int
    credits: Decimal


@transaction.atomic
def grant(
    user: User,
    amount: Decimal,
    *,
    source: Grant.Source,
    idempotency_key: str,
    reason: str = "",
    created_by: User | None = None,
) -> Transaction:
    """Give ``amount`` credits to a user; the same key again returns the first entry and gives nothing.

    Raises ValueError for an amount that is not above 0.
    """
    if not (amount.is_finite() and amount > 0):
        raise ValueError(f"A grant of {amount} credits is not possible; grant more than 0.")
    account = _lock([user.pk])[user.pk]
    existing = Transaction.objects.filter(idempotency_key=idempotency_key).first()
    if existing is not None:
        return existing
    given = Grant.objects.create(account=account, amount=amount, source=source, reason=reason, created_by=created_by)
    is_purchase = source == Grant.Source.PURCHASE
    entry = Transaction.objects.create(
        account=account,
        type=Transaction.Type.PURCHASE if is_purchase else Transaction.Type.ADDITION,
        amount=amount,
        balance_before=account.balance,
        balance_after=account.balance + amount,
        reason=reason,
        idempotency_key=idempotency_key,
        grant=given,
        created_at=timezone.now(),
        created_by=created_by,
    )
    account.allocated += amount
    account.save(update_fields=["allocated", "updated_at"])
    return entry


@transaction.atomic
def post_usage(usage: UsageHours, now: datetime, adjustment: str = "") -> Posted:
    """Bring the ledger to what each (user, hour) of ``usage`` comes to now, in credits. Returns what was posted.

    The differences are deductions and refunds, or with ``adjustment``, their reason, adjustments.
    """
    if not usage:
        return Posted(0, ZERO)
    accounts = _lock({user_id for user_id, _ in usage})
    posted = _posted(usage)
    balances = {user_id: to_scaled(account.balance, CREDIT_PLACES) for user_id, account in accounts.items()}
    created_at = stamp(now)
    entries, new_charges, old_charges, net = [], [], [], 0
    for user_id, hour in sorted(usage, key=lambda key: (key[0].int, key[1])):
        amount, charge = to_scaled(usage[user_id, hour], CREDIT_PLACES), posted.get((user_id, hour), NOT_POSTED)
        difference, number = amount - charge.microcredits, charge.postings + 1
        if not difference:
            continue
        at = stamp(hour)
        if charge.id is None:
            new_charges.append((user_id.hex, at, amount, number))
        else:
            old_charges.append((charge.id, amount, number))
        entries.append(_usage_entry(user_id, at, balances[user_id], difference, number, created_at, adjustment))
        balances[user_id] -= difference
        net += difference
    with connection.cursor() as cursor:
        insert_rows(cursor, Transaction._meta.db_table, ENTRY_COLUMNS, entries)
        insert_rows(cursor, UsageCharge._meta.db_table, ["account_id", "hour", "credits", "postings"], new_charges)
        update_rows(cursor, UsageCharge._meta.db_table, ["id", "credits", "postings"], old_charges)
        used = [
            (user_id.hex, to_scaled(accounts[user_id].allocated, CREDIT_PLACES) - balance, created_at)
            for user_id, balance in balances.items()
        ]
        update_rows(cursor, Account._meta.db_table, ["user_id", "used", "updated_at"], used)
    return Posted(len(entries), from_scaled(net, CREDIT_PLACES))


class Charge(NamedTuple):
    """What has been posted for a (user, hour), in millionths of a credit, and in how many entries."""

    id: int | None
    microcredits: int
    postings: int


NOT_POSTED = Charge(None, 0, 0)


def _posted(keys: Collection[tuple[UUID, datetime]]) -> dict[tuple[UUID, datetime], Charge]:
    """What has been posted for the users in the hours (and in the other hours of the same users)."""
    of_users, hours = among("account_id", {user_id.hex for user_id, _ in keys}), {hour for _, hour in keys}
    charges = UsageCharge.objects.filter(of_users, hour__gte=min(hours), hour__lte=max(hours)).order_by()
    return {
        (user_id, hour): Charge(pk, to_scaled(credits, CREDIT_PLACES), postings)
        for user_id, hour, pk, credits, postings in charges.values_list("account_id", "hour", "pk", "credits", "postings")
        if hour in hours
    }


ENTRY_COLUMNS = [
    "account_id",
    "type",
    "amount",
    "balance_before",
    "balance_after",
    "reason",
    "idempotency_key",
    "usage_hour",
    "created_at",
]


def _usage_entry(
    user_id: UUID, hour: str, balance: int, difference: int, number: int, created_at: str, adjustment: str
) -> tuple[object, ...]:
    """A row of the ledger, in the order of ENTRY_COLUMNS; amounts in millionths of a credit."""
    kind, reason = (Transaction.Type.DEDUCTION, "Usage") if difference > 0 else (Transaction.Type.REFUND, "Usage became less")
    if adjustment:
        kind, reason = Transaction.Type.ADJUSTMENT, adjustment
    return (
        user_id.hex,
        kind.value,
        -difference,
        balance,
        balance - difference,
        reason,
        f"usage:{user_id}:{hour}:{number}",
        hour,
        created_at,
    )


def _lock(user_ids: Collection[UUID]) -> dict[UUID, Account]:
    """The accounts of the users, locked in the order of their keys; missing ones are opened."""
    accounts = _locked(user_ids)
    missing = [user_id for user_id in user_ids if user_id not in accounts]
    if not missing:
        return accounts
    now = timezone.now()
    Account.objects.bulk_create(
        [Account(user_id=user_id, allocated=ZERO, used=ZERO, held=ZERO, updated_at=now) for user_id in sorted(missing)],
        ignore_conflicts=True,
    )
    return _locked(user_ids)


def _locked(user_ids: Collection[UUID]) -> dict[UUID, Account]:
    locked = Account.objects.select_for_update().filter(among("user_id", (user_id.hex for user_id in user_ids))).order_by("pk")
    return {account.pk: account for account in locked}
