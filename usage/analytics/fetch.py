"""Runs compiled statements, and returns their rows by question."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from django.db import connection
from django.db.backends.utils import CursorWrapper

from kluisz_analytics.sql import Sql

Row = tuple[Any, ...]
"""Which bucket, which value of the dimension as text, and what was selected."""

# Groups of 50,000 users stay in memory; compiling a query takes longer than running it; what is
# asked for is mostly in memory.
PLANNING = ("work_mem = '32MB'", "jit = off", "random_page_cost = 1.1")


def rows_by_question(sql: Sql | None) -> Mapping[int, Sequence[Row]]:
    """The rows of a compiled statement, by the place of their question; one query."""
    found: dict[int, list[Row]] = defaultdict(list)
    if sql is None:
        return found
    with _cursor() as cursor:
        cursor.execute(sql.text, sql.parameters)
        for question, *row in cursor.fetchall():
            found[question].append(tuple(row))
    return found


def _cursor() -> CursorWrapper:
    """Sets of users are large: from PostgreSQL they come as they are, and not as hex digits.

    Django's own cursors take only text from it.
    """
    if connection.vendor != "postgresql":
        return connection.cursor()
    connection.ensure_connection()
    cursor = psycopg.Cursor(connection.connection)
    cursor.format = psycopg.pq.Format.BINARY
    # the stub names what it returns, not what it takes
    return connection.make_cursor(cursor)  # type: ignore[arg-type]
