"""What a user's account says: the answer of ``credits/status`` and the credit cards of the
pages.
"""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from credits.gate import SMALLEST, Status, refusal, standing_of
from credits.holds import expired_credits
from credits.models import Account
from credits.projection import exhaustion_date
from kluisz_analytics.scales import Credits
from kluisz_analytics.tenants.models import User

LOW_USAGE_PERCENT = 80


@dataclass(frozen=True, slots=True)
class CreditStatus:
    """Credits of one user; amounts are exact, and ``usage_percent`` is of what is allocated,
    unknown where nothing is.
    """

    user_id: UUID
    username: str
    credits_allocated: Credits
    credits_used: Credits
    credits_held: Credits
    credits_remaining: Credits
    credits_per_month: Credits
    usage_percent: float | None
    license_is_active: bool
    license_status: Status
    tier_name: str | None
    is_low_credits: bool
    is_out_of_credits: bool
    can_execute: bool
    projected_exhaustion_date: date | None


def credit_status(user: User, moment: datetime) -> CreditStatus:
    """The user's credits at ``moment``.

    A user whom nobody granted anything has an account of zeros.
    """
    account = Account.objects.filter(pk=user.pk).first() or Account(
        user=user, allocated=Decimal(0), used=Decimal(0), held=Decimal(0)
    )
    standing = standing_of(user, moment)
    tier = standing.tier
    held = account.held - expired_credits(account, moment)
    remaining = account.balance - held
    usage_percent = (
        float(round(100 * account.used / account.allocated, 2)) if account.allocated else None
    )
    is_out = remaining <= 0
    return CreditStatus(
        user_id=user.pk,
        username=user.username,
        credits_allocated=account.allocated,
        credits_used=account.used,
        credits_held=held,
        credits_remaining=remaining,
        credits_per_month=tier.default_credits_per_month if tier else Decimal(0),
        usage_percent=usage_percent,
        license_is_active=not standing.inactive_because,
        license_status=standing.license_status,
        tier_name=tier.name if tier else None,
        is_low_credits=not is_out
        and usage_percent is not None
        and usage_percent >= LOW_USAGE_PERCENT,
        is_out_of_credits=is_out,
        can_execute=refusal(standing, SMALLEST, remaining) is None,
        projected_exhaustion_date=exhaustion_date(user, remaining, moment),
    )
