"""What traces add to their users' stats, and which hours of the built rollups they leave behind.
Pure.

A change of a trace is its old numbers taken away and its new ones added; a stats row is the sum of
all, whatever their order.
"""

from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime
from operator import add, neg
from typing import NamedTuple
from uuid import UUID

from kluisz_analytics.tenants.attributed import known_owner
from usage.facts.decided import TraceFact
from usage.measures import SUM_NAMES, SUMS, TOKENS

Numbers = tuple[int, ...]
"""In the order of SUMS; money as it is stored."""
TOTAL_TRACES = SUM_NAMES.index("total_traces")


class UserHour(NamedTuple):
    """What numbers count under: an hour of a user; keys as 32 hex digits."""

    hour: datetime
    tenant_id: str
    user_id: str


class Change:
    """Traces added and taken away: their numbers by user and hour, and the hours that they were
    in.
    """

    def __init__(self) -> None:
        # By the hour, and by the tenant's and the user's key as integers: they are compared
        # fastest.
        self._sums: dict[tuple[datetime, int, int], Numbers] = {}
        self._hours: Counter[datetime] = Counter()
        self._touched: set[tuple[datetime, int, int]] = set()
        self._without_user: set[UUID] = set()

    def add(self, trace: TraceFact) -> None:
        """Count a trace that is stored now as it was not before."""
        self._count(trace, +1)

    def take_away(self, trace: TraceFact) -> None:
        """Count a trace no longer as it was stored before."""
        self._count(trace, -1)
        if (owner := _charged_owner(trace)) is not None:
            self._touched.add((trace.hour, *owner))

    def forget(self, trace: TraceFact) -> None:
        """Undo an :meth:`add`: the trace was not stored after all."""
        self._count(trace, -1)
        self._hours[trace.hour] -= 2

    def _count(self, trace: TraceFact, sign: int) -> None:
        self._hours[trace.hour] += 1
        owner = _charged_owner(trace)
        if owner is None:
            if trace.tenant_id is not None:
                self._without_user.add(trace.tenant_id)
            return
        key = trace.hour, *owner
        numbers = numbers_of(trace) if sign > 0 else tuple(map(neg, numbers_of(trace)))
        known = self._sums.get(key)
        self._sums[key] = numbers if known is None else tuple(map(add, known, numbers))

    def sums(self) -> list[tuple[UserHour, Numbers]]:
        """What the stats change by; numbers that were taken away and added again are no change."""
        return [(_user_hour(key), numbers) for key, numbers in self._sums.items() if any(numbers)]

    def touched(self) -> Collection[UserHour]:
        """Where stored traces changed in any way: what they add up to may be the same, and yet they
        count at another moment of the hour, or for another flow or model.
        """
        return [_user_hour(key) for key in self._touched]

    def tenants(self) -> set[UUID]:
        """Whose traces changed in any way, those without a known user included."""
        keys = [*self._sums, *self._touched]
        return {UUID(int=tenant) for tenant in {key[1] for key in keys}} | self._without_user

    def hours(self) -> Collection[datetime]:
        """The hours whose traces changed in any way."""
        return [hour for hour, changes in self._hours.items() if changes > 0]


def _charged_owner(trace: TraceFact) -> tuple[int, int] | None:
    """The tenant and the user that the trace's numbers count for, as integers."""
    owner = known_owner(trace.tenant_id, trace.user_id)
    if trace.is_voided or owner is None:
        return None
    tenant_id, user_id = owner
    return tenant_id.int, user_id.int


def _user_hour(key: tuple[datetime, int, int]) -> UserHour:
    hour, tenant, user = key
    return UserHour(hour, f"{tenant:032x}", f"{user:032x}")


STORED_AS = {
    "cost_usd": "cost_picousd",
    "billed_cost_usd": "billed_cost_picousd",
    "credits": "microcredits",
    **{name: f"tokens.{name.removesuffix('_tokens')}" for name in TOKENS},
}
"""What a trace's columns are called while it is decided."""


def _compiled() -> Callable[[TraceFact], Numbers]:
    """What the declarations of SUMS say, as one expression: a call for each would take five times
    as long, and there are millions of traces.
    """
    values = [
        one.trace.python.replace("{}", f"trace.{STORED_AS.get(one.trace.column, one.trace.column)}")
        for one in SUMS
    ]
    return eval(f"lambda trace: ({', '.join(values)},)")  # noqa: S307


numbers_of = _compiled()
"""What a trace adds to each sum."""
