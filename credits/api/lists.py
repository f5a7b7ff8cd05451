"""Rows of accounts over HTTP: in the caller's scope, page by page or as a download."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Model, QuerySet
from django.http import StreamingHttpResponse
from drf_spectacular.utils import OpenApiParameter, inline_serializer
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response

from credits.api.views import CreditsView
from kluisz_analytics.downloads import CSVRenderer, JSONLinesRenderer, RowsRenderer, streamed
from kluisz_analytics.pages import Pages
from kluisz_analytics.period_parameters import ends_of
from kluisz_analytics.tenants.access import users_seen_by, visible_user

M = TypeVar("M", bound=Model)
ROWS_AT_ONCE = 2000
FORMAT = OpenApiParameter("format", str, enum=["json", "csv", "jsonl"])


def page_of(name: str, row: type[serializers.Serializer[Any]]) -> serializers.Serializer[Any]:
    """The form of a page of rows."""
    return inline_serializer(
        name,
        {
            "next": serializers.URLField(allow_null=True),
            "previous": serializers.URLField(allow_null=True),
            "results": row(many=True),
        },
    )


class AccountPages(Pages):
    """Newest first; the cursor goes on where the page before ended, whatever came in since."""

    page_size_query_param = "limit"
    page_size = 100
    max_page_size = 1000

    def __init__(self, ordering: Sequence[str]) -> None:
        self.ordering = tuple(ordering)


class AccountListView(CreditsView):
    """Rows of accounts, narrowed to those that the caller may see."""

    renderer_classes = [JSONRenderer, CSVRenderer, JSONLinesRenderer]
    file_name = "credits"
    newest_first: Sequence[str]
    row: type[serializers.Serializer[Any]]

    def parameters(self, serializer_class: type[serializers.Serializer[Any]]) -> dict[str, Any]:
        """The checked parameters. Raises ValidationError naming the parameter and what it takes."""
        serializer = serializer_class(data=self.request.query_params)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def visible(self, rows: QuerySet[M], user_ids: Sequence[UUID]) -> QuerySet[M]:
        """The rows of these users, or of all that the caller sees. Raises NotVisible and
        PermissionDenied for a user that it may not see.
        """
        if user_ids:
            users = [visible_user(self.viewer, user_id).pk for user_id in user_ids]
            return rows.filter(account__in=users)
        return rows.filter(users_seen_by(self.viewer, "account__user__"))

    def within(self, rows: QuerySet[M], asked: dict[str, Any]) -> QuerySet[M]:
        """The rows made in the asked period; without one, all."""
        start, end = ends_of(asked, self.zone)
        if start is not None:
            rows = rows.filter(created_at__gte=start)
        return rows if end is None else rows.filter(created_at__lt=end)

    def answer(self, rows: QuerySet[M]) -> Response | StreamingHttpResponse:
        """A page of the rows, or all of them as they come."""
        renderer = self.request.accepted_renderer
        if isinstance(renderer, RowsRenderer):
            found = rows.order_by(*self.newest_first).iterator(chunk_size=ROWS_AT_ONCE)
            shown = chain.from_iterable(map(self.shown, _chunks(found)))
            # One serializer for all: making its fields anew takes longer than a row.
            return streamed(map(self.row().to_representation, shown), renderer, self.file_name)
        pages = AccountPages(self.newest_first)
        page = pages.paginate_queryset(rows, self.request, self) or []
        return pages.get_paginated_response(self.row([*self.shown(page)], many=True).data)

    def shown(self, rows: Sequence[Any]) -> Iterable[Any]:
        """The rows as they are answered, some at once."""
        return rows


def _chunks(rows: Iterable[M]) -> Iterator[list[M]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, ROWS_AT_ONCE)):
        yield chunk
