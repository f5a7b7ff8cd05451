"""Who may start a run: the rule in words, and the statement that reserves, say the same of every
user.
"""

import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credits import holds
from credits.gate import refusal, standing_of
from credits.models import Account, Hold, License, LicensePool, TenantBudget
from credits.recurrence import month_of
from credits.status import credit_status
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier, TierAssignment, TierRate
from tests.conftest import LONG_AGO

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(days=1), NOW + timedelta(days=1)
D = Decimal

MAY: dict[str, Any] = {
    "is_active": True,
    "is_superuser": False,
    "is_tenant_active": True,
    "tier_of": "user",
    "tier_from": LONG_AGO,
    "license": None,
    "budget": None,
    "allocated": D(10),
    "used": D(0),
    "held": D(0),
    "grace": D(0),
    "required": D(10),
}
"""Someone who may: with just enough."""
LAST_MONTH, THIS_MONTH = -1, 0
CASES: list[tuple[str, dict[str, Any], str | None]] = [
    ("just enough", {}, None),
    ("a little too few", {"required": D("10.000001")}, "insufficient_credits"),
    ("some is used", {"used": D(1)}, "insufficient_credits"),
    ("some is held", {"held": D(1)}, "insufficient_credits"),
    ("grace makes up for it", {"used": D(5), "grace": D(5)}, None),
    ("more than grace", {"used": D(5), "grace": D("4.999999")}, "insufficient_credits"),
    ("an inactive user", {"is_active": False}, "no_active_license"),
    ("an inactive tenant", {"is_tenant_active": False}, "no_active_license"),
    ("no tier", {"tier_of": None}, "no_active_license"),
    ("a tier to come", {"tier_from": AFTER}, "no_active_license"),
    ("a tier from now on", {"tier_from": NOW}, None),
    ("the tenant's tier", {"tier_of": "tenant"}, None),
    ("the platform's tier", {"tier_of": "platform"}, None),
    ("a withdrawn tier", {"tier_of": "withdrawn"}, "no_active_license"),
    ("a license without an end", {"license": [(BEFORE, None, None)]}, None),
    ("a license until later", {"license": [(BEFORE, AFTER, None)]}, None),
    ("an expired license", {"license": [(LONG_AGO, BEFORE, None)]}, "no_active_license"),
    ("a license that expires now", {"license": [(LONG_AGO, NOW, None)]}, "no_active_license"),
    ("a license taken back", {"license": [(LONG_AGO, None, BEFORE)]}, "no_active_license"),
    (
        "one taken back, one given",
        {"license": [(LONG_AGO, None, BEFORE), (BEFORE, None, None)]},
        None,
    ),
    (
        "one that held, then one taken back",
        {"license": [(LONG_AGO, None, LONG_AGO), (BEFORE, None, BEFORE)]},
        "no_active_license",
    ),
    ("a spent hard budget", {"budget": (True, D(5), THIS_MONTH)}, "budget_exhausted"),
    ("a hard budget with something left", {"budget": (True, D("4.999999"), THIS_MONTH)}, None),
    ("a spent soft budget", {"budget": (False, D(9), THIS_MONTH)}, None),
    ("a hard budget spent last month", {"budget": (True, D(9), LAST_MONTH)}, None),
    ("a platform admin", {"is_superuser": True, "tier_of": None, "required": D(99)}, None),
    ("its budget", {"is_superuser": True, "budget": (True, D(9), THIS_MONTH)}, None),
    ("its tenant", {"is_superuser": True, "is_tenant_active": False}, None),
    ("its license", {"is_superuser": True, "license": [(LONG_AGO, BEFORE, None)]}, None),
    (
        "a platform admin who is not active",
        {"is_superuser": True, "is_active": False},
        "no_active_license",
    ),
]
"""Each condition of the rule, just met and just not."""


def make(case: dict[str, Any]) -> User:
    """Somebody like that."""
    name = uuid.uuid4().hex
    tenant = Tenant.objects.create(
        name=name, slug=name, timezone="Europe/Amsterdam", is_active=case["is_tenant_active"]
    )
    user = User.objects.create(
        username=name,
        tenant=tenant,
        is_active=case["is_active"],
        is_superuser=case["is_superuser"],
    )
    tier = PricingTier.objects.create(name=name)
    TierRate.objects.create(
        tier=tier,
        valid_from=LONG_AGO,
        credits_per_usd=1,
        pricing_multiplier=1,
        grace_credits=case["grace"],
    )
    if case["tier_of"] is not None:
        owner = {
            "user": {"user": user},
            "withdrawn": {"user": user, "withdrawn_at": BEFORE},
            "tenant": {"tenant": tenant},
            "platform": {},
        }[case["tier_of"]]
        TierAssignment.objects.create(tier=tier, valid_from=case["tier_from"], **owner)
    pool = LicensePool.objects.create(tenant=tenant, tier=tier, total=9)
    for starts_at, expires_at, ended_at in case["license"] or ():
        License.objects.create(
            user=user, pool=pool, starts_at=starts_at, expires_at=expires_at, ended_at=ended_at
        )
    if case["budget"] is not None:
        is_hard, used, month = case["budget"]
        this_month, _ = month_of(NOW, tenant.zone)
        start, _ = month_of(this_month + timedelta(days=20 * month), tenant.zone)
        TenantBudget.objects.create(
            tenant=tenant, unit="credits", amount=5, is_hard=is_hard, used=used, period_start=start
        )
    Account.objects.create(
        user=user, allocated=case["allocated"], used=case["used"], held=case["held"]
    )
    return user


def reserves(user: User, required: Decimal) -> bool:
    """What the statement says."""
    month_start, _ = month_of(NOW, user.tenant.zone)
    before = Account.objects.get(pk=user.pk).held
    hold = Hold(
        id=uuid.uuid4(),
        account_id=user.pk,
        trace_id=uuid.uuid4().hex,
        credits=required,
        created_at=NOW,
        expires_at=AFTER,
    )
    is_reserved = holds.insert(hold, month_start=month_start)
    assert Account.objects.get(pk=user.pk).held == before + (required if is_reserved else 0)
    assert Hold.objects.filter(pk=hold.pk).exists() is is_reserved
    return is_reserved


def rule_of(user: User, required: Decimal) -> str | None:
    """What the rule in words says."""
    remaining = Account.objects.get(pk=user.pk).remaining
    refused = refusal(standing_of(user, NOW), required, remaining)
    return refused.code if refused else None


@pytest.mark.parametrize(
    ("case", "refused"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_condition_decides_in_the_rule_and_in_the_statement(
    case: dict[str, Any], refused: str | None
) -> None:
    wanted = {**MAY, **case}
    user = make(wanted)
    assert rule_of(user, wanted["required"]) == refused
    assert reserves(user, wanted["required"]) is (refused is None)


moments = st.sampled_from([LONG_AGO, BEFORE, NOW, AFTER])
amounts = st.integers(0, 4).map(D)
people = st.fixed_dictionaries(
    {
        "is_active": st.booleans(),
        "is_superuser": st.booleans(),
        "is_tenant_active": st.booleans(),
        "tier_of": st.sampled_from(["user", "tenant", "platform", "withdrawn", None]),
        "tier_from": moments,
        "license": st.lists(
            st.tuples(moments, st.none() | moments, st.none() | moments), max_size=1
        ),
        "budget": st.none()
        | st.tuples(
            st.booleans(), st.sampled_from([D(4), D(5)]), st.sampled_from([LAST_MONTH, THIS_MONTH])
        ),
        "allocated": amounts,
        "used": amounts,
        "held": amounts,
        "grace": amounts,
        "required": st.integers(1, 6).map(D),
    }
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=people)
def test_the_rule_and_the_statement_agree_on_everyone(db: None, case: dict[str, Any]) -> None:
    with transaction.atomic():
        user = make(case)
        refused = rule_of(user, case["required"])
        assert reserves(user, case["required"]) is (refused is None)
        transaction.set_rollback(True)


def test_the_status_says_what_the_gate_would(db: None) -> None:
    """Also of a budget that is used up."""
    for name, case, refused in CASES:
        if "required" in case or refused == "insufficient_credits":
            continue
        with transaction.atomic():
            user = make({**MAY, **case})
            assert credit_status(user, NOW).can_execute is (refused is None), name
            transaction.set_rollback(True)


def test_what_the_caller_remembers_of_the_user_decides_nothing(db: None) -> None:
    """A flow engine keeps users in memory, and somebody may have been dismissed meanwhile."""
    admin = make({**MAY, "is_superuser": True, "tier_of": None, "allocated": D(0)})
    assert reserves(admin, D(1))
    User.objects.filter(pk=admin.pk).update(is_superuser=False)
    assert not reserves(admin, D(1))
    assert rule_of(admin, D(1)) == "no_active_license"
