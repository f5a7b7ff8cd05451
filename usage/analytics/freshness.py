"""Up to when answers are complete (domain.md, invariant 3).

A tenant's answers depend on the connections that it has anything of; so one that lags, or one that
is new, holds back nobody else. A connection counts from when its first reading is done. Until then
it holds back only the tenants of which something has come by it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from kluisz_analytics.tenants.models import User
from usage.models import ConnectionTenant, LangfuseConnection
from usage.scope import Scope
from usage.sync.windows import complete_through_each

# How far behind a connection is named: a sync every few minutes is never so late.
LAGS_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Lagging:
    """An enabled connection that is behind, and up to when it is read; None where its first reading
    isn't done.
    """

    name: str
    complete_through: datetime | None


@dataclass(frozen=True, slots=True)
class _Reading:
    """An enabled connection: whose all of it is, if it is fixed to a tenant; how far it is read."""

    pk: int
    name: str
    tenant_id: UUID | None
    moment: datetime | None


def complete_through_of(scope: Scope) -> datetime | None:
    """The moment up to which everything of the scope is stored.

    None where nothing was ever read, or where something of it comes by a connection whose first
    reading isn't done.
    """
    readings = _readings()
    if not scope.is_platform:
        readings = _concerning(scope, readings)
    else:
        readings = [one for one in readings if one.moment is not None]
    moments = [one.moment for one in readings]
    known = [moment for moment in moments if moment is not None]
    return min(known) if known and len(known) == len(moments) else None


def lagging_connections(now: datetime) -> list[Lagging]:
    """The enabled connections that are over an hour behind, or of which nothing is complete yet."""
    return [
        Lagging(one.name, one.moment)
        for one in _readings()
        if one.moment is None or now - one.moment > LAGS_AFTER
    ]


def _readings() -> list[_Reading]:
    moments = complete_through_each()
    enabled = LangfuseConnection.objects.filter(is_enabled=True).order_by("name")
    rows = enabled.values_list("pk", "name", "tenant_id")
    return [_Reading(pk, name, tenant_id, moments.get(pk)) for pk, name, tenant_id in rows]


def _concerning(scope: Scope, readings: list[_Reading]) -> list[_Reading]:
    """The connections that the scope's tenant has anything of; with none, those that it could have
    something of.
    """
    if len(readings) < 2:
        return readings
    tenant_id = scope.tenant_id
    if tenant_id is None and scope.user_id is not None:
        tenant_id = User.objects.values_list("tenant_id", flat=True).get(pk=scope.user_id)
    own = set(
        ConnectionTenant.objects.filter(tenant=tenant_id).values_list("connection_id", flat=True)
    )
    has = [one for one in readings if one.pk in own]
    read = [one for one in readings if one.moment is not None]
    has += [one for one in read if one.tenant_id == tenant_id and one.pk not in own]
    return has or [one for one in read if one.tenant_id is None]
