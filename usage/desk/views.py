"""The desk's endpoints and pages: for platform admins."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib import admin
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from unfold.widgets import BASE_INPUT_CLASSES

from kluisz_analytics.period_parameters import PeriodParameters, period_of
from kluisz_analytics.tenants.permissions import ReadsPlatform
from usage.api import parameters
from usage.api.views import AnalyticsView, ListView
from usage.desk.alike import ROWS, alike_sources, likely_twins
from usage.desk.answers import DoubtfulAnswer, ExpectedUsageAnswer, UnknownNamesAnswer
from usage.desk.doubtful import doubtful_models, doubtful_observations, undecided
from usage.desk.expected import Expected, expected_usage
from usage.desk.hidden import hidden_calls
from usage.desk.missing import HoldFault
from usage.desk.unknown import unknown_names
from usage.scope import Scope
from usage.sync.freshness import complete_through_of


def expected_body(found: Expected) -> dict[str, Any]:
    """The report as an answer's fields."""
    return {
        "complete_through": found.complete_through,
        "holds_by_fault": {one.value: found.holds_by_fault[one] for one in HoldFault},
        "holds": found.holds,
        "flows": found.flows,
        "gaps_count": found.gaps_count,
        "gaps": found.gaps,
    }


class Doubtful(AnalyticsView):
    permission_classes = [ReadsPlatform]

    @extend_schema(responses=DoubtfulAnswer, operation_id="doubtful")
    def get(self, request: Request) -> Response:
        """What doesn't add up: by model and connection, and the observations with the most at
        stake, each with both figures; and calls that two runs may both record. For platform admins.
        """
        twins = likely_twins()
        body = {
            "alike": alike_sources(twins),
            "alike_calls": twins[:ROWS],
            "hidden": hidden_calls(),
            "complete_through": complete_through_of(Scope()),
            "undecided": undecided().count(),
            "models": doubtful_models(),
            "observations": doubtful_observations(),
        }
        return Response(DoubtfulAnswer(body).data)


class ExpectedUsage(AnalyticsView):
    permission_classes = [ReadsPlatform]

    @extend_schema(
        parameters=[PeriodParameters],
        responses=ExpectedUsageAnswer,
        operation_id="expected_usage",
    )
    def get(self, request: Request) -> Response:
        """What should have come and has not: holds without a trace or with another amount, runs
        without a call of a model where their flow always has one, hours in which a tenant that
        always has traffic has none. For platform admins.
        """
        period = self.period(parameters.read_parameters(request, PeriodParameters))
        body = self.framed(period, expected_body(expected_usage(period)))
        return Response(ExpectedUsageAnswer(body).data)


class UnknownNamesParameters(serializers.Serializer[Any]):
    limit = serializers.IntegerField(min_value=1, max_value=parameters.LARGEST_LIMIT, default=100)


class UnknownNames(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "unknown-names"

    @extend_schema(
        parameters=[UnknownNamesParameters],
        responses=UnknownNamesAnswer,
        operation_id="unknown_names",
    )
    def get(self, request: Request) -> Response:
        """What runs call a tenant, or a user, and nobody is known by, those with the highest cost
        first: until it is said who is meant, they are charged to nobody. For platform admins.
        """
        asked = parameters.read_parameters(request, UnknownNamesParameters)
        body = {
            "complete_through": complete_through_of(Scope()),
            "results": unknown_names(asked["limit"]),
        }
        return Response(UnknownNamesAnswer(body).data)


def platform_admins_only(
    view: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Refuses anyone else with 403."""

    def checked(request: HttpRequest) -> HttpResponse:
        if not request.user.is_superuser:
            raise PermissionDenied("Only a platform admin sees this page.")
        return view(request)

    return checked


def expected_view(request: HttpRequest) -> HttpResponse:
    """The same as a page of the admin."""
    try:
        # A form sends a date that was emptied as empty text.
        given = {name: value for name, value in request.GET.items() if value}
        asked = PeriodParameters(data=given)
        asked.is_valid(raise_exception=True)
        period = period_of(asked.validated_data, ZoneInfo("UTC"))
    except ValidationError as error:
        raise BadRequest(str(error.detail)) from error
    context = {
        **admin.site.each_context(request),
        "title": "Expected but not seen",
        "first_day": period.start,
        "last_day": period.end - timedelta(microseconds=1),
        "input_classes": " ".join(BASE_INPUT_CLASSES),
        "found": expected_usage(period),
    }
    return render(request, "admin/usage/expected.html", context)
