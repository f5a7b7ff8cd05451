"""Many rows at once: COPY on PostgreSQL, one prepared statement on SQLite.

Values are in the form that both databases take as it is: text, integers, booleans and None; a UUID
as 32 hex digits (``UUID.hex``), a time by :func:`stamp`.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection, models
from django.db.backends.utils import CursorWrapper
from django.db.models.expressions import RawSQL


@cache
def _is_postgresql() -> bool:
    return connection.vendor == "postgresql"


def stamp(moment: datetime) -> str:
    """A time as the database at hand takes it: ISO 8601 in UTC, or as Django's SQLite backend
    writes it.
    """
    # msgspec writes a time ten times as fast as datetime does: 2026-11-30T12:00:00.250000Z.
    text: str = msgspec.to_builtins(moment if moment.tzinfo is UTC else moment.astimezone(UTC))
    return text if _is_postgresql() else text[:-1].replace("T", " ")


def stamps(moments: Sequence[datetime | None]) -> list[str | None]:
    """The same of several times in UTC; None of None."""
    if _is_postgresql():
        texts: list[str | None] = msgspec.to_builtins(moments)
        return texts
    return [None if moment is None else stamp(moment) for moment in moments]


def insert_rows(
    cursor: CursorWrapper, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert ``rows`` (values in the order of ``columns``) into ``table``.

    Raises the database's IntegrityError when a row breaks a constraint; nothing is inserted then.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    if _is_postgresql():
        # COPY is the driver's own, so its errors have to be made Django's.
        with (
            connection.wrap_database_errors,
            cursor.cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy,
        ):
            for row in rows:
                copy.write_row(row)
        return
    places = ", ".join("%s" for _ in columns)
    # any iterable will do
    cursor.executemany(f'INSERT INTO "{table}" ({names}) VALUES ({places})', rows)  # type: ignore[arg-type]


def among(column: str, keys: Iterable[str] | Iterable[int], kind: str = "uuid") -> RawSQL:
    """A filter: ``column`` (as SQL names it) is one of these UUIDs (32 hex digits each), or, of
    ``kind`` "bigint", of these integers. One parameter, however many there are.

    PostgreSQL is given an array and not a subquery: it then knows how many there are, and looks
    each up in the column's index.
    """
    if _is_postgresql():
        condition = f"{column} = ANY(%s::{kind}[])"
        listed = "{" + ",".join(map(str, keys)) + "}"
    else:
        condition = f"{column} IN (SELECT value FROM json_each(%s))"
        listed = msgspec.json.encode([*keys]).decode()
    # the column is named by us, the keys are a parameter
    return RawSQL(condition, [listed], models.BooleanField())  # noqa: S611


def update_rows(
    cursor: CursorWrapper, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Replace the rows of ``table`` that have the same first column, its key, by these.

    One statement, however many.
    """
    if not rows:
        return
    staged, (key, *others) = f"changed_{table}", columns
    names = ", ".join(f'"{column}"' for column in columns)
    execute_all(
        cursor,
        f'DROP TABLE IF EXISTS "{staged}"',
        f'CREATE TEMPORARY TABLE "{staged}" AS SELECT {names} FROM "{table}" WHERE 1 = 0',
    )
    insert_rows(cursor, staged, columns, rows)
    assignments = ", ".join(f'"{column}" = s."{column}"' for column in others)
    cursor.execute(
        f'UPDATE "{table}" SET {assignments} FROM "{staged}" s WHERE "{table}"."{key}" = s."{key}"'
    )


Statement = str | tuple[str, Sequence[Any]]
"""SQL, with its parameters if it has any."""


def execute_all(cursor: CursorWrapper, *statements: Statement) -> None:
    """Execute one statement after the other; what the last one answers can be fetched.

    PostgreSQL gets all of them at once: waiting for each answer costs more than most of them, above
    all the turn of this thread.
    """
    pairs = [(one, ()) if isinstance(one, str) else one for one in statements]
    if not _is_postgresql():
        for sql, parameters in pairs:
            cursor.execute(sql, parameters or None)
        return
    cursor.execute(
        ";\n".join(sql for sql, _ in pairs),
        [one for _, parameters in pairs for one in parameters] or None,
    )
    while cursor.nextset():
        pass


def empty_table(name: str, columns: str) -> list[Statement]:
    """Make a temporary table of this connection's, if there is none yet, and empty it."""
    on_commit = "ON COMMIT DELETE ROWS" if _is_postgresql() else ""
    return [
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns}) {on_commit}",
        f"DELETE FROM {name}",
    ]


def sqlite_value(value: Any) -> Any:
    """A UUID as 32 hex digits and a time as naive UTC text, as Django's SQLite backend writes
    them.
    """
    if isinstance(value, UUID):
        return value.hex
    if isinstance(value, datetime):
        return stamp(value)
    return value


def moment_of(value: Any) -> datetime:
    """A time that came from a raw query: SQLite hands back text or a time without a zone, which are
    UTC.
    """
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def uuid_of(value: Any) -> UUID:
    """A UUID that came from a raw query: SQLite hands back its 32 hex digits."""
    return value if isinstance(value, UUID) else UUID(value)
