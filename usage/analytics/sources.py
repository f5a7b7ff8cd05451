"""What arrives by integration, its version and environment, and how much of it has an owner, is
priced and is counted once. Of the whole platform.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from kluisz_analytics.periods import Period
from kluisz_analytics.scales import USD_PLACES, Usd, from_scaled
from usage.analytics.comparison import Comparison, comparison_of
from usage.analytics.recorded import BySource, Recorded, SourceKey, recorded_in
from usage.rollups.sources import SUM_NAMES

NEW_FOR = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class SourceNumbers:
    """Runs that it began, and calls of models that it recorded and that count; of both, how many
    have an owner. ``repeated_observations``: steps that it recorded and whose usage is counted in
    another step.
    """

    total_traces: int
    owned_traces: int
    calls: int
    owned_observations: int
    priced_observations: int
    partly_priced_observations: int
    unpriced_observations: int
    unmetered_observations: int
    repeated_observations: int
    total_tokens: int
    total_cost_usd: Usd | None

    @property
    def records(self) -> int:
        """All that it recorded of calls, whether that counts or is counted elsewhere."""
        return self.calls + self.repeated_observations

    @property
    def owned_traces_ratio(self) -> float | None:
        return _ratio(self.owned_traces, self.total_traces)

    @property
    def owned_ratio(self) -> float | None:
        """Of the calls."""
        return _ratio(self.owned_observations, self.calls)

    @property
    def priced_ratio(self) -> float | None:
        """Of the calls; those with a whole cost."""
        return _ratio(self.priced_observations, self.calls)

    @property
    def repeated_ratio(self) -> float | None:
        """Of the records."""
        return _ratio(self.repeated_observations, self.records)


class Share(NamedTuple):
    """A part of all records of calls, and the same in the stretch before; None where there is no
    record at all.
    """

    now: float | None
    before: float | None

    @property
    def change(self) -> float | None:
        return None if self.now is None or self.before is None else self.now - self.before


@dataclass(frozen=True, slots=True)
class Source:
    """What one integration recorded, in one of its versions and of one environment.

    ``share``: its part of all records of calls, and ``previous_share`` the same in the stretch
    before; null where there is no record at all. ``is_new``: it was first seen in the last seven
    days of the period.
    """

    source: str
    source_name: str
    source_version: str
    environment: str
    share: float | None
    previous_share: float | None
    first_seen: datetime
    last_seen: datetime
    is_new: bool
    numbers: SourceNumbers

    @property
    def share_change(self) -> float | None:
        return Share(self.share, self.previous_share).change


@dataclass(frozen=True, slots=True)
class Integration:
    """What one integration recorded, as a whole and by version and environment, the most records
    first.
    """

    name: str
    share: Share
    first_seen: datetime
    is_new: bool
    numbers: SourceNumbers
    sources: Sequence[Source]

    @property
    def last_seen(self) -> datetime:
        return max(one.last_seen for one in self.sources)


@dataclass(frozen=True, slots=True)
class Sources:
    """All of a period by integration, that with the most records first, and what they come to;
    ``new_since``: from when on a source is new.
    """

    totals: SourceNumbers
    new_since: datetime
    comparison: Comparison
    integrations: Sequence[Integration]

    @property
    def rows(self) -> list[Source]:
        return [one for integration in self.integrations for one in integration.sources]

    @property
    def new(self) -> list[Source]:
        return [one for one in self.rows if one.is_new]


def sources_of(period: Period, now: datetime, complete_through: datetime | None) -> Sources:
    """Three queries."""
    comparison = comparison_of(period, now, complete_through)
    buckets = [
        (period.start, period.end),
        (comparison.previous_start, comparison.previous_end),
    ]
    (recorded, before), first_seen = recorded_in(buckets)
    new_since, shares = min(now, period.end) - NEW_FOR, Shares(recorded, before)
    since = {
        name: min(first_seen[key] for key in keys) for name, keys in _by_name(first_seen).items()
    }
    integrations = [
        Integration(
            name,
            shares.of(name),
            since[name],
            since[name] >= new_since,
            numbers_of(recorded[key] for key in keys),
            _ordered(
                _source(key, recorded[key], shares.of(key), first_seen[key], new_since)
                for key in keys
            ),
        )
        for name, keys in _by_name(recorded).items()
    ]
    integrations.sort(key=lambda one: (*_least(one.numbers), one.name))
    return Sources(numbers_of(recorded.values()), new_since, comparison, integrations)


def _by_name(keys: Iterable[SourceKey]) -> Mapping[str, Sequence[SourceKey]]:
    by_name: dict[str, list[SourceKey]] = defaultdict(list)
    for key in keys:
        by_name[key.name].append(key)
    return by_name


def _source(
    key: SourceKey, recorded: Recorded, share: Share, first_seen: datetime, new_since: datetime
) -> Source:
    return Source(
        **key._asdict(),
        source_name=key.name,
        share=share.now,
        previous_share=share.before,
        first_seen=first_seen,
        last_seen=recorded.last_activity,
        is_new=first_seen >= new_since,
        numbers=numbers_of([recorded]),
    )


def _ordered(sources: Iterable[Source]) -> list[Source]:
    return sorted(
        sources, key=lambda one: (*_least(one.numbers), one.environment, one.source_version)
    )


def _least(numbers: SourceNumbers) -> tuple[int, int]:
    """Least for what has the most records."""
    return -numbers.records, -numbers.total_traces


class Shares:
    """Parts of all records of calls: of sources, and of integrations by their names."""

    def __init__(self, now: BySource, before: BySource) -> None:
        self._now, self._before = Records(now), Records(before)

    def of(self, what: SourceKey | str) -> Share:
        return Share(self._now.part(what), self._before.part(what))


class Records:
    """How many records of calls there are, of each source and of each integration."""

    def __init__(self, by_source: BySource) -> None:
        self._all = 0
        self._of: Counter[SourceKey | str] = Counter()
        for key, recorded in by_source.items():
            records = numbers_of([recorded]).records
            self._all += records
            self._of[key] += records
            self._of[key.name] += records

    def part(self, what: SourceKey | str) -> float | None:
        return _ratio(self._of[what], self._all)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def numbers_of(recorded: Iterable[Recorded]) -> SourceNumbers:
    """What they come to. The cost is unknown where there are calls and none of them has one."""
    sums = dict.fromkeys(SUM_NAMES, 0)
    for one in recorded:
        for name, number in one.sums.items():
            sums[name] += number
    costed = sums["priced_observations"] + sums["partly_priced_observations"]
    calls = costed + sums["unpriced_observations"] + sums["unmetered_observations"]
    cost = from_scaled(sums.pop("total_cost_usd"), USD_PLACES)
    return SourceNumbers(calls=calls, total_cost_usd=cost if costed or not calls else None, **sums)
