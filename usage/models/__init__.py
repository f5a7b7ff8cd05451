"""Facts (what happened), rollups (sums of facts) and the state of the sync."""

from usage.models.attribution import AttributionRule, AttributionRules
from usage.models.connections import (
    ConnectionTenant,
    LangfuseConnection,
    SyncDrift,
    SyncRun,
    SyncTurn,
    SyncWindow,
    TenantComparison,
    TenantDay,
)
from usage.models.facts import (
    DisputedTrace,
    Observation,
    ReceivedTrace,
    RejectedObservation,
    ResponseTraces,
    Trace,
    TraceSettlement,
    TraceVoid,
)
from usage.models.repricing import Repricing
from usage.models.rollups import (
    EnvironmentUsage,
    FlowEstimate,
    FlowUsage,
    ModelUsage,
    NoUserUsage,
    PlatformModelUsage,
    PlatformUsage,
    SourceUsage,
    StalePeriod,
    TenantUsageStats,
    UserNumber,
    UserUsageStats,
)
from usage.models.rulings import UsageRuling

__all__ = [
    "AttributionRule",
    "AttributionRules",
    "ConnectionTenant",
    "DisputedTrace",
    "EnvironmentUsage",
    "FlowEstimate",
    "FlowUsage",
    "LangfuseConnection",
    "ModelUsage",
    "NoUserUsage",
    "Observation",
    "PlatformModelUsage",
    "PlatformUsage",
    "ReceivedTrace",
    "RejectedObservation",
    "Repricing",
    "ResponseTraces",
    "SourceUsage",
    "StalePeriod",
    "SyncDrift",
    "SyncRun",
    "SyncTurn",
    "SyncWindow",
    "TenantComparison",
    "TenantDay",
    "TenantUsageStats",
    "Trace",
    "TraceSettlement",
    "TraceVoid",
    "UsageRuling",
    "UserNumber",
    "UserUsageStats",
]
