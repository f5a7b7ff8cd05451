"""What a tenant's usage cost: for its budgets."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from usage.access import Scope
from usage.analytics.ask import ask
from usage.analytics.numbers import numbers_from
from usage.analytics.question import Question
from usage.periods import hour_of


def cost_of_tenant(tenant_id: UUID, start: datetime, end: datetime) -> Decimal:
    """USD of provider cost from ``start``, reckoned from its full hour, until ``end``."""
    answers = ask(Question(Scope(tenant_id=tenant_id), [(hour_of(start), end)]))
    return (numbers_from(answers[0]).total_cost_usd if answers else None) or Decimal(0)
