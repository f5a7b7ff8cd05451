"""Cuts the periods of a question into the coarsest periods that are built, and the edges that are left to the facts. Pure."""

from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from usage.models import Granularity
from usage.periods import period_of

Bucket = tuple[datetime, datetime]
Unreliable = Mapping[Granularity, Container[datetime]]
"""For each granularity, the starts of the periods that can't be read."""


class Piece(NamedTuple):
    """A stretch of a bucket: periods of one granularity next to each other, or what only the facts can answer (None)."""

    bucket: int
    granularity: Granularity | None
    start: datetime
    end: datetime


def cut(buckets: Sequence[Bucket], granularities: Sequence[Granularity], unreliable: Unreliable) -> list[Piece]:
    """The pieces of all buckets. ``granularities`` are those that can be had, finest first."""
    coarsest_first = tuple(reversed(granularities))
    return [
        Piece(number, granularity, piece_start, piece_end)
        for number, (start, end) in enumerate(buckets)
        for granularity, piece_start, piece_end in _merged(_cut(start, end, coarsest_first, unreliable))
    ]


Stretch = tuple[Granularity | None, datetime, datetime]


def _cut(start: datetime, end: datetime, granularities: Sequence[Granularity], unreliable: Unreliable) -> Iterator[Stretch]:
    """As many of the coarsest periods as fit; what is between them, of finer ones."""
    if start >= end:
        return
    if not granularities:
        yield None, start, end
        return
    granularity, *finer = granularities
    gap = start
    period_start, period_end = period_of(granularity, start)
    if period_start < start:
        period_start, period_end = period_of(granularity, period_end)
    while period_end <= end:
        if period_start not in unreliable[granularity]:
            yield from _cut(gap, period_start, finer, unreliable)
            yield granularity, period_start, period_end
            gap = period_end
        period_start, period_end = period_of(granularity, period_end)
    yield from _cut(gap, end, finer, unreliable)


def _merged(stretches: Iterator[Stretch]) -> Iterator[Stretch]:
    """Stretches of one granularity that follow each other are one."""
    last: Stretch | None = None
    for stretch in stretches:
        if last and last[0] == stretch[0] and last[2] == stretch[1]:
            last = (last[0], last[1], stretch[2])
            continue
        if last:
            yield last
        last = stretch
    if last:
        yield last
