"""Credit status over HTTP."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import NotFound, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from credits.status import credit_status
from kluisz_analytics.fields import CREDIT_PLACES
from kluisz_analytics.tenants.models import User


class CreditsField(serializers.DecimalField):
    """Credits as a decimal string with six places."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=CREDIT_PLACES, **kwargs)


class CreditStatusAnswer(serializers.Serializer[Any]):
    user_id = serializers.UUIDField()
    username = serializers.CharField()
    credits_allocated = CreditsField()
    credits_used = CreditsField()
    credits_held = CreditsField()
    credits_remaining = CreditsField()
    credits_per_month = CreditsField()
    usage_percent = serializers.FloatField(allow_null=True)
    license_is_active = serializers.BooleanField()
    tier_name = serializers.CharField(allow_null=True)
    is_low_credits = serializers.BooleanField()
    is_out_of_credits = serializers.BooleanField()
    can_execute = serializers.BooleanField()
    projected_exhaustion_date = serializers.DateField(allow_null=True)


class UserCreditStatus(APIView):
    @extend_schema(responses=CreditStatusAnswer, operation_id="user_credit_status")
    def get(self, request: Request, user_id: UUID) -> Response:
        """A user's credits: for a platform admin, the user's tenant admin, and the user itself."""
        return Response(CreditStatusAnswer(credit_status(visible_user(request.user, user_id), timezone.now())).data)


class MyCreditStatus(APIView):
    @extend_schema(responses=CreditStatusAnswer, operation_id="my_credit_status")
    def get(self, request: Request) -> Response:
        """The caller's own credits."""
        viewer: User = request.user  # type: ignore[assignment]
        return Response(CreditStatusAnswer(credit_status(viewer, timezone.now())).data)


def visible_user(viewer: Any, user_id: UUID) -> User:
    """The user, if the viewer may see its credits: NotFound for another tenant's, PermissionDenied for a colleague's."""
    user = User.objects.select_related("tenant").filter(pk=user_id).first()
    may_see_all = viewer.is_superuser or viewer.is_service_account
    if user is None or not (may_see_all or user.tenant_id == viewer.tenant_id):
        raise NotFound(f"There is no user {user_id}.")
    if not (may_see_all or viewer.is_tenant_admin or user == viewer):
        raise PermissionDenied("A user sees only its own credits.")
    return user
