"""Traces that have a call in common, by the response ids that their steps say: which they are, so
that they are decided together, whichever came first (domain.md, A call is counted once).

Of each response id there is a row with the keys of its traces. Whoever changes one of these locks
the row first, and whoever inserts the same one waits for it: so of two workers that store the two
halves of a pair at the same moment, the later one sees the other's.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

from django.db import connection as database
from django.db.backends.utils import CursorWrapper

from kluisz_analytics.bulk import among, empty_table, execute_all, insert_rows, update_rows
from usage.facts import store
from usage.facts.decided import TraceFact
from usage.facts.identity import response_key
from usage.facts.likely import MARK, all_signs
from usage.facts.received import Received
from usage.facts.twins import response_ids
from usage.langfuse.wire import ReceivedObservation
from usage.models import ResponseTraces

MOST_TRACES = 100
"""An id that more traces say is none: some servers give all their responses the same."""
OF_MANY = "*"
Said = Mapping[str, Set[str]]
"""The response ids that traces say, by their keys; only of those that say any."""
TABLE = ResponseTraces._meta.db_table


class Tied(NamedTuple):
    """What belongs to the traces of a change: further stored traces (locked) that share a call with
    one of them, or did, or with one of the others; and the ids that they share.
    """

    others: Sequence[tuple[TraceFact, Received]] = ()
    shared: frozenset[str] = frozenset()


NOT_TIED = Tied()


def said_by(
    steps_of: Mapping[str, Iterable[ReceivedObservation]], *, looks_for_likely: bool
) -> Said:
    """What traces say: the ids of responses, and, where likely twins are looked for, the signs of
    their calls.
    """
    said: dict[str, Set[str]] = {}
    for key, observations in steps_of.items():
        steps = [one.step for one in observations]
        if ids := response_ids(steps) | (all_signs(steps) if looks_for_likely else frozenset()):
            said[key] = ids
    return said


def tie(connection_id: int, before: Said, now: Said, *, looks_for_likely: bool = False) -> Tied:
    """Keep what traces say ``now`` that said what they said ``before`` (nothing: new ones), and
    find what belongs to them. Call it in the transaction that stores them.
    """
    if not before and not now:
        return NOT_TIED
    rows = _Rows(connection_id)
    waiting = rows.write(before, now)
    known = {*before, *now}
    others: list[tuple[TraceFact, Received]] = []
    while waiting := waiting - known:
        known |= waiting
        traces = store.lock_traces(waiting)
        received = store.load_received(traces)
        others += [(trace, received[key]) for key, trace in traces.items()]
        steps_of = {key: one.observations.values() for key, one in received.items()}
        said = said_by(steps_of, looks_for_likely=looks_for_likely)
        waiting = rows.write(said, said)
    return Tied(others, rows.shared)


class _Rows:
    """The rows of response ids, as they are asked for; all of them are locked."""

    def __init__(self, connection_id: int) -> None:
        self._connection_id = connection_id
        self._traces: dict[str, Set[str]] = {}
        """By id; none of an id that too many traces say."""

    @property
    def shared(self) -> frozenset[str]:
        return frozenset(one for one, traces in self._traces.items() if len(traces) > 1)

    def write(self, before: Said, now: Said) -> Set[str]:
        """Bring the rows of all these ids to what is said now. Returns all traces that say one of
        them, or did.
        """
        # Also of what was said before: its signs may not have been looked for then.
        added = _by_id(now)
        gone = _by_id({key: ids - now.get(key, set()) for key, ids in before.items()})
        asked = {one for said in (before, now) for ids in said.values() for one in ids}
        key_of = {
            response_key(self._connection_id, one): one for one in asked - self._traces.keys()
        }
        with database.cursor() as cursor:
            inserted = _insert(
                cursor,
                {
                    (key, one.startswith(MARK)): added[one]
                    for key, one in sorted(key_of.items())
                    if one in added
                },
            )
            for one in map(key_of.__getitem__, inserted):
                self._traces[one] = set() if len(added[one]) > MOST_TRACES else added[one]
            stored = _locked(cursor, key_of.keys() - inserted)
            return self._change(
                cursor, {key_of[key]: (key, text) for key, text in stored}, added, gone
            )

    def _change(
        self,
        cursor: CursorWrapper,
        stored: Mapping[str, tuple[str, str]],
        added: Said,
        gone: Said,
    ) -> Set[str]:
        changed: list[tuple[str, str]] = []
        concerned: set[str] = set()
        for one, (key, text) in stored.items():
            if text == OF_MANY:
                self._traces[one] = set()
                continue
            were = set(text.split())
            traces = (were - gone.get(one, set())) | added.get(one, set())
            concerned |= were | traces
            if len(traces) > MOST_TRACES:
                changed.append((key, OF_MANY))
                traces = set()
            elif traces != were:
                changed.append((key, " ".join(sorted(traces))))
            self._traces[one] = traces
        # A row that no trace says any more stays: who has found it waits for it.
        update_rows(cursor, TABLE, ("id", "traces"), changed)
        return concerned


def _by_id(said: Said) -> dict[str, set[str]]:
    traces: dict[str, set[str]] = {}
    for key, ids in said.items():
        for one in ids:
            traces.setdefault(one, set()).add(key)
    return traces


def _insert(cursor: CursorWrapper, traces: Mapping[tuple[str, bool], Set[str]]) -> Set[str]:
    """Insert the rows that are not there yet, in the order of their keys. Returns which these are.
    ``traces``: by key, and whether it is of a sign.

    Where another worker has inserted one and not committed yet, this waits for it.
    """
    if not traces:
        return set()
    kind = ResponseTraces._meta.pk.db_type(database)
    execute_all(
        cursor, *empty_table("usage_response_said", f"id {kind}, is_sign bool, traces text")
    )
    rows = (
        (key, is_sign, OF_MANY if len(keys) > MOST_TRACES else " ".join(sorted(keys)))
        for (key, is_sign), keys in traces.items()
    )
    insert_rows(cursor, "usage_response_said", ["id", "is_sign", "traces"], rows)
    cursor.execute(
        f"INSERT INTO {TABLE} (id, is_sign, traces) SELECT id, is_sign, traces"
        " FROM usage_response_said WHERE 1 = 1 ORDER BY id ON CONFLICT (id) DO NOTHING RETURNING id"
    )
    return {_hex(key) for (key,) in cursor.fetchall()}


def _locked(cursor: CursorWrapper, keys: Iterable[str]) -> list[tuple[str, str]]:
    """The rows of these keys with their traces, locked in the order of their keys."""
    wanted = list(keys)
    if not wanted:
        return []
    condition = among("id", wanted)
    lock = " FOR UPDATE" if database.vendor == "postgresql" else ""
    cursor.execute(
        f"SELECT id, traces FROM {TABLE} WHERE {condition.sql} ORDER BY id{lock}", condition.params
    )
    return [(_hex(key), traces) for key, traces in cursor.fetchall()]


def _hex(key: object) -> str:
    return getattr(key, "hex", None) or str(key)
