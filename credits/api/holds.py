"""Reservations over HTTP: for the gate to make and end, and for people to look at."""

from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework import status
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from credits import enforcement, holds
from credits.api import answers
from credits.api.lists import FORMAT, AccountListView, page_of
from credits.api.views import REFUSALS, CreditsView, any_user
from credits.models import Hold
from kluisz_analytics.identifiers import as_trace_id, canonical_id
from kluisz_analytics.tenants.access import NotVisible, visible_user
from kluisz_analytics.tenants.models import User
from kluisz_analytics.tenants.permissions import ReadsCredits, ReadsOrReserves, UsesGate
from pricing.tiers import credits_for, tiers_of


class Holds(AccountListView):
    permission_classes = [ReadsOrReserves]
    file_name = "holds"
    newest_first = ["-created_at", "-pk"]
    row = answers.HoldRowAnswer

    @extend_schema(
        parameters=[answers.HoldParameters, FORMAT],
        responses=page_of("HoldsAnswer", answers.HoldRowAnswer),
        operation_id="holds",
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Holds, newest first: one's own, a tenant admin's tenant's, a platform admin's all. Those
        in the state ``uncharged`` were settled, and no charge came for them in two days.
        """
        asked = self.parameters(answers.HoldParameters)
        made = Hold.objects.select_related("account__user")
        found = self.within(self.visible(made, asked.get("user_id", [])), asked)
        if states := asked.get("state"):
            found = found.filter(state__in=states)
        if flows := asked.get("flow_id"):
            found = found.filter(flow_id__in=[canonical_id(one) for one in flows])
        if "trace_id" in asked:
            found = found.filter(trace_id=as_trace_id(asked["trace_id"]))
        return self.answer(found)

    @extend_schema(
        request=answers.HoldRequest,
        responses={201: answers.HoldAnswer, 200: answers.HoldAnswer, **REFUSALS},
        operation_id="reserve",
    )
    def post(self, request: Request) -> Response:
        """Reserve credits for a run, by its trace id: 201, or 200 and the same hold where the trace
        has one that is open; 409 where that has ended.
        """
        asked = self.asked(answers.HoldRequest)
        made = enforcement.reserve_credits(
            any_user(asked["user_id"]),
            asked["trace_id"],
            asked["flow_id"],
            asked["credits"],
            timedelta(seconds=asked["ttl_seconds"]),
            asked["model"],
        )
        return Response(
            answers.HoldAnswer(made.hold).data,
            status=status.HTTP_201_CREATED if made.is_new else status.HTTP_200_OK,
        )


class HoldDetail(CreditsView):
    permission_classes = [ReadsCredits]

    @extend_schema(responses=answers.HoldRowAnswer, operation_id="hold")
    def get(self, request: Request, hold_id: UUID) -> Response:
        """One hold: for the gate, and for those who may see its user."""
        hold = Hold.objects.select_related("account__user").get(pk=hold_id)
        if not self.viewer.is_service_account:
            self._check_visible(hold)
        return Response(answers.HoldRowAnswer(hold).data)

    def _check_visible(self, hold: Hold) -> None:
        try:
            visible_user(self.viewer, hold.account_id)
        except NotVisible as error:
            raise Hold.DoesNotExist from error


class SettleHold(CreditsView):
    permission_classes = [UsesGate]

    @extend_schema(
        request=answers.SettleRequest,
        responses={200: answers.HoldAnswer, 409: answers.RefusalAnswer},
        operation_id="settle_hold",
    )
    def post(self, request: Request, hold_id: UUID) -> Response:
        """What the run used, in credits or in USD of provider cost; it stays held until its trace
        is charged. Repeating is harmless; another amount is a conflict.
        """
        asked = self.asked(answers.SettleRequest)
        return Response(answers.HoldAnswer(holds.settle(hold_id, _used(hold_id, asked))).data)


class ReleaseHold(CreditsView):
    permission_classes = [UsesGate]

    @extend_schema(request=None, responses=answers.HoldAnswer, operation_id="release_hold")
    def post(self, request: Request, hold_id: UUID) -> Response:
        """Free what is held: the run did not happen. Repeating is harmless."""
        return Response(answers.HoldAnswer(holds.release(hold_id)).data)


def _used(hold_id: UUID, asked: dict[str, Any]) -> Decimal | None:
    """What the run used; a cost by the rate that held when it began, so that it comes to the same
    whenever it is said again.
    """
    if "cost_usd" not in asked:
        return asked.get("credits")
    hold = Hold.objects.get(pk=hold_id)
    user = User.objects.get(pk=hold.account_id)
    tier = tiers_of([user], hold.created_at).get(user.pk)
    credits = credits_for(tier, asked["cost_usd"], hold.created_at)
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
