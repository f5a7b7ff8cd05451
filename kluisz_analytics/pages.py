"""Pages of a list that go on where the page before ended."""

from datetime import UTC, datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request


class Pages(CursorPagination):
    """By a cursor, of which whoever asks may have made up any part: what is no place in the list is
    refused, before the database is asked for it.
    """

    def paginate_queryset(
        self, queryset: QuerySet[Any], request: Request, view: Any = None
    ) -> list[Any] | None:
        self._listed = queryset.model
        return super().paginate_queryset(queryset, request, view)

    def decode_cursor(self, request: Request) -> Cursor | None:
        cursor: Cursor | None = super().decode_cursor(request)
        if cursor is None or cursor.position is None:
            return cursor
        field = self._listed._meta.get_field(self.ordering[0].lstrip("-"))
        try:
            position = field.to_python(cursor.position)
            if isinstance(position, datetime):
                # PostgreSQL takes no offset of more than sixteen hours.
                position = position.astimezone(UTC)
        except (ValidationError, OverflowError) as error:
            raise NotFound(self.invalid_cursor_message) from error
        return cursor._replace(position=str(position))
