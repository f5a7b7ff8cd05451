"""Calls that two integrations may have recorded in two traces: with the same model, the same usage,
and one inside the other's time, but no response id that both say (domain.md, A call is counted
once). They are counted twice until an operator rules that what one integration records is never
counted where another one recorded it. Pure.

So that such traces find one another, each of their calls then says a sign: its usage, and a minute
in which it was under way. Of two calls of which one is inside the other's time, at least one sign
is the same.
"""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta

import msgspec

from pricing.units import count_tokens
from usage.facts.findings import Rulings
from usage.facts.pairing import Records, T, clash
from usage.facts.twins import (
    Beyond,
    Call,
    Where,
    across,
    completed,
    may_be_of_one_tenant,
)
from usage.facts.unmetered import is_metered
from usage.langfuse.wire import StepVersion

MARK = "\0"
"""Signs begin with it, response ids have none."""
MINUTE = timedelta(minutes=1)
MOST_MINUTES = 10
"""What takes longer is a run, not a call."""
LONGEST_CALL = MOST_MINUTES * MINUTE
EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
RULED, OTHERS = "ruled", "others"


def signs_of(step: StepVersion) -> Set[str]:
    """The signs of a step; none of what is no call, or has not ended."""
    if not step.model or step.end_time is None or not is_metered(step):
        return frozenset()
    tokens = count_tokens(step.usage_details)
    first, last = ((at - EPOCH) // MINUTE for at in (step.start_time, step.end_time))
    if not tokens.total or last - first >= MOST_MINUTES:
        return frozenset()
    return {f"{MARK}{tokens.input} {tokens.output} {at}" for at in range(first, last + 1)}


def all_signs(steps: Sequence[StepVersion]) -> Set[str]:
    """Those of all steps."""
    return frozenset().union(*map(signs_of, steps))


def beyond_of(calls: Sequence[Call], shared: Set[str], rulings: Rulings) -> dict[str, Beyond]:
    """What of each trace is not to be seen in its own steps: which of its calls others record, too,
    by the response ids that are ``shared``, and by what was ruled.
    """
    certain = across(calls, shared)
    counted_in, instead = dict(certain.counted_in), dict(certain.instead)
    likely: dict[Where, Where] = {}
    if rulings.counted_as_others or rulings.steps_counted_as_others:
        left = [
            one._replace(step=instead.get(one.where, one.step))
            for one in calls
            if one.where not in certain.counted_in
        ]
        for where, (other, step) in recorded_by_others(left, rulings).items():
            likely[where] = other
            instead[other] = step
    gone = likely.keys() - {one.where for one in calls if one.is_kept}
    for where, other in counted_in.items():
        if other in gone:
            counted_in[where] = likely[other]
    found: dict[str, Beyond] = {}
    for trace in {trace for trace, _ in (*counted_in, *likely, *instead)}:
        found[trace] = Beyond((), _of(trace, counted_in), _of(trace, instead), _of(trace, likely))
    return found


def _of(trace: str, found: Mapping[Where, T]) -> dict[str, T]:
    return {step_id: one for (of_trace, step_id), one in found.items() if of_trace == trace}


def recorded_by_others(
    calls: Sequence[Call], rulings: Rulings
) -> Mapping[Where, tuple[Where, StepVersion]]:
    """The calls that are ruled to be counted as others record them, where others do in another
    trace: which of theirs, and what is counted of that one.
    """
    records, by_id = [], {}
    for call in sorted(calls, key=lambda one: one.where):
        if not call.signs:
            continue
        marked = f"{call.trace}{MARK}{call.step.observation_id}"
        is_ruled = (
            call.step.source in rulings.counted_as_others
            or call.where in rulings.steps_counted_as_others
        )
        source = RULED if is_ruled else OTHERS
        records.append(
            msgspec.structs.replace(call.step, observation_id=marked, source=source, parent_id="")
        )
        by_id[marked] = call
    if len({one.source for one in records}) < 2:
        return {}

    def may_be_one(one: StepVersion, other: StepVersion) -> bool:
        first, second = by_id[one.observation_id], by_id[other.observation_id]
        is_near = first.trace != second.trace and bool(first.signs & second.signs)
        if not is_near or not may_be_of_one_tenant(first.tenant_id, second.tenant_id):
            return False
        return not clash(first.ids, second.ids)

    pairing = Records(records, records, lambda one: by_id[one.observation_id].name, {}, may_be_one)
    found = {}
    for group in pairing.of_one_usage():
        if len(group) == 2:
            ruled, other = sorted(group, key=lambda one: one.source, reverse=True)
            loser, winner = by_id[ruled.observation_id], by_id[other.observation_id]
            given = [] if loser.is_kept else [(loser.step, loser.name)]
            found[loser.where] = winner.where, completed((winner.step, winner.name), given)
    return found
