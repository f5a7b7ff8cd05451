"""Disputed runs over HTTP: the list, and settling one. For platform admins."""

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response

from kluisz_analytics.tenants.permissions import ReadsPlatform, SettlesDisputes
from usage.access import platform_scope, visible_trace
from usage.analytics.disputes import described, disputed_runs
from usage.api import answers, parameters
from usage.api.views import AnalyticsView, ListView
from usage.facts import disputes
from usage.facts.disputes import NotDisputed, disputed_traces
from usage.facts.owner import Outcome
from usage.sync.freshness import complete_through_of


class DisputesParameters(serializers.Serializer[Any]):
    """Which disputes."""

    state = serializers.ChoiceField(choices=["open", "settled"], default="open")
    limit = serializers.IntegerField(min_value=1, max_value=parameters.LARGEST_LIMIT, default=100)


class Disputes(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "disputes"

    @extend_schema(
        parameters=[DisputesParameters], responses=answers.DisputesAnswer, operation_id="disputes"
    )
    def get(self, request: Request) -> Response:
        """Runs that name a tenant that their user was not of, the newest first: they count for the
        platform only, until they are settled. For platform admins.
        """
        asked = parameters.read_parameters(request, DisputesParameters)
        body = {
            "complete_through": complete_through_of(platform_scope(self.viewer)),
            "results": disputed_runs(is_settled=asked["state"] == "settled", limit=asked["limit"]),
        }
        return Response(answers.DisputesAnswer(body).data)


class DisputeView(AnalyticsView):
    permission_classes = [SettlesDisputes]

    def answer(self, trace_id: UUID) -> Response:
        """The run as it is now."""
        (run,) = described([*disputed_traces().filter(pk=trace_id)])
        return Response(answers.DisputedRunAnswer(run).data)


class SettleDispute(DisputeView):
    @extend_schema(
        request=answers.SettleDisputeRequest,
        responses=answers.DisputedRunAnswer,
        operation_id="settle_dispute",
    )
    def post(self, request: Request, trace_id: UUID) -> Response:
        """Whose the run is: the named tenant's without a user, the user's in the tenant that it was
        of, or nobody's. Repeating is harmless; another outcome replaces it.
        """
        asked = answers.SettleDisputeRequest(data=request.data)
        asked.is_valid(raise_exception=True)
        trace = visible_trace(self.viewer, trace_id)
        try:
            disputes.settle([trace.pk.hex], Outcome(asked.validated_data["outcome"]), self.viewer)
        except NotDisputed as error:
            raise ValidationError({"outcome": [str(error)]}) from error
        return self.answer(trace_id)


class UndoSettlement(DisputeView):
    @extend_schema(
        request=None, responses=answers.DisputedRunAnswer, operation_id="undo_settlement"
    )
    def post(self, request: Request, trace_id: UUID) -> Response:
        """Have the run disputed again; what was charged is refunded."""
        trace = visible_trace(self.viewer, trace_id)
        try:
            disputes.undo([trace.pk.hex], self.viewer)
        except NotDisputed as error:
            raise ValidationError({"trace_id": [str(error)]}) from error
        return self.answer(trace_id)
