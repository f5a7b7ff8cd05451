"""Fragments of SQL with their parameters, for both databases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from kluisz_analytics.bulk import sqlite_value

Range = tuple[int, datetime, datetime]
"""A number, and the half-open stretch of time that it stands for."""


@dataclass(slots=True)
class Sql:
    """A fragment of SQL with its parameters, kept together."""

    text: str
    parameters: list[Any] = field(default_factory=list)


def stored(value: Any) -> Any:
    """A value as the database at hand has it."""
    return value if connection.vendor == "postgresql" else sqlite_value(value)


def union(parts: Iterable[Sql | None]) -> Sql | None:
    """The rows of all parts; None where there are none."""
    there = [part for part in parts if part]
    if not there:
        return None
    return Sql(
        " UNION ALL ".join(part.text for part in there),
        [parameter for part in there for parameter in part.parameters],
    )


def all_of(conditions: Sequence[Sql]) -> Sql:
    """The conditions, each after an AND."""
    return Sql(
        "".join(f" AND {condition.text}" for condition in conditions),
        [parameter for condition in conditions for parameter in condition.parameters],
    )


def any_of(column: str, values: Sequence[Any]) -> Sql:
    """The condition that the column is one of the values."""
    return Sql(f"{column} IN ({', '.join(['%s'] * len(values))})", list(values))


def ranges_table(ranges: Sequence[Range]) -> Sql:
    """The ranges as a table b(number, range_start, range_end)."""
    kind = "timestamptz" if connection.vendor == "postgresql" else "text"
    rows = ", ".join(
        f"({number}, CAST(%s AS {kind}), CAST(%s AS {kind}))" for number, _, _ in ranges
    )
    table = (
        "(SELECT column1 AS number, column2 AS range_start, column3 AS range_end FROM (VALUES"
        f" {rows}) AS v) b"
    )
    return Sql(table, [stored(moment) for _, *edges in ranges for moment in edges])


def listed(expression: str) -> str:
    """All values of a group as one text, but nulls: much faster to fetch than a row for each.

    Read it with :func:`numbers_in`.
    """
    return (
        f"STRING_AGG(({expression})::text, ',')"
        if connection.vendor == "postgresql"
        else f"GROUP_CONCAT({expression})"
    )


def numbers_in(text: str | None) -> list[int]:
    """The whole numbers that a group has listed."""
    return [*map(int, text.split(","))] if text else []
