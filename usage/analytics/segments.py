"""Cuts the periods of a question into the coarsest periods that are built, and the edges that are
left to the facts. Pure.

Sums can also be taken away: of a month but for its first day, the month's less the day's are two
rows where days would be thirty.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from usage.periods import Granularity, end_of, period_of

Bucket = tuple[datetime, datetime]
Unreliable = Mapping[Granularity, Container[datetime]]
"""For each granularity, the starts of the periods that can't be read."""


class Segment(NamedTuple):
    """A stretch of a bucket: periods of one granularity next to each other, or what only the facts
    can answer (None).
    """

    bucket: int
    granularity: Granularity | None
    start: datetime
    end: datetime


class Segments(NamedTuple):
    """Segments of a rollup, and segments of the facts."""

    built: Sequence[Segment]
    facts: Sequence[Segment]

    @classmethod
    def of(cls, segments: Iterable[Segment]) -> "Segments":
        segments = list(segments)
        return cls(
            [one for one in segments if one.granularity],
            [one for one in segments if not one.granularity],
        )


def cut(
    buckets: Sequence[Bucket], granularities: Sequence[Granularity], unreliable: Unreliable
) -> Segments:
    """The segments of all buckets. ``granularities`` are those that can be had, finest first."""
    coarsest_first = tuple(reversed(granularities))
    return Segments.of(
        Segment(number, *stretch)
        for number, (start, end) in enumerate(buckets)
        for stretch in _merged(_cut(start, end, coarsest_first, unreliable))
    )


def cut_by_difference(
    buckets: Sequence[Bucket],
    granularities: Sequence[Granularity],
    unreliable: Unreliable,
    now: datetime,
) -> tuple[Segments, Segments]:
    """Segments to add and segments to take away, which come to the buckets.

    After ``now`` there is next to nothing to read.
    """
    coarsest_first = tuple(reversed(granularities))
    segments: dict[int, list[Segment]] = {ADDED: [], TAKEN: []}
    for number, (start, end) in enumerate(buckets):
        stretches = list(_differ(start, end, coarsest_first, unreliable, now, ADDED))
        for sign, found in segments.items():
            found += [
                Segment(number, *stretch)
                for stretch in _merged(stretch for one, stretch in stretches if one == sign)
            ]
    return Segments.of(segments[ADDED]), Segments.of(segments[TAKEN])


ADDED, TAKEN = +1, -1
Stretch = tuple[Granularity | None, datetime, datetime]


def _cut(
    start: datetime, end: datetime, granularities: Sequence[Granularity], unreliable: Unreliable
) -> Iterator[Stretch]:
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
        period_start, period_end = period_end, end_of(granularity, period_end)
    while period_end <= end:
        if period_start not in unreliable[granularity]:
            yield from _cut(gap, period_start, finer, unreliable)
            yield granularity, period_start, period_end
            gap = period_end
        period_start, period_end = period_end, end_of(granularity, period_end)
    yield from _cut(gap, end, finer, unreliable)


def _differ(
    start: datetime,
    end: datetime,
    granularities: Sequence[Granularity],
    unreliable: Unreliable,
    now: datetime,
    sign: int,
) -> Iterator[tuple[int, Stretch]]:
    """The same, but a period of which little is left over is also taken whole, and what is left
    over of it is taken away.
    """
    if start >= end:
        return
    if not granularities:
        yield sign, (None, start, end)
        return
    granularity, *finer = granularities
    gap = start
    period_start, period_end = period_of(granularity, start)
    while period_start < end:
        if period_start not in unreliable[granularity] and _is_worth_it(
            period_start, period_end, start, end, now
        ):
            yield from _differ(gap, period_start, finer, unreliable, now, sign)
            yield sign, (granularity, period_start, period_end)
            yield from _differ(period_start, start, finer, unreliable, now, -sign)
            yield from _differ(end, period_end, finer, unreliable, now, -sign)
            gap = period_end
        period_start, period_end = period_end, end_of(granularity, period_end)
    yield from _differ(gap, end, finer, unreliable, now, sign)


def _is_worth_it(
    period_start: datetime, period_end: datetime, start: datetime, end: datetime, now: datetime
) -> bool:
    """Whether the period lies in [start, end), or at least twice as much of its past does as does
    not.
    """
    if start <= period_start and period_end <= end:
        return True
    inside = max(min(period_end, end, now) - max(period_start, start), NOTHING)
    outside = max(min(period_end, now) - period_start, NOTHING) - inside
    return inside > NOTHING and inside >= 2 * outside


NOTHING = timedelta(0)


def _merged(stretches: Iterable[Stretch]) -> Iterator[Stretch]:
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
