"""What was used of budgets, from the rollups and, for what runs, the facts."""

from collections.abc import Sequence

from credits.budgets import UsageQuery, Used
from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled
from usage.analytics.answer import Answers, answer_all
from usage.analytics.question import Filters, Question
from usage.measures import Dimension
from usage.scope import Scope


def used(queries: Sequence[UsageQuery]) -> list[Used]:
    """What each came to; all from one state of the database."""
    return [_used(found) for found in answer_all([_question(query) for query in queries])]


def _question(query: UsageQuery) -> Question:
    named = {Dimension.FLOW: query.flow_id, Dimension.MODEL: query.model}
    return Question(
        Scope(tenant_id=query.tenant_id, user_id=query.user_id),
        [(query.start, query.end)],
        Filters({dimension: [value] for dimension, value in named.items() if value}),
        wants_details=False,
    )


def _used(found: Answers) -> Used:
    if not found.rows:
        return Used()
    sums = found.rows[0].sums
    return Used(
        from_scaled(sums["credits_exact"], CREDIT_PLACES),
        from_scaled(sums["total_cost_usd"], USD_PLACES),
    )
