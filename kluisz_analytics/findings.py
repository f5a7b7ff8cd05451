"""What checks of the whole database find (``manage.py verify_books``).

Each check is a question whose answer should be no rows; the rows that come are the evidence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.backends.utils import CursorWrapper

EVIDENCE_ROWS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that doesn't hold, or what else was found: which, and the first rows that show
    it.
    """

    check: str
    rows: list[tuple[Any, ...]]


def finding(
    cursor: CursorWrapper, check: str, sql: str, parameters: Sequence[Any] = ()
) -> Iterator[Finding]:
    """What the question finds, if anything."""
    cursor.execute(f"SELECT * FROM ({sql}) found LIMIT {EVIDENCE_ROWS}", [*parameters])
    if rows := cursor.fetchall():
        yield Finding(check, rows)


def findings(cursor: CursorWrapper, checks: Mapping[str, str]) -> Iterator[Finding]:
    """What each of these questions finds, by the name of its check."""
    for check, sql in checks.items():
        yield from finding(cursor, check, sql)
