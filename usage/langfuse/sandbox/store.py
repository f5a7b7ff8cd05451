"""Where the sandbox keeps rows: one SQLite file, every version of every observation, in the order
in which the API gives them.
"""

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xxhash

Row = dict[str, Any]
# A row's metadata as it was written, which filters compare with; no answer shows it.
AS_WRITTEN = "metadataAsWritten"

SCHEMA = """
CREATE TABLE IF NOT EXISTS observation (
    start_time TEXT NOT NULL,
    trace_hash INTEGER NOT NULL,
    observation_id TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    type TEXT NOT NULL,
    user_id TEXT NOT NULL,
    is_root INTEGER NOT NULL,
    model TEXT NOT NULL,
    total_cost REAL NOT NULL,
    total_tokens INTEGER NOT NULL,
    row BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS observation_order
    ON observation (start_time DESC, trace_hash DESC, observation_id DESC);
CREATE INDEX IF NOT EXISTS observation_trace ON observation (trace_id);
CREATE TABLE IF NOT EXISTS pending (
    trace_id TEXT NOT NULL,
    moved_at REAL NOT NULL,
    row BLOB NOT NULL
);
"""


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order of the rows: start time descending, then the hash of the trace id, then
    the id.
    """

    start_time: str
    trace_id: str
    observation_id: str


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition in SQL over the observation table, with its parameters."""

    sql: str
    parameters: Sequence[Any] = ()


class SandboxStore:
    """Rows of one project. Safe for several threads; ``":memory:"`` keeps nothing on disk."""

    def __init__(self, path: Path | str = ":memory:") -> None:
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def add(self, rows: Iterable[Row]) -> int:
        """Store rows; a row with a known id is one more version of it. Returns how many."""
        values = [_values(row) for row in rows]
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany(
                "INSERT INTO observation VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values
            )
            self._database.execute("COMMIT")
        return len(values)

    def add_pending(self, rows: Iterable[Row], moved_at: float) -> int:
        """Store rows that a batch job moves to the others at that time; until then only
        :meth:`pending` gives them. Returns how many.
        """
        values = [(row["traceId"], moved_at, orjson.dumps(row)) for row in rows]
        with self._lock:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT INTO pending VALUES (?, ?, ?)", values)
            self._database.execute("COMMIT")
        return len(values)

    def pending(self) -> list[Row]:
        """The rows that no batch job has moved yet."""
        with self._lock:
            found = self._database.execute("SELECT row FROM pending").fetchall()
        return [orjson.loads(row) for (row,) in found]

    def move_pending(self, now: float) -> None:
        """The batch job: what is to be moved by now is among the others."""
        with self._lock:
            due = self._database.execute(
                "DELETE FROM pending WHERE moved_at <= ? RETURNING row", [now]
            ).fetchall()
        if due:
            self.add([orjson.loads(row) for (row,) in due])

    def delete_trace(self, trace_id: str) -> int:
        """Delete a trace, as Langfuse's interface can. Returns how many rows went."""
        with self._lock:
            self._database.execute("DELETE FROM pending WHERE trace_id = ?", [trace_id])
            return self._database.execute(
                "DELETE FROM observation WHERE trace_id = ?", [trace_id]
            ).rowcount

    def merge(self) -> int:
        """Merge versions away, as Langfuse's store does in the background: of those with the same
        start, trace and id, the one that was received last is left. Returns how many rows went.
        """
        with self._lock:
            return self._database.execute(
                "DELETE FROM observation AS old WHERE EXISTS (SELECT 1 FROM observation AS new"
                " WHERE new.start_time = old.start_time AND new.trace_hash = old.trace_hash"
                " AND new.observation_id = old.observation_id AND new.trace_id = old.trace_id"
                " AND (json_extract(new.row, '$.updatedAt'), new.rowid)"
                " > (json_extract(old.row, '$.updatedAt'), old.rowid))"
            ).rowcount

    def count(self) -> int:
        with self._lock:
            return self._database.execute("SELECT count(*) FROM observation").fetchone()[0]

    def page(
        self, conditions: Sequence[Condition], after: Position | None, limit: int
    ) -> tuple[list[Row], Position | None]:
        """Up to ``limit`` rows after a position, newest first, and the position to go on from; None
        on the last page, and where none were asked for.

        The position is the last row's. Whatever else has the same position, as further versions of
        that row have, comes on no page.
        """
        if after is not None:
            place = "(start_time, trace_hash, observation_id) < (?, ?, ?)"
            conditions = [
                *conditions,
                Condition(
                    place, [after.start_time, trace_hash(after.trace_id), after.observation_id]
                ),
            ]
        where, parameters = _where(conditions)
        with self._lock:
            found = self._database.execute(
                f"SELECT start_time, trace_id, observation_id, row FROM observation {where} "
                "ORDER BY start_time DESC, trace_hash DESC, observation_id DESC LIMIT ?",
                [*parameters, limit + 1],
            ).fetchall()
        if len(found) <= limit:
            return [orjson.loads(row) for *_, row in found], None
        kept = found[:limit]
        return [orjson.loads(row) for *_, row in kept], Position(*kept[-1][:3]) if kept else None

    def aggregate(
        self, select: str, conditions: Sequence[Condition], tail: str = ""
    ) -> list[tuple[Any, ...]]:
        """Rows of an aggregate question over the matching observations."""
        where, parameters = _where(conditions)
        with self._lock:
            return self._database.execute(
                f"SELECT {select} FROM observation {where} {tail}", parameters
            ).fetchall()


def _where(conditions: Sequence[Condition]) -> tuple[str, list[Any]]:
    if not conditions:
        return "", []
    parameters = [parameter for condition in conditions for parameter in condition.parameters]
    return "WHERE " + " AND ".join(f"({condition.sql})" for condition in conditions), parameters


def trace_hash(trace_id: str) -> int:
    """The 32-bit hash by which Langfuse's store orders traces of the same millisecond."""
    return xxhash.xxh32(trace_id.encode()).intdigest()


def _values(row: Row) -> tuple[Any, ...]:
    return (
        row["startTime"],
        trace_hash(row["traceId"]),
        row["id"],
        row["traceId"],
        row["type"],
        row["userId"] or "",
        int(row["isRootObservation"]),
        row["model"] or "",
        row["totalCost"] or 0,
        row["totalUsage"] or 0,
        orjson.dumps(row),
    )


def metadata_condition(key: str, operator: str, value: str) -> Condition:
    """A condition on a metadata key; a row without the key meets none.

    Langfuse compares with the value as it was written (``AS_WRITTEN``), and SDK 5 writes JSON: acme
    as "acme".
    """
    written = "COALESCE(json_extract(row, ?), json_quote(json_extract(row, ?)))"
    comparisons = {
        "=": f"{written} = ?",
        "contains": f"instr({written}, ?) > 0",
        "does not contain": f"instr({written}, ?) = 0",
        "starts with": f"instr({written}, ?) = 1",
    }
    path = f"$.metadata.{json.dumps(key)}"
    as_written = f"$.{AS_WRITTEN}.{json.dumps(key)}"
    has_key = "json_type(row, ?) IS NOT NULL"
    return Condition(f"{has_key} AND {comparisons[operator]}", [path, as_written, path, value])
