"""Where a question can be answered: the cheapest rollup that has its dimensions, or the facts."""

from dataclasses import replace

from kluisz_analytics.tenants.attributed import Ownership
from usage.analytics.question import Question
from usage.measures import Dimension
from usage.periods import Granularity
from usage.rollups.rules import BUILT, USERS, RollupRule

CHEAPEST_FIRST = (*BUILT, USERS)
# Of all users an hour is few traces; the facts have an index for them, the stats of an hour have
# none.
LISTS_OF_USERS = replace(
    USERS, granularities=(Granularity.DAY, Granularity.WEEK, Granularity.MONTH)
)


def source_of(question: Question) -> RollupRule | None:
    """The cheapest rollup that can answer; None where only the facts can."""
    if question.filters.statuses or question.counts_traces_together:
        return None
    for rule in CHEAPEST_FIRST:
        if _can_answer(rule, question):
            return LISTS_OF_USERS if rule is USERS and not question.names_users else rule
    return None


def _can_answer(rule: RollupRule, question: Question) -> bool:
    """Whether the rollup tells apart what is asked for.

    By model a trace counts once for each that it used, so such a rollup answers nothing else.
    """
    if not question.dimensions <= rule.dimensions.keys():
        return False
    if question.ownership is Ownership.UNATTRIBUTED and rule.is_unattributed is None:
        return False
    if (question.ownership is Ownership.WITHOUT_USER) != (rule.ownership is Ownership.WITHOUT_USER):
        return False
    return (Dimension.MODEL in rule.dimensions) == (Dimension.MODEL in question.dimensions)
