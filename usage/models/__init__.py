"""Facts (what happened), rollups (sums of facts) and the state of the sync."""

from usage.models.connections import LangfuseConnection, SyncRun, SyncWindow
from usage.models.facts import Observation, RejectedObservation, Trace
from usage.models.rollups import FlowUsage, Granularity, ModelUsage, TenantUsageStats, UserUsageStats

__all__ = [
    "FlowUsage",
    "Granularity",
    "LangfuseConnection",
    "ModelUsage",
    "Observation",
    "RejectedObservation",
    "SyncRun",
    "SyncWindow",
    "TenantUsageStats",
    "Trace",
    "UserUsageStats",
]
