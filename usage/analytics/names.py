"""What keys are called: tenants, users, projects and flows by the names that the host application
has told us.
"""

from collections.abc import Collection, Iterable
from typing import Any
from uuid import UUID

from kluisz_analytics.identifiers import parse_uuid
from kluisz_analytics.tenants.models import Flow, Project, Tenant, User
from usage.access import Scope
from usage.analytics.question import Dimension

UNATTRIBUTED_LABEL = "Unattributed"
NONE_LABELS = {
    Dimension.PROJECT: "No project",
    Dimension.FLOW: "No flow",
    Dimension.MODEL: "No model",
}


def users_by_id(ids: Iterable[UUID | None]) -> dict[UUID, User]:
    return User.objects.select_related("tenant").in_bulk([one for one in ids if one])


def tenants_by_id(ids: Iterable[UUID | None]) -> dict[UUID, Tenant]:
    return Tenant.objects.in_bulk([one for one in ids if one])


def flows_by_id(ids: Collection[str], scope: Scope) -> dict[str, Flow]:
    """Known flows by their id as traces name them; within a tenant's scope only that tenant's,
    since a name says something.
    """
    flows = Flow.objects.select_related("project").filter(pk__in=_uuids(ids))
    if scope.tenant_id is not None:
        flows = flows.filter(project__tenant_id=scope.tenant_id)
    elif scope.user_id is not None:
        flows = flows.filter(project__tenant__users=scope.user_id)
    return {str(flow.pk): flow for flow in flows}


def projects_by_id(ids: Collection[str], scope: Scope) -> dict[str, Project]:
    """As flows_by_id, for projects."""
    projects = Project.objects.filter(pk__in=_uuids(ids))
    if scope.tenant_id is not None:
        projects = projects.filter(tenant_id=scope.tenant_id)
    elif scope.user_id is not None:
        projects = projects.filter(tenant__users=scope.user_id)
    return {str(project.pk): project for project in projects}


def labels_for(dimension: Dimension, keys: Collection[Any], scope: Scope) -> dict[Any, str]:
    """A label for every key: a name where it is known, else the id; one query."""
    named: dict[Any, str] = {}
    if dimension is Dimension.USER:
        named = {pk: user.username for pk, user in users_by_id(keys).items()}
    elif dimension is Dimension.TENANT:
        named = {pk: tenant.name for pk, tenant in tenants_by_id(keys).items()}
    elif dimension is Dimension.FLOW:
        named = {pk: flow.name for pk, flow in flows_by_id(keys, scope).items()}
    elif dimension is Dimension.PROJECT:
        named = {pk: project.name for pk, project in projects_by_id(keys, scope).items()}
    return {key: named.get(key) or _label_without_name(dimension, key) for key in keys}


def _label_without_name(dimension: Dimension, key: Any) -> str:
    if key is None:
        return UNATTRIBUTED_LABEL
    return str(key) or NONE_LABELS[dimension]


def _uuids(ids: Iterable[str]) -> list[UUID]:
    return [parsed for one in ids if (parsed := parse_uuid(one))]
