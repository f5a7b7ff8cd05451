"""Many rows at once: COPY on PostgreSQL, one prepared statement on SQLite."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models.expressions import RawSQL


def insert_rows(cursor: CursorWrapper, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Insert ``rows`` (values in the order of ``columns``; UUID, aware datetime, int, str, bool or None) into ``table``.

    Raises the database's IntegrityError when a row breaks a constraint; nothing is inserted then.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    if connection.vendor == "postgresql":
        with cursor.cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy:
            for row in rows:
                copy.write_row(row)
        return
    places = ", ".join("%s" for _ in columns)
    cursor.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({places})', [sqlite_row(row) for row in rows])


def listed(ids: Iterable[UUID]) -> RawSQL:
    """The ids as the right side of an ``__in`` filter: one parameter, however many there are."""
    if connection.vendor == "postgresql":
        return RawSQL("SELECT unnest(%s::uuid[])", [list(ids)])
    return RawSQL("SELECT value FROM json_each(%s)", ['["' + '","'.join(one.hex for one in ids) + '"]'])


def update_rows(cursor: CursorWrapper, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Replace the rows of ``table`` that have the same first column, its key, by these. One statement, however many."""
    if not rows:
        return
    staged, (key, *others) = f"changed_{table}", columns
    cursor.execute(f'DROP TABLE IF EXISTS "{staged}"')
    listed = ", ".join(f'"{column}"' for column in columns)
    cursor.execute(f'CREATE TEMPORARY TABLE "{staged}" AS SELECT {listed} FROM "{table}" WHERE 1 = 0')
    insert_rows(cursor, staged, columns, rows)
    assignments = ", ".join(f'"{column}" = s."{column}"' for column in others)
    cursor.execute(f'UPDATE "{table}" SET {assignments} FROM "{staged}" s WHERE "{table}"."{key}" = s."{key}"')


def sqlite_row(row: Sequence[Any]) -> list[Any]:
    """The row with each value in the form in which Django stores it on SQLite."""
    return [sqlite_value(value) for value in row]


def sqlite_value(value: Any) -> Any:
    """A UUID as 32 hex digits and a time as naive UTC text, as Django's SQLite backend writes them."""
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return str(value.replace(tzinfo=None))
    return value
