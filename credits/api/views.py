"""Credits over HTTP: status, the gate, and the books (api.md)."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, NotFound, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from credits import enforcement, gate, grants
from credits.api import answers
from credits.estimate import estimate
from credits.gate import BudgetExhausted, InsufficientCredits
from credits.grants import IdempotencyConflict, NewGrant
from credits.holds import HoldConflict
from credits.models import Grant, Hold
from credits.recurrence import Recurrence
from credits.status import credit_status
from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.tenants.access import NotVisible, visible_user
from kluisz_analytics.tenants.models import User
from kluisz_analytics.tenants.permissions import (
    GivesCredits,
    ReadsCredits,
    ReadsEstimates,
    UsesGate,
)
from kluisz_analytics.tenants.views import ApiView

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description="Repeating it gives nothing.",
)


REFUSALS = {
    402: answers.ShortageAnswer,
    **dict.fromkeys((403, 409), answers.RefusalAnswer),
}


class PaymentRequired(APIException):
    """Too few credits, or a budget without room; the answer says what the run requires, what
    remains, and which budget it is.
    """

    status_code = status.HTTP_402_PAYMENT_REQUIRED

    def __init__(self, refused: InsufficientCredits | BudgetExhausted):
        super().__init__(str(refused), refused.code)
        self.refused = refused


class NoActiveLicense(APIException):
    status_code = status.HTTP_403_FORBIDDEN
    default_code = "no_active_license"


class Conflict(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class CreditsView(ApiView):
    """What every endpoint does alike: the domain's refusals as HTTP's."""

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, (InsufficientCredits, BudgetExhausted)):
            exc = PaymentRequired(exc)
        elif isinstance(exc, gate.NoActiveLicense):
            exc = NoActiveLicense(str(exc))
        elif isinstance(exc, (IdempotencyConflict, HoldConflict)):
            exc = Conflict(str(exc))
        elif isinstance(exc, Hold.DoesNotExist):
            exc = NotFound("There is no such hold.")
        response = super().handle_exception(exc)
        if isinstance(exc, PaymentRequired):
            refused = exc.refused
            budget = refused.budget if isinstance(refused, BudgetExhausted) else None
            response.data |= {
                **answers.RequirementItem(refused).data,
                "budget": answers.BudgetItem(budget).data if budget else None,
            }
        return response

    def asked(self, serializer_class: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The checked body. Raises ValidationError naming what is wrong and what it takes."""
        serializer = serializer_class(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


class UserCreditStatus(CreditsView):
    permission_classes = [ReadsCredits]

    @extend_schema(responses=answers.CreditStatusAnswer, operation_id="user_credit_status")
    def get(self, request: Request, user_id: UUID) -> Response:
        """A user's credits: for a platform admin, the user's tenant admin, the user itself, and the
        gate.
        """
        viewer = self.viewer
        user = any_user(user_id) if viewer.is_service_account else visible_user(viewer, user_id)
        return Response(answers.CreditStatusAnswer(credit_status(user, timezone.now())).data)


class MyCreditStatus(CreditsView):
    permission_classes = [ReadsCredits]

    @extend_schema(responses=answers.CreditStatusAnswer, operation_id="my_credit_status")
    def get(self, request: Request) -> Response:
        """The caller's own credits."""
        return Response(answers.CreditStatusAnswer(credit_status(self.viewer, timezone.now())).data)


class Estimate(CreditsView):
    permission_classes = [ReadsEstimates]

    @extend_schema(
        parameters=[answers.EstimateParameters],
        responses=answers.EstimateAnswer,
        operation_id="estimate",
    )
    def get(self, request: Request) -> Response:
        """What a run of a flow will cost, by its history: median and 90th percentile in credits,
        and of how many runs.
        """
        asked = answers.EstimateParameters(data=request.query_params)
        asked.is_valid(raise_exception=True)
        flow_id = canonical_id(asked.validated_data["flow_id"])
        known = estimate(flow_id)
        return Response(answers.EstimateAnswer({"flow_id": flow_id, **asdict(known)}).data)


class Check(CreditsView):
    permission_classes = [UsesGate]

    @extend_schema(
        request=answers.CheckRequest,
        responses={200: answers.CheckAnswer, **REFUSALS},
        operation_id="check",
    )
    def post(self, request: Request) -> Response:
        """Whether a run may start now; reserves nothing. 402 with too few credits, 403 without an
        active license.
        """
        asked = self.asked(answers.CheckRequest)
        checked = enforcement.check(
            any_user(asked["user_id"]), asked["flow_id"], asked["credits"], asked["model"]
        )
        return Response(answers.CheckAnswer({"can_execute": True, **asdict(checked)}).data)


class Grants(CreditsView):
    permission_classes = [GivesCredits]

    @extend_schema(
        parameters=[IDEMPOTENCY_KEY],
        request=answers.GrantRequest,
        responses={201: answers.GrantAnswer, 409: answers.RefusalAnswer},
        operation_id="grant",
    )
    def post(self, request: Request) -> Response:
        """Give credits to a user: for platform admins."""
        asked = self.asked(answers.GrantRequest)
        user, key = any_user(asked["user_id"]), idempotency_key(request)
        now = timezone.now()
        new = NewGrant(
            user=user,
            amount=asked["amount"],
            source=Grant.Source(asked["source"]),
            idempotency_key=key,
            reason=asked["reason"],
            priority=asked["priority"],
            starts_at=asked.get("starts_at") or now,
            expires_at=asked.get("expires_at"),
            recurrence=Recurrence(asked["recurrence"]) if asked.get("recurrence") else None,
            rollover_maximum=asked["rollover_maximum"],
            created_by=self.viewer,
        )
        return _given_answer(lambda: grants.grant(new))


class Refunds(CreditsView):
    permission_classes = [GivesCredits]

    @extend_schema(
        parameters=[IDEMPOTENCY_KEY],
        request=answers.GiveRequest,
        responses={201: answers.GrantAnswer, 409: answers.RefusalAnswer},
        operation_id="refund",
    )
    def post(self, request: Request) -> Response:
        """Give credits back to a user: for platform admins."""
        asked = self.asked(answers.GiveRequest)
        user, key = any_user(asked["user_id"]), idempotency_key(request)
        return _given_answer(
            lambda: grants.refund(
                user, asked["amount"], reason=asked["reason"], idempotency_key=key, by=self.viewer
            )
        )


def _given_answer(give: Any) -> Response:
    try:
        given = give()
    except IdempotencyConflict:
        raise
    except ValueError as error:
        raise ValidationError({"non_field_errors": [str(error)]}) from error
    return Response(answers.GrantAnswer(given).data, status=status.HTTP_201_CREATED)


def idempotency_key(request: Request) -> str:
    """The header. Raises ValidationError without it."""
    key = request.headers.get("Idempotency-Key", "").strip()
    if not 1 <= len(key) <= 150 or "\0" in key:
        raise ValidationError(
            {
                "Idempotency-Key": [
                    "Send a header Idempotency-Key of 1 to 150 characters, none of them NUL:"
                    " one for each thing you give."
                ]
            }
        )
    return f"api:{key}"


def any_user(user_id: UUID) -> User:
    """The user, for those who may act for all. Raises NotVisible where there is none."""
    user = User.objects.select_related("tenant").filter(pk=user_id).first()
    if user is None:
        raise NotVisible(f"There is no user {user_id}.")
    return user
