"""Which records of a trace, and of several, are of one call of a model: a call is counted once
(domain.md, A call is counted once). Pure.

*Twins* are records of one call: those that carry one response id, and, in one trace, those of two
integrations with the same model, the same usage, and one inside the other's time. Of n calls that
two integrations recorded there are n pairs. What carries two response ids that differ is never one
call. A step that repeats what the calls inside it used is its calls' sum (``findings``): it is
looked for among what did happen, so with twins counted once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec

from pricing.model_names import DATE, ModelName
from pricing.units import count_tokens, units_of
from usage.facts.findings import sums_of_children
from usage.facts.pairing import NO_IDS, K, Named, Records, by, connected, in_and_out
from usage.facts.unmetered import is_metered
from usage.langfuse.wire import StepVersion

Record = tuple[StepVersion, ModelName]
Where = tuple[str, str]
"""A step by its trace's key and its id."""
MOST_USAGES = 3
"""A response id that comes with more different usages names no call: some servers give all their
responses one id.
"""


class Once(NamedTuple):
    """How the calls of a trace are counted once.

    ``twice``: of what is recorded twice the step that is counted; ``sums``: of a sum of others the
    first of these; ``instead``: what is counted of a step that gets from its twins what it lacks;
    ``ids``: the response ids of what is counted.
    """

    twice: Mapping[str, str] = {}
    sums: Mapping[str, str] = {}
    instead: Mapping[str, StepVersion] = {}
    ids: Mapping[str, frozenset[str]] = {}


NOTHING_TWICE = Once()


class Call(NamedTuple):
    """A call as one trace has it: what is counted of it there, and its response ids.

    ``tenant_id``: whose the trace is, None of nobody's; ``rank``: the lowest of all records is
    counted, before all that they say of it; ``is_kept``: ruled to count whatever else records it.
    """

    trace: str
    tenant_id: UUID | None
    step: StepVersion
    ids: frozenset[str]
    rank: int
    name: ModelName
    is_kept: bool = False
    signs: frozenset[str] = NO_IDS
    """What others could be found by that record it without its id (``likely``)."""

    @property
    def where(self) -> Where:
        return self.trace, self.step.observation_id


class Beyond(NamedTuple):
    """What of a trace is not to be seen in its steps: which are ``deleted`` in Langfuse, and which
    of its calls are counted in another trace, or with what another trace says of them.
    """

    deleted: Collection[str] = ()
    counted_in: Mapping[str, Where] = {}
    instead: Mapping[str, StepVersion] = {}
    likely: Mapping[str, Where] = {}
    """As ``counted_in``: calls that were ruled to be counted as others record them."""


NOTHING_BEYOND = Beyond()


class Across(NamedTuple):
    """How calls that several traces have are counted once."""

    counted_in: Mapping[Where, Where]
    instead: Mapping[Where, StepVersion]


def response_ids(steps: Sequence[StepVersion]) -> Set[str]:
    """All that a trace's steps say."""
    return {step.response_id for step in steps if step.response_id}


def may_have_twins(steps: Sequence[StepVersion]) -> bool:
    """Whether one of the calls of a trace may be recorded again, in it or in another one."""
    return bool(response_ids(steps)) or len({step.source for step in steps}) > 1


def counted_once(
    steps: Sequence[StepVersion],
    using: Sequence[StepVersion],
    named: Named,
    kept: Collection[str] = (),
    deleted: Collection[str] = (),
) -> Once:
    """How the steps ``using`` something are counted once; those ``kept`` count in any case, and
    those that are ``deleted`` give way to what is not.
    """
    # Nearly all traces are of one integration that says no ids.
    if len({step.source for step in using}) < 2 and not any(step.response_id for step in steps):
        sums_alone = sums_of_children(steps, using)
        return Once(sums=sums_alone) if sums_alone else NOTHING_TWICE
    using = [step for step in using if is_metered(step)]
    ids = ids_of_calls(steps, using)
    by_source = by(using, lambda step: step.source)
    # What one integration says of its own calls, whichever record of these is counted.
    sums: dict[str, str] = {}
    for of_source in by_source.values():
        sums |= sums_of_children(steps, of_source)
    calls = [step for step in using if step.observation_id not in sums]
    groups = Records(steps, calls, named, ids).of_one_usage()
    repeated = {
        one.observation_id
        for group in groups
        for one in group
        if one is not _first(group, named, deleted) and one.observation_id not in kept
    }
    sums |= sums_of_children(steps, [one for one in calls if one.observation_id not in repeated])
    are_sums = [_first(group, named, deleted).observation_id in sums for group in groups]
    of_sums = [group for group, is_sum in zip(groups, are_sums, strict=True) if is_sum]
    of_calls = [group for group, is_sum in zip(groups, are_sums, strict=True) if not is_sum]
    joined = connected(of_calls, lambda one: ids.get(one.observation_id, NO_IDS))
    return _once([*joined, *of_sums], sums, named, ids, kept, deleted)


def _once(
    groups: Iterable[Sequence[StepVersion]],
    sums: Mapping[str, str],
    named: Named,
    ids: Mapping[str, frozenset[str]],
    kept: Collection[str],
    deleted: Collection[str],
) -> Once:
    twice: dict[str, str] = {}
    instead: dict[str, StepVersion] = {}
    ids_of_counted: dict[str, frozenset[str]] = {}
    for group in groups:
        first = _first(group, named, deleted)
        others = [one for one in group if one is not first]
        twice |= {one.observation_id: first.observation_id for one in others}
        if first.observation_id in sums:
            continue
        if of_call := NO_IDS.union(*[ids.get(one.observation_id, NO_IDS) for one in group]):
            ids_of_counted[first.observation_id] = of_call
        given = [(one, named(one)) for one in others if one.observation_id not in kept]
        whole = completed((first, named(first)), given)
        if whole is not first:
            instead[first.observation_id] = whole
    return Once(twice, sums, instead, ids_of_counted)


def across(calls: Sequence[Call], shared: Set[str]) -> Across:
    """Of the calls that several traces have by the response ids that they share, which is counted;
    whatever order they are in.
    """
    counted_in: dict[Where, Where] = {}
    instead: dict[Where, StepVersion] = {}
    ids = _telling(
        {one.where: one.ids & shared for one in calls}, {one.where: one.step for one in calls}
    )
    for group in _of_one_tenant(sorted(calls, key=lambda one: one.where), ids):
        if len(group) < 2:
            continue
        first = min(group, key=_precedence)
        others = [one for one in group if one is not first]
        counted_in |= {one.where: first.where for one in others}
        given = [(one.step, one.name) for one in others if not one.is_kept]
        whole = completed((first.step, first.name), given)
        if whole is not first.step:
            instead[first.where] = whole
    return Across(counted_in, instead)


def _of_one_tenant(
    calls: Sequence[Call], ids: Mapping[Where, frozenset[str]]
) -> Iterator[Sequence[Call]]:
    """The records of each call. Those of two tenants' runs are never of one: whoever writes traces
    could write a foreign response's id. What is nobody's goes with what is counted before all.
    """
    for group in _connected(calls, ids):
        known = [one for one in group if one.tenant_id is not None]
        if len(tenants := {one.tenant_id for one in known}) < 2:
            yield group
            continue
        before_all = min(known, key=_precedence).tenant_id
        for tenant_id in tenants:
            theirs = {tenant_id, None} if tenant_id == before_all else {tenant_id}
            yield from _connected([one for one in group if one.tenant_id in theirs], ids)


def _connected(
    calls: Sequence[Call], ids: Mapping[Where, frozenset[str]]
) -> Iterable[Sequence[Call]]:
    return connected([[one] for one in calls], lambda one: ids.get(one.where, NO_IDS))


def _precedence(one: Call) -> tuple[Any, ...]:
    """Least for the record that is counted."""
    return one.rank, *_says_most(one.step, one.name), one.where


def may_be_of_one_tenant(some: UUID | None, other: UUID | None) -> bool:
    """Whether two records can be of one call, by whose their traces are."""
    return some is None or other is None or some == other


def ids_of_calls(
    steps: Sequence[StepVersion], using: Sequence[StepVersion]
) -> Mapping[str, frozenset[str]]:
    """The response ids of what used something, by step: its own, and those of the steps right
    inside it that are of the same integration and used nothing, as a gateway records the provider's
    own answer.
    """
    saying = [step for step in steps if step.response_id]
    if not saying:
        return {}
    uses = {step.observation_id: step.source for step in using}
    found: defaultdict[str, set[str]] = defaultdict(set)
    for step in saying:
        if step.observation_id in uses:
            found[step.observation_id].add(step.response_id)
        elif uses.get(step.parent_id) == step.source:
            found[step.parent_id].add(step.response_id)
    return _telling(found, {step.observation_id: step for step in using})


def _telling(
    ids: Mapping[K, Set[str]], steps: Mapping[K, StepVersion]
) -> Mapping[K, frozenset[str]]:
    """The ids that tell one response from others."""
    usages: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
    for key, of_step in ids.items():
        usage = in_and_out(count_tokens(steps[key].usage_details))
        for one in of_step:
            usages[one].add(usage)
    telling = {one for one, found in usages.items() if len(found - {(0, 0)}) <= MOST_USAGES}
    return {key: frozenset(left) for key, of_step in ids.items() if (left := of_step & telling)}


def _first(group: Sequence[StepVersion], named: Named, deleted: Collection[str]) -> StepVersion:
    """The record that is counted: what is still there before what is deleted, then what says
    more.
    """
    if len(group) == 1:
        return group[0]
    return min(
        group,
        key=lambda one: (one.observation_id in deleted, *_says_most(one, named(one))),
    )


def _says_most(step: StepVersion, name: ModelName) -> tuple[int, bool, bool, datetime, str]:
    """Least for the record that says most: the most kinds of units, a cost, a dated model; then the
    earliest, then the id.
    """
    return (
        _kinds(step),
        not _is_costed(step),
        not DATE.search(name.base),
        step.start_time,
        step.observation_id,
    )


def completed(counted: Record, others: Sequence[Record]) -> StepVersion:
    """What is counted, with what it lacks and its twins say: kinds of units, a cost of all of
    them, the model's date or the model at all, how it was asked.
    """
    step, name = counted
    if not others:
        return step
    ordered = sorted(others, key=lambda one: _says_most(*one))
    records = [step, *(one for one, _ in ordered)]
    changes: dict[str, object] = {}
    fullest = min(records, key=_kinds)
    if fullest is not step:
        changes = {"usage_details": fullest.usage_details}
        changes |= {"cost_usd": fullest.cost_usd, "uncosted": fullest.uncosted}
    if not _is_costed(fullest):
        whole = next((one for one in records if _is_costed(one)), None)
        if whole is not None:
            changes |= {"cost_usd": whole.cost_usd, "uncosted": ()}
    model = next((one.model for one, other in ordered if _says_model(name, other)), None)
    if model is not None:
        changes["model"] = model
    context = next((one.context for one in records if one.context), "")
    if context != step.context:
        changes["context"] = context
    return msgspec.structs.replace(step, **changes) if changes else step


def _kinds(step: StepVersion) -> int:
    """The least for the most kinds of units."""
    return -len(units_of(step.usage_details)) if step.usage_details else 0


def _is_costed(step: StepVersion) -> bool:
    return step.cost_usd is not None and not step.uncosted


def _says_model(own: ModelName, other: ModelName) -> bool:
    """Whether the other name says what the own one lacks."""
    if not other.provider:
        return False
    if not own.provider:
        return True
    if own.says_provider and own.provider != other.provider:
        return False
    return not DATE.search(own.base) and bool(
        DATE.search(other.base) and DATE.sub("", other.base) == own.base
    )
