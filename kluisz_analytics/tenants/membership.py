"""Since when a user is of which tenant. Pure.

A user who never moved has no history: it has always been of its tenant.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID


class Stay(NamedTuple):
    """That somebody was of a tenant, in [since, until); None is from ever, and still."""

    tenant_id: UUID
    since: datetime | None
    until: datetime | None

    def covers(self, moment: datetime) -> bool:
        is_after = self.since is None or self.since <= moment
        return is_after and (self.until is None or moment < self.until)


def tenant_at(stays: Sequence[Stay], moment: datetime) -> UUID | None:
    """The tenant that somebody was of; None where it was of none."""
    for stay in stays:
        if stay.covers(moment):
            return stay.tenant_id
    return None


def moved(stays: Sequence[Stay], tenant_id: UUID, since: datetime | None) -> list[Stay]:
    """The history of one who is of ``tenant_id`` since then: what was before stays, what was known
    of the time after is replaced.
    """
    if since is None:
        return [Stay(tenant_id, None, None)]
    before = [
        stay._replace(until=since if stay.until is None else min(stay.until, since))
        for stay in sorted(stays, key=_begins)
        if stay.since is None or stay.since < since
    ]
    if before and (before[-1].tenant_id, before[-1].until) == (tenant_id, since):
        return [*before[:-1], before[-1]._replace(until=None)]
    return [*before, Stay(tenant_id, since, None)]


def _begins(stay: Stay) -> float:
    return float("-inf") if stay.since is None else stay.since.timestamp()
