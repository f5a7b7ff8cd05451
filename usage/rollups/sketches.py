"""What merges over periods where a count or a percentile can't: who was active, and how long traces
took. Pure.

A set of users is a Roaring bitmap of user numbers: exact, and small however many there are.
Latencies are a histogram with 32 buckets for each doubling, so a percentile read from it is off by
at most 1/64 (1.6%); below 64 ms it is exact. Every answer reads percentiles from such a histogram,
also one from the facts, so that an answer does not depend on where it was read.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain

from pyroaring import BitMap

HALF = 32
"""Buckets for each doubling."""
LARGEST_SHIFT = 40
PERCENTILE = 95


def bucket_sql(column: str) -> str:
    """The bucket of a latency, for PostgreSQL and SQLite alike: both divide integers as
    integers.
    """
    cases = " ".join(
        f"WHEN {column} < {2 * HALF << shift} THEN {HALF * shift} + {column} / {1 << shift}"
        for shift in range(LARGEST_SHIFT + 1)
    )
    return (
        f"CASE WHEN {column} IS NULL THEN NULL {cases} ELSE"
        f" {HALF * LARGEST_SHIFT + 2 * HALF - 1} END"
    )


def latency_of(bucket: int) -> int:
    """The latency that stands for a bucket, in milliseconds: its middle."""
    shift = max(0, bucket // HALF - 1)
    return ((bucket - HALF * shift) << shift) + ((1 << shift) - 1) // 2


def percentile_of(latencies: Mapping[int, int]) -> int | None:
    """The 95th percentile by nearest rank, in milliseconds; None of nothing."""
    place = (sum(latencies.values()) * PERCENTILE + 99) // 100
    for bucket in sorted(latencies):
        place -= latencies[bucket]
        if latencies[bucket] and place <= 0:
            return latency_of(bucket)
    return None


def pack_latencies(latencies: Mapping[int, int]) -> bytes:
    """Bucket and count by turns, four bytes each, in the order of the buckets."""
    return array("I", chain.from_iterable(sorted(latencies.items()))).tobytes()


def unpack_latencies(packed: bytes | memoryview) -> Iterable[tuple[int, int]]:
    numbers = array("I", packed)
    return zip(numbers[::2], numbers[1::2], strict=True)


def pack_users(numbers: Iterable[int]) -> bytes:
    return bytes(BitMap(numbers).serialize())


def unpack_users(packed: bytes | memoryview) -> BitMap:
    return BitMap.deserialize(bytes(packed))


class Sketch:
    """Users and latencies of whatever was added to it; of latencies, how many are in each
    bucket.
    """

    __slots__ = ("latencies", "users")

    def __init__(self) -> None:
        self.users = BitMap()
        # Not a Counter: that takes twice as long to add to, and a series adds thousands of buckets.
        self.latencies: dict[int, int] = {}

    def add(self, users: Iterable[int], buckets: Iterable[int]) -> None:
        """Add users by their numbers, and latencies by their buckets."""
        self.users.update(users)
        self._add_distinct(Counter(buckets).items())

    def add_latencies(self, counts: Iterable[tuple[int, int]]) -> None:
        """Add so many latencies to each of these buckets; a negative number is taken away."""
        total = self.latencies
        for bucket, count in counts:
            total[bucket] = total.get(bucket, 0) + count

    def merge(self, users: bytes | memoryview, latencies: bytes | memoryview) -> None:
        """Add a rollup's, as it is stored."""
        self.users |= unpack_users(users)
        self._add_distinct(unpack_latencies(latencies))

    def _add_distinct(self, counts: Iterable[tuple[int, int]]) -> None:
        """Add latencies of buckets that are all different."""
        if self.latencies:
            self.add_latencies(counts)
        else:
            self.latencies.update(counts)
