"""What arrives by source over HTTP. For platform admins."""

from dataclasses import asdict

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kluisz_analytics.period_parameters import PeriodParameters
from kluisz_analytics.tenants.permissions import ReadsPlatform
from usage.access import platform_scope
from usage.analytics.sources import sources_of
from usage.api import answers, parameters
from usage.api.views import ListView
from usage.sync.freshness import complete_through_of


class SourcesParameters(PeriodParameters):
    limit = serializers.IntegerField(
        min_value=1, max_value=parameters.LARGEST_LIMIT, default=parameters.LARGEST_LIMIT
    )


class Sources(ListView):
    permission_classes = [ReadsPlatform]
    file_name = "sources"

    @extend_schema(
        parameters=[SourcesParameters], responses=answers.SourcesAnswer, operation_id="sources"
    )
    def get(self, request: Request) -> Response:
        """What each integration recorded, by its version and environment, and how much of it has an
        owner, is priced and is counted once; those with the most records first. For platform
        admins.
        """
        asked = parameters.read_parameters(request, SourcesParameters)
        period = self.period(asked)
        complete_through = complete_through_of(platform_scope(self.viewer))
        found = sources_of(period, timezone.now(), complete_through)
        body = {
            "complete_through": complete_through,
            "previous_start": found.comparison.previous_start,
            "previous_end": found.comparison.previous_end,
            "new_since": found.new_since,
            "totals": found.totals,
            "results": [
                {**asdict(row), **asdict(row.numbers)} for row in found.rows[: asked["limit"]]
            ],
        }
        return Response(answers.SourcesAnswer(self.framed(period, body)).data)
