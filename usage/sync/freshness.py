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
    reading isn't done: then ``is_first_reading``, and ``others_through`` is how far its other
    connections are read.
    """

    complete_through: datetime | None
    lagging: list[Lagging]
    is_first_reading: bool = False
    others_through: datetime | None = None


def freshness_of(scope: Scope, now: datetime) -> Freshness:
    """Of the scope as of ``now``. A connection lags that is over an hour behind, or of which
    nothing is complete yet.
    """
    connections = progress()
    lagging = [
        Lagging(one.name, one.moment)
        for one in connections
        if one.is_enabled and (one.moment is None or now - one.moment > LAGS_AFTER)
    ]
    concerning = _concerning(scope, connections)
    complete_through = _earliest_of_all(concerning)
    return Freshness(
        complete_through,
        lagging,
        complete_through is None and any(one.is_begun for one in concerning),
        _earliest(concerning),
    )


def complete_through_of(scope: Scope) -> datetime | None:
    """The moment up to which everything of the scope is stored (:class:`Freshness`)."""
    return _earliest_of_all(_concerning(scope, progress()))


def _earliest_of_all(connections: list[Progress]) -> datetime | None:
    """None where one of them isn't read through yet."""
    return None if any(one.moment is None for one in connections) else _earliest(connections)


def _earliest(connections: list[Progress]) -> datetime | None:
    return min((one.moment for one in connections if one.moment is not None), default=None)


def _concerning(scope: Scope, connections: list[Progress]) -> list[Progress]:
    """The connections that the scope has anything of, or could have: those that are read. Where
    none is any more, those that were: what was read once stays complete up to there.
    """
    enabled = [one for one in connections if one.is_enabled]
    retired = [one for one in connections if not one.is_enabled and one.moment is not None]
    if scope.is_platform:
        return [one for one in enabled if one.moment is not None] or retired or enabled
    if not connections[1:] and all(one.tenant_id is None for one in connections):
        return enabled or retired
    tenant_id = scope.tenant_id
    if tenant_id is None and scope.user_id is not None:
        tenant_id = User.objects.values_list("tenant_id", flat=True).get(pk=scope.user_id)
    own = set(
        ConnectionTenant.objects.filter(tenant=tenant_id).values_list("connection_id", flat=True)
    )
    has = [one for one in enabled if one.connection_id in own]
    read = [one for one in enabled if one.moment is not None]
    has += [one for one in read if one.tenant_id == tenant_id and one.connection_id not in own]
    had = [one for one in retired if one.connection_id in own or one.tenant_id == tenant_id]
    return has or [one for one in read if one.tenant_id is None] or had
