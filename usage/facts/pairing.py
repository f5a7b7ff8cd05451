"""Gives the records of several integrations to one another that are of one call: one to one, as
many as there can be, the nearest first (domain.md, A call is counted once). Pure.
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from datetime import datetime, timedelta
from heapq import nsmallest
from typing import NamedTuple, TypeVar

from pricing.model_names import DATE, ModelName
from pricing.units import TokenCounts, count_tokens
from usage.langfuse.wire import StepVersion

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)
Named = Callable[[StepVersion], ModelName]
"""What the model of a step is, as its connection reads names."""
NEAREST = 16
"""So many of the records that one can be inside of are looked at."""
ID_OF_A_GATEWAY = re.compile(r"chatcmpl-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
"""LiteLLM makes an id of its own for a response that is not of OpenAI's."""
NO_IDS: frozenset[str] = frozenset()


class Records:
    """The records of one trace that used something, for finding the twins among them."""

    def __init__(
        self,
        steps: Sequence[StepVersion],
        using: Sequence[StepVersion],
        named: Named,
        ids: Mapping[str, frozenset[str]],
        may_be_one: Callable[[StepVersion, StepVersion], bool] = lambda one, other: True,
    ) -> None:
        self._using = sorted(using, key=_when)
        self._ids = ids
        self._may_be_one = may_be_one
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
        for alike in by(self._using, self._usage).values():
            by_id = connected([[one] for one in alike], self._ids_of)
            groups += self._paired(by_id) if self._usage(alike[0]) != (0, 0) else by_id
        return groups

    def _ids_of(self, step: StepVersion) -> frozenset[str]:
        return self._ids.get(step.observation_id, NO_IDS)

    def _usage(self, step: StepVersion) -> tuple[int, int]:
        return in_and_out(self._tokens[step.observation_id])

    def _paired(self, groups: list[list[StepVersion]]) -> list[list[StepVersion]]:
        """Groups of different integrations that are of one call, together.

        One integration after the other, its records are given to the calls that are known so far,
        one to one.
        """
        by_source = by(groups, lambda group: min(one.source for one in group))
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
    ) -> dict[int, list[tuple["Nearness", int]]]:
        """Of each group the calls that it can be of, the nearest first."""
        spans = Spans([(one, at) for at, call in enumerate(calls) for one in call])
        inner = Spans([(one, at) for at, group in enumerate(groups) for one in group])
        wishes: defaultdict[int, dict[int, Nearness]] = defaultdict(dict)
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
        wishes: dict[int, "Nearness"],
        one: StepVersion,
        other: StepVersion,
        call: int,
        members: Sequence[StepVersion],
        group: Sequence[StepVersion],
    ) -> None:
        if not (self._may_be_one(one, other) and self._is_one_call(members, group)):
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

    def _nearness(self, one: StepVersion, other: StepVersion) -> "Nearness":
        """Parent and child before others, then the nearest in time; the ids decide."""
        ends = (one.end_time or one.start_time, other.end_time or other.start_time)
        apart = abs(one.start_time - other.start_time) + abs(ends[0] - ends[1])
        first, second = sorted((one.observation_id, other.observation_id))
        is_inside = self._is_inside(one, other) or self._is_inside(other, one)
        return Nearness(not is_inside, apart, first, second)

    def _is_inside(self, one: StepVersion, other: StepVersion) -> bool:
        seen: set[str] = set()
        at = one.parent_id
        while at and at not in seen:
            if at == other.observation_id:
                return True
            seen.add(at)
            at = self._parents.get(at, "")
        return False


class Nearness(NamedTuple):
    is_beside: bool
    apart: timedelta
    first: str
    second: str


class Spans:
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
    at: int, wishes: Mapping[int, Sequence[tuple[Nearness, int]]], taken: dict[int, int]
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


def connected(
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


def by(records: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    found: dict[K, list[T]] = {}
    for one in records:
        found.setdefault(key(one), []).append(one)
    return found


def in_and_out(tokens: TokenCounts) -> tuple[int, int]:
    return tokens.input, tokens.output


def _when(step: StepVersion) -> tuple[datetime, str]:
    return step.start_time, step.observation_id
