"""A process at the gate, for the test that no run is let through without credits: ``python -m
tests.credits.gate_worker STEP …``.

``setup`` makes the accounts, ``work SEED COUNT`` reserves, settles, releases, charges and tops up,
``verify`` checks what came of it.
"""

import json
import os
import random
import sys
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, transaction  # noqa: E402

from credits import enforcement, grants, holds, ledger  # noqa: E402
from credits.gate import InsufficientCredits  # noqa: E402
from credits.grants import NewGrant  # noqa: E402
from credits.models import Account, Grant, Hold, UsageCharge  # noqa: E402
from kluisz_analytics.tenants.models import Tenant, User  # noqa: E402
from pricing.models import PricingTier, TierAssignment, TierRate  # noqa: E402

LITTLE, PLENTY = Decimal(300), Decimal(10**9)
EVER = datetime(2020, 1, 1, tzinfo=UTC)
HOUR = datetime(2026, 6, 1, 12, tzinfo=UTC)
# Accounts that only reserve, those that do everything, and those that always have enough.
KINDS = {"only": 8, "all": 8, "rich": 2}


def setup() -> None:
    if connection.vendor == "sqlite":
        call_command("migrate", verbosity=0)
    tenant, _ = Tenant.objects.get_or_create(slug="gate", defaults={"name": "Gate"})
    tier = PricingTier.objects.create(name="Gate")
    TierRate.objects.create(
        tier=tier, valid_from=EVER, credits_per_usd=Decimal(100), pricing_multiplier=Decimal(1)
    )
    TierAssignment.objects.create(tier=tier, tenant=tenant, valid_from=EVER)
    for kind, number in KINDS.items():
        for at in range(number):
            user = User.objects.create(username=f"{kind}-{at}", tenant=tenant)
            grants.grant(
                NewGrant(
                    user,
                    PLENTY if kind == "rich" else LITTLE,
                    Grant.Source.MANUAL,
                    f"start-{kind}-{at}",
                )
            )


def work(seed: int, count: int) -> None:
    """Prints what was granted and refused, by user."""
    chance = random.Random(seed)  # noqa: S311
    users = list(
        User.objects.filter(tenant__slug="gate").select_related("tenant").order_by("username")
    )
    granted: dict[str, Decimal] = defaultdict(Decimal)
    refused: dict[str, Decimal] = {}
    counts: dict[str, int] = defaultdict(int)
    open_holds: list[Hold] = []
    for number in range(count):
        user = chance.choice(users)
        credits = Decimal(chance.randrange(1, 8_000_000)).scaleb(-6)
        try:
            hold = enforcement.reserve_credits(user, f"{seed}-{number}", credits=credits).hold
        except InsufficientCredits:
            refused[user.username] = min(refused.get(user.username, credits), credits)
        else:
            granted[user.username] += credits
            if not user.username.startswith("only"):
                open_holds.append(hold)
        if open_holds and chance.random() < 0.7:
            counts[end(open_holds.pop(chance.randrange(len(open_holds))), chance)] += 1
        if chance.random() < 0.01:
            top_up(
                chance.choice([one for one in users if one.username.startswith("all")]),
                seed,
                number,
            )
            counts["topped up"] += 1
    print(
        json.dumps(
            {
                "granted": {k: str(v) for k, v in granted.items()},
                "refused": {k: str(v) for k, v in refused.items()},
                **counts,
            }
        )
    )


def end(hold: Hold, chance: random.Random) -> str:
    """One way for a run to end; its charge is never more than was reserved, so nothing may ever be
    overdrawn.
    """
    how = chance.choice(["released", "settled", "charged"])
    used = hold.credits * chance.randrange(100) / 100
    used = used.quantize(Decimal("0.000001"))
    if how == "released":
        holds.release(hold.pk)
        return how
    holds.settle(hold.pk, used)
    if how == "charged":
        with transaction.atomic():
            # As the sync does: what the user's hour comes to now, and the hold with it.
            ledger.lock([hold.account_id])
            charged = UsageCharge.objects.filter(account=hold.account_id, hour=HOUR).first()
            ledger.post_usage(
                {(hold.account_id, HOUR): (charged.credits if charged else 0) + used},
                datetime.now(UTC),
            )
            holds.charged([hold.trace_id])
    return how


def top_up(user: User, seed: int, number: int) -> None:
    grants.grant(NewGrant(user, Decimal(5), Grant.Source.PURCHASE, f"more-{seed}-{number}"))


def verify() -> None:
    from credits.books import ledger_findings

    findings = [str(one) for one in ledger_findings()]
    accounts: dict[str, Any] = {
        one.user.username: {"remaining": str(one.remaining), "held": str(one.held)}
        for one in Account.objects.filter(user__tenant__slug="gate").select_related("user")
    }
    print(json.dumps({"findings": findings, "accounts": accounts}))


if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    {"setup": setup, "work": work, "verify": verify}[step](*map(int, arguments))
