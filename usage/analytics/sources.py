"""Where a question can be answered: the rollup that has its dimensions, or the facts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from usage.analytics.question import Dimension, Question
from usage.models import (
    FlowUsage,
    Granularity,
    ModelUsage,
    PlatformModelUsage,
    PlatformUsage,
    TenantUsageStats,
    UserUsageStats,
)
from usage.models.rollups import Rollup
from usage.rollups.build import RULES

TENANT, USER, PROJECT, FLOW, MODEL = Dimension


@dataclass(frozen=True, slots=True)
class Source:
    """A rollup to read: its column for each dimension, and what of it is without an owner."""

    model: type[Rollup]
    columns: Mapping[Dimension, str]
    granularities: Sequence[Granularity]
    unattributed: str | None = None
    is_built: bool = True
    hours_while_running: bool = False

    @property
    def table(self) -> str:
        return self.model._meta.db_table


GRANULARITIES = {
    rule.model: (*([Granularity.HOUR] if rule.hours_while_running else []), *rule.granularities)
    for rule in RULES
}
PLATFORM = Source(PlatformUsage, {}, GRANULARITIES[PlatformUsage], "NOT r.is_attributed")
PLATFORM_MODELS = Source(PlatformModelUsage, {MODEL: "model"}, GRANULARITIES[PlatformModelUsage])
TENANTS = Source(TenantUsageStats, {TENANT: "tenant_id"}, GRANULARITIES[TenantUsageStats])
USERS = Source(
    UserUsageStats, {TENANT: "tenant_id", USER: "user_id"}, tuple(Granularity), is_built=False
)
# Of all users an hour is few traces; the facts have an index for them, the stats of an hour have
# none.
USER_LISTS = replace(USERS, granularities=tuple(Granularity)[1:])
FLOWS = Source(
    FlowUsage,
    {TENANT: "tenant_key", PROJECT: "project_id", FLOW: "flow_id"},
    GRANULARITIES[FlowUsage],
    "r.tenant_key = {nobody}",
    hours_while_running=True,
)
MODELS = Source(
    ModelUsage,
    {TENANT: "tenant_key", MODEL: "model"},
    GRANULARITIES[ModelUsage],
    "r.tenant_key = {nobody}",
    hours_while_running=True,
)
CHEAPEST_FIRST = (PLATFORM, PLATFORM_MODELS, TENANTS, FLOWS, MODELS, USERS)


def source_of(question: Question) -> Source | None:
    """The cheapest rollup that can answer; None where only the facts can."""
    if question.filters.statuses or question.counts_traces_together:
        return None
    for source in CHEAPEST_FIRST:
        if (
            question.dimensions == source.columns.keys()
            or question.dimensions < source.columns.keys()
        ):
            if question.only_unattributed and source.unattributed is None:
                continue
            if (Dimension.MODEL in source.columns) == (Dimension.MODEL in question.dimensions):
                return USER_LISTS if source is USERS and not question.names_users else source
    return None
