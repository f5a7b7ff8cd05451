"""The one place that writes a balance (domain.md, Credits).

Rules, before any code:

- An account's balance is ``allocated - used`` and equals the sum of its transactions, always.
- Whoever posts first locks the account rows, in the order of their keys, so that two posters never deadlock.
- Usage is posted for each user and hour as the difference between what that hour comes to now and what has been posted for it:
  a deduction, or a refund when the usage became less. Posting the same again posts nothing.
- Usage that already happened is charged even beyond zero; only starting new runs is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone

from credits.models import Account, Grant, Transaction, UsageCharge
from kluisz_analytics.bulk import insert_rows, update_rows
from kluisz_analytics.fields import CREDIT_PLACES, to_scaled
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
def post_usage(usage: UsageHours, now: datetime) -> Posted:
    """Bring the ledger to what each (user, hour) of ``usage`` comes to now, in credits. Returns what was posted."""
    posted = _posted(usage)
    changed = sorted(key for key, credits in usage.items() if credits != (posted[key].credits if key in posted else ZERO))
    if not changed:
        return Posted(0, ZERO)
    accounts = _lock({user_id for user_id, _ in changed})
    # Read again under the lock: another worker may have posted for the same hours in between.
    posted = _posted(changed)
    entries, new_charges, old_charges, net = [], [], [], ZERO
    for user_id, hour in changed:
        account, charge = accounts[user_id], posted.get((user_id, hour), NOT_POSTED)
        difference = usage[user_id, hour] - charge.credits
        if not difference:
            continue
        amount, number = to_scaled(usage[user_id, hour], CREDIT_PLACES), charge.postings + 1
        if charge.id is None:
            new_charges.append((user_id, hour, amount, number))
        else:
            old_charges.append((charge.id, amount, number))
        entries.append(_usage_entry(account, hour, difference, number, now))
        account.used += difference
        net += difference
    with connection.cursor() as cursor:
        insert_rows(cursor, Transaction._meta.db_table, ENTRY_COLUMNS, entries)
        insert_rows(cursor, UsageCharge._meta.db_table, ["account_id", "hour", "credits", "postings"], new_charges)
        update_rows(cursor, UsageCharge._meta.db_table, ["id", "credits", "postings"], old_charges)
        used = [(account.pk, to_scaled(account.used, CREDIT_PLACES), now) for account in accounts.values()]
        update_rows(cursor, Account._meta.db_table, ["user_id", "used", "updated_at"], used)
    return Posted(len(entries), net)


class Charge(NamedTuple):
    """What has been posted for a (user, hour), and in how many entries."""

    id: int | None
    credits: Decimal
    postings: int


NOT_POSTED = Charge(None, ZERO, 0)


def _posted(keys: Iterable[tuple[UUID, datetime]]) -> dict[tuple[UUID, datetime], Charge]:
    """What has been posted for the users in the hours (and in the other hours of the same users)."""
    keys = list(keys)
    charges = UsageCharge.objects.filter(account__in={user_id for user_id, _ in keys}, hour__in={hour for _, hour in keys})
    return {
        (user_id, hour): Charge(pk, credits, postings)
        for user_id, hour, pk, credits, postings in charges.order_by().values_list("account_id", "hour", "pk", "credits", "postings")
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


def _usage_entry(account: Account, hour: datetime, difference: Decimal, number: int, now: datetime) -> tuple[object, ...]:
    before, after = account.balance, account.balance - difference
    is_more = difference > 0
    return (
        account.pk,
        (Transaction.Type.DEDUCTION if is_more else Transaction.Type.REFUND).value,
        to_scaled(-difference, CREDIT_PLACES),
        to_scaled(before, CREDIT_PLACES),
        to_scaled(after, CREDIT_PLACES),
        "Usage" if is_more else "Usage became less",
        f"usage:{account.pk}:{hour.astimezone(UTC):%Y-%m-%dT%H}:{number}",
        hour,
        now,
    )


def _lock(user_ids: Iterable[UUID]) -> dict[UUID, Account]:
    """The accounts of the users, locked in the order of their keys; missing ones are opened."""
    user_ids = sorted(set(user_ids))
    now = timezone.now()
    Account.objects.bulk_create(
        [Account(user_id=user_id, allocated=ZERO, used=ZERO, held=ZERO, updated_at=now) for user_id in user_ids],
        ignore_conflicts=True,
    )
    locked = Account.objects.select_for_update().filter(pk__in=user_ids).order_by("pk")
    return {account.pk: account for account in locked}
