"""Applies what was received to everything that depends on it, in one transaction (invariant 2).

What is stored is a function of the newest version of each observation. A batch makes it so for the
traces that it touches: traces that are stored are locked, decided and priced anew from all their
steps, and the differences go into facts, rollups, stats and the ledger; the others are new. So the
order, overlap and repetition of batches leave no trace of their own.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from operator import attrgetter
from typing import TypeVar
from uuid import UUID

from django.db import IntegrityError, OperationalError, transaction

from credits import holds
from kluisz_analytics.tenants.directory import keep_directory
from pricing.book import load_price_book
from pricing.engine import PricingEngine
from usage.environments import BilledEnvironments
from usage.facts import store, ties
from usage.facts.contributions import Change
from usage.facts.decide import assemble, calls_of
from usage.facts.decided import AssembledTrace, Before, TraceFact
from usage.facts.findings import NO_RULINGS, Rulings
from usage.facts.identity import trace_key
from usage.facts.likely import beyond_of
from usage.facts.owner import Directory, Settlement
from usage.facts.posting import apply_change
from usage.facts.received import Received, is_newer, newest_by_trace, packed_deletions
from usage.facts.rules import NO_RULES, AttributionRules
from usage.facts.twins import NOTHING_BEYOND, Beyond
from usage.langfuse.wire import ReceivedObservation, RejectedRow
from usage.models import LangfuseConnection
from usage.periods import hour_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A conflict means that another worker has committed, so these come to an end; of three workers one
# met five in a row, all different.
CONFLICTS = 25
# A deadlock, or a lock that was not had in time: each may take many seconds.
FAILURES = 5
# One thing after the other for so many traces: what is asked for again is then still in the
# processor's cache, which saves an eighth.
TOGETHER = 250
_response_of = attrgetter("step.response_id")
ByTrace = Mapping[str, Sequence[ReceivedObservation]]


@dataclass(frozen=True, slots=True)
class OutdatedStep:
    """A step of which a version came that is older than the stored one: when the stored one starts,
    and what came.
    """

    stored_start: datetime
    came: ReceivedObservation


Outdated = Mapping[tuple[str, str], OutdatedStep]
"""Steps by their trace's key and their id."""


@dataclass(slots=True)
class Applied:
    """What a batch changed."""

    observations_stored: int = 0
    observations_rejected: int = 0
    traces_changed: int = 0
    observations_deleted: int = 0
    transactions_posted: int = 0
    cost_picousd: int = 0
    microcredits: int = 0
    stored_by_hour: Counter[datetime] = field(default_factory=Counter)
    deleted_by_hour: Counter[datetime] = field(default_factory=Counter)
    outdated: Outdated = field(default_factory=dict)

    def __iadd__(self, other: "Applied") -> "Applied":
        self.observations_stored += other.observations_stored
        self.observations_rejected += other.observations_rejected
        self.traces_changed += other.traces_changed
        self.observations_deleted += other.observations_deleted
        self.transactions_posted += other.transactions_posted
        self.cost_picousd += other.cost_picousd
        self.microcredits += other.microcredits
        self.stored_by_hour += other.stored_by_hour
        self.deleted_by_hour += other.deleted_by_hour
        self.outdated = newest_of(self.outdated, other.outdated)
        return self


def newest_of(some: Outdated, others: Outdated) -> Outdated:
    """The steps of both; of each the newest version that came."""
    if not some or not others:
        return some or others
    newest = dict(some)
    for key, one in others.items():
        if key not in newest or is_newer(one.came, newest[key].came):
            newest[key] = one
    return newest


@dataclass(frozen=True, slots=True)
class Assembler:
    """Decides and prices the traces of one connection, with the prices and the directory of a
    moment.
    """

    connection_id: int
    fixed_tenant_id: UUID | None
    billed_in: BilledEnvironments
    directory: Directory
    engine: PricingEngine
    rulings: Rulings = NO_RULINGS
    rules: AttributionRules = NO_RULES

    def trace_of(
        self,
        key: str,
        observations: Sequence[ReceivedObservation],
        stored: Before | None = None,
        deleted_observations: int = 0,
        settlement: Settlement | None = None,
        beyond: Beyond = NOTHING_BEYOND,
    ) -> AssembledTrace:
        """The trace with this key, of all these steps (:func:`usage.facts.decide.assemble`)."""
        return assemble(
            self.connection_id,
            key,
            observations,
            self.directory,
            self.engine,
            self.fixed_tenant_id,
            self.billed_in,
            stored,
            deleted_observations,
            self.rulings,
            settlement,
            beyond,
            self.rules,
        )

    def known(self, one: "Known", beyond: Beyond = NOTHING_BEYOND) -> AssembledTrace:
        """A trace of which this is known."""
        if one.deleted:
            beyond = beyond._replace(deleted=one.deleted)
        return self.trace_of(
            one.key, one.observations, one.stored, len(one.deleted), one.settlement, beyond
        )

    def together(
        self, known: Sequence["Known"], decided: Mapping[str, TraceFact], shared: frozenset[str]
    ) -> dict[str, AssembledTrace]:
        """Those of the traces that are decided otherwise since others record the same calls."""
        calls = [
            call
            for one in known
            for call in calls_of(
                decided[one.key],
                one.observations,
                self.engine,
                self.rulings,
                shared,
                one.deleted,
            )
        ]
        beyond = beyond_of(calls, shared, self.rulings)
        return {one.key: self.known(one, beyond[one.key]) for one in known if one.key in beyond}


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known of a trace before it is decided: as it is ``stored``, or nothing of one
    that is new.
    """

    key: str
    observations: Sequence[ReceivedObservation]
    stored: TraceFact | None = None
    deleted: Collection[str] = ()
    settlement: Settlement | None = None


def load_assembler(connection: LangfuseConnection) -> Assembler:
    """With everything that is known now."""
    directory, rules = store.load_directory(), store.load_attribution_rules(connection.pk)
    return Assembler(
        connection.pk,
        connection.tenant_id,
        store.load_billed_environments(connection.pk),
        directory,
        PricingEngine(load_price_book(store.load_repriced())),
        store.load_rulings(connection.pk),
        AttributionRules(rules, store.load_entries(directory)) if rules else NO_RULES,
    )


def up_to_date(assembler: Assembler) -> Assembler:
    """The assembler, or a new one where a repricing, a ruling or attribution rules have begun or
    were undone, other environments are billed, or a user has moved, since it was loaded. Call it in
    the transaction that stores.

    Until that transaction ends, none of it changes: otherwise the walk that follows such a change
    could have passed a trace that this one stores.
    """
    store.keep_repricings()
    of, version = assembler.connection_id, keep_directory()
    if (
        version == assembler.directory.version
        and store.load_repriced() == assembler.engine.book.repriced
        and store.load_rulings(of).all == assembler.rulings.all
        and store.load_billed_environments(of) == assembler.billed_in
        and store.load_attribution_rules(of) == assembler.rules.all
    ):
        return assembler
    return load_assembler(LangfuseConnection.objects.get(pk=of))


@dataclass(slots=True)
class NewTraces:
    """Traces that are not stored, ready to be: their facts and rows, and what they add to the
    rollups.
    """

    facts: dict[str, TraceFact] = field(default_factory=dict)
    rows: dict[str, store.Row] = field(default_factory=dict)
    received_rows: dict[str, store.Row] = field(default_factory=dict)
    step_rows: dict[str, list[store.Row]] = field(default_factory=dict)
    change: Change = field(default_factory=Change)
    saying: dict[str, Sequence[ReceivedObservation]] = field(default_factory=dict)
    """Of those that say ids of responses, all steps: others may record the same calls."""

    @classmethod
    def of(cls, assembler: Assembler, by_trace: ByTrace) -> "NewTraces":
        """Pure: so it can be made ahead, while the database is busy."""
        new, traces = cls(), list(by_trace.items())
        for at in range(0, len(traces), TOGETHER):
            new._add(
                {
                    key: assembler.trace_of(key, observations)
                    for key, observations in traces[at : at + TOGETHER]
                }
            )
        looks_for_likely = assembler.rulings.looks_for_likely
        new.saying = {
            key: steps for key, steps in traces if looks_for_likely or any(map(_response_of, steps))
        }
        return new

    def _add(self, assembled: Mapping[str, AssembledTrace]) -> None:
        facts = {key: one.fact for key, one in assembled.items()}
        self.facts |= facts
        self.rows |= {key: store.trace_row(fact) for key, fact in facts.items()}
        self.received_rows |= {key: (key, one.received) for key, one in assembled.items()}
        self.step_rows |= {
            key: [store.step_row(step, one.fact) for step in one.billed]
            for key, one in assembled.items()
        }
        for fact in facts.values():
            self.change.add(fact)

    def decide_together(self, assembled: Mapping[str, AssembledTrace]) -> None:
        """Put these decisions in place of those that were made ahead."""
        saying = {key: self.saying[key] for key in assembled}
        self.leave_out(assembled)
        self._add(assembled)
        self.saying |= saying

    def leave_out(self, keys: Iterable[str]) -> None:
        """Forget traces that turned out to be stored."""
        for key in keys:
            self.saying.pop(key, None)
            fact = self.facts.pop(key, None)
            if fact is not None:
                self.change.forget(fact)
                del self.rows[key], self.received_rows[key], self.step_rows[key]


class Batch:
    """Observations to apply together: the newest version of each, by the key of its trace."""

    def __init__(
        self,
        connection_id: int,
        received: Iterable[ReceivedObservation],
        rejected: Sequence[RejectedRow] = (),
    ) -> None:
        self.connection_id = connection_id
        self.rejected = rejected
        self.by_trace: dict[str, list[ReceivedObservation]] = {
            trace_key(connection_id, trace_id): [*steps.values()]
            for trace_id, steps in newest_by_trace(received).items()
        }
        self.new: NewTraces | None = None

    @property
    def is_known(self) -> bool:
        """Whether its hours had been read before, so that nothing was decided ahead."""
        return self.new is None

    def without(self, hours: Collection[datetime]) -> "Batch":
        """What does not start in these hours, with nothing decided ahead."""
        received = chain.from_iterable(self.by_trace.values())
        return Batch(
            self.connection_id,
            (one for one in received if hour_of(one.step.start_time) not in hours),
            self.rejected,
        )

    def prepare(self, assembler: Assembler) -> None:
        """Decide all traces as if none were stored, which in hours that were never read is nearly
        always so.
        """
        self.new = NewTraces.of(assembler, self.by_trace)


def apply_received(
    connection: LangfuseConnection,
    received: Iterable[ReceivedObservation],
    rejected: Sequence[RejectedRow] = (),
) -> Applied:
    """Store observations and all that follows from them.

    Call it in a transaction; :func:`committed` makes one.
    """
    return apply_batch(
        connection, Batch(connection.pk, received, rejected), load_assembler(connection)
    )


def apply_batch(connection: LangfuseConnection, batch: Batch, assembler: Assembler) -> Applied:
    """Store a batch and all that follows from it. Call it in a transaction.

    Raises IntegrityError where another worker has stored one of its new traces in the meantime: run
    it again then.
    """
    is_known, current = batch.is_known, up_to_date(assembler)
    if current is not assembler:
        # What was decided ahead was decided by lists that a repricing has replaced since.
        assembler, batch.new = current, None
    stored = store.stored_traces(batch.by_trace) if batch.by_trace else set()
    before = store.load_received(stored) if stored else {}
    news, outdated = _news({key: batch.by_trace[key] for key in stored}, before)
    if batch.new is None:
        new = NewTraces.of(
            assembler, {key: steps for key, steps in batch.by_trace.items() if key not in stored}
        )
    else:
        new, batch.new = batch.new, None
        new.leave_out(stored)
    applied = _change_traces(assembler, news.keys(), news, new)
    applied.outdated = outdated
    applied.observations_stored = sum(map(len, news.values())) + sum(
        fact.observations for fact in new.facts.values()
    )
    # Of what is new as a whole, nobody asks in which hour it was.
    changed = news.keys() | new.facts.keys() if is_known else news.keys()
    applied.stored_by_hour.update(
        hour_of(one.step.start_time)
        for key in changed
        for one in news.get(key) or batch.by_trace[key]
    )
    applied.observations_rejected = store.set_aside(connection, batch.rejected)
    return applied


def _news(by_trace: ByTrace, stored: Mapping[str, Received]) -> tuple[ByTrace, Outdated]:
    """What is not stored yet, is newer than what is, or had been deleted; and what is older."""
    news: dict[str, list[ReceivedObservation]] = {}
    outdated: dict[tuple[str, str], OutdatedStep] = {}
    for key, observations in by_trace.items():
        known_of, deleted = stored[key].observations, stored[key].deleted
        for one in observations:
            step_id = one.step.observation_id
            known = known_of.get(step_id)
            if known is None or step_id in deleted or is_newer(one, known):
                news.setdefault(key, []).append(one)
            elif one != known:
                outdated[key, step_id] = OutdatedStep(known.step.start_time, one)
    return news, outdated


def give_way(assembler: Assembler, shown: ByTrace) -> Applied:
    """Store what Langfuse shows in place of newer versions of the same steps that it shows no more.
    Call it in a transaction.
    """
    if not shown:
        return Applied()
    applied = _change_traces(
        up_to_date(assembler), shown.keys(), shown, NewTraces(), is_all_that_is_shown=True
    )
    applied.observations_stored = sum(map(len, shown.values()))
    applied.stored_by_hour.update(
        hour_of(one.step.start_time) for steps in shown.values() for one in steps
    )
    return applied


def reassemble(assembler: Assembler, keys: Collection[str], adjustment: str = "") -> Applied:
    """Decide and price stored traces anew, after a tenant, a user or a price became known. Call it
    in a transaction.

    What that changes is posted as usage, or with ``adjustment`` (a reason) as adjustments.
    """
    return _change_traces(up_to_date(assembler), keys, {}, NewTraces(), adjustment)


def committed(work: Callable[[], T]) -> T:
    """Run ``work`` in a transaction of its own, again when another worker was faster with the same
    traces.

    Raises IntegrityError after CONFLICTS of that kind, OperationalError after FAILURES.
    """
    left: dict[type[Exception], int] = {IntegrityError: CONFLICTS, OperationalError: FAILURES}
    while True:
        try:
            with transaction.atomic():
                return work()
        except (IntegrityError, OperationalError) as error:
            kind = IntegrityError if isinstance(error, IntegrityError) else OperationalError
            left[kind] -= 1
            if not left[kind]:
                raise
            logger.info("Another worker was faster with the same traces; trying again (%s)", error)


def _change_traces(
    assembler: Assembler,
    stored_keys: Collection[str],
    news: ByTrace,
    new: NewTraces,
    adjustment: str = "",
    is_all_that_is_shown: bool = False,
) -> Applied:
    """Write new traces, and stored ones as they are with their news; then what follows from
    both.

    News that are all that is shown of their steps replace newer versions, too.
    """
    change, changed_traces, changed_received, step_rows = new.change, [], [], []
    cost_picousd = microcredits = 0
    decided: list[TraceFact] = []
    locked = locked_traces(stored_keys)
    looks_for_likely = assembler.rulings.looks_for_likely
    before = ties.said_by(_steps_of(locked), looks_for_likely=looks_for_likely)
    for old_trace, received in locked:
        if old_trace.id in news:
            _merge(received, news[old_trace.id], is_all_that_is_shown)
    now = ties.said_by({**_steps_of(locked), **new.saying}, looks_for_likely=looks_for_likely)
    tied = ties.tie(assembler.connection_id, before, now, looks_for_likely=looks_for_likely)
    locked += tied.others
    assembled = _assembled(assembler, locked, new, tied.shared)
    for old_trace, received in locked:
        change.take_away(old_trace)
        trace, billed, steps = assembled[old_trace.id]
        change.add(trace)
        cost_picousd += (trace.cost_picousd or 0) - (old_trace.cost_picousd or 0)
        microcredits += (trace.microcredits or 0) - (old_trace.microcredits or 0)
        decided.append(trace)
        row = store.trace_row(trace)
        if row != store.trace_row(old_trace):
            changed_traces.append(row)
        if old_trace.id in news or trace.attributes != old_trace.attributes:
            # What its steps say is kept beside what is said of the trace (usage.facts.received).
            changed_received.append((trace.id, steps, packed_deletions(received.deleted)))
        step_rows += [store.step_row(step, trace) for step in billed]
    store.write_traces(new.rows.values(), changed_traces)
    store.write_received(new.received_rows.values(), changed_received)
    store.write_steps(
        chain(step_rows, *new.step_rows.values()), instead_of=[trace.id for trace in decided]
    )
    store.remember_tenants(assembler.connection_id, change.tenants())
    posted = apply_change(change, adjustment)
    holds.charged(
        [
            trace.langfuse_trace_id
            for trace in (*new.facts.values(), *decided)
            if trace.microcredits is not None and trace.is_owned
        ]
    )
    return Applied(
        traces_changed=len(new.rows) + len(changed_traces),
        transactions_posted=posted.transactions,
        cost_picousd=cost_picousd,
        microcredits=microcredits,
    )


def _steps_of(
    locked: Sequence[tuple[TraceFact, Received]],
) -> dict[str, Iterable[ReceivedObservation]]:
    return {trace.id: received.observations.values() for trace, received in locked}


def _assembled(
    assembler: Assembler,
    locked: Sequence[tuple[TraceFact, Received]],
    new: NewTraces,
    shared: frozenset[str],
) -> dict[str, AssembledTrace]:
    """The stored traces decided, each by its steps and by those that share a call with it; new ones
    are decided anew where they share one.
    """
    settlements = store.load_settlements([trace.id for trace, _ in locked])
    known = [
        Known(
            trace.id,
            [*received.observations.values()],
            trace,
            received.deleted,
            settlements.get(trace.id),
        )
        for trace, received in locked
    ]
    assembled = {one.key: assembler.known(one) for one in known}
    if shared:
        tied = [*known, *(Known(key, steps) for key, steps in new.saying.items())]
        facts = new.facts | {key: one.fact for key, one in assembled.items()}
        together = assembler.together(tied, facts, shared)
        new.decide_together({key: one for key, one in together.items() if key in new.saying})
        assembled |= {key: one for key, one in together.items() if key in assembled}
    return assembled


def locked_traces(keys: Collection[str]) -> list[tuple[TraceFact, Received]]:
    """The stored traces with what Langfuse says of them, locked until the transaction ends."""
    if not keys:
        return []
    traces = store.lock_traces(keys)
    received = store.load_received(traces)
    return [(trace, received[key]) for key, trace in traces.items()]


def _merge(
    received: Received, news: Iterable[ReceivedObservation], is_all_that_is_shown: bool
) -> None:
    """Put the news where they still are, now that what is stored is locked.

    What is deleted gives way to whatever comes.
    """
    for one in news:
        step_id = one.step.observation_id
        known = received.observations.get(step_id)
        gives_way = is_all_that_is_shown or step_id in received.deleted
        if known is None or gives_way or is_newer(one, known):
            received.observations[step_id] = one
        received.deleted.pop(step_id, None)
