"""Decides a trace from all its steps: owner, time, outcome, cost and credits (domain.md, What is
counted). Pure.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from kluisz_analytics.tenants.attributed import is_attributed, is_owned
from pricing.engine import (
    PARTLY_PRICED,
    UNMETERED,
    WITHOUT_USAGE,
    Cost,
    ObservationUsage,
    PricedTrace,
    PricingEngine,
    TraceUsage,
    Uncharged,
)
from pricing.units import NO_TOKENS, TokenCounts, count_tokens, counted
from usage.environments import BilledEnvironments
from usage.facts.decided import AssembledTrace, Before, BilledStep, TraceFact
from usage.facts.doubts import CountedIn, Doubts, usage_of
from usage.facts.findings import NO_RULINGS, Finding, Rulings
from usage.facts.likely import signs_of
from usage.facts.owner import Directory, Owner, Settlement, owner_of
from usage.facts.pairing import NO_IDS
from usage.facts.received import in_precedence, packed
from usage.facts.rules import NO_RULES, Attributed, AttributionRules, packed_given
from usage.facts.twins import (
    NOTHING_BEYOND,
    NOTHING_TWICE,
    Beyond,
    Call,
    Once,
    counted_once,
)
from usage.facts.unmetered import unmetered_calls
from usage.langfuse.wire import ReceivedObservation, StepVersion, TraceAttributes
from usage.periods import HOUR, hour_of, milliseconds

ALL_BUT_LANGFUSES = BilledEnvironments()
# With map, these take a third of the time of a comprehension, and there are millions.
_step_of, _attributes_of = attrgetter("step"), attrgetter("trace_attributes")
_start_of, _end_of, _level_of = map(attrgetter, ("start_time", "end_time", "level"))
NOWHERE: Mapping[str, CountedIn] = {}


def assemble(
    connection_id: int,
    key: str,
    observations: Sequence[ReceivedObservation],
    directory: Directory,
    engine: PricingEngine,
    fixed_tenant_id: UUID | None = None,
    billed_in: BilledEnvironments = ALL_BUT_LANGFUSES,
    stored: Before | None = None,
    deleted_observations: int = 0,
    rulings: Rulings = NO_RULINGS,
    settlement: Settlement | None = None,
    beyond: Beyond = NOTHING_BEYOND,
    rules: AttributionRules = NO_RULES,
) -> AssembledTrace:
    """The trace of ``observations`` (the newest version of each of its steps, at least one), of
    which ``stored`` is the decision so far, and ``settlement`` an operator's; owned as ``rules``
    say, and charged in the environments ``billed_in``.
    """
    ordered = in_precedence(observations)
    steps, of_each = [*map(_step_of, ordered)], [*map(_attributes_of, ordered)]
    attributes = _decided(steps, of_each)
    starts = [*map(_start_of, steps)]
    start_time = min(starts)
    attributed: Attributed | None = None
    if rules.all:
        attributed = rules.attribute(ordered, attributes, start_time, directory, fixed_tenant_id)
        attributes, owner = attributed.attributes, attributed.owner(start_time, settlement)
    else:
        owner = owner_of(
            directory,
            attributes.tenant_reference,
            attributes.user_reference,
            start_time,
            fixed_tenant_id,
            settlement,
        )
    tenant_id, user_id = owner.tenant_id, owner.user_id
    hour = hour_of(start_time)
    last_start = max(starts)
    priced_as_of, unowned_as_of = engine.book.loaded_at, None
    if stored is not None:
        is_by_rule = attributed is not None and attributed.is_by_rule
        priced_as_of, unowned_as_of = lists_as_of(
            stored, owner, priced_as_of, is_by_rule, directory.seen
        )
    using = [step for step in steps if step.usage_details or step.cost_usd is not None]
    unmetered = unmetered_calls(steps)
    if unmetered:
        found = {step.observation_id for step in using} | unmetered
        using = [step for step in steps if step.observation_id in found]
    doubts = Doubts(engine, tenant_id, start_time, priced_as_of, rulings, key, connection_id)
    once = NOTHING_TWICE
    if len(using) > 1:
        once = counted_once(steps, using, doubts.named, doubts.kept(using), beyond.deleted)
    repeated = as_well = NOWHERE
    if once is not NOTHING_TWICE or beyond is not NOTHING_BEYOND:
        repeated, as_well = doubts.ruled(using, _elsewhere(once, beyond))
        instead = {**once.instead, **beyond.instead}
        using = [
            instead.get(step.observation_id, step)
            for step in using
            if step.observation_id not in repeated
        ]
    usages = (
        [usage_of(step, step.observation_id in unmetered) for step in using]
        if unmetered
        else [usage_of(step) for step in using]
    )
    usages, doubted = doubts.settled(using, usages)
    is_failed, is_billed = _is_failed(steps), attributes.environment in billed_in
    is_all_elsewhere = not using and bool(repeated)
    priced = engine.price(
        TraceUsage(
            tenant_id,
            user_id,
            start_time,
            priced_as_of,
            usages,
            is_failed,
            is_billed and not is_all_elsewhere,
            connection_id,
        )
    )
    billed = _billed(using, usages, priced) if using else []
    if not using and not repeated:
        billed = _minimum(steps[0], priced)
    doubtful_count = doubts.mark(billed, usages, doubted, as_well)
    if repeated:
        billed += doubts.counted_elsewhere(steps, repeated)
    of_calls = [step for step in billed if step.cost_source is not WITHOUT_USAGE]
    partly, unpriced_count, unmetered_count = _not_priced(of_calls)
    charge = priced.charge
    # In the order of the fields: by name takes five times as long, and there are millions.
    fact = TraceFact(
        key,
        connection_id,
        ordered[0].trace_id,
        attributes,
        start_time,
        hour,
        hour_of(last_start) if last_start >= hour + HOUR else None,
        _latency_ms(steps, start_time),
        is_failed,
        tenant_id,
        user_id,
        _sole_model(of_calls),
        len(steps),
        deleted_observations,
        len(of_calls) - partly - unpriced_count - unmetered_count,
        partly,
        unpriced_count,
        unmetered_count,
        doubtful_count,
        _sum_tokens(of_calls),
        priced.cost_picousd,
        charge.billed_picousd,
        charge.microcredits,
        None if charge.rate is None else charge.rate.id,
        priced_as_of,
        stored is not None and stored.is_voided,
        priced.set_aside,
        Uncharged.TWICE
        if is_all_elsewhere
        else charge.uncharged or ("" if is_billed else Uncharged.ENVIRONMENT),
        owner.dispute,
        owner.disputed_tenant_id,
        owner.disputed_user_id,
        owner.settled_as,
        "" if attributed is None else packed_given(attributed.given),
        unowned_as_of,
        steps[0].source,
        steps[0].source_version,
    )
    return AssembledTrace(fact, billed, packed(steps, of_each, attributes))


def calls_of(
    fact: TraceFact,
    observations: Sequence[ReceivedObservation],
    engine: PricingEngine,
    rulings: Rulings,
    shared: frozenset[str],
    deleted: Collection[str] = (),
) -> list[Call]:
    """The calls of a decided trace of which another one says a response id or a sign, too
    (``shared``).
    """
    steps = [one.step for one in in_precedence(observations)]
    doubts = Doubts(
        engine,
        fact.tenant_id,
        fact.start_time,
        fact.priced_as_of,
        rulings,
        fact.id,
        fact.connection_id,
    )
    once = counted_once(steps, steps, doubts.named, doubts.kept(steps), deleted)
    kept = doubts.kept(steps) | doubts.kept(steps, Finding.ALIKE)
    calls = []
    for step in steps:
        step_id = step.observation_id
        ids, signs = once.ids.get(step_id, NO_IDS), shared & signs_of(step)
        if not (signs or ids & shared) or step_id in once.sums or step_id in once.twice:
            continue
        rank = rank_of(fact, is_gone=fact.is_voided or step_id in deleted)
        whole = once.instead.get(step_id, step)
        named, is_kept = doubts.named(whole), step_id in kept
        calls.append(Call(fact.id, fact.tenant_id, whole, ids, rank, named, is_kept, signs))
    return calls


def rank_of(fact: TraceFact, *, is_gone: bool) -> int:
    """Of records of one call that is counted which has the lowest: of an owner's run, then of one
    whose tenant is known; before all, of one that has not been deleted or voided.
    """
    known = 0 if fact.is_owned else 1 if is_attributed(fact.tenant_id) else 2
    return known + (3 if is_gone else 0)


def _elsewhere(once: Once, beyond: Beyond) -> Mapping[str, CountedIn]:
    """Those of the steps whose usage is found in others, too."""
    found = {step_id: CountedIn(Finding.SUM, other) for step_id, other in once.sums.items()}
    for step_id, other in once.twice.items():
        found[step_id] = CountedIn(Finding.TWICE, other)
    for step_id, (trace, other) in beyond.counted_in.items():
        found[step_id] = CountedIn(Finding.TWICE, other, trace)
    for step_id, (trace, other) in beyond.likely.items():
        found[step_id] = CountedIn(Finding.ALIKE, other, trace)
    return found


def attributes_of(ordered: Sequence[ReceivedObservation]) -> TraceAttributes:
    """What steps, in their precedence, say of their trace."""
    return _decided([*map(_step_of, ordered)], [*map(_attributes_of, ordered)])


def _decided(steps: Sequence[StepVersion], of_each: Sequence[TraceAttributes]) -> TraceAttributes:
    """Of each text the first that any step says, in their order; a trace that nobody names is
    called as its first step is.
    """
    attributes = of_each[0]
    if of_each.count(attributes) < len(of_each):
        attributes = TraceAttributes(
            *[next(filter(None, texts), "") for texts in zip(*of_each, strict=True)]
        )
    if attributes.name:
        return attributes
    return attributes._replace(name=next((step.name for step in steps if step.name), ""))


def lists_as_of(
    stored: Before, owner: Owner, now: datetime, is_by_rule: bool, seen: Collection[UUID]
) -> tuple[datetime, datetime | None]:
    """Of when the lists are that a stored trace is priced by, and, where a rule has found its
    owner, of when they were before: undone, all is as it was. ``seen``: tenants and users that are
    seen in usage only.
    """
    if _is_found(stored, owner.tenant_id, owner.user_id, seen):
        return now, (stored.unowned_as_of or stored.priced_as_of) if is_by_rule else None
    if stored.unowned_as_of is not None and not is_by_rule:
        return stored.unowned_as_of, None
    # Once it has an owner, later entries of the price lists change nothing (pricing.engine).
    return stored.priced_as_of, stored.unowned_as_of


def _is_found(
    stored: Before, tenant_id: UUID | None, user_id: UUID | None, seen: Collection[UUID]
) -> bool:
    """Whether a tenant or a user has become known, which then has its tier by the lists of now:
    also in place of one who was seen in usage only.

    Those of a dispute were known when it began.
    """
    if stored.dispute or tenant_id is None:
        return False
    if tenant_id != stored.tenant_id and stored.tenant_id in seen:
        return True
    if user_id != stored.user_id and stored.user_id in seen:
        return user_id is not None
    if is_owned(stored.tenant_id, stored.user_id):
        return False
    return stored.tenant_id is None or user_id is not None


def _billed(
    using: Sequence[StepVersion], usages: Sequence[ObservationUsage], priced: PricedTrace
) -> list[BilledStep]:
    """The steps with what each costs and its part of the charge."""
    billed = [
        _billed_step(step, usage, cost)
        for step, usage, cost in zip(using, usages, priced.costs, strict=True)
    ]
    for at, billed_picousd, microcredits in priced.parts():
        billed[at].billed_cost_picousd, billed[at].microcredits = billed_picousd, microcredits
    return billed


def _billed_step(step: StepVersion, usage: ObservationUsage, cost: Cost) -> BilledStep:
    if cost.source is WITHOUT_USAGE:
        return BilledStep(step, NO_TOKENS, usage.langfuse_picousd, None, WITHOUT_USAGE)
    tokens, doubt = counted(step.usage_details)
    if usage.usage_details is not step.usage_details:
        tokens = count_tokens(usage.usage_details)
    return BilledStep(
        step,
        tokens,
        usage.langfuse_picousd,
        cost.picousd,
        cost.source,
        cost.price_id,
        doubt=doubt,
    )


def _not_priced(of_calls: Sequence[BilledStep]) -> tuple[int, int, int]:
    """How many are partly priced, unpriced and unmetered."""
    partly = unpriced = unmetered = 0
    for step in of_calls:
        source = step.cost_source
        if source is PARTLY_PRICED:
            partly += 1
        elif step.cost_picousd is None:
            if source is UNMETERED.source:
                unmetered += 1
            else:
                unpriced += 1
    return partly, unpriced, unmetered


def _minimum(step: StepVersion, priced: PricedTrace) -> list[BilledStep]:
    """Of a trace that used nothing, its first step is charged, if anything is: a tier's minimum."""
    return [
        BilledStep(step, NO_TOKENS, None, None, WITHOUT_USAGE, None, billed_picousd, microcredits)
        for _, billed_picousd, microcredits in priced.parts()
    ]


def _latency_ms(steps: Sequence[StepVersion], start_time: datetime) -> int | None:
    """From the earliest start to the latest end; None while no step has ended."""
    ends = [*filter(None, map(_end_of, steps))]
    return max(0, milliseconds(max(ends) - start_time)) if ends else None


def _is_failed(steps: Sequence[StepVersion]) -> bool:
    """A root has level ERROR, or, with no root, any step has. Roots come first in ``steps``."""
    if "ERROR" not in map(_level_of, steps):
        return False
    has_root = steps[0].is_root
    return any(step.level == "ERROR" for step in steps if step.is_root or not has_root)


def _sole_model(of_calls: Sequence[BilledStep]) -> str | None:
    """The model of all usage; "" of none, None of several."""
    if len(of_calls) == 1:
        return of_calls[0].version.model
    models = {step.version.model for step in of_calls}
    return "" if not models else models.pop() if len(models) == 1 else None


def _sum_tokens(of_calls: Sequence[BilledStep]) -> TokenCounts:
    if not of_calls:
        return NO_TOKENS
    if len(of_calls) == 1:
        return of_calls[0].tokens
    return TokenCounts(*map(sum, zip(*[step.tokens for step in of_calls], strict=True)))
