"""The rollups: what each sums, by what, and for which periods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from kluisz_analytics.sql import Sql
from kluisz_analytics.tenants.attributed import Ownership
from usage.measures import DIMENSIONS, Dimension
from usage.models import (
    EnvironmentUsage,
    FlowUsage,
    ModelUsage,
    NoUserUsage,
    PlatformModelUsage,
    PlatformUsage,
    TenantUsageStats,
    UserUsageStats,
)
from usage.models.rollups import Rollup
from usage.periods import Granularity
from usage.rollups.rows import OF_FACTS, model_rows, nobody, trace_rows

HOUR, DAY, WEEK, MONTH = Granularity


@dataclass(frozen=True, slots=True)
class RollupRule:
    """What a rollup sums: by these columns (and those of the facts' rows that they are), for these
    periods, finest first.

    ``while_running`` builds also days, weeks and months that are not over; ``hours_while_running``
    has hours of a day until it is over. What is not ``is_built`` is kept by the sync, and never
    stale.
    """

    model: type[Rollup]
    columns: Mapping[str, str]
    granularities: Sequence[Granularity]
    by_model: bool = False
    ownership: Ownership = Ownership.ANY
    while_running: bool = False
    hours_while_running: bool = False
    is_built: bool = True

    @property
    def table(self) -> str:
        return self.model._meta.db_table

    @property
    def dimensions(self) -> Mapping[Dimension, str]:
        """Its column for each dimension that it has."""
        rows = {declared.row: dimension for dimension, declared in DIMENSIONS.items()}
        return {rows[row]: column for column, row in self.columns.items() if row in rows}

    @property
    def is_unattributed(self) -> str | None:
        """The condition that a row of it, named r, is unattributed usage; None where it can't
        tell.
        """
        if "is_attributed" in self.columns:
            return "NOT r.is_attributed"
        return f"r.tenant_key = {nobody()}" if "tenant_key" in self.columns else None

    @property
    def readable(self) -> Sequence[Granularity]:
        """The periods that it may have, finest first."""
        return (HOUR, *self.granularities) if self.hours_while_running else self.granularities

    @property
    def finest(self) -> Granularity:
        return self.granularities[0]

    def rows(self, start: datetime, end: datetime) -> Sql:
        """The facts that it sums, of the traces in [start, end)."""
        condition = OF_FACTS[self.ownership]
        conditions = Sql(f" AND {condition}") if condition else None
        return (model_rows if self.by_model else trace_rows)([(0, start, end)], conditions)


def _same(*columns: str) -> Mapping[str, str]:
    """Columns with the names of the facts' rows."""
    return {name: name for name in columns}


PLATFORM = RollupRule(PlatformUsage, _same("is_attributed"), (HOUR, DAY, MONTH))
PLATFORM_MODELS = RollupRule(PlatformModelUsage, _same("model"), (HOUR, DAY, MONTH), by_model=True)
TENANTS = RollupRule(
    TenantUsageStats,
    {"tenant_id": "tenant_key"},
    (HOUR, DAY, WEEK, MONTH),
    ownership=Ownership.ATTRIBUTED,
    while_running=True,
)
FLOWS = RollupRule(
    FlowUsage,
    _same("tenant_key", "project_id", "flow_id"),
    (DAY, WEEK, MONTH),
    hours_while_running=True,
)
MODELS = RollupRule(
    ModelUsage,
    _same("tenant_key", "model"),
    (DAY, MONTH),
    by_model=True,
    hours_while_running=True,
)
ENVIRONMENTS = RollupRule(
    EnvironmentUsage,
    _same("tenant_key", "environment"),
    (DAY, MONTH),
    hours_while_running=True,
)
WITHOUT_USER = RollupRule(
    NoUserUsage,
    _same("tenant_key"),
    (DAY, WEEK, MONTH),
    ownership=Ownership.WITHOUT_USER,
    hours_while_running=True,
)
BUILT = (PLATFORM, PLATFORM_MODELS, TENANTS, WITHOUT_USER, ENVIRONMENTS, FLOWS, MODELS)
"""Those with the fewest rows first: a question is answered by the first that can."""
USERS = RollupRule(
    UserUsageStats,
    {"tenant_id": "tenant_key", "user_id": "user_key"},
    (HOUR, DAY, WEEK, MONTH),
    ownership=Ownership.OWNED,
    is_built=False,
)
