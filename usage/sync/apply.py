"""Applies what was received to everything that depends on it, in one transaction (invariant 2).

What is stored is a function of the newest version of each observation. A batch makes it so for the traces that it touches: traces that
are stored are locked, decided and priced anew from all their steps, and the differences go into facts, rollups, stats and the ledger; the
others are new. So the order, overlap and repetition of batches leave no trace of their own.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import TypeVar
from uuid import UUID

from django.db import IntegrityError, OperationalError, transaction

from credits import holds
from pricing.book import load_price_book
from pricing.engine import PricingEngine
from usage.langfuse.wire import ReceivedObservation, RejectedRow
from usage.models import LangfuseConnection
from usage.periods import hour_of
from usage.sync import store
from usage.sync.assemble import assemble
from usage.sync.contributions import Change
from usage.sync.rollups import apply_change
from usage.sync.steps import Directory, Step, TraceFact, newest_versions, steps_from

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A conflict means that another worker has committed, so these come to an end; of three workers one met five in a row, all different.
CONFLICTS = 25
# A deadlock, or a lock that was not had in time: each may take many seconds.
FAILURES = 5
StepsByTrace = Mapping[str, Sequence[Step]]


@dataclass(slots=True)
class Applied:
    """What a batch changed."""

    observations_stored: int = 0
    observations_rejected: int = 0
    traces_changed: int = 0
    observations_gone: int = 0
    transactions_posted: int = 0
    cost_picousd: int = 0
    microcredits: int = 0
    stored_by_hour: Counter[datetime] = field(default_factory=Counter)
    gone_by_hour: Counter[datetime] = field(default_factory=Counter)

    def __iadd__(self, other: "Applied") -> "Applied":
        self.observations_stored += other.observations_stored
        self.observations_rejected += other.observations_rejected
        self.traces_changed += other.traces_changed
        self.observations_gone += other.observations_gone
        self.transactions_posted += other.transactions_posted
        self.cost_picousd += other.cost_picousd
        self.microcredits += other.microcredits
        self.stored_by_hour += other.stored_by_hour
        self.gone_by_hour += other.gone_by_hour
        return self


@dataclass(frozen=True, slots=True)
class Assembler:
    """Decides and prices the traces of one connection, with the prices and the directory of a moment."""

    connection_id: int
    fixed_tenant_id: UUID | None
    directory: Directory
    engine: PricingEngine

    def trace_of(self, steps: Sequence[Step], stored: TraceFact | None = None) -> TraceFact:
        return assemble(self.connection_id, steps, self.directory, self.engine, self.fixed_tenant_id, stored)


def load_assembler(connection: LangfuseConnection) -> Assembler:
    """With everything that is known now."""
    return Assembler(
        connection.pk, connection.tenant_id, store.load_directory_of_ids(), PricingEngine(load_price_book(store.load_repriced()))
    )


def up_to_date(assembler: Assembler) -> Assembler:
    """The assembler, or a new one where a repricing has begun or was undone since it was loaded. Call it in the transaction that stores.

    Until that transaction ends, no repricing begins or is undone: otherwise its walk could have passed a trace that this one stores.
    """
    store.keep_repricings()
    if store.load_repriced() == assembler.engine.book.repriced:
        return assembler
    return load_assembler(LangfuseConnection.objects.get(pk=assembler.connection_id))


@dataclass(slots=True)
class NewTraces:
    """Traces that are not stored, ready to be: their facts and rows, and what they add to the rollups."""

    facts: dict[str, TraceFact] = field(default_factory=dict)
    steps: dict[str, Sequence[Step]] = field(default_factory=dict)
    rows: dict[str, store.Row] = field(default_factory=dict)
    step_rows: dict[str, list[store.Row]] = field(default_factory=dict)
    change: Change = field(default_factory=Change)

    @classmethod
    def of(cls, assembler: Assembler, by_trace: StepsByTrace) -> "NewTraces":
        """Pure: so it can be made ahead, while the database is busy. One thing after the other is a sixth faster than trace by trace."""
        facts = {trace_id: assembler.trace_of(steps) for trace_id, steps in by_trace.items()}
        rows = {trace_id: store.trace_row(fact) for trace_id, fact in facts.items()}
        step_rows = {trace_id: [store.step_row(step, fact) for step in by_trace[trace_id]] for trace_id, fact in facts.items()}
        new = cls(facts, dict(by_trace), rows, step_rows)
        for fact in facts.values():
            new.change.add(fact)
        return new

    def leave_out(self, trace_ids: Iterable[str]) -> None:
        """Forget traces that turned out to be stored."""
        for trace_id in trace_ids:
            fact = self.facts.pop(trace_id, None)
            if fact is not None:
                self.change.forget(fact)
                del self.steps[trace_id], self.rows[trace_id], self.step_rows[trace_id]


class Batch:
    """Observations to apply together: the newest version of each, by trace."""

    def __init__(self, steps: Iterable[Step], rejected: Sequence[RejectedRow] = ()) -> None:
        self.rejected = rejected
        self.by_trace: dict[str, list[Step]] = defaultdict(list)
        for step in newest_versions(steps).values():
            self.by_trace[step.trace_id].append(step)
        self.new: NewTraces | None = None

    @property
    def is_known(self) -> bool:
        """Whether its hours had been read before, so that nothing was decided ahead."""
        return self.new is None

    def without(self, hours: Collection[datetime]) -> "Batch":
        """What does not start in these hours, with nothing decided ahead."""
        steps = chain.from_iterable(self.by_trace.values())
        return Batch((step for step in steps if hour_of(step.received.start_time) not in hours), self.rejected)

    def prepare(self, assembler: Assembler) -> None:
        """Decide all traces as if none were stored, which in hours that were never read is nearly always so."""
        self.new = NewTraces.of(assembler, self.by_trace)


def apply_received(
    connection: LangfuseConnection, received: Iterable[ReceivedObservation], rejected: Sequence[RejectedRow] = ()
) -> Applied:
    """Store observations and all that follows from them. Call it in a transaction; :func:`committed` makes one."""
    batch = Batch(steps_from(connection.pk, received), rejected)
    return apply_batch(connection, batch, load_assembler(connection))


def apply_batch(connection: LangfuseConnection, batch: Batch, assembler: Assembler) -> Applied:
    """Store a batch and all that follows from it. Call it in a transaction.

    Raises IntegrityError where another worker has stored one of its new traces in the meantime: run it again then.
    """
    is_known, current = batch.is_known, up_to_date(assembler)
    if current is not assembler:
        # What was decided ahead was decided by lists that a repricing has replaced since.
        assembler, batch.new = current, None
    stored = store.stored_traces(batch.by_trace) if batch.by_trace else set()
    versions = store.stored_versions(stored) if stored else {}
    news = {trace_id: fresh for trace_id in stored if (fresh := _news(batch.by_trace[trace_id], versions))}
    if batch.new is None:
        new = NewTraces.of(assembler, {trace_id: steps for trace_id, steps in batch.by_trace.items() if trace_id not in stored})
    else:
        new, batch.new = batch.new, None
        new.leave_out(stored)
    applied = _change_traces(assembler, news.keys(), news, new)
    applied.observations_stored = sum(map(len, news.values())) + sum(map(len, new.steps.values()))
    # Of what is new as a whole, nobody asks in which hour it was.
    applied.stored_by_hour.update(hour_of(step.received.start_time) for steps in news.values() for step in steps)
    if is_known:
        applied.stored_by_hour.update(hour_of(step.received.start_time) for steps in new.steps.values() for step in steps)
    applied.observations_rejected = store.set_aside(connection, batch.rejected)
    return applied


def _news(steps: Sequence[Step], versions: Mapping[str, store.StoredVersion]) -> list[Step]:
    return [step for step in steps if step.id not in versions or versions[step.id].is_older_than(step)]


def reassemble(assembler: Assembler, trace_ids: Collection[str], adjustment: str = "") -> Applied:
    """Decide and price stored traces anew, after a tenant, a user or a price became known. Call it in a transaction.

    What that changes is posted as usage, or with ``adjustment`` (a reason) as adjustments.
    """
    return _change_traces(up_to_date(assembler), trace_ids, {}, NewTraces(), adjustment)


def committed(work: Callable[[], T]) -> T:
    """Run ``work`` in a transaction of its own, again when another worker was faster with the same traces.

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


def _change_traces(assembler: Assembler, stored_ids: Collection[str], news: StepsByTrace, new: NewTraces, adjustment: str = "") -> Applied:
    """Write new traces, and stored ones as they are with their news; then what follows from both."""
    change, changed_traces, changed_steps, added_steps = new.change, [], [], []
    cost_picousd = microcredits = 0
    decided: list[TraceFact] = []
    for old_trace, old_steps in locked_traces(stored_ids):
        change.take_away(old_trace)
        # What is stored, before deciding anew changes the steps in place.
        old_rows = {step.id: store.step_row(step, old_trace) for step in old_steps}
        steps = _merged(old_steps, news.get(old_trace.id, ()))
        trace = assembler.trace_of(steps, old_trace)
        trace.is_voided = old_trace.is_voided
        change.add(trace)
        cost_picousd += (trace.cost_picousd or 0) - (old_trace.cost_picousd or 0)
        microcredits += (trace.microcredits or 0) - (old_trace.microcredits or 0)
        decided.append(trace)
        row = store.trace_row(trace)
        if row != store.trace_row(old_trace):
            changed_traces.append(row)
        rows = [store.step_row(step, trace) for step in steps]
        added_steps += [row for row in rows if row[0] not in old_rows]
        changed_steps += [row for row in rows if row[0] in old_rows and row != old_rows[row[0]]]
    store.write_traces(new.rows.values(), changed_traces)
    store.write_steps(chain(added_steps, *new.step_rows.values()), changed_steps)
    posted = apply_change(change, adjustment)
    holds.charged([trace.langfuse_trace_id for trace in (*new.facts.values(), *decided) if trace.microcredits is not None])
    return Applied(
        traces_changed=len(new.rows) + len(changed_traces),
        transactions_posted=posted.transactions,
        cost_picousd=cost_picousd,
        microcredits=microcredits,
    )


def locked_traces(trace_ids: Collection[str]) -> Iterable[tuple[TraceFact, list[Step]]]:
    """The stored traces with their steps, locked until the transaction ends."""
    if not trace_ids:
        return []
    traces = store.lock_traces(trace_ids)
    steps: dict[str, list[Step]] = defaultdict(list)
    for step in store.load_steps(traces):
        steps[step.trace_id].append(step)
    return [(trace, steps[trace.id]) for trace in traces.values()]


def _merged(old_steps: Iterable[Step], news: Iterable[Step]) -> list[Step]:
    """The steps of a trace: the news where they still are, now that what is stored is locked."""
    merged = {step.id: step for step in old_steps}
    for step in news:
        known = merged.get(step.id)
        if known is None or known.version < step.version:
            merged[step.id] = step
        else:
            known.gone_since = None
    return list(merged.values())
