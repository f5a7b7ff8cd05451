"""Several queries that see one state of the database."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, connections, transaction


@contextmanager
def one_snapshot(*settings: str) -> Iterator[None]:
    """All queries inside see one state of the database, whatever is committed meanwhile; nothing
    but temporary tables can be written.

    ``settings`` are those of PostgreSQL's planner, set for as long. A transaction that has begun
    already is left as it is. Nobody waits for it, and it waits for nobody.
    """
    if connection.in_atomic_block:
        yield
    elif connection.vendor == "postgresql":
        isolation = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("; ".join([isolation, *(f"SET LOCAL {one}" for one in settings)]))
            yield
    else:
        with _without_the_writers_lock(), transaction.atomic():
            yield


@contextmanager
def _without_the_writers_lock() -> Iterator[None]:
    """Transactions of SQLite begin as readers, which keep what they saw first (WAL)."""
    sqlite: Any = connections[connection.alias]
    mode, sqlite.transaction_mode = sqlite.transaction_mode, "DEFERRED"
    try:
        yield
    finally:
        sqlite.transaction_mode = mode
