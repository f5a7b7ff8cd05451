"""Who may see what: the one place that decides it (domain.md, Who).

A query takes a :class:`Scope` and nothing else says whose data it reads, so an endpoint can't
forget to ask.
"""

from collections.abc import Collection
from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import Q

from kluisz_analytics.tenants.access import NotVisible, visible_user
from kluisz_analytics.tenants.models import Tenant, User
from usage.models import Trace
from usage.scope import Scope


def scope_of(viewer: User) -> Scope:
    """All that the viewer may see.

    Raises PermissionDenied for a service account, which reads no analytics.
    """
    if viewer.is_superuser:
        return Scope()
    if viewer.is_service_account:
        raise PermissionDenied(
            "A service account may check, reserve and settle credits, and read nothing else."
        )
    if viewer.is_tenant_admin:
        return Scope(tenant_id=viewer.tenant_id)
    return Scope(user_id=viewer.pk)


def platform_scope(viewer: User) -> Scope:
    """The whole platform; PermissionDenied for anyone but a platform admin."""
    scope = scope_of(viewer)
    if not scope.is_platform:
        raise PermissionDenied("Only a platform admin sees the whole platform.")
    return scope


def tenant_scope(viewer: User, tenant_id: UUID) -> Scope:
    """One tenant.

    Raises NotVisible for another tenant than the viewer's, PermissionDenied for a user who isn't
    its admin.
    """
    scope = scope_of(viewer)
    if scope.is_platform:
        if not Tenant.objects.filter(pk=tenant_id).exists():
            raise NotVisible(f"There is no tenant {tenant_id}.")
        return Scope(tenant_id=tenant_id)
    if viewer.tenant_id != tenant_id:
        raise NotVisible(f"There is no tenant {tenant_id}.")
    if scope.tenant_id is None:
        raise PermissionDenied("Only an admin of the tenant sees its numbers.")
    return scope


def user_scope(viewer: User, user_id: UUID) -> Scope:
    """One user.

    Raises NotVisible for a user of another tenant, PermissionDenied for a colleague.
    """
    return scope_of_user(viewer, visible_user(viewer, user_id))


def scope_of_user(viewer: User, user: User) -> Scope:
    """One user whom the viewer sees."""
    return Scope(user_id=user.pk, tenant_id=scope_of(viewer).tenant_id)


def check_filters(viewer: User, tenant_ids: Collection[UUID], user_ids: Collection[UUID]) -> None:
    """Raises as the functions above when a filter names a tenant or a user that the viewer may not
    see.

    Platform admins may name anything: an unknown id simply has no usage.
    """
    scope = scope_of(viewer)
    if scope.is_platform:
        return
    for tenant_id in tenant_ids:
        if tenant_id != viewer.tenant_id:
            raise NotVisible(f"There is no tenant {tenant_id}.")
    if not user_ids:
        return
    colleagues = set(
        User.objects.filter(was_of(viewer.tenant_id), pk__in=user_ids).values_list("pk", flat=True)
    )
    for user_id in user_ids:
        if user_id not in colleagues:
            raise NotVisible(f"There is no user {user_id}.")
        if scope.user_id is not None and user_id != scope.user_id:
            raise PermissionDenied("A user sees only itself.")


def visible_trace(viewer: User, trace_id: UUID) -> Trace:
    """One trace.

    Raises NotVisible for another tenant's and for an unattributed one, PermissionDenied for a
    colleague's.
    """
    scope = scope_of(viewer)
    trace = Trace.objects.select_related("tenant", "user", "connection").filter(pk=trace_id).first()
    if trace is not None and _is_its_own(trace, scope):
        return trace
    if trace is None or trace.tenant_id != viewer.tenant_id:
        raise NotVisible(f"There is no trace {trace_id}.")
    if scope.user_id is not None:
        raise PermissionDenied("A user sees only its own runs.")
    return trace


def visible_traces(viewer: User, trace_ids: Collection[UUID]) -> set[UUID]:
    """Those of the traces that the viewer may see (:func:`visible_trace`); one query at most."""
    if not trace_ids:
        return set()
    scope = scope_of(viewer)
    return {
        trace.pk
        for trace in Trace.objects.filter(pk__in=trace_ids).order_by()
        if _is_its_own(trace, scope) or (scope.tenant_id and trace.tenant_id == scope.tenant_id)
    }


def _is_its_own(trace: Trace, scope: Scope) -> bool:
    """Of the platform any; a user's own, also of the tenant that it was of then: it is in its
    lists, too.
    """
    return scope.is_platform or (trace.is_owned and trace.user_id == scope.user_id)


def was_of(tenant_id: UUID | None) -> Q:
    """Users who are, or were, of the tenant, and so can have usage in it; some more than once."""
    return Q(tenant=tenant_id) | Q(memberships__tenant=tenant_id)
