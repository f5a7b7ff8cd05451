"""The ledger over HTTP: in the caller's scope, filtered, page by page or as CSV."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, extend_schema, inline_serializer
from rest_framework import serializers
from rest_framework.exceptions import PermissionDenied
from rest_framework.pagination import CursorPagination
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from credits.api import answers
from credits.api.views import CreditsView, visible_user
from credits.models import Transaction
from kluisz_analytics.downloads import CSVRenderer, JSONLinesRenderer, RowsRenderer, streamed
from kluisz_analytics.tenants.models import User


class TransactionPages(CursorPagination):
    """Newest first; the cursor goes on where the page before ended, whatever was posted since."""

    ordering = "-id"
    page_size_query_param = "limit"
    page_size = 100
    max_page_size = 1000


class Transactions(CreditsView):
    renderer_classes = [JSONRenderer, CSVRenderer, JSONLinesRenderer]

    @extend_schema(
        parameters=[answers.TransactionParameters, OpenApiParameter("format", str, enum=["json", "csv", "jsonl"])],
        responses=inline_serializer(
            "TransactionsAnswer",
            {
                "next": serializers.URLField(allow_null=True),
                "previous": serializers.URLField(allow_null=True),
                "results": answers.TransactionAnswer(many=True),
            },
        ),
        operation_id="transactions",
    )
    def get(self, request: Request) -> Response | StreamingHttpResponse:
        """Entries of the ledger, newest first: one's own, a tenant admin's tenant's, a platform admin's all."""
        serializer = answers.TransactionParameters(data=request.query_params)
        serializer.is_valid(raise_exception=True)
        entries = _filtered(_visible(self.viewer, serializer.validated_data.get("user_id", [])), serializer.validated_data)
        if isinstance(request.accepted_renderer, RowsRenderer):
            return streamed(_rows(entries.order_by("-id")), request.accepted_renderer, "transactions")
        pages = TransactionPages()
        page = pages.paginate_queryset(entries, request, self) or []
        return pages.get_paginated_response(answers.TransactionAnswer(page, many=True).data)


def _visible(viewer: User, user_ids: list[UUID]) -> QuerySet[Transaction]:
    if viewer.is_service_account:
        raise PermissionDenied("A service account reads no ledger.")
    entries = Transaction.objects.select_related("account__user", "created_by")
    if user_ids:
        return entries.filter(account__in=[visible_user(viewer, user_id).pk for user_id in user_ids])
    if viewer.is_superuser:
        return entries
    return entries.filter(account__user__tenant=viewer.tenant_id) if viewer.is_tenant_admin else entries.filter(account=viewer.pk)


def _filtered(entries: QuerySet[Transaction], asked: dict[str, Any]) -> QuerySet[Transaction]:
    if asked.get("type"):
        entries = entries.filter(type__in=asked["type"])
    if "start_date" in asked:
        entries = entries.filter(created_at__gte=asked["start_date"])
    return entries.filter(created_at__lt=asked["end_date"]) if "end_date" in asked else entries


def _rows(entries: QuerySet[Transaction]) -> Iterator[dict[str, Any]]:
    # One serializer for all: making its fields anew takes longer than a row.
    return map(answers.TransactionAnswer().to_representation, entries.iterator(chunk_size=2000))
