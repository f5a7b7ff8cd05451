"""The one place that writes a balance (domain.md, Credits).

Rules, before any code:

- An account's balance is ``allocated - used`` and equals the sum of its transactions, always.
  ``allocated`` is what the grants in force came to, ``used`` what has been burned of them, and
  debt; a grant that ends leaves both.
- A grant is in the ledger from when it begins; when it ends, what usage has not burned goes back
  (:mod:`credits.burn` says which usage burns which grant). Both are posted as differences to what
  was posted, so late usage burns what was in force at its own time.
- Whoever posts first locks the account rows, in the order of their keys, so that two posters never
  deadlock.
- Usage is posted for each user and hour as the difference between what that hour comes to now and
  what has been posted for it: a deduction, or a refund when the usage became less. Posting the same
  again posts nothing.
- Where a grant begins or ends inside an hour, the hour is cut there (:class:`HourCut`), and each
  part is posted by itself, so that usage burns what was in force at its own moment. An hour stays
  cut. A grant that is given or ended later cuts what has been posted: :func:`cut`.
- Usage that already happened is charged even beyond zero; only starting new runs is refused.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import Q
from django.utils import timezone
from django.utils.module_loading import import_string

from credits.burn import GrantTerms, burn_down
from credits.models import Account, Grant, HourCut, Transaction, UsageCharge
from kluisz_analytics.bulk import (
    Statement,
    among,
    empty_table,
    execute_all,
    insert_rows,
    stamp,
    uuid_of,
)
from kluisz_analytics.scales import CREDIT_PLACES, from_scaled, to_scaled
from kluisz_analytics.tenants.models import User

ZERO = Decimal(0)
UsageHours = Mapping[tuple[UUID, datetime], Decimal]


@dataclass(frozen=True, slots=True)
class Posted:
    """What a posting of usage did: entries written, and the credits deducted less those
    refunded.
    """

    transactions: int
    credits: Decimal


@transaction.atomic
def post_usage(usage: UsageHours, now: datetime, adjustment: str = "") -> Posted:
    """Bring the ledger to what each (user, hour) of ``usage`` comes to now, in credits. Returns
    what was posted. Of an hour that is cut, each part is given by its beginning.

    The differences are deductions and refunds, or with ``adjustment``, their reason, adjustments.
    """
    with connection.cursor() as cursor:
        execute_all(cursor, *empty_staging())
        rows = (
            (user_id.hex, stamp(hour), to_scaled(credits, CREDIT_PLACES))
            for (user_id, hour), credits in usage.items()
        )
        insert_rows(cursor, COMES_TO, ["account_id", "hour", "credits"], rows)
        return post_staged(cursor, now, adjustment)


COMES_TO, POSTING = "credit_hour_comes_to", "credit_posting"
"""Temporary tables: users' hours that are to be posted, and what they come to now, for whoever
posts to fill; and what has to be posted for that.
"""
AS_STAGED = f"SELECT account_id, hour, credits FROM {COMES_TO}"
IS_WHOLE = (
    f"NOT EXISTS (SELECT 1 FROM {HourCut._meta.db_table} k WHERE k.account_id = s.account_id"
    " AND k.hour = s.hour)"
)
"""Of an hour ``s`` of COMES_TO: whether it is not cut."""


def empty_staging() -> list[Statement]:
    """Empty the table that :func:`post_staged` posts from: COMES_TO (account_id, hour, credits as
    they are stored).
    """
    account, hour = (
        UsageCharge._meta.get_field(name).db_type(connection) for name in ("account", "hour")
    )
    return [
        *empty_table(COMES_TO, f"account_id {account}, hour {hour}, credits bigint"),
        *empty_table(
            POSTING,
            f"account_id {account}, hour {hour}, credits bigint, difference bigint, number integer",
        ),
    ]


def of_usage(whole_hours: str) -> str:
    """What the hours in COMES_TO come to by usage itself: a query of accounts, hours (or the
    beginnings of their parts) and credits as they are stored.

    ``whole_hours`` is the query of those that are not cut (IS_WHOLE). What the parts of the others
    come to, the usage app knows: the setting CREDITS_USAGE names the query that says it, of
    ``account_id``, ``at`` (a run's own time) and ``credits``.
    """
    usage = import_string(settings.CREDITS_USAGE)
    after = (
        "s.hour + interval '1 hour'"
        if connection.vendor == "postgresql"
        else "datetime(s.hour, '+1 hour')"
    )
    cuts = HourCut._meta.db_table
    # A subquery for each part: PostgreSQL would else read all usage to join it with nothing.
    return f"""{whole_hours} UNION ALL
    SELECT p.account_id, p.begins_at, (SELECT CAST(COALESCE(SUM(u.credits), 0) AS bigint)
        FROM ({usage}) u
        WHERE u.account_id = p.account_id AND u.at >= p.begins_at AND u.at < p.ends_at)
    FROM (
        SELECT account_id, begins_at, LEAD(begins_at, 1, hour_ends_at)
            OVER (PARTITION BY account_id, hour ORDER BY begins_at) AS ends_at
        FROM (
            SELECT s.account_id, s.hour, s.hour AS begins_at, {after} AS hour_ends_at
                FROM {COMES_TO} s WHERE NOT {IS_WHOLE}
            UNION ALL SELECT s.account_id, s.hour, k.at, {after} FROM {COMES_TO} s
                JOIN {cuts} k ON k.account_id = s.account_id AND k.hour = s.hour) edges) p"""


def post_staged(
    cursor: CursorWrapper,
    now: datetime,
    adjustment: str = "",
    before: Sequence[Statement] = (),
    comes_to: str = AS_STAGED,
) -> Posted:
    """The same as :func:`post_usage`, of the hours in COMES_TO, after the statements ``before``;
    one message to the database.

    ``comes_to`` is the query of what they come to: it is asked once the accounts are locked. Call
    it in a transaction.
    """
    execute_all(
        cursor,
        *before,
        (OPEN_ACCOUNTS, [stamp(now)]),
        LOCK_ACCOUNTS.format(
            lock="FOR UPDATE" if connection.features.has_select_for_update else ""
        ),
        STAGE_DIFFERENCES.format(comes_to=comes_to),
        _write_entries(now, adjustment),
        WRITE_CHARGES,
        (WRITE_BALANCES, [stamp(now)]),
        WHAT_WAS_POSTED,
    )
    count, net, is_late = cursor.fetchone()
    if is_late:
        cursor.execute(LATE)
        settle_late([uuid_of(account_id) for (account_id,) in cursor.fetchall()], now)
    return Posted(count, from_scaled(int(net), CREDIT_PLACES))


OPEN_ACCOUNTS = f"""
    INSERT INTO credit_account (user_id, allocated, used, held, updated_at)
    SELECT s.account_id, 0, 0, 0, %s FROM (SELECT DISTINCT account_id FROM {COMES_TO}) s
    WHERE NOT EXISTS (SELECT 1 FROM credit_account a WHERE a.user_id = s.account_id)
        ORDER BY s.account_id
    ON CONFLICT (user_id) DO NOTHING"""
LOCK_ACCOUNTS = f"""
    SELECT COUNT(*) FROM (
        SELECT user_id FROM credit_account WHERE user_id IN (SELECT account_id FROM {COMES_TO})
            ORDER BY user_id {{lock}}) locked"""
STAGE_DIFFERENCES = f"""
    INSERT INTO {POSTING} (account_id, hour, credits, difference, number)
    SELECT s.account_id, s.hour, s.credits, s.credits - COALESCE(c.credits, 0),
        COALESCE(c.postings, 0) + 1
    FROM ({{comes_to}}) s LEFT JOIN credit_usage_charge c ON c.account_id = s.account_id
        AND c.hour = s.hour
    WHERE s.credits <> COALESCE(c.credits, 0)"""
WRITE_CHARGES = f"""
    INSERT INTO credit_usage_charge (account_id, hour, credits, postings)
    SELECT account_id, hour, credits, number FROM {POSTING} WHERE true ORDER BY account_id, hour
    ON CONFLICT (account_id, hour) DO UPDATE SET credits = EXCLUDED.credits,
        postings = EXCLUDED.postings"""
WRITE_BALANCES = f"""
    UPDATE credit_account SET used = used + p.difference, updated_at = %s
    FROM (SELECT account_id, CAST(SUM(difference) AS bigint) AS difference FROM {POSTING}
        GROUP BY account_id) p
    WHERE user_id = p.account_id"""
WHAT_WAS_POSTED = f"""
    SELECT COUNT(*), COALESCE(SUM(difference), 0), EXISTS (
        SELECT 1 FROM {COMES_TO} s JOIN credit_account a ON a.user_id = s.account_id
            AND s.hour < a.last_ended_at) FROM {POSTING}"""
# Usage before the end of a grant that has been settled may burn that one.
LATE = (
    f"SELECT DISTINCT s.account_id FROM {COMES_TO} s JOIN credit_account a ON a.user_id ="
    " s.account_id AND s.hour < a.last_ended_at"
)


def _write_entries(now: datetime, adjustment: str) -> Statement:
    """An entry for each difference; each begins with the balance that the one before it left."""
    if connection.vendor == "postgresql":
        key = (
            "REPLACE(p.account_id::text, '-', '') || ':' || to_char(p.hour, 'YYYY-MM-DD\"T\"HH24')"
            " || CASE WHEN p.hour = date_trunc('hour', p.hour) THEN ''"
            " ELSE to_char(p.hour, ':MI:SS.US') END"
        )
    else:
        key = (
            "p.account_id || ':' || strftime('%%Y-%%m-%%dT%%H', p.hour)"
            " || CASE WHEN substr(p.hour, 14) = ':00:00' THEN '' ELSE substr(p.hour, 14) END"
        )
    return (
        f"""
        INSERT INTO "transaction"
            (account_id, type, amount, balance_before, balance_after, reason, idempotency_key,
                usage_hour, created_at)
        SELECT p.account_id, CASE WHEN p.difference > 0 THEN %s ELSE %s END, -p.difference,
            a.allocated - a.used - p.posted + p.difference, a.allocated - a.used - p.posted,
            CASE WHEN p.difference > 0 THEN %s ELSE %s END, 'usage:' || {key} || ':' || p.number,
                p.hour, %s
        FROM (SELECT *, CAST(SUM(difference) OVER (PARTITION BY account_id
            ORDER BY hour) AS bigint) AS posted FROM {POSTING}) p
        JOIN credit_account a ON a.user_id = p.account_id ORDER BY p.account_id, p.hour
        """,
        [
            *(
                [Transaction.Type.ADJUSTMENT.value] * 2
                if adjustment
                else [Transaction.Type.DEDUCTION.value, Transaction.Type.REFUND.value]
            ),
            *([adjustment] * 2 if adjustment else ["Usage", "Usage became less"]),
            stamp(now),
        ],
    )


CUT = "Charged apart, since a grant begins or ends in the hour"


def cut(grants: Iterable[Grant], now: datetime) -> bool:
    """Cut the hours in which the grants begin or end, and post apart what has been posted for such
    an hour as a whole. Returns whether anything had been.

    Their accounts are locked; call :func:`settle` afterwards, with the accounts as they are then.
    """
    moments = {
        (one.account_id, moment)
        for one in grants
        for moment in (one.starts_at, one.ends_at)
        if moment is not None and _hour(moment) != moment
    }
    if not moments:
        return False
    HourCut.objects.bulk_create(
        [
            HourCut(account_id=user_id, hour=_hour(moment), at=moment)
            for user_id, moment in sorted(moments)
        ],
        ignore_conflicts=True,
    )
    return _post_apart({(user_id, _hour(moment)) for user_id, moment in moments}, now)


def _post_apart(hours: Collection[tuple[UUID, datetime]], now: datetime) -> bool:
    charges = UsageCharge.objects.filter(
        account__in={user_id for user_id, _ in hours}, hour__in={hour for _, hour in hours}
    ).order_by()
    posted = sorted({*charges.values_list("account_id", "hour")} & {*hours})
    if not posted:
        return False
    with connection.cursor() as cursor:
        execute_all(cursor, *empty_staging())
        rows = ((user_id.hex, stamp(hour)) for user_id, hour in posted)
        insert_rows(cursor, COMES_TO, ["account_id", "hour"], rows)
        post_staged(cursor, now, CUT, comes_to=of_usage(f"{AS_STAGED} WHERE 1 = 0"))
    return True


def _hour(moment: datetime) -> datetime:
    """The full hour, UTC, that the moment lies in."""
    return moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)


def settle_late(user_ids: Collection[UUID], now: datetime) -> None:
    """Settle accounts again whose past has changed; what has not begun or ended by ``now`` stays as
    it is.
    """
    if user_ids:
        settle(lock(user_ids), now)


def lock(user_ids: Collection[UUID]) -> dict[UUID, Account]:
    """The accounts of the users, locked in the order of their keys; missing ones are opened."""
    accounts = _locked(user_ids)
    missing = [user_id for user_id in user_ids if user_id not in accounts]
    if not missing:
        return accounts
    now = timezone.now()
    Account.objects.bulk_create(
        [
            Account(user_id=user_id, allocated=ZERO, used=ZERO, held=ZERO, updated_at=now)
            for user_id in sorted(missing)
        ],
        ignore_conflicts=True,
    )
    return _locked(user_ids)


def _locked(user_ids: Collection[UUID]) -> dict[UUID, Account]:
    locked = (
        Account.objects.select_for_update()
        .filter(among("user_id", (user_id.hex for user_id in user_ids)))
        .order_by("pk")
    )
    return {account.pk: account for account in locked}


def correct(
    user: User,
    amount: Decimal,
    *,
    idempotency_key: str,
    reason: str,
    by: User | None,
    now: datetime,
) -> Transaction:
    """Take ``amount`` (above 0) off a user's credits: it burns grants as usage of this moment does.

    Call it in a transaction.
    """
    return _correct(lock([user.pk])[user.pk], amount, idempotency_key, reason, by, now)


def _correct(
    account: Account, amount: Decimal, key: str, reason: str, by: User | None, now: datetime
) -> Transaction:
    entry = Transaction.objects.create(
        account=account,
        type=Transaction.Type.ADJUSTMENT,
        amount=-amount,
        balance_before=account.balance,
        balance_after=account.balance - amount,
        reason=reason,
        idempotency_key=key,
        created_at=now,
        created_by=by,
    )
    account.used += amount
    account.save(update_fields=["used", "updated_at"])
    return entry


PRESUMED, TAKEN_BACK = ":presumed", ":taken-back"


def presume(account: Account, credits: Decimal, hold_id: UUID, now: datetime) -> None:
    """Charge what a run says that it used, as no trace of it came. The account is locked."""
    reason = f"Used, as its run said; no trace came (hold {hold_id})"
    _correct(account, credits, f"hold:{hold_id.hex}{PRESUMED}", reason, None, now)


def take_back(account: Account, credits: Decimal, hold_id: UUID, now: datetime) -> None:
    """The trace came after all, and is charged: what was presumed is as if it never had been, for
    grants that have ended since, too. The account is locked.
    """
    reason = f"The trace came: taken back (hold {hold_id})"
    _correct(account, -credits, f"hold:{hold_id.hex}{TAKEN_BACK}", reason, None, now)
    settle({account.pk: account}, now)


def settle(accounts: Mapping[UUID, Account], now: datetime) -> int:
    """Post what grants that have begun and ended by ``now`` come to, as differences. Returns the
    entries posted.

    The accounts are locked. Five statements however many there are; usage is read only where a
    grant has ended.
    """
    grants: dict[UUID, list[Grant]] = defaultdict(list)
    for grant in Grant.objects.filter(account__in=accounts).order_by("starts_at", "pk"):
        grants[grant.account_id].append(grant)
    usage = _usage(
        [user_id for user_id, given in grants.items() if any(_has_ended(one, now) for one in given)]
    )
    entries: list[Transaction] = []
    for user_id, account in accounts.items():
        entries += _settle_account(account, grants[user_id], usage.get(user_id, []), now)
    Transaction.objects.bulk_create(entries, batch_size=2000)
    if entries:
        changed = [one for given in grants.values() for one in given]
        Grant.objects.bulk_update(changed, ["posted", "returned", "postings"], batch_size=500)
    Account.objects.bulk_update(
        accounts.values(), ["allocated", "used", "next_event_at", "last_ended_at"], batch_size=500
    )
    return len(entries)


def _has_ended(grant: Grant, now: datetime) -> bool:
    return grant.ends_at is not None and grant.ends_at <= now


def _usage(user_ids: Collection[UUID]) -> dict[UUID, list[tuple[datetime, int]]]:
    """What burns grants, by account and in the order of time: charges by hour, and corrections."""
    if not user_ids:
        return {}
    found: dict[UUID, list[tuple[datetime, int]]] = defaultdict(list)
    charges = (
        UsageCharge.objects.filter(account__in=user_ids)
        .order_by("hour")
        .values_list("account_id", "hour", "credits")
    )
    corrections = Transaction.objects.filter(CORRECTIONS, account__in=user_ids).values_list(
        "account_id", "created_at", "amount", "idempotency_key"
    )
    taken_back = {
        key.removesuffix(TAKEN_BACK) for *_, key in corrections if key.endswith(TAKEN_BACK)
    }
    for user_id, at, credits in charges:
        found[user_id].append((at, to_scaled(credits, CREDIT_PLACES)))
    for user_id, at, amount, key in corrections:
        if key.removesuffix(TAKEN_BACK).removesuffix(PRESUMED) not in taken_back:
            found[user_id].append((at, -to_scaled(amount, CREDIT_PLACES)))
    return {user_id: sorted(burns) for user_id, burns in found.items()}


CORRECTIONS = Q(type=Transaction.Type.ADJUSTMENT, grant__isnull=True, usage_hour__isnull=True)


def terms_of(grants: Iterable[Grant]) -> list[GrantTerms]:
    """Grants as :mod:`credits.burn` takes them."""
    grants = list(grants)
    by_occurrence = {(one.series_id, one.occurrence): one.pk for one in grants}
    return [
        GrantTerms(
            id=one.pk,
            amount=to_scaled(one.amount, CREDIT_PLACES),
            priority=one.priority,
            starts_at=one.starts_at,
            ends_at=one.ends_at or FOREVER,
            previous=by_occurrence.get((one.series_id, one.occurrence - 1))
            or (one.series_id if one.occurrence == 1 else None),
            rollover_maximum=(
                None
                if one.rollover_maximum is None
                else to_scaled(one.rollover_maximum, CREDIT_PLACES)
            ),
        )
        for one in grants
    ]


FOREVER = datetime.max.replace(tzinfo=UTC)


def _settle_account(
    account: Account, grants: Sequence[Grant], usage: Sequence[tuple[datetime, int]], now: datetime
) -> list[Transaction]:
    burned = burn_down(terms_of(grants), usage, now)
    balance, allocated, entries = account.balance, ZERO, []
    for grant in grants:
        state = burned.grants.get(grant.pk)
        posted = ZERO if state is None else from_scaled(state.amount + state.carried, CREDIT_PLACES)
        returned = (
            from_scaled(state.left, CREDIT_PLACES)
            if state is not None and state.has_ended
            else ZERO
        )
        for difference, kind, reason in _differences(grant, posted, returned):
            grant.postings += 1
            entries.append(_grant_entry(grant, kind, difference, balance, reason, now))
            balance += difference
        grant.posted, grant.returned = posted, returned
        if state is not None and not state.has_ended:
            allocated += posted
    account.allocated, account.used = allocated, allocated - balance
    moments = [
        moment for one in grants for moment in (one.starts_at, one.ends_at) if moment is not None
    ]
    account.next_event_at = min((moment for moment in moments if moment > now), default=None)
    account.last_ended_at = max(
        (one.ends_at for one in grants if one.ends_at is not None and one.ends_at <= now),
        default=None,
    )
    return entries


BEGINS_AS = {
    Grant.Source.PURCHASE: Transaction.Type.PURCHASE,
    Grant.Source.REFUND: Transaction.Type.REFUND,
    Grant.Source.ADJUSTMENT: Transaction.Type.ADJUSTMENT,
}


def _differences(
    grant: Grant, posted: Decimal, returned: Decimal
) -> Iterable[tuple[Decimal, Transaction.Type, str]]:
    """What has to be posted for a grant, with its type and reason."""
    if posted != grant.posted:
        is_first = not grant.posted
        kind = (
            BEGINS_AS.get(Grant.Source(grant.source), Transaction.Type.ADDITION)
            if is_first
            else Transaction.Type.ADJUSTMENT
        )
        yield (
            posted - grant.posted,
            kind,
            (
                grant.reason
                if is_first
                else f"Taken over from the period before: {grant.reason}"[:500]
            ),
        )
    if returned != grant.returned:
        is_voided = grant.voided_at is not None and grant.voided_at == grant.ends_at
        kind, verb = (
            (Transaction.Type.ADJUSTMENT, "Voided")
            if is_voided
            else (Transaction.Type.EXPIRY, "Expired")
        )
        yield grant.returned - returned, kind, f"{verb}: {grant.reason}"[:500]


def _grant_entry(
    grant: Grant,
    kind: Transaction.Type,
    amount: Decimal,
    balance: Decimal,
    reason: str,
    now: datetime,
) -> Transaction:
    return Transaction(
        account_id=grant.account_id,
        type=kind,
        amount=amount,
        balance_before=balance,
        balance_after=balance + amount,
        reason=reason,
        idempotency_key=f"grant:{grant.pk}:{grant.postings}",
        grant=grant,
        created_at=now,
        created_by_id=(
            grant.voided_by_id
            if kind == Transaction.Type.ADJUSTMENT and grant.voided_at
            else grant.created_by_id
        ),
    )
