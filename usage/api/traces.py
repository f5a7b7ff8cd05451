"""Runs over HTTP: a list in the caller's scope, page by page or as a download, and their costs, and
one with its steps.
"""

from typing import Any
from uuid import UUID

from django.http import StreamingHttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kluisz_analytics.downloads import CSVRenderer, JSONLinesRenderer, RowsRenderer, streamed
from kluisz_analytics.pages import Pages
from kluisz_analytics.tenants.permissions import ReadsUsage
from usage.access import scope_of, visible_trace
from usage.analytics.focus import focus_rows
from usage.analytics.steps import steps_of
from usage.analytics.traces import called, langfuse_url, traces_in
from usage.api import answers, parameters
from usage.api.views import AnalyticsView, ListView


class TracePages(Pages):
    """Newest first; the cursor goes on where the page before ended, whatever came in since."""

    ordering = ("-start_time", "-pk")
    page_size_query_param = "limit"
    page_size = 100
    max_page_size = parameters.LARGEST_LIMIT


class TracesParameters(parameters.FilterParameters):
    """The period, the filters, what to look for, and where to go on."""

    search = parameters.TextField(
        required=False, help_text="An id of a run, or a part of its name or its flow's."
    )

    limit = serializers.IntegerField(min_value=1, max_value=parameters.LARGEST_LIMIT, default=100)
    cursor = serializers.CharField(required=False, help_text="From the answer's next or previous.")


class Traces(ListView):
    permission_classes = [ReadsUsage]
    file_name = "traces"

    @extend_schema(
        parameters=[TracesParameters], responses=answers.TracesAnswer, operation_id="traces"
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Runs, newest first."""
        asked = parameters.read_parameters(request, TracesParameters)
        period, filters = self.period(asked), parameters.filters_of(asked, self.viewer)
        scope = scope_of(self.viewer)
        found = traces_in(scope, period, filters)
        if "search" in asked:
            found = called(found, asked["search"], scope)
        if isinstance(request.accepted_renderer, RowsRenderer):
            # One serializer for all: making its fields anew takes longer than a row.
            row_of, runs = (
                answers.TraceAnswer().to_representation,
                found.order_by("-start_time", "-pk").iterator(chunk_size=2000),
            )
            return streamed(map(row_of, runs), request.accepted_renderer, self.file_name)
        pages = TracePages()
        page = pages.paginate_queryset(found, request, self) or []
        links = {"next": pages.get_next_link(), "previous": pages.get_previous_link()}
        body = self.framed(period, {**links, "results": page})
        return Response(answers.TracesAnswer(body).data)


class Costs(AnalyticsView):
    permission_classes = [ReadsUsage]
    renderer_classes = [CSVRenderer, JSONLinesRenderer]

    @extend_schema(
        parameters=[parameters.FilterParameters],
        responses={
            (200, "text/csv"): OpenApiTypes.STR,
            (200, "application/x-ndjson"): OpenApiTypes.STR,
        },
        operation_id="costs",
    )
    def get(self, request: Request) -> StreamingHttpResponse:
        """What was charged, call by call, oldest first, in the columns of FOCUS: CSV, or JSON Lines
        with ``format=jsonl``.
        """
        asked = parameters.read_parameters(request, parameters.FilterParameters)
        period, filters = self.period(asked), parameters.filters_of(asked, self.viewer)
        rows = focus_rows(scope_of(self.viewer), period, filters)
        return streamed(rows, request.accepted_renderer, "costs")


class TraceDetail(AnalyticsView):
    permission_classes = [ReadsUsage]

    @extend_schema(responses=answers.TraceDetailAnswer, operation_id="trace")
    def get(self, request: Request, trace_id: UUID) -> Response:
        """One run with its steps, and where it is in Langfuse."""
        trace = visible_trace(self.viewer, trace_id)
        body: dict[str, Any] = answers.TraceAnswer(trace).data
        steps = answers.StepAnswer(steps_of(trace, trace.billed_observations.all()), many=True).data
        return Response({**body, "langfuse_url": langfuse_url(trace), "observations": steps})
