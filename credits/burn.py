"""Which usage burns which grant: pure, in integers (microcredits), no database (domain.md,
Credits).

- Usage burns grants that were in force at its own time: the lowest priority number first, then the
  one that expires first, then the oldest.
- What no grant covers is debt. A grant that begins pays debt before anything else.
- What is left of a grant when it ends (expires or is voided) goes back, except for what its next
  occurrence takes over.
- At one moment grants end first, then begin, then usage burns: a period begins where the one before
  ends.

The result is a function of all grants and all usage, so it is the same whatever the order in which
they became known.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import merge
from typing import NamedTuple


class GrantTerms(NamedTuple):
    """A grant as it was given. ``ends_at``: when it expires or was voided, whichever is first.

    ``previous``: the occurrence that it follows, of which it takes over up to ``rollover_maximum``
    (None: all that is left).
    """

    id: int
    amount: int
    priority: int
    starts_at: datetime
    ends_at: datetime
    previous: int | None = None
    rollover_maximum: int | None = 0

    @property
    def order(self) -> tuple[int, datetime, datetime, int]:
        """Grants are burned in this order."""
        return self.priority, self.ends_at, self.starts_at, self.id


@dataclass(slots=True)
class GrantState:
    """What became of a grant that has begun: taken over from the occurrence before, and burned by
    usage.
    """

    amount: int
    carried: int = 0
    burned: int = 0
    has_ended: bool = False

    @property
    def left(self) -> int:
        return self.amount + self.carried - self.burned


@dataclass(slots=True)
class Burned:
    """Grants that have begun, by id, and usage that no grant has paid for."""

    grants: dict[int, GrantState] = field(default_factory=dict)
    debt: int = 0


END, START, USAGE = range(3)


class _Event(NamedTuple):
    at: datetime
    kind: int
    grant_id: int
    amount: int


def burn_down(
    grants: Iterable[GrantTerms], usage: Iterable[tuple[datetime, int]], until: datetime
) -> Burned:
    """What became of the grants up to ``until`` (included), with ``usage`` as (time, amount) in the
    order of time.
    """
    terms = {
        one.id: one for one in grants if one.starts_at <= until and one.starts_at < one.ends_at
    }
    starts = [_Event(one.starts_at, START, one.id, 0) for one in terms.values()]
    ends = [_Event(one.ends_at, END, one.id, 0) for one in terms.values() if one.ends_at <= until]
    burned = Burned()
    in_force: list[GrantTerms] = []
    for event in merge(
        sorted(starts + ends), (_Event(at, USAGE, 0, amount) for at, amount in usage if at <= until)
    ):
        if event.kind == USAGE:
            burned.debt += _burn(in_force, burned.grants, event.amount)
            continue
        one = terms[event.grant_id]
        if event.kind == END:
            in_force.remove(one)
            burned.grants[one.id].has_ended = True
            continue
        state = burned.grants[one.id] = GrantState(one.amount, _carried(one, burned.grants))
        paid = min(burned.debt, state.left)
        state.burned += paid
        burned.debt -= paid
        in_force.append(one)
        in_force.sort(key=lambda each: each.order)
    return burned


def _carried(one: GrantTerms, grants: Mapping[int, GrantState]) -> int:
    previous = grants.get(one.previous) if one.previous is not None else None
    if previous is None or not previous.has_ended:
        return 0
    return (
        previous.left if one.rollover_maximum is None else min(previous.left, one.rollover_maximum)
    )


def _burn(in_force: Sequence[GrantTerms], grants: Mapping[int, GrantState], amount: int) -> int:
    """Burn ``amount``; returns what no grant covers."""
    for one in in_force:
        if not amount:
            break
        state = grants[one.id]
        taken = min(amount, state.left)
        state.burned += taken
        amount -= taken
    return amount
