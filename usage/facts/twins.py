"""Which records of a trace, and of several, are of one call of a model: a call is counted once
(domain.md, A call is counted once). Pure.

*Twins* are records of one call: those that carry one response id, and, in one trace, those of two
integrations with the same model, the same usage, and one inside the other's time. Of n calls that
two integrations recorded there are n pairs. What carries two response ids that differ is never one
call. A step that repeats what the calls inside it used is its calls' sum (``findings``): it is
looked for among what did happen, so with twins counted once.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from heapq import nsmallest
from typing import NamedTuple, TypeVar

import msgspec

from pricing.model_names import DATE, ModelName
from pricing.units import TokenCounts, count_tokens, units_of
from usage.facts.findings import sums_of_children
from usage.facts.unmetered import is_metered
from usage.langfuse.wire import StepVersion

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Named = Callable[[StepVersion], ModelName]
"""What the model of a step is, as its connection reads names."""
Record = tuple[StepVersion, ModelName]
Where = tuple[str, str]
"""A step by its trace's key and its id."""
MOST_USAGES = 3
"""A response id that comes with more different usages names no call: some servers give all their
responses one id.
"""
NEAREST = 16
"""So many of the records that one can be inside of are looked at."""
ID_OF_A_GATEWAY = re.compile(r"chatcmpl-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""LiteLLM makes an id of its own for a response that is not of OpenAI's."""
NO_IDS: frozenset[str] = frozenset()


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


class Call(NamedTuple):
    """A call as one trace has it: what is counted of it there, and its response ids.

    ``rank``: the lowest of all records is counted, before all that they say of it; ``is_kept``:
    ruled to count whatever else records it.
    """

    trace: str
    step: StepVersion
    ids: frozenset[str]
    rank: int
    name: ModelName
    is_kept: bool = False

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


NOTHING_BEYOND = Beyond()


class Across(NamedTuple):
    """How calls that several traces have are counted once."""

    counted_in: Mapping[Where, Where]
    instead: Mapping[Where, StepVersion]

    def by_trace(self) -> dict[str, Beyond]:
        """What of each trace concerns it."""
        counted_in: dict[str, dict[str, Where]] = {}
        instead: dict[str, dict[str, StepVersion]] = {}
        for (trace, step_id), where in self.counted_in.items():
            counted_in.setdefault(trace, {})[step_id] = where
        for (trace, step_id), step in self.instead.items():
            instead.setdefault(trace, {})[step_id] = step
        return {
            trace: Beyond((), counted_in.get(trace, {}), instead.get(trace, {}))
            for trace in counted_in.keys() | instead.keys()
        }


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
    using = [step for step in using if is_metered(step)]
    ids = _ids_of_calls(steps, using)
    by_source = _by(using, lambda step: step.source)
    if not ids and len(by_source) < 2:
        return Once(sums=sums_of_children(steps, using))
    # What one integration says of its own calls, whichever record of these is counted.
    sums: dict[str, str] = {}
    for of_source in by_source.values():
        sums |= sums_of_children(steps, of_source)
    calls = [step for step in using if step.observation_id not in sums]
    groups = _Trace(steps, calls, named, ids).of_one_usage()
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
    joined = _connected(of_calls, lambda one: ids.get(one.observation_id, NO_IDS))
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
        completed = _completed((first, named(first)), given)
        if completed is not first:
            instead[first.observation_id] = completed
    return Once(twice, sums, instead, ids_of_counted)


def across(calls: Sequence[Call]) -> Across:
    """Of the calls that several records have by their response ids, which is counted; whatever
    order they are in.
    """
    counted_in: dict[Where, Where] = {}
    instead: dict[Where, StepVersion] = {}
    ids = _telling({one.where: one.ids for one in calls}, {one.where: one.step for one in calls})
    ordered = sorted(calls, key=lambda one: one.where)
    for group in _connected([[one] for one in ordered], lambda one: ids.get(one.where, NO_IDS)):
        if len(group) < 2:
            continue
        first = min(group, key=lambda one: (one.rank, *_says_most(one.step, one.name), one.where))
        others = [one for one in group if one is not first]
        counted_in |= {one.where: first.where for one in others}
        given = [(one.step, one.name) for one in others if not one.is_kept]
        completed = _completed((first.step, first.name), given)
        if completed is not first.step:
            instead[first.where] = completed
    return Across(counted_in, instead)


def _ids_of_calls(
    steps: Sequence[StepVersion], using: Sequence[StepVersion]
) -> Mapping[str, frozenset[str]]:
    """The response ids of what used something: its own, and those of the steps right inside it that
    are of the same integration and used nothing, as a gateway records the provider's own answer.
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
        usage = _both(count_tokens(steps[key].usage_details))
        for one in of_step:
            usages[one].add(usage)
    telling = {one for one, found in usages.items() if len(found - {(0, 0)}) <= MOST_USAGES}
    return {key: frozenset(left) for key, of_step in ids.items() if (left := of_step & telling)}


class _Trace:
    """The records of one trace that used something, for finding the twins among them."""

    def __init__(
        self,
        steps: Sequence[StepVersion],
        using: Sequence[StepVersion],
        named: Named,
        ids: Mapping[str, frozenset[str]],
    ) -> None:
        self._using = sorted(using, key=_when)
        self._ids = ids
        self._parents = {step.observation_id: step.parent_id for step in steps}
        self._tokens = {one.observation_id: count_tokens(one.usage_details) for one in using}
        self._dates: dict[str, str] = {}
        self._bases: dict[str, str] = {}
        for step in using:
            base = named(step).base if step.model else ""
            dated = DATE.search(base)
            self._bases[step.observation_id] = DATE.sub("", base)
            self._dates[step.observation_id] = (
                dated.group().replace("-", "").removeprefix("latest") if dated else ""
            )

    def of_one_usage(self) -> list[list[StepVersion]]:
        """All records, those of one call together: by a response id and by the signs of a call,
        always with the same input and output.
        """
        groups = []
        for alike in _by(self._using, self._usage).values():
            by_id = _connected([[one] for one in alike], self._ids_of)
            groups += self._paired(by_id) if self._usage(alike[0]) != (0, 0) else by_id
        return groups

    def _ids_of(self, step: StepVersion) -> frozenset[str]:
        return self._ids.get(step.observation_id, NO_IDS)

    def _usage(self, step: StepVersion) -> tuple[int, int]:
        return _both(self._tokens[step.observation_id])

    def _paired(self, groups: list[list[StepVersion]]) -> list[list[StepVersion]]:
        """Groups of different integrations that are of one call, together.

        One integration after the other, its records are given to the calls that are known so far,
        one to one.
        """
        by_source = _by(groups, lambda group: min(one.source for one in group))
        if len(by_source) < 2:
            return groups
        calls: list[list[StepVersion]] = []
        for source in sorted(by_source):
            of_source = by_source[source]
            pairs = self._one_to_one(calls, of_source)
            for at, group in enumerate(of_source):
                if at in pairs:
                    calls[pairs[at]] += group
                else:
                    calls.append([*group])
        return calls

    def _one_to_one(
        self, calls: Sequence[list[StepVersion]], groups: Sequence[list[StepVersion]]
    ) -> dict[int, int]:
        """Which group is of which call: as many as there can be, the nearest first."""
        wishes = self._wishes(calls, groups)
        taken: dict[int, int] = {}
        placed: set[int] = set()
        # The nearest of all first: nearly always that is all there is to do.
        for _, at, call in sorted(
            (nearness, at, call) for at, found in wishes.items() for nearness, call in found
        ):
            if call not in taken and at not in placed:
                taken[call] = at
                placed.add(at)
        for at in wishes:
            if at not in placed:
                _make_room(at, wishes, taken)
        return {at: call for call, at in taken.items()}

    def _wishes(
        self, calls: Sequence[list[StepVersion]], groups: Sequence[list[StepVersion]]
    ) -> dict[int, list[tuple["_Nearness", int]]]:
        """Of each group the calls that it can be of, the nearest first."""
        spans = _Spans([(one, at) for at, call in enumerate(calls) for one in call])
        inner = _Spans([(one, at) for at, group in enumerate(groups) for one in group])
        wishes: defaultdict[int, dict[int, _Nearness]] = defaultdict(dict)
        for at, group in enumerate(groups):
            for one in group:
                for other, call in spans.around(one):
                    self._wish(wishes[at], one, other, call, calls[call], group)
        for call, members in enumerate(calls):
            for one in members:
                for other, at in inner.around(one):
                    self._wish(wishes[at], other, one, call, members, groups[at])
        return {
            at: nsmallest(NEAREST, ((nearness, call) for call, nearness in found.items()))
            for at, found in sorted(wishes.items())
            if found
        }

    def _wish(
        self,
        wishes: dict[int, "_Nearness"],
        one: StepVersion,
        other: StepVersion,
        call: int,
        members: Sequence[StepVersion],
        group: Sequence[StepVersion],
    ) -> None:
        if not self._is_one_call(members, group):
            return
        nearness = self._nearness(one, other)
        if call not in wishes or nearness < wishes[call]:
            wishes[call] = nearness

    def _is_one_call(self, some: Sequence[StepVersion], others: Sequence[StepVersion]) -> bool:
        """Whether nothing says that they are two: one integration records a call once, and a call
        has one response id, one model, and one number of cached tokens and the like, where said.
        """
        if {one.source for one in some} & {one.source for one in others}:
            return False
        both = [*some, *others]
        if clash(NO_IDS.union(*map(self._ids_of, some)), NO_IDS.union(*map(self._ids_of, others))):
            return False
        bases = {self._bases[one.observation_id] for one in both}
        dates = {self._dates[one.observation_id] for one in both} - {""}
        if len(bases) > 1 or "" in bases or len(dates) > 1:
            return False
        details = zip(*[self._tokens[one.observation_id][3:] for one in both], strict=True)
        return all(len(set(counts) - {0}) <= 1 for counts in details)

    def _nearness(self, one: StepVersion, other: StepVersion) -> "_Nearness":
        """Parent and child before others, then the nearest in time; the ids decide."""
        ends = (one.end_time or one.start_time, other.end_time or other.start_time)
        apart = abs(one.start_time - other.start_time) + abs(ends[0] - ends[1])
        first, second = sorted((one.observation_id, other.observation_id))
        is_inside = self._is_inside(one, other) or self._is_inside(other, one)
        return _Nearness(not is_inside, apart, first, second)

    def _is_inside(self, one: StepVersion, other: StepVersion) -> bool:
        seen: set[str] = set()
        at = one.parent_id
        while at and at not in seen:
            if at == other.observation_id:
                return True
            seen.add(at)
            at = self._parents.get(at, "")
        return False


class _Nearness(NamedTuple):
    is_beside: bool
    apart: timedelta
    first: str
    second: str


class _Spans:
    """Records by their time: which of them a record is inside of."""

    def __init__(self, records: Iterable[tuple[StepVersion, int]]) -> None:
        self._records = sorted(
            ((one, at) for one, at in records if one.end_time is not None),
            key=lambda record: _when(record[0]),
        )
        self._starts = [one.start_time for one, _ in self._records]
        lengths = [(one.end_time or one.start_time) - one.start_time for one, _ in self._records]
        self._longest = max(lengths, default=timedelta())

    def around(self, inner: StepVersion) -> list[tuple[StepVersion, int]]:
        """The nearest of those whose time it is inside of."""
        found: list[tuple[StepVersion, int]] = []
        end = inner.end_time or inner.start_time
        at = bisect_right(self._starts, inner.start_time)
        while at and len(found) < NEAREST:
            at -= 1
            outer, number = self._records[at]
            if outer.start_time + self._longest < end:
                break
            if outer is not inner and outer.end_time is not None and outer.end_time >= end:
                found.append((outer, number))
        return found


def _make_room(
    at: int, wishes: Mapping[int, Sequence[tuple[_Nearness, int]]], taken: dict[int, int]
) -> bool:
    """Give the group a call, if others can have other ones for it."""
    asked: dict[int, int] = {}
    waiting = [at]
    while waiting:
        group = waiting.pop(0)
        for _, call in wishes[group]:
            if call in asked:
                continue
            asked[call] = group
            if call not in taken:
                _hand_on(call, at, asked, taken)
                return True
            waiting.append(taken[call])
    return False


def _hand_on(call: int, at: int, asked: Mapping[int, int], taken: dict[int, int]) -> None:
    had = {group: one for one, group in taken.items()}
    while True:
        group = asked[call]
        taken[call] = group
        if group == at:
            return
        call = had[group]


def clash(some: Set[str], others: Set[str]) -> bool:
    """Whether response ids say that it is not one call: an id that a gateway made is beside the
    provider's, not instead of it.
    """
    if not some or not others or some & others:
        return False
    of_gateways = [all(map(ID_OF_A_GATEWAY.match, ids)) for ids in (some, others)]
    return of_gateways[0] == of_gateways[1]


def _connected(
    groups: Iterable[Sequence[T]], ids_of: Callable[[T], frozenset[str]]
) -> list[list[T]]:
    """Groups that have a response id in common, together."""
    joined: dict[int, list[T]] = {}
    place_of: dict[str, int] = {}
    for at, group in enumerate(groups):
        ids = NO_IDS.union(*map(ids_of, group))
        places = {place_of[one] for one in ids if one in place_of}
        joined[at] = [member for place in sorted(places) for member in joined.pop(place)]
        joined[at] += group
        for one in NO_IDS.union(*map(ids_of, joined[at])) if places else ids:
            place_of[one] = at
    return list(joined.values())


def _by(records: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for one in records:
        found.setdefault(key(one), []).append(one)
    return found


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


def _completed(counted: Record, others: Sequence[Record]) -> StepVersion:
    """What is counted, with what it lacks and its twins say: kinds of units, a cost of all of
    them, the model's date or the model at all.
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


def _both(tokens: TokenCounts) -> tuple[int, int]:
    return tokens.input, tokens.output


def _when(step: StepVersion) -> tuple[datetime, str]:
    return step.start_time, step.observation_id
