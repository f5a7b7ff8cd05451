"""Who may see which user, and so whose credits: the one place that decides it (domain.md, Who)."""

from uuid import UUID

from django.core.exceptions import PermissionDenied
from django.db.models import Q

from kluisz_analytics.tenants.models import User


class NotVisible(LookupError):
    """What was asked for doesn't exist, or its existence is none of the caller's business."""


def users_seen_by(viewer: User, prefix: str = "") -> Q:
    """Platform admins see all users, tenant admins those of their tenant, others themselves.

    ``prefix`` is the way from the rows that are filtered to their user, as ``account__user__``.
    """
    if viewer.is_superuser:
        return Q()
    if viewer.is_tenant_admin:
        return Q(**{f"{prefix}tenant": viewer.tenant_id})
    return Q(**{f"{prefix}pk": viewer.pk})


def sees_user(viewer: User, user: User) -> bool:
    """Whether the viewer sees this user (:func:`users_seen_by`).

    A run may name a tenant that isn't its user's: that tenant's admin sees the run, and nothing
    else of the user.
    """
    if viewer.is_superuser or viewer.pk == user.pk:
        return True
    return viewer.is_tenant_admin and viewer.tenant_id == user.tenant_id


def visible_user(viewer: User, user_id: UUID) -> User:
    """The user, if the viewer may see it.

    Raises NotVisible for a user of another tenant, PermissionDenied for a colleague.
    """
    if user_id == viewer.pk:
        return viewer
    user = User.objects.select_related("tenant").filter(pk=user_id).first()
    if user is None:
        raise NotVisible(f"There is no user {user_id}.")
    if sees_user(viewer, user):
        return user
    if user.tenant_id != viewer.tenant_id:
        raise NotVisible(f"There is no user {user_id}.")
    raise PermissionDenied("A user sees only itself.")
