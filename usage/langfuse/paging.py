"""Pages of v2 observations without the versions that a page's border would tear apart.

A cursor goes on behind the last row's start, trace and id. Further versions of that row have the
same, so what of them did not fit on the page comes on no other (langfuse.md, v2 observations).
"""

import base64
import binascii
import json
from dataclasses import replace
from typing import NamedTuple

from usage.langfuse.wire import TEXT_LENGTH, Page, ReceivedObservation, iso


class Position(NamedTuple):
    """A place in the order of the rows, as a cursor names it."""

    start_time: str
    trace_id: str
    observation_id: str


def whole_versions(page: Page) -> Page:
    """The page without the last row and its other versions, and with the cursor that has all of
    them on the next page.

    As it is where it is the last one, where all of it is of one row, and where its cursor is in no
    form that we know.
    """
    border = _position(page.cursor) if page.cursor else None
    if border is None:
        return page
    kept = [one for one in page.observations if not _is_at(one, border)]
    if not kept or _was_cut(last := _position_of(kept[-1])):
        return page
    rejected = [
        one
        for one in page.rejected
        if (one.trace_id, one.observation_id) != (border.trace_id, border.observation_id)
    ]
    return replace(page, observations=kept, rejected=rejected, cursor=_cursor(last))


def _is_at(one: ReceivedObservation, border: Position) -> bool:
    # The id first: it tells nearly all of them apart.
    return one.step.observation_id == border.observation_id and _position_of(one) == border


def _position_of(one: ReceivedObservation) -> Position:
    return Position(iso(one.step.start_time), one.trace_id, one.step.observation_id)


def _was_cut(position: Position) -> bool:
    """Whether an id may be another than Langfuse's own."""
    return max(len(position.trace_id), len(position.observation_id)) >= TEXT_LENGTH


def _position(cursor: str) -> Position | None:
    try:
        told = json.loads(base64.b64decode(cursor, validate=True))
        return Position(told["lastStartTimeTo"], told["lastTraceId"], told["lastId"])
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None


def _cursor(position: Position) -> str:
    told = {
        "lastStartTimeTo": position.start_time,
        "lastTraceId": position.trace_id,
        "lastId": position.observation_id,
    }
    return base64.b64encode(json.dumps(told, separators=(",", ":")).encode()).decode()
