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
MOST_LOOKED_AT = 100_000
"""So many pairs of records with the same usage are looked at: all of 300 calls at once. Of more,
each is compared with the nearest.
"""
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
        self._ancestors: dict[str, set[str]] = {}
        self._said: dict[str, Said] = {}
        for step in using:
            base = named(step).base if step.model else ""
            dated = DATE.search(base)
            date = dated.group().replace("-", "").removeprefix("latest") if dated else ""
            details = tuple(self._tokens[step.observation_id][3:])
            self._said[step.observation_id] = Said(
                DATE.sub("", base), date, details, self._ids_of(step)
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
        most = MOST_LOOKED_AT // max(len(calls), len(groups), 1) + 1
        spans = Spans([(one, at) for at, call in enumerate(calls) for one in call], most)
        inner = Spans([(one, at) for at, group in enumerate(groups) for one in group], most)
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
            at: nsmallest(most, ((nearness, call) for call, nearness in found.items()))
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
        if not self._may_be_one(one, other):
            return
        if not all(self._agree(some, others) for some in members for others in group):
            return
        nearness = self._nearness(one, other)
        if call not in wishes or nearness < wishes[call]:
            wishes[call] = nearness

    def _agree(self, one: StepVersion, other: StepVersion) -> bool:
        """Whether nothing says that they are of two calls: one integration records a call once, and
        a call has one response id, one model, and one number of cached tokens and the like, where
        said.
        """
        if one.source == other.source:
            return False
        said, others = self._said[one.observation_id], self._said[other.observation_id]
        if not said.base or said.base != others.base:
            return False
        if said.date and others.date and said.date != others.date:
            return False
        if clash(said.ids, others.ids):
            return False
        return said.details == others.details or all(
            not count or not same or count == same
            for count, same in zip(said.details, others.details, strict=True)
        )

    def _nearness(self, one: StepVersion, other: StepVersion) -> "Nearness":
        """Parent and child before others, then the nearest in time; the ids decide."""
        first, second = one.observation_id, other.observation_id
        ends = (one.end_time or one.start_time, other.end_time or other.start_time)
        apart = abs(one.start_time - other.start_time) + abs(ends[0] - ends[1])
        is_inside = first in self._around(second) or second in self._around(first)
        return Nearness(not is_inside, apart, *sorted((first, second)))

    def _around(self, step_id: str) -> Set[str]:
        """The steps that it is inside of."""
        found = self._ancestors.get(step_id)
        if found is None:
            found, at = set(), self._parents.get(step_id, "")
            while at and at not in found:
                found.add(at)
                at = self._parents.get(at, "")
            self._ancestors[step_id] = found
        return found


class Said(NamedTuple):
    """What a record says of its call: the model, without and by its date; the tokens of details;
    and the response ids.
    """

    base: str
    date: str
    details: tuple[int, ...]
    ids: frozenset[str]


class Nearness(NamedTuple):
    is_beside: bool
    apart: timedelta
    first: str
    second: str


class Spans:
    """Records by their time: which of them a record is inside of."""

    def __init__(self, records: Iterable[tuple[StepVersion, int]], most: int) -> None:
        self._most = most
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
        while at and len(found) < self._most:
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
