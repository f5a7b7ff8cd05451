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
from credits.budgets import Run, starts_of
from credits.gate import refusal, standing_of
from credits.models import Account, Hold, License, LicensePool, TenantBudget
from credits.status import credit_status
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier, TierAssignment, TierRate
from tests.conftest import LONG_AGO

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
RUN = Run("f", "m")
BEFORE, AFTER = NOW - timedelta(days=1), NOW + timedelta(days=1)
D = Decimal

MAY: dict[str, Any] = {
    "is_active": True,
    "is_superuser": False,
    "is_tenant_active": True,
    "tier_of": "user",
    "tier_from": LONG_AGO,
    "license": None,
    "colleagues_license": None,
    "budgets": [],
    "allocated": D(10),
    "used": D(0),
    "held": D(0),
    "grace": D(0),
    "required": D(10),
}
"""Someone who may: with just enough."""
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
    (
        "two of one moment, the last of them taken back",
        {"license": [(BEFORE, None, None), (BEFORE, None, BEFORE)]},
        "no_active_license",
    ),
    (
        "two of one moment, the first of them taken back",
        {"license": [(BEFORE, None, BEFORE), (BEFORE, None, None)]},
        None,
    ),
    ("a colleague's expired license", {"colleagues_license": (BEFORE, NOW, None)}, None),
    ("a colleague's license taken back", {"colleagues_license": (BEFORE, None, NOW)}, None),
    ("a spent hard budget", {"budgets": [{"used": D(15)}]}, "budget_exhausted"),
    ("a hard budget with just enough left", {"budgets": [{"used": D(5)}]}, None),
    ("one with a little too few", {"budgets": [{"used": D("5.000001")}]}, "budget_exhausted"),
    ("one of which some is held", {"budgets": [{"held": D("5.000001")}]}, "budget_exhausted"),
    ("one of which just less is held", {"budgets": [{"used": D(3), "held": D(2)}]}, None),
    ("a spent soft budget", {"budgets": [{"used": D(19), "is_hard": False}]}, None),
    ("a budget of the day", {"budgets": [{"used": D(6), "period": "day"}]}, "budget_exhausted"),
    ("a budget of the week", {"budgets": [{"used": D(6), "period": "week"}]}, "budget_exhausted"),
    ("its user's budget", {"budgets": [{"used": D(6), "of": "user"}]}, "budget_exhausted"),
    ("another user's budget", {"budgets": [{"used": D(6), "of": "colleague"}]}, None),
    ("its flow's budget", {"budgets": [{"used": D(6), "flow_id": "f"}]}, "budget_exhausted"),
    ("another flow's budget", {"budgets": [{"used": D(6), "flow_id": "g"}]}, None),
    ("its model's budget", {"budgets": [{"used": D(6), "model": "m"}]}, "budget_exhausted"),
    ("another model's budget", {"budgets": [{"used": D(6), "model": "n"}]}, None),
    ("another tenant's budget", {"budgets": [{"used": D(6), "of": "tenant"}]}, None),
    (
        "several budgets, the last of which is spent",
        {"budgets": [{}, {"period": "day"}, {"used": D(6), "period": "week"}]},
        "budget_exhausted",
    ),
    ("several budgets with enough", {"budgets": [{}, {"period": "day"}, {"model": "m"}]}, None),
    ("a budget in USD with enough", {"budgets": [{"used": D(10), "unit": "usd"}]}, None),
    (
        "a budget in USD with too few",
        {"budgets": [{"used": D("10.000001"), "unit": "usd"}]},
        "budget_exhausted",
    ),
    ("a platform admin", {"is_superuser": True, "tier_of": None, "required": D(99)}, None),
    ("its budget", {"is_superuser": True, "budgets": [{"used": D(19)}]}, None),
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
        credits_per_usd=4,
        pricing_multiplier=D("0.5"),
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
    given = [(user, *license) for license in case["license"] or ()]
    if case["colleagues_license"]:
        colleague = User.objects.create(username=f"{name}-colleague", tenant=tenant)
        given.append((colleague, *case["colleagues_license"]))
    for holder, starts_at, expires_at, ended_at in given:
        License.objects.create(
            user=holder, pool=pool, starts_at=starts_at, expires_at=expires_at, ended_at=ended_at
        )
    for budget in case["budgets"]:
        make_budget(user, **budget)
    Account.objects.create(
        user=user, allocated=case["allocated"], used=case["used"], held=case["held"]
    )
    return user


def make_budget(user: User, of: str = "", **fields: Any) -> TenantBudget:
    """One of 15, for which the user's run is that of the flow f and of the model m."""
    name = uuid.uuid4().hex
    tenant, owner = user.tenant, {"user": user}.get(of)
    if of == "colleague":
        owner = User.objects.create(username=name, tenant=tenant)
    if of == "tenant":
        tenant = Tenant.objects.create(name=name, slug=name, timezone="Europe/Amsterdam")
    if held := fields.get("held"):
        holder = User.objects.create(username=f"{name}-holder", tenant=tenant)
        Hold.objects.create(
            account=Account.objects.create(user=holder, held=held),
            trace_id=name,
            credits=held,
            created_at=NOW,
            expires_at=AFTER,
        )
    period = fields.get("period", "month")
    return TenantBudget.objects.create(
        tenant=tenant,
        user=owner,
        period_start=starts_of(NOW, tenant.zone)[period],
        **{"unit": "credits", "amount": 15, "is_hard": True, **fields},
    )


def reserves(user: User, required: Decimal) -> bool:
    """What the statement says."""
    before = Account.objects.get(pk=user.pk).held
    hold = Hold(
        id=uuid.uuid4(),
        account_id=user.pk,
        trace_id=uuid.uuid4().hex,
        flow_id=RUN.flow_id,
        model=RUN.model,
        credits=required,
        created_at=NOW,
        expires_at=AFTER,
    )
    is_reserved = holds.insert(hold, starts_of(NOW, user.tenant.zone))
    assert Account.objects.get(pk=user.pk).held == before + (required if is_reserved else 0)
    assert Hold.objects.filter(pk=hold.pk).exists() is is_reserved
    return is_reserved


def rule_of(user: User, required: Decimal) -> str | None:
    """What the rule in words says."""
    remaining = Account.objects.get(pk=user.pk).remaining
    refused = refusal(standing_of(user, NOW, required, RUN), required, remaining)
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


@pytest.mark.parametrize(
    "outdated", [{"changes": 1}, {"period_start": LONG_AGO}], ids=["its usage", "its period"]
)
def test_a_hard_budget_that_is_not_up_to_date_lets_nobody_through(outdated: dict[str, Any]) -> None:
    """The rule counts it anew, and finds it unused; the statement cannot."""
    user = make(MAY)
    TenantBudget.objects.filter(pk=make_budget(user).pk).update(**outdated)
    assert rule_of(user, D(10)) is None
    assert not reserves(user, D(10))


moments = st.sampled_from([LONG_AGO, BEFORE, NOW, AFTER])
amounts = st.integers(0, 4).map(D)
budgets = st.fixed_dictionaries(
    {
        "is_hard": st.booleans(),
        "used": st.integers(10, 15).map(D),
        "period": st.sampled_from(["day", "week", "month"]),
        "unit": st.sampled_from(["credits", "usd"]),
    }
).flatmap(
    lambda fields: st.sampled_from(
        [{}, {"of": "user"}, {"of": "colleague"}, {"of": "tenant"}]
        + [{"flow_id": name} for name in "fg"]
        + [{"model": name} for name in "mn"]
    ).map(lambda scope: {**fields, **scope})
)


def key_of(budget: dict[str, Any]) -> tuple[Any, ...]:
    """No two budgets of one thing, period and unit."""
    return tuple(value for name, value in sorted(budget.items()) if name != "used")


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
        "colleagues_license": st.none(),
        "budgets": st.lists(budgets, max_size=3, unique_by=key_of),
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
        if "required" in case or refused in ("insufficient_credits", "budget_exhausted"):
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
