"""Up to when answers are complete (domain.md, invariant 3).

A tenant's answers depend on the connections that it has anything of; so one that lags, or one that
is new, holds back nobody else. A connection counts from when its first reading is done. Until then
it holds back only the tenants of which something has come by it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from kluisz_analytics.tenants.models import User
from usage.models import ConnectionTenant
from usage.scope import Scope
from usage.sync.windows import Progress, progress

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
class Freshness:
    """Up to when everything of a scope is stored, and which connections are behind.

    None where nothing was ever read, or where something of it comes by a connection whose first
    reading isn't done.
    """

    complete_through: datetime | None
    lagging: list[Lagging]


def freshness_of(scope: Scope, now: datetime) -> Freshness:
    """Of the scope as of ``now``. A connection lags that is over an hour behind, or of which
    nothing is complete yet.
    """
    enabled = [one for one in progress() if one.is_enabled]
    lagging = [
        Lagging(one.name, one.moment)
        for one in enabled
        if one.moment is None or now - one.moment > LAGS_AFTER
    ]
    return Freshness(_complete_through(scope, enabled), lagging)


def complete_through_of(scope: Scope) -> datetime | None:
    """The moment up to which everything of the scope is stored (:class:`Freshness`)."""
    return _complete_through(scope, [one for one in progress() if one.is_enabled])


def _complete_through(scope: Scope, enabled: list[Progress]) -> datetime | None:
    concerned = (
        [one for one in enabled if one.moment is not None]
        if scope.is_platform
        else _concerning(scope, enabled)
    )
    moments = [one.moment for one in concerned]
    known = [moment for moment in moments if moment is not None]
    return min(known) if known and len(known) == len(moments) else None


def _concerning(scope: Scope, enabled: list[Progress]) -> list[Progress]:
    """The connections that the scope's tenant has anything of; with none, those that it could have
    something of.
    """
    if len(enabled) < 2:
        return enabled
    tenant_id = scope.tenant_id
    if tenant_id is None and scope.user_id is not None:
        tenant_id = User.objects.values_list("tenant_id", flat=True).get(pk=scope.user_id)
    own = set(
        ConnectionTenant.objects.filter(tenant=tenant_id).values_list("connection_id", flat=True)
    )
    has = [one for one in enabled if one.connection_id in own]
    read = [one for one in enabled if one.moment is not None]
    has += [one for one in read if one.tenant_id == tenant_id and one.connection_id not in own]
    return has or [one for one in read if one.tenant_id is None]
