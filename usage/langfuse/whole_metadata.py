"""Metadata that gateways write as one long JSON text, wholly: Langfuse cuts values off, and the
text in which LiteLLM names the key's team, organisation and user is longer (docs/langfuse.md).

Asked for wholly (``expandMetadata``), Langfuse puts any version's metadata onto any version of a
re-sent step. So it is believed only of a step of which one version is shown, before and after, and
where it says what its beginning said.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from operator import attrgetter

import msgspec

from usage.langfuse.evidence import CUT
from usage.langfuse.wire import Page, ReceivedObservation

LONG_KEYS = ("attributes.metadata",)
Which = tuple[str, str, object]
decode = msgspec.json.Decoder(list[str]).decode
_evidence_of = attrgetter("step.evidence")


def cut_off(page: Page) -> list[str]:
    """Which of the long keys some step of the page has, cut off."""
    told = filter(_evidence_of, page.observations)
    found = {key for one in told for key in _cut(one) if key in LONG_KEYS}
    return sorted(found)


def with_whole(page: Page, expanded: Iterable[ReceivedObservation]) -> Page:
    """The page, with the metadata of its steps as it is in ``expanded`` where that can be
    believed.
    """
    others = list(expanded)
    shown, shown_then = _counted(page.observations), _counted(others)
    whole = {_which(one): one for one in others if shown_then[_which(one)] == 1}
    return replace(
        page,
        observations=[
            _believed(one, whole[_which(one)])
            if shown[_which(one)] == 1 and _which(one) in whole and _cut(one)
            else one
            for one in page.observations
        ],
    )


def _counted(observations: Iterable[ReceivedObservation]) -> Mapping[Which, int]:
    return Counter(map(_which, observations))


def _which(one: ReceivedObservation) -> Which:
    return one.trace_id, one.step.observation_id, one.step.start_time


def _believed(one: ReceivedObservation, whole: ReceivedObservation) -> ReceivedObservation:
    """The step with the longer metadata, if it is otherwise the same and begins as it did."""
    step = msgspec.structs.replace(whole.step, evidence=one.step.evidence)
    if (one.trace_attributes, one.step) != (whole.trace_attributes, step):
        return one
    told, more = one.step.evidence, whole.step.evidence
    same = [path for path in told.keys() & more.keys() if path != CUT]
    begins_so = any(path.startswith(LONG_KEYS) for path in same)
    return whole if begins_so and all(told[path] == more[path] for path in same) else one


def _cut(one: ReceivedObservation) -> list[str]:
    text = one.step.evidence.get(CUT)
    return decode(text) if text else []
