"""What a tenant's usage cost: for its budgets."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from usage.analytics.answer import answer
from usage.analytics.question import Question
from usage.periods import hour_of
from usage.scope import Scope


def cost_of_tenant(tenant_id: UUID, start: datetime, end: datetime) -> Decimal:
    """USD of provider cost from ``start``, reckoned from its full hour, until ``end``."""
    question = Question(Scope(tenant_id=tenant_id), [(hour_of(start), end)], wants_details=False)
    rows = answer(question).rows
    return (rows[0].numbers.total_cost_usd if rows else None) or Decimal(0)
