"""What Langfuse says of a trace, as it is stored: the newest version of each of its steps, in one
row a trace (ReceivedTrace).

Nine of ten steps use nothing. Nobody asks for one of them alone, only for all steps of a trace, to
decide it; so they have no rows of their own. The text is JSON, canonical: the same steps are the
same text, whatever the order that they came in. Pure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

import msgspec

from usage.langfuse.wire import ReceivedObservation, StepVersion, TraceAttributes

# Keys of usage are sorted, so that the same usage is the same text.
_encoder = msgspec.json.Encoder(order="deterministic")
_groups = msgspec.json.Decoder(list[tuple[TraceAttributes | None, list[StepVersion]]])
_moments = msgspec.json.Decoder(dict[str, datetime])


@dataclass(slots=True)
class Received:
    """The steps of a trace by their ids, and since when which of them are deleted in Langfuse."""

    observations: dict[str, ReceivedObservation]
    deleted: dict[str, datetime]


_when_it_began = attrgetter("step.start_time", "step.observation_id")
_is_root = attrgetter("step.is_root")


def in_precedence(observations: Sequence[ReceivedObservation]) -> list[ReceivedObservation]:
    """Roots before others, then the earliest; the id decides between equals."""
    ordered = sorted(observations, key=_when_it_began)
    are_roots = [*map(_is_root, ordered)]
    if False in are_roots[: are_roots.count(True)]:
        ordered.sort(key=_is_root, reverse=True)
    return ordered


def is_newer(one: ReceivedObservation, other: ReceivedObservation) -> bool:
    """Whether ``one`` replaces ``other``, a version of the same step: it was received later, or at
    the same moment and its text is greater.

    Versions are ordered by this; the greatest is the truth, however they arrive.
    """
    received_at, before = one.step.received_at, other.step.received_at
    if received_at != before:
        return received_at > before
    return one != other and _text_of(one) > _text_of(other)


def _text_of(one: ReceivedObservation) -> bytes:
    return _encoder.encode((one.trace_attributes, one.step))


def newest_by_trace(
    received: Iterable[ReceivedObservation],
) -> dict[str, dict[str, ReceivedObservation]]:
    """The newest version of each step, by its id, of each trace, by Langfuse's id of it."""
    traces: dict[str, dict[str, ReceivedObservation]] = {}
    for one in received:
        steps = traces.get(one.trace_id)
        if steps is None:
            steps = traces[one.trace_id] = {}
        known = steps.setdefault(one.step.observation_id, one)
        if known is not one and is_newer(one, known):
            steps[one.step.observation_id] = one
    return traces


def packed(
    steps: Sequence[StepVersion], of_each: Sequence[TraceAttributes], decided: TraceAttributes
) -> str:
    """The steps of a trace, in the order of their precedence, and what each says of it, as text.

    What was decided for the trace is not repeated where a step says the same.
    """
    first = of_each[0]
    if of_each.count(first) == len(of_each):
        groups = [(None if first == decided else first, steps)]
    else:
        groups = [
            (
                None if each == decided else each,
                [step for step, own in zip(steps, of_each, strict=True) if own == each],
            )
            for each in dict.fromkeys(of_each)
        ]
    return _encoder.encode(groups).decode()


def packed_deletions(deleted: Mapping[str, datetime]) -> str:
    return _encoder.encode(deleted).decode() if deleted else ""


def unpacked(trace_id: str, decided: TraceAttributes, steps: str, deleted: str) -> Received:
    """The inverse of :func:`packed`; ``trace_id`` is Langfuse's."""
    observations = {
        step.observation_id: ReceivedObservation(
            trace_id, decided if attributes is None else attributes, step
        )
        for attributes, versions in _groups.decode(steps)
        for step in versions
    }
    return Received(observations, _moments.decode(deleted) if deleted else {})
