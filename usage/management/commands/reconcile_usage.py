"""Compares every enabled Langfuse connection with Langfuse's metrics."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from usage.management.sync_command import SyncCommand
from usage.models import LangfuseConnection, TenantDay
from usage.sync.reconcile import reconcile_connection
from usage.sync.result import SyncResult
from usage.sync.runner import Progress


@dataclass(frozen=True, slots=True)
class TenantDayComparison:
    """A day of a tenant, or of all that is in a project: what Langfuse says, and what we have."""

    day: str
    tenant: str | None
    langfuse_observations: int
    observations: int
    langfuse_tokens: int
    tokens: int
    langfuse_cost_usd: float
    cost_usd: str
    langfuse_users: int
    users: int

    def in_words(self) -> str:
        equal = (self.langfuse_observations, self.langfuse_tokens) == (
            self.observations,
            self.tokens,
        )
        return (
            f"  {self.day} {self.tenant or 'all':20} {self.langfuse_observations:>9,}"
            f" {self.observations:>9,} observations {self.langfuse_tokens:>13,}"
            f" {self.tokens:>13,} tokens {self.langfuse_cost_usd:>12.6f}"
            f" {float(self.cost_usd):>12.6f} USD {self.langfuse_users:>6,} {self.users:>6,} users"
            f"{'' if equal else '  ≠'}"
        )


class Command(SyncCommand):
    help = (
        "Compares each hour, and each tenant's days, with Langfuse's metrics and reads again what"
        " changed. Prints for each tenant and day Langfuse's figures and ours. Exit status 0"
        " only if all of it was stored."
    )
    verb = "Reconciling"

    def run(
        self,
        connection: LangfuseConnection,
        start: datetime | None,
        end: datetime | None,
        report: Progress,
    ) -> SyncResult:
        return reconcile_connection(connection, start, end, report)

    def summary(
        self, result: SyncResult, start: datetime | None, end: datetime | None
    ) -> dict[str, Any]:
        tenant_days = [asdict(one) for one in _comparisons(result.connection, start, end)]
        return {**result.as_json(), "tenant_days": tenant_days}

    def write_result(
        self, result: SyncResult, start: datetime | None, end: datetime | None
    ) -> None:
        super().write_result(result, start, end)
        rows = list(_comparisons(result.connection, start, end))
        if rows:
            self.stdout.write("Langfuse's figures and ours, of each tenant and day:")
        for row in rows:
            self.stdout.write(row.in_words())


def _comparisons(
    connection: str, start: datetime | None, end: datetime | None
) -> Iterator[TenantDayComparison]:
    days = TenantDay.objects.filter(connection__name=connection).select_related("tenant")
    if start:
        days = days.filter(day__gte=start.date())
    if end:
        days = days.filter(day__lt=end.date())
    for row in days.order_by("day", "tenant__slug"):
        yield TenantDayComparison(
            day=row.day.isoformat(),
            tenant=row.tenant.slug if row.tenant else None,
            langfuse_observations=row.langfuse_count,
            observations=row.observations,
            langfuse_tokens=row.langfuse_tokens,
            tokens=row.tokens,
            langfuse_cost_usd=row.langfuse_cost_usd,
            cost_usd=f"{row.cost_usd:f}",
            langfuse_users=row.langfuse_users,
            users=row.users,
        )
