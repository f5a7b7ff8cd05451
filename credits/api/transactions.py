"""The ledger over HTTP: in the caller's scope, filtered, page by page or as CSV."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django_filters import FilterSet, IsoDateTimeFilter, MultipleChoiceFilter
from django_filters.rest_framework import DjangoFilterBackend
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.generics import GenericAPIView
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from credits.api import answers
from credits.api.views import CreditsView, visible_user
from credits.models import Transaction
from kluisz_analytics.downloads import CSVRenderer, JSONLinesRenderer, RowsRenderer, streamed
from kluisz_analytics.pages import Pages
from kluisz_analytics.tenants.models import User


class TransactionPages(Pages):
    """Newest first; the cursor goes on where the page before ended, whatever was posted since."""

    ordering = ("-id",)
    page_size_query_param = "limit"
    page_size = 100
    max_page_size = 1000


def validate_moment(moment: datetime) -> None:
    """Refuse a time that is no time in UTC."""
    try:
        moment.astimezone(UTC)
    except OverflowError as error:
        raise ValidationError(
            "It is out of range; ask for one from year 1 to 9999, in UTC.", "out_of_range"
        ) from error


MOMENT: dict[str, Any] = {
    "field_name": "created_at",
    "validators": [validate_moment],
    "error_messages": {
        "invalid": "It is not an ISO datetime; write for example 2026-11-30T12:00:00Z."
    },
}
NO_TYPE = (
    "“%(value)s” is not a type of entry; there are " + ", ".join(Transaction.Type.values) + "."
)


class MomentFilter(IsoDateTimeFilter):
    """A time in whatever zone, asked for in UTC: PostgreSQL takes no offset of more than sixteen
    hours.
    """

    def filter(self, qs: QuerySet[Transaction], value: datetime | None) -> QuerySet[Transaction]:
        return super().filter(qs, value and value.astimezone(UTC))


class TransactionFilter(FilterSet):
    """Which entries: repeat ``type`` for “any of”; the end is not included."""

    type = MultipleChoiceFilter(
        choices=Transaction.Type.choices, error_messages={"invalid_choice": NO_TYPE}
    )
    start_date = MomentFilter(lookup_expr="gte", **MOMENT)
    end_date = MomentFilter(lookup_expr="lt", **MOMENT)


class Transactions(CreditsView, GenericAPIView[Transaction]):
    queryset = Transaction.objects.select_related("account__user", "created_by")
    filter_backends = [DjangoFilterBackend]
    filterset_class = TransactionFilter
    renderer_classes = [JSONRenderer, CSVRenderer, JSONLinesRenderer]

    @extend_schema(
        parameters=[
            answers.TransactionParameters,
            OpenApiParameter("format", str, enum=["json", "csv", "jsonl"]),
        ],
        responses=inline_serializer(
            "TransactionsAnswer",
            {
                "next": serializers.URLField(allow_null=True),
                "previous": serializers.URLField(allow_null=True),
                "results": answers.TransactionAnswer(many=True),
            },
        ),
        operation_id="transactions",
        filters=True,
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Entries of the ledger, newest first: one's own, a tenant admin's tenant's, a platform
        admin's all.
        """
        serializer = answers.TransactionParameters(data=request.query_params)
        serializer.is_valid(raise_exception=True)
        visible = _visible(
            self.get_queryset(), self.viewer, serializer.validated_data.get("user_id", [])
        )
        entries = self.filter_queryset(visible)
        if isinstance(request.accepted_renderer, RowsRenderer):
            return streamed(
                _rows(entries.order_by("-id")), request.accepted_renderer, "transactions"
            )
        pages = TransactionPages()
        page = pages.paginate_queryset(entries, request, self) or []
        return pages.get_paginated_response(answers.TransactionAnswer(page, many=True).data)


def _visible(
    entries: QuerySet[Transaction], viewer: User, user_ids: list[UUID]
) -> QuerySet[Transaction]:
    if viewer.is_service_account:
        raise PermissionDenied("A service account reads no ledger.")
    if user_ids:
        return entries.filter(
            account__in=[visible_user(viewer, user_id).pk for user_id in user_ids]
        )
    if viewer.is_superuser:
        return entries
    return (
        entries.filter(account__user__tenant=viewer.tenant_id)
        if viewer.is_tenant_admin
        else entries.filter(account=viewer.pk)
    )


def _rows(entries: QuerySet[Transaction]) -> Iterator[dict[str, Any]]:
    # One serializer for all: making its fields anew takes longer than a row.
    return map(answers.TransactionAnswer().to_representation, entries.iterator(chunk_size=2000))
