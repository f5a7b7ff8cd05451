"""Pages of a list that go on where the page before ended."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request
from rest_framework.views import APIView


class Pages(CursorPagination):
    """By a cursor, of which whoever asks may have made up any part: what is no place in the list is
    refused, before the database is asked for it.
    """

    def get_ordering(
        self, request: Request, queryset: QuerySet[Any], view: APIView
    ) -> tuple[str, ...]:
        ordering = super().get_ordering(request, queryset, view)
        self._position = queryset.model._meta.get_field(ordering[0].lstrip("-"))
        return ordering

    def decode_cursor(self, request: Request) -> Cursor | None:
        cursor: Cursor | None = super().decode_cursor(request)
        if cursor is None or cursor.position is None:
            return cursor
        try:
            position = self._position.to_python(cursor.position)
            if isinstance(position, datetime):
                # PostgreSQL takes no offset of more than sixteen hours.
                position = position.astimezone(UTC)
        except (ValidationError, OverflowError) as error:
            raise NotFound(self.invalid_cursor_message) from error
        # The stub takes a position for a number; it is text.
        return cursor._replace(position=str(position))  # type: ignore[arg-type]
