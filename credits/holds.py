"""Reservations: the statement that makes one, and what becomes of it (domain.md, Credits, Hold).

An account's ``held`` is the sum of its open and settled holds, always. Who changes a hold locks its
account first, so nobody waits in a circle.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import F, Value
from django.utils import timezone

from credits import budgets, ledger
from credits.gate import BUDGETS_SQL, MAY_START_SQL, RUN_SQL
from credits.models import Account, Hold
from kluisz_analytics.bulk import sqlite_value
from kluisz_analytics.fields import CreditsField
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.scales import CREDIT_PLACES, to_scaled

SETTLED_TTL = timedelta(days=2)
"""How long what a run says that it used stays held, if its trace is never charged."""
ZERO = Decimal(0)
# An account with a grant that should have begun or ended by now is looked at first.
RESERVE = f"""
    UPDATE credit_account SET held = held + %(credits)s
    WHERE user_id = %(user_id)s AND {MAY_START_SQL}
        AND (next_event_at IS NULL OR next_event_at > %(now)s)"""
COUNT = """
    UPDATE credit_tenant_budget SET held = credit_tenant_budget.held + budgets.needs
    FROM budgets{reserved} WHERE credit_tenant_budget.id = budgets.id"""
STORE = """
    INSERT INTO credit_hold (id, account_id, trace_id, flow_id, model, cost_usd, credits, state,
        created_at, expires_at)
    SELECT %(id)s, id, %(trace_id)s, %(flow_id)s, %(model)s, cost, %(credits)s, 'open', %(now)s,
        %(expires_at)s FROM run"""
# Of PostgreSQL the account is locked first, as everywhere; then the budgets, as they are by then.
TIMES = {name: f"%({name})s" for name in ("day_start", "week_start", "month_start")}
ON_POSTGRESQL = f"""
    WITH {RUN_SQL}, account AS MATERIALIZED (
        SELECT user_id FROM credit_account WHERE user_id = %(user_id)s FOR UPDATE),
    {
    BUDGETS_SQL.replace("budgets AS (", "budgets AS MATERIALIZED (").format(
        locked=" AND EXISTS (SELECT 1 FROM account) ORDER BY b.id FOR UPDATE OF b",
        **{name: f"{place}::timestamptz" for name, place in TIMES.items()},
    )
},
    reserved AS ({RESERVE} RETURNING user_id),
    counted AS ({COUNT.format(reserved=", reserved")})
    {STORE}, reserved"""
_ON_SQLITE = f"WITH {RUN_SQL}, {BUDGETS_SQL.format(locked='', **TIMES)}"
ON_SQLITE = (
    f"{_ON_SQLITE} {RESERVE} RETURNING user_id",
    f"{_ON_SQLITE} {COUNT.format(reserved='')}",
    f"WITH {RUN_SQL} {STORE}",
)


def insert(hold: Hold, starts: Mapping[str, datetime]) -> bool:
    """Reserve and store the hold in one statement, if its user may start the run; whether it was.

    ``starts`` is when the tenant's running day, week and month began. Raises IntegrityError when
    its trace has a hold; nothing is reserved then.
    """
    values: dict[str, Any] = {
        "id": hold.id,
        "user_id": hold.account_id,
        "trace_id": hold.trace_id,
        "flow_id": hold.flow_id,
        "model": hold.model,
        "credits": to_scaled(hold.credits, CREDIT_PLACES),
        "now": hold.created_at,
        "expires_at": hold.expires_at,
        **{f"{name}_start": start for name, start in starts.items()},
    }
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with _one_statement():
                cursor.execute(ON_POSTGRESQL, values)
            return cursor.rowcount > 0
        stored = {name: sqlite_value(value) for name, value in values.items()}
        with transaction.atomic():
            reserve, count, store = ON_SQLITE
            cursor.execute(reserve, stored)
            if cursor.fetchall():
                cursor.execute(count, stored)
                cursor.execute(store, stored)
                return True
        return False


def _one_statement() -> AbstractContextManager[Any]:
    """A statement is a transaction by itself; within one of the caller's, its failure has to leave
    that as it was.
    """
    return transaction.atomic() if connection.in_atomic_block else nullcontext()


class HoldConflict(ValueError):
    """What is asked of a hold contradicts what has become of it. The message says how."""


def settle(hold_id: UUID, credits: Decimal | None = None) -> Hold:
    """The run says what it used: that stays held until the sync charges its trace. Without an
    amount, what was reserved stays held.

    Where the hold has expired, nothing is held any more, and the amount is kept to be looked at.
    Repeating it changes nothing, nor does settling what has been charged meanwhile. Raises
    Hold.DoesNotExist, and HoldConflict for another amount than the first and for a released hold.
    """
    now = timezone.now()
    used = None if credits is None else to_scaled(credits, CREDIT_PLACES)
    _change(
        hold_id,
        "state = 'settled', settled_credits = COALESCE(%(used)s, credits), expires_at = %(until)s",
        "state = 'open'",
        "settled_credits - credits",
        used=used,
        until=now + SETTLED_TTL,
    )
    hold = Hold.objects.select_related("account__user").get(pk=hold_id)
    if credits is None:
        return hold
    if hold.state == Hold.State.SETTLED and credits > hold.credits:
        # What is held became more than was reserved.
        with transaction.atomic():
            budgets.usage_changed([hold.account.user.tenant_id])
    if hold.state == Hold.State.EXPIRED:
        # Kept from the first who says it: of two at once the second finds it changed.
        Hold.objects.filter(pk=hold_id, state=Hold.State.EXPIRED).update(
            state=Hold.State.UNCHARGED, settled_credits=credits, expires_at=now + SETTLED_TTL
        )
        hold.refresh_from_db()
    if hold.state == Hold.State.RELEASED:
        raise HoldConflict(f"The hold was released, so it can't be settled with {credits:f}.")
    if hold.settled_credits not in (None, credits):
        raise HoldConflict(
            f"The hold was settled with {hold.settled_credits:f} credits, so it can't be settled"
            f" with {credits:f}."
        )
    return hold


def release(hold_id: UUID) -> Hold:
    """Free what is held.

    Repeating it, and releasing what has ended, changes nothing. Raises Hold.DoesNotExist.
    """
    change = "state = 'released', ended_at = %(until)s"
    _change(
        hold_id,
        change,
        "state IN ('open', 'settled')",
        "-COALESCE(settled_credits, credits)",
        until=timezone.now(),
    )
    return Hold.objects.get(pk=hold_id)


def _change(hold_id: UUID, change: str, condition: str, difference: str, **values: Any) -> None:
    """Change the hold where the condition holds, and its account's ``held`` by the difference; the
    account is locked first.
    """
    owner = "SELECT account_id FROM credit_hold WHERE id = %(id)s"
    update = f"UPDATE credit_hold SET {change} WHERE id = %(id)s AND {condition}"
    values["id"] = hold_id
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                f"""
                WITH owner AS (SELECT user_id FROM credit_account
                    WHERE user_id = ({owner}) FOR UPDATE),
                changed AS ({update} AND account_id = (SELECT user_id FROM owner)
                    RETURNING account_id, {difference} AS difference)
                UPDATE credit_account SET held = held + difference FROM changed
                    WHERE user_id = account_id
                """,
                values,
            )
            return
        stored = {name: sqlite_value(value) for name, value in values.items()}
        with transaction.atomic():
            # A transaction of SQLite has the database to itself from its beginning.
            cursor.execute(update, stored)
            if cursor.rowcount:
                amount = f"(SELECT {difference} FROM credit_hold WHERE id = %(id)s)"
                cursor.execute(
                    f"UPDATE credit_account SET held = held + {amount} WHERE user_id = ({owner})",
                    stored,
                )


def end_of(hold: Hold, now: datetime) -> Hold.State | None:
    """What has become of a hold by ``now``, also where nobody has looked at it yet; None for an
    open one.
    """
    state = Hold.State(hold.state)
    if hold.expires_at <= now:
        state = BECOMES.get(state, state)
    return None if state is Hold.State.OPEN else state


def expire(account: Account, now: datetime) -> Decimal:
    """Free what has expired of the account, which is locked. Returns how much."""
    freed = ZERO
    for before, after in BECOMES.items():
        due = Hold.objects.filter(account=account, state=before, expires_at__lte=now)
        freed += _end(account, list(due), after, now)
    return freed


BECOMES = {
    Hold.State.OPEN: Hold.State.EXPIRED,
    Hold.State.SETTLED: Hold.State.UNCHARGED,
}
"""What a hold becomes at its time."""


def _end(account: Account, ended: Collection[Hold], state: Hold.State, now: datetime) -> Decimal:
    freed = sum((hold.held for hold in ended), ZERO)
    if ended:
        Hold.objects.filter(pk__in=[hold.pk for hold in ended]).update(state=state, ended_at=now)
    if freed:
        Account.objects.filter(pk=account.pk).update(held=F("held") - Value(freed, CreditsField()))
        account.held -= freed
    return freed


def charged(trace_ids: Iterable[str]) -> int:
    """The traces have been charged, so nothing is held for them any more. Call it in the
    transaction that charges them.

    Returns how many holds ended. A hold that had expired or was released stays as it is: it holds
    nothing.
    """
    if not Hold.objects.filter(state__in=Hold.AWAITING_CHARGE).exists():
        return 0
    found = list(
        Hold.objects.filter(
            trace_id__in=[as_trace_id(trace_id) for trace_id in trace_ids],
            state__in=Hold.AWAITING_CHARGE,
        ).values_list("pk", "account_id")
    )
    if not found:
        return 0
    accounts = ledger.lock({account_id for _, account_id in found})
    # What was found may have ended while the accounts were waited for.
    still = Hold.objects.filter(pk__in=[pk for pk, _ in found], state__in=Hold.AWAITING_CHARGE)
    ended = 0
    for account in accounts.values():
        mine = [hold for hold in still if hold.account_id == account.pk]
        for hold in mine:
            if hold.state == Hold.State.PRESUMED:
                ledger.take_back(account, hold.settled_credits or ZERO, hold.pk, timezone.now())
        _end(account, mine, Hold.State.CHARGED, timezone.now())
        ended += len(mine)
    return ended


def presumable(now: datetime, at_most: int) -> list[Hold]:
    """Holds whose run said what it used, and whose trace has not come by their time."""
    return list(
        Hold.objects.filter(
            state=Hold.State.UNCHARGED, settled_credits__gt=0, expires_at__lte=now
        ).order_by("expires_at", "pk")[:at_most]
    )


def presume(hold: Hold, has_trace: Callable[[Hold], bool], now: datetime) -> bool:
    """Charge what its run said, unless it has been charged or ``has_trace`` says that its trace is;
    whether it was. It is asked when the account is locked, as whoever charges the trace locks it.

    Call it in a transaction.
    """
    account = ledger.lock([hold.account_id])[hold.account_id]
    still = Hold.objects.filter(pk=hold.pk, state=Hold.State.UNCHARGED)
    if has_trace(hold):
        still.update(state=Hold.State.CHARGED, ended_at=now)
        return False
    if not still.update(state=Hold.State.PRESUMED, ended_at=now):
        return False
    ledger.presume(account, hold.settled_credits or ZERO, hold.pk, now)
    return True


def expire_all(now: datetime | None = None, at_most: int = 10_000) -> int:
    """Free expired holds of all accounts, for those who look at the table; the gate needs no one
    to. Returns how many accounts.
    """
    moment = now or timezone.now()
    due = (
        Hold.objects.filter(state__in=Hold.HOLDING, expires_at__lte=moment)
        .order_by()
        .values_list("account_id", flat=True)
        .distinct()
    )
    done = 0
    for account_id in list(due[:at_most]):
        with transaction.atomic():
            expire(ledger.lock([account_id])[account_id], moment)
        done += 1
    return done


def expired_credits(account: Account, now: datetime) -> Decimal:
    """The credits of holds that have expired and that the account still counts as held."""
    if not account.held:
        return ZERO
    return sum(
        (
            hold.held
            for hold in Hold.objects.filter(
                account=account, state__in=Hold.HOLDING, expires_at__lte=now
            )
        ),
        ZERO,
    )
