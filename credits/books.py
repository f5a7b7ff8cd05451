"""Checks the ledger by itself: accounts, transactions, grants, holds and what is posted for hours
(domain.md, Invariants 4 and 5).

``usage.books`` checks all of the books with it: usage too, and that its charges are posted.
"""

from collections.abc import Iterator

from django.db import connection

from credits.models import Hold
from kluisz_analytics.findings import EVIDENCE_ROWS, Finding, findings

LEDGER_CHECKS = {
    "invariant 5: an account's transactions sum to its balance": (
        """
        SELECT a.user_id, a.allocated - a.used, COALESCE(SUM(t.amount), 0) FROM credit_account a
        LEFT JOIN "transaction" t ON t.account_id = a.user_id GROUP BY a.user_id, a.allocated,
            a.used
        HAVING a.allocated - a.used <> COALESCE(SUM(t.amount), 0)"""
    ),
    "invariant 5: each transaction goes on from the balance before it": (
        """
        SELECT id, account_id, balance_before, previous FROM (
            SELECT id, account_id, balance_before,
                LAG(balance_after, 1, 0) OVER (PARTITION BY account_id ORDER BY id) AS previous
            FROM "transaction") entries WHERE balance_before <> previous"""
    ),
    "invariant 5: an hour's transactions sum to what is posted for it": (
        """
        SELECT c.account_id, c.hour, c.credits, COALESCE(SUM(t.amount), 0)
            FROM credit_usage_charge c
        LEFT JOIN "transaction" t ON t.account_id = c.account_id AND t.usage_hour = c.hour
        GROUP BY c.account_id, c.hour, c.credits HAVING c.credits <> -COALESCE(SUM(t.amount), 0)"""
    ),
    "invariant 4: what is held is the sum of the holds": (
        """
        SELECT a.user_id, a.held, COALESCE(SUM(CASE h.state WHEN 'open' THEN h.credits
            WHEN 'settled' THEN h.settled_credits ELSE 0 END), 0)
        FROM credit_account a LEFT JOIN credit_hold h ON h.account_id = a.user_id
            GROUP BY a.user_id, a.held
        HAVING a.held <> COALESCE(SUM(CASE h.state WHEN 'open' THEN h.credits
            WHEN 'settled' THEN h.settled_credits ELSE 0 END), 0)"""
    ),
    "invariant 5: a grant's transactions sum to what is posted of it": (
        """
        SELECT g.id, g.posted - g.returned, COALESCE(SUM(t.amount), 0) FROM credit_grant g
        LEFT JOIN "transaction" t ON t.grant_id = g.id GROUP BY g.id, g.posted, g.returned
        HAVING g.posted - g.returned <> COALESCE(SUM(t.amount), 0)"""
    ),
    "invariant 5: an hour is cut where a grant begins or ends in it": """
        SELECT e.account_id, e.hour, e.at FROM (
            SELECT account_id, {hour}, at FROM (
                SELECT account_id, starts_at AS at FROM credit_grant
                UNION SELECT account_id, CASE WHEN voided_at IS NULL OR voided_at > expires_at
                    THEN expires_at ELSE voided_at END FROM credit_grant) m WHERE at IS NOT NULL) e
        LEFT JOIN credit_hour_cut k ON k.account_id = e.account_id AND k.at = e.at
            AND k.hour = e.hour
        WHERE e.at <> e.hour AND k.id IS NULL""",
}
NEVER_CHARGED = (
    "holds that were settled and never charged: their traces did not come, or have no price or no"
    " owner"
)


def ledger_findings() -> Iterator[Finding]:
    """Everything of the ledger that doesn't hold.

    Whoever has several checks look at one state of the database begins its snapshot.
    """
    hour = (
        "date_trunc('hour', at) AS hour"
        if connection.vendor == "postgresql"
        else "substr(at, 1, 13) || ':00:00' AS hour"
    )
    checks = {name: sql.replace("{hour}", hour) for name, sql in LEDGER_CHECKS.items()}
    with connection.cursor() as cursor:
        yield from findings(cursor, checks)


def notices() -> list[Finding]:
    """What breaks no invariant, and somebody should look at; an empty list when there is
    nothing.
    """
    uncharged = Hold.objects.filter(state=Hold.State.UNCHARGED).order_by("-created_at", "pk")
    columns = ("pk", "trace_id", "account__user__username", "settled_credits", "created_at")
    rows = list(uncharged.values_list(*columns)[:EVIDENCE_ROWS])
    return [Finding(NEVER_CHARGED, rows)] if rows else []
