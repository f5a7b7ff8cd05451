"""Credits over HTTP: status, the gate, and the books (api.md)."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers, status
from rest_framework.exceptions import APIException, NotFound, PermissionDenied, ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from credits import enforcement, grants, holds
from credits.api import answers
from credits.estimate import estimate
from credits.grants import IdempotencyConflict, NewGrant
from credits.models import Grant, Hold
from credits.recurrence import Recurrence
from credits.status import credit_status
from kluisz_analytics.tenants.models import User
from pricing.tiers import credits_for, tiers_of

IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    str,
    OpenApiParameter.HEADER,
    required=True,
    description="Repeating it gives nothing.",
)


REFUSALS = dict.fromkeys((402, 403, 409), answers.RefusalAnswer)


class InsufficientCredits(APIException):
    status_code = status.HTTP_402_PAYMENT_REQUIRED
    default_code = "insufficient_credits"


class NoActiveLicense(APIException):
    status_code = status.HTTP_403_FORBIDDEN
    default_code = "no_active_license"


class Conflict(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "conflict"


class CreditsView(APIView):
    """What every endpoint does alike: the caller, and the domain's refusals as HTTP's."""

    @property
    def viewer(self) -> User:
        return self.request.user  # type: ignore[return-value]

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, enforcement.InsufficientCredits):
            exc = InsufficientCredits(str(exc))
        elif isinstance(exc, enforcement.BudgetExhausted):
            exc = InsufficientCredits(str(exc), "budget_exhausted")
        elif isinstance(exc, enforcement.NoActiveLicense):
            exc = NoActiveLicense(str(exc))
        elif isinstance(exc, IdempotencyConflict):
            exc = Conflict(str(exc))
        elif isinstance(exc, Hold.DoesNotExist):
            exc = NotFound("There is no such hold.")
        return super().handle_exception(exc)

    def asked(self, serializer_class: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The checked body. Raises ValidationError naming what is wrong and what it takes."""
        serializer = serializer_class(data=self.request.data)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)


class UserCreditStatus(CreditsView):
    @extend_schema(responses=answers.CreditStatusAnswer, operation_id="user_credit_status")
    def get(self, request: Request, user_id: UUID) -> Response:
        """A user's credits: for a platform admin, the user's tenant admin, and the user itself."""
        return Response(
            answers.CreditStatusAnswer(
                credit_status(visible_user(self.viewer, user_id), timezone.now())
            ).data
        )


class MyCreditStatus(CreditsView):
    @extend_schema(responses=answers.CreditStatusAnswer, operation_id="my_credit_status")
    def get(self, request: Request) -> Response:
        """The caller's own credits."""
        return Response(answers.CreditStatusAnswer(credit_status(self.viewer, timezone.now())).data)


class Estimate(CreditsView):
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
        flow_id = asked.validated_data["flow_id"]
        only_gatekeepers(self.viewer)
        known = estimate(flow_id)
        return Response(
            answers.EstimateAnswer(
                {"flow_id": flow_id, "median": known.median, "p90": known.p90, "runs": known.runs}
            ).data
        )


class Check(CreditsView):
    @extend_schema(
        request=answers.CheckRequest,
        responses={200: answers.CheckAnswer, **REFUSALS},
        operation_id="check",
    )
    def post(self, request: Request) -> Response:
        """Whether a run may start now; reserves nothing. 402 with too few credits, 403 without an
        active licence.
        """
        asked = self.asked(answers.CheckRequest)
        checked = enforcement.check(
            gated_user(self.viewer, asked["user_id"]), asked["flow_id"], asked["credits"]
        )
        return Response(
            answers.CheckAnswer(
                {"can_execute": True, "required": checked.required, "remaining": checked.remaining}
            ).data
        )


class Holds(CreditsView):
    @extend_schema(
        request=answers.HoldRequest,
        responses={201: answers.HoldAnswer, 200: answers.HoldAnswer, **REFUSALS},
        operation_id="reserve",
    )
    def post(self, request: Request) -> Response:
        """Reserve credits for a run, by its trace id: 201, or 200 and the same hold where the trace
        has one.
        """
        asked = self.asked(answers.HoldRequest)
        user = gated_user(self.viewer, asked["user_id"])
        ttl = timedelta(seconds=asked["ttl_seconds"])
        made = enforcement.reserve_credits(
            user, asked["trace_id"], asked["flow_id"], asked["credits"], ttl
        )
        return Response(
            answers.HoldAnswer(made.hold).data,
            status=status.HTTP_201_CREATED if made.is_new else status.HTTP_200_OK,
        )


class SettleHold(CreditsView):
    @extend_schema(
        request=answers.SettleRequest, responses=answers.HoldAnswer, operation_id="settle_hold"
    )
    def post(self, request: Request, hold_id: UUID) -> Response:
        """What the run used, in credits or in USD of provider cost; it stays held until its trace
        is charged. Repeating is harmless.
        """
        only_gatekeepers(self.viewer)
        asked = self.asked(answers.SettleRequest)
        return Response(answers.HoldAnswer(holds.settle(hold_id, _used(hold_id, asked))).data)


class ReleaseHold(CreditsView):
    @extend_schema(request=None, responses=answers.HoldAnswer, operation_id="release_hold")
    def post(self, request: Request, hold_id: UUID) -> Response:
        """Free what is held: the run did not happen. Repeating is harmless."""
        only_gatekeepers(self.viewer)
        return Response(answers.HoldAnswer(holds.release(hold_id)).data)


def _used(hold_id: UUID, asked: dict[str, Any]) -> Decimal | None:
    if "cost_usd" not in asked:
        return asked.get("credits")
    user = User.objects.select_related("tenant").get(account__holds=Hold.objects.get(pk=hold_id))
    now = timezone.now()
    credits = credits_for(tiers_of([user], now).get(user.pk), asked["cost_usd"], now)
    if credits is None:
        raise ValidationError(
            {
                "cost_usd": [
                    "The user has no tier with a rate, so a cost can't be turned into credits;"
                    " write credits."
                ]
            }
        )
    return credits


class Grants(CreditsView):
    @extend_schema(
        parameters=[IDEMPOTENCY_KEY],
        request=answers.GrantRequest,
        responses={201: answers.GrantAnswer, 409: answers.RefusalAnswer},
        operation_id="grant",
    )
    def post(self, request: Request) -> Response:
        """Give credits to a user: for platform admins."""
        asked = self.asked(answers.GrantRequest)
        user, key = _given(self.viewer, asked["user_id"]), idempotency_key(request)
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
    @extend_schema(
        parameters=[IDEMPOTENCY_KEY],
        request=answers.GiveRequest,
        responses={201: answers.GrantAnswer, 409: answers.RefusalAnswer},
        operation_id="refund",
    )
    def post(self, request: Request) -> Response:
        """Give credits back to a user: for platform admins."""
        asked = self.asked(answers.GiveRequest)
        user, key = _given(self.viewer, asked["user_id"]), idempotency_key(request)
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


def _given(viewer: User, user_id: UUID) -> User:
    """Whom credits are given: platform admins only may, since it is money."""
    if not viewer.is_superuser:
        visible_user(viewer, user_id)
        raise PermissionDenied("Only a platform admin gives credits.")
    return visible_user(viewer, user_id)


def only_gatekeepers(viewer: User) -> None:
    """Raises PermissionDenied for anyone but a service account and a platform admin."""
    if not (viewer.is_service_account or viewer.is_superuser):
        raise PermissionDenied("Only a service account reserves and settles credits.")


def gated_user(viewer: User, user_id: UUID) -> User:
    """The user whose run it is.

    Raises NotFound, and PermissionDenied as :func:`only_gatekeepers`.
    """
    only_gatekeepers(viewer)
    user = User.objects.select_related("tenant").filter(pk=user_id).first()
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return user


def visible_user(viewer: User, user_id: UUID) -> User:
    """The user, if the viewer may see its credits: NotFound for another tenant's, PermissionDenied
    for a colleague's.
    """
    user = User.objects.select_related("tenant").filter(pk=user_id).first()
    may_see_all = viewer.is_superuser or viewer.is_service_account
    if user is None or not (may_see_all or user.tenant_id == viewer.tenant_id):
        raise NotFound(f"There is no user {user_id}.")
    if not (may_see_all or viewer.is_tenant_admin or user == viewer):
        raise PermissionDenied("A user sees only its own credits.")
    return user
