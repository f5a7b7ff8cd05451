"""How keys are shown: tenants, users, projects and flows by their names in the directory, and those
that the scope may not see by neither name nor id.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from django.db.models import Q

from kluisz_analytics.identifiers import parse_uuid
from kluisz_analytics.tenants.access import sees_user
from kluisz_analytics.tenants.attributed import is_attributed
from kluisz_analytics.tenants.models import Flow, Project, Tenant, User
from usage.access import was_of
from usage.measures import Dimension
from usage.models import Trace
from usage.scope import Scope

FOREIGN_LABELS = {
    Dimension.USER: "A user of another tenant",
    Dimension.TENANT: "Another tenant",
}


class Name(NamedTuple):
    """How a key is shown: its id (None where there is none, or the scope may not see it), its name,
    and its row in the directory, if it has one.
    """

    key: Any
    label: str
    row: "Named | None" = None


NO_NAME = Name(None, "")


def users_by_id(ids: Iterable[UUID | None], scope: Scope) -> dict[UUID, User]:
    """The users that the scope may name: a tenant's are those who are, or were, of it."""
    users = User.objects.select_related("tenant")
    if scope.tenant_id is not None:
        users = users.filter(was_of(scope.tenant_id)).distinct()
    if scope.user_id is not None:
        users = users.filter(pk=scope.user_id)
    return users.in_bulk(list(ids))


def tenants_by_id(ids: Iterable[UUID | None], scope: Scope) -> dict[UUID, Tenant]:
    """The tenants that the scope may name; a user's are those that it is, or was, of."""
    tenants = Tenant.objects.all()
    if scope.tenant_id is not None:
        tenants = tenants.filter(pk=scope.tenant_id)
    elif scope.user_id is not None:
        tenants = tenants.filter(
            Q(users=scope.user_id) | Q(memberships__user=scope.user_id)
        ).distinct()
    return tenants.in_bulk(list(ids))


def flows_by_id(ids: Collection[str], scope: Scope) -> dict[str, Flow]:
    """Known flows by their id as traces name them; within a tenant's scope only that tenant's,
    since a name can give something away.
    """
    flows = Flow.objects.select_related("project").filter(pk__in=_uuids(ids))
    if scope.tenant_id is not None:
        flows = flows.filter(project__tenant_id=scope.tenant_id)
    elif scope.user_id is not None:
        flows = flows.filter(project__tenant__users=scope.user_id)
    return {str(flow.pk): flow for flow in flows}


def projects_by_id(ids: Collection[str], scope: Scope) -> dict[str, Project]:
    """Known projects by their id; restricted as in :func:`flows_by_id`."""
    projects = Project.objects.filter(pk__in=_uuids(ids))
    if scope.tenant_id is not None:
        projects = projects.filter(tenant_id=scope.tenant_id)
    elif scope.user_id is not None:
        projects = projects.filter(tenant__users=scope.user_id)
    return {str(project.pk): project for project in projects}


def names_of(dimension: Dimension, keys: Collection[Any], scope: Scope) -> dict[Any, Name]:
    """How every key is shown: by a name where it is known, else by the id; one query.

    Those that the scope may not name all have the same name, and no key.
    """
    known = {
        key: Name(key, _called(row), row) for key, row in _rows(dimension, keys, scope).items()
    }
    if dimension in FOREIGN_LABELS and not scope.is_platform:
        foreign = Name(None, FOREIGN_LABELS[dimension])
        return {key: known.get(key, foreign) for key in keys}
    nothing = dimension.declared.nothing
    return {key: known.get(key) or Name(key, str(key or nothing)) for key in keys}


Named = Tenant | User | Flow | Project


def _rows(dimension: Dimension, keys: Collection[Any], scope: Scope) -> Mapping[Any, Named]:
    """The directory's rows of the keys, as far as the scope may name them; at most one query."""
    if dimension is Dimension.USER:
        return users_by_id(keys, scope)
    if dimension is Dimension.TENANT:
        return tenants_by_id(keys, scope)
    if dimension is Dimension.FLOW:
        return flows_by_id(keys, scope)
    if dimension is Dimension.PROJECT:
        return projects_by_id(keys, scope)
    return {}


def _called(row: Named) -> str:
    return row.username if isinstance(row, User) else row.name


def owner_of(trace: Trace) -> tuple[Name, Name]:
    """A run's tenant and user, to whoever may see the run: a tenant's runs are of those who were
    of it (usage.facts.owner).
    """
    return (
        Name(trace.tenant.pk, trace.tenant.name) if trace.tenant else NO_NAME,
        Name(trace.user.pk, trace.user.username) if trace.user else NO_NAME,
    )


OWNER_PATHS = (
    "trace__tenant_id",
    "trace__tenant__name",
    "trace__user_id",
    "trace__user__username",
)
"""Of a step: what :func:`owner_in` tells its run's owner from, where there are too many for rows of
their own.
"""


def owner_in(values: Sequence[Any]) -> tuple[Name, Name]:
    """The owner of a step's run, from its values at OWNER_PATHS; NO_NAME twice where the run is
    unattributed.
    """
    tenant_id, tenant_name, user_id, username = values
    if not is_attributed(tenant_id):
        return NO_NAME, NO_NAME
    user = NO_NAME if user_id is None else Name(user_id, username)
    return Name(tenant_id, tenant_name), user


def name_of_person(user: User | None, viewer: User) -> str:
    """The name of who did something; "" for nobody, and for one whom the viewer may not see."""
    return user.username if user is not None and sees_user(viewer, user) else ""


def _uuids(ids: Iterable[str]) -> list[UUID]:
    return [parsed for one in ids if (parsed := parse_uuid(one))]
