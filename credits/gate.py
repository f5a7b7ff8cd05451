"""Who may start a run: the one place that decides it (domain.md, Credits, Enforcement).

The rule is here twice, side by side: as :func:`refusal`, which says why not, for whoever asks; and
as :data:`MAY_START_SQL`, for the statement that decides and reserves in one. A test holds the two
together. In words, at a moment:

1. The user is active. A platform admin passes then, whatever comes below.
2. Its tenant is active.
3. It has a tier: its own, its tenant's default or the platform's.
4. If it was ever given a license from a pool, the last one is not taken back and not expired.
5. Every hard budget that the run falls under (its tenant's, its user's, its flow's, its model's; of
   the day, the week and the month) has room for it beside what is used and held.
6. What remains, and the grace of its tier, are at least what the run requires.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum

from credits.budgets import ANY_RUN, BudgetStanding, Run, refusing
from credits.models import License, TenantBudget
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier, TierRate
from pricing.tiers import COST_SQL, GRACE_SQL, TIER_SQL, cost_of, rate_at, tiers_of

ZERO = Decimal(0)
SMALLEST = Decimal("0.000001")
"""The least that a run can require."""
EXPIRING_WITHIN = timedelta(days=14)


class RunRefused(Exception):
    """A run may not start. The message says why; ``code`` is for programs."""

    code: str


class NoActiveLicense(RunRefused):
    """The user has no active license. The message says why."""

    code = "no_active_license"


class InsufficientCredits(RunRefused):
    """Less remains than is required; the message names both."""

    code = "insufficient_credits"

    def __init__(self, required: Decimal, remaining: Decimal) -> None:
        super().__init__(f"{required:f} credits are required and {remaining:f} remain.")
        self.required, self.remaining = required, remaining


class BudgetExhausted(RunRefused):
    """A hard budget has no room for the run: ``budget`` and the message say which."""

    code = "budget_exhausted"

    def __init__(self, budget: BudgetStanding, required: Decimal, remaining: Decimal) -> None:
        super().__init__(budget.message)
        self.budget, self.required, self.remaining = budget, required, remaining


class Status(StrEnum):
    """The state of a user's license; an expiring one is active."""

    ACTIVE = "active"
    EXPIRING = "expiring"
    INACTIVE = "inactive"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the rule asks of a user at a moment, but for its credits.

    ``ended_at`` and ``expires_at`` are of the last license that it was given from a pool;
    ``budget`` is the first hard one that has no room for the run, if one has none.
    """

    moment: datetime
    is_active: bool
    is_platform_admin: bool
    is_tenant_active: bool
    tier: PricingTier | None
    grace: Decimal = ZERO
    ended_at: datetime | None = None
    expires_at: datetime | None = None
    budget: BudgetStanding | None = None

    @property
    def inactive_because(self) -> str:
        """Why the user has no active license; "" for one who has. Rules 1 to 4, for anyone."""
        if not self.is_active:
            return "The user is not active."
        if not self.is_tenant_active:
            return "The tenant is not active."
        if self.tier is None:
            return "The user has no pricing tier, nor has its tenant or the platform a default."
        if self.ended_at is not None:
            return f"The license was taken back on {self.ended_at:%Y-%m-%d}."
        if self.expires_at is not None and self.expires_at <= self.moment:
            return f"The license expired on {self.expires_at:%Y-%m-%d}."
        return ""

    @property
    def license_status(self) -> Status:
        if self.inactive_because:
            return Status.INACTIVE
        is_expiring = (
            self.expires_at is not None and self.expires_at <= self.moment + EXPIRING_WITHIN
        )
        return Status.EXPIRING if is_expiring else Status.ACTIVE


def refusal(standing: Standing, required: Decimal, remaining: Decimal) -> RunRefused | None:
    """Why a run that requires so much may not start where so much remains; None if it may."""
    if standing.is_active and standing.is_platform_admin:
        return None
    if because := standing.inactive_because:
        return NoActiveLicense(because)
    if standing.budget is not None:
        return BudgetExhausted(standing.budget, required, remaining)
    if remaining + standing.grace < required:
        return InsufficientCredits(required, remaining)
    return None


MAY_START_SQL = f"""EXISTS (
    SELECT 1 FROM (
        SELECT id, tenant_id, is_active, is_superuser, {TIER_SQL} AS held_tier_id FROM "user" u
            WHERE id = %(user_id)s LIMIT 1
    ) u
    WHERE u.is_active AND (u.is_superuser OR (
        (SELECT is_active FROM tenant WHERE id = u.tenant_id)
        AND u.held_tier_id IS NOT NULL
        AND COALESCE((
            SELECT ended_at IS NULL AND (expires_at IS NULL OR expires_at > %(now)s)
                FROM credit_license
            WHERE user_id = u.id ORDER BY starts_at DESC, id DESC LIMIT 1
        ), TRUE)
        AND NOT EXISTS (SELECT 1 FROM budgets WHERE NOT is_current OR used + held + needs > amount)
        AND credit_account.allocated - credit_account.used - credit_account.held
            + {GRACE_SQL} >= %(credits)s
    )))"""
"""The rule of :func:`refusal` for the row of ``credit_account`` that is being updated: of the user
``user_id`` at ``now``, for a run of ``credits`` (as they are stored), beside BUDGETS_SQL.
"""
RUN_SQL = f"""
    run AS (SELECT u.id, u.tenant_id, {COST_SQL} AS cost FROM (
        SELECT id, tenant_id, {TIER_SQL} AS held_tier_id FROM "user" u WHERE id = %(user_id)s) u)"""
"""The run's user, and its cost in USD of six places."""
BUDGETS_SQL = """
    budgets AS (SELECT b.id, b.used, b.held, b.amount,
        CASE b.unit WHEN 'usd' THEN run.cost ELSE %(credits)s END AS needs,
        b.changes = b.reckoned_changes AND b.period_start = CASE b.period
            WHEN 'day' THEN {day_start} WHEN 'week' THEN {week_start} ELSE {month_start} END
            AS is_current
    FROM credit_tenant_budget b JOIN run ON run.tenant_id = b.tenant_id
    WHERE b.is_hard AND (b.user_id IS NULL OR b.user_id = run.id)
        AND b.flow_id IN ('', %(flow_id)s) AND b.model IN ('', %(model)s){locked})"""
"""The hard budgets that the run falls under, and what it needs of each. One whose numbers are not
up to date (``is_current``) lets nobody through: it is reckoned first.
"""


def standing_of(
    user: User, now: datetime, required: Decimal = SMALLEST, run: Run = ANY_RUN
) -> Standing:
    """The user's standing at ``now``, as the database has it, for a run that requires so much."""
    known = User.objects.select_related("tenant").get(pk=user.pk)
    tier = tiers_of([known], now).get(known.pk)
    rate = rate_at(tier, now) if tier else None
    license = License.objects.filter(user=known).order_by("-starts_at", "-pk").first()
    return Standing(
        moment=now,
        is_active=known.is_active,
        is_platform_admin=known.is_superuser,
        is_tenant_active=known.tenant.is_active,
        tier=tier,
        grace=rate.grace_credits if rate else ZERO,
        ended_at=license.ended_at if license else None,
        expires_at=license.expires_at if license else None,
        budget=refusing(known, run, _needs(required, rate), now),
    )


def _needs(required: Decimal, rate: TierRate | None) -> dict[str, Decimal]:
    """What a run takes from a budget, by the budget's unit."""
    return {
        TenantBudget.Unit.CREDITS.value: required,
        TenantBudget.Unit.USD.value: cost_of(required, rate),
    }
