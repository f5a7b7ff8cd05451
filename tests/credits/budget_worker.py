"""A process at the gate of a tenant with budgets: ``python -m tests.credits.budget_worker STEP …``.

``setup`` makes users and budgets, ``work SEED COUNT`` reserves, releases, settles and charges runs
as the sync does, ``verify`` says what counts against the budgets in the end.
"""

import json
import os
import random
import sys
import uuid
from collections import Counter
from decimal import Decimal

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")
django.setup()

from django.utils import timezone  # noqa: E402

from credits import budgets, enforcement, grants, holds  # noqa: E402
from credits.gate import BudgetExhausted  # noqa: E402
from credits.grants import NewGrant  # noqa: E402
from credits.models import Grant, Hold, TenantBudget  # noqa: E402
from kluisz_analytics.tenants.models import Tenant, User  # noqa: E402
from pricing.models import PricingTier, TierAssignment, TierRate  # noqa: E402
from tests.conftest import LONG_AGO  # noqa: E402
from tests.usage.facts.test_decide import received  # noqa: E402
from usage.books import verify_books  # noqa: E402
from usage.facts.apply import apply_received, committed  # noqa: E402
from usage.models import LangfuseConnection  # noqa: E402

FLOWS = ("f1", "f2")


def setup() -> None:
    tenant = Tenant.objects.create(name="Budget", slug="budget")
    tier = PricingTier.objects.create(name="Budget")
    TierRate.objects.create(
        tier=tier, valid_from=LONG_AGO, credits_per_usd=100, pricing_multiplier=1
    )
    TierAssignment.objects.create(tier=tier, tenant=tenant, valid_from=LONG_AGO)
    for number in range(6):
        user = User.objects.create(username=f"of-budget-{number}", tenant=tenant)
        grants.grant(NewGrant(user, Decimal(10**8), Grant.Source.MANUAL, f"budget-{number}"))
    row = LangfuseConnection(name="budget", host="http://127.0.0.1:9", public_key="pk-budget")
    row.secret_key = "sk"
    row.save()
    common = {"tenant": tenant, "unit": "credits", "is_hard": True}
    TenantBudget.objects.create(amount=900, **common)
    TenantBudget.objects.create(amount=450, flow_id="f1", period="week", **common)
    TenantBudget.objects.create(amount=9, **{**common, "unit": "usd"})
    print(json.dumps({}))


def work(seed: int, count: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    users = list(User.objects.filter(tenant__slug="budget").select_related("tenant"))
    langfuse = LangfuseConnection.objects.get(name="budget")
    counts = Counter(granted=0, refused=0, charged=0)
    waiting: list[Hold] = []
    for _ in range(count):
        credits, flow = Decimal(chance.randrange(1, 20)), chance.choice(FLOWS)
        user = chance.choice(users)
        try:
            made = enforcement.reserve_credits(user, uuid.uuid4(), flow, credits)
        except BudgetExhausted:
            counts["refused"] += 1
        else:
            counts["granted"] += 1
            waiting.append(made.hold)
        if waiting and chance.random() < 0.8:
            counts[end(langfuse, waiting.pop(0), chance)] += 1
    print(json.dumps(counts))


def end(langfuse: LangfuseConnection, hold: Hold, chance: random.Random) -> str:
    """A run uses at most what was reserved for it, so no budget may ever be overspent."""
    if chance.random() < 0.4:
        holds.release(hold.pk)
        return "released"
    used = hold.credits * chance.randrange(20, 101) / 100
    holds.settle(hold.pk, used)
    if chance.random() < 0.3:
        return "settled"
    call = received(
        "call",
        hold.trace_id,
        start_time=hold.created_at,
        received_at=timezone.now(),
        user_reference=str(hold.account_id),
        flow_id=hold.flow_id,
        model="gpt-4o",
        usage_details={"input": 1},
        cost_usd=used / 100,
    )
    committed(lambda: apply_received(langfuse, [call]))
    return "charged"


def verify() -> None:
    found = budgets.reckon(TenantBudget.objects.filter(tenant__slug="budget"), timezone.now())
    numbers = {
        str(one): {"amount": str(one.amount), "used": str(one.used), "held": str(one.held)}
        for one in found
    }
    print(json.dumps({"findings": [str(one) for one in verify_books()], "budgets": numbers}))


if __name__ == "__main__":
    step, *arguments = sys.argv[1:]
    {"setup": setup, "work": work, "verify": verify}[step](*map(int, arguments))
