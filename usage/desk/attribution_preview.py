"""What attribution rules would change over the stored history: the dry run. Reads only."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db.models import BigIntegerField, ExpressionWrapper, F

from kluisz_analytics.scales import (
    CREDIT_PLACES,
    USD_PLACES,
    Credits,
    Usd,
    from_scaled,
)
from pricing.book import newest_entry
from pricing.engine import TraceUsage
from usage.desk.attribution import check, traces_of
from usage.facts import store
from usage.facts.apply import Assembler, load_assembler
from usage.facts.decide import attributes_of, lists_as_of
from usage.facts.owner import Owner, Settlement
from usage.facts.received import Received, in_precedence, unpacked
from usage.facts.rules import AttributionRules as RulesThatHold
from usage.facts.rules import Given
from usage.facts.seen import NewEntry, new_entries
from usage.langfuse.wire import TraceAttributes
from usage.models import AttributionRule, AttributionRules

TRACES_A_FETCH = 5_000
SAMPLES = 20


@dataclass(slots=True)
class Moved:
    """What somebody's usage (of nobody, where both are None) comes to now and would come to:
    picousd and microcredits.
    """

    tenant_id: UUID | None
    user_id: UUID | None
    traces_less: int = 0
    traces_more: int = 0
    cost_picousd: int = 0
    microcredits: int = 0

    @property
    def cost_usd(self) -> Usd:
        """How much more it would be."""
        return from_scaled(self.cost_picousd, USD_PLACES)

    @property
    def credits(self) -> Credits:
        """How much more would be charged."""
        return from_scaled(self.microcredits, CREDIT_PLACES)


class Sample(NamedTuple):
    """A run that would change: whose it is and whose it would be, and what the rules give."""

    trace_id: UUID
    langfuse_trace_id: str
    name: str
    start_time: datetime
    before: tuple[UUID | None, UUID | None]
    after: tuple[UUID | None, UUID | None]
    dispute: str
    given: Sequence[Given]


@dataclass(slots=True)
class Preview:
    """How many runs would gain an owner, have another, or lose it; and those that stay whose they
    are with another project or flow, or in dispute.
    """

    traces: int = 0
    gained: int = 0
    changed: int = 0
    lost: int = 0
    disputed: int = 0
    named_otherwise: int = 0
    moved: dict[tuple[UUID | None, UUID | None], Moved] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    entered: set[NewEntry] = field(default_factory=set)
    """Whom the rules would enter, in as many days as their bound takes."""
    looked_at: set[tuple[UUID | None, Sequence[Given]]] = field(default_factory=set)

    @property
    def tenants_entered(self) -> int:
        return len({one.id for one in self.entered if one.tenant_id is None})

    @property
    def users_entered(self) -> int:
        return len({one.id for one in self.entered if one.tenant_id is not None})

    @property
    def traces_changed(self) -> int:
        return self.gained + self.changed + self.lost

    def largest(self, rows: int) -> list[Moved]:
        """Those whose usage would change most."""
        by_most = sorted(
            self.moved.values(), key=lambda one: (-abs(one.cost_picousd), -abs(one.microcredits))
        )
        return by_most[:rows]

    def of(self, owner: tuple[UUID | None, UUID | None]) -> Moved:
        return self.moved.setdefault(owner, Moved(*owner))


class Stored(NamedTuple):
    """A trace as it is decided now; amounts as they are stored."""

    id: UUID
    langfuse_trace_id: str
    tenant_id: UUID | None
    user_id: UUID | None
    dispute: str
    settled_as: str
    start_time: datetime
    priced_as_of: datetime
    unowned_as_of: datetime | None
    cost_picousd: int | None
    microcredits: int | None
    steps: str
    deleted: str
    is_failed: bool
    attributes: TraceAttributes

    @property
    def is_voided(self) -> bool:
        """Those that are voided are not looked at."""
        return False

    @property
    def owner(self) -> tuple[UUID | None, UUID | None]:
        return self.tenant_id, self.user_id


def preview(together: AttributionRules, rules: Sequence[AttributionRule]) -> Preview:
    """What the rules (not stored, of :func:`usage.desk.attribution.begin`) would change.

    Raises as :func:`usage.desk.attribution.begin` does.
    """
    check(together, rules)
    found, assembler = Preview(), _with_rules(together, rules)
    terms = Terms(assembler, newest_entry())
    for traces in store.chunks(_stored(together), TRACES_A_FETCH):
        settlements = store.load_settlements([stored.id.hex for stored in traces])
        for stored in traces:
            _look_at(found, stored, terms, settlements.get(stored.id.hex))
    return found


@dataclass(frozen=True, slots=True)
class Terms:
    """What traces would be decided and priced by, and when the price lists last changed."""

    assembler: Assembler
    lists_changed: datetime | None

    def amounts(
        self,
        stored: Stored,
        owner: Owner,
        is_by_rule: bool,
        received: Received,
        settlement: Settlement | None,
    ) -> tuple[int, int]:
        """What the trace would cost and be charged as its owner's: picousd and microcredits."""
        assembler, engine = self.assembler, self.assembler.engine
        if self._costs_the_same(stored):
            known_at, _ = lists_as_of(
                stored, owner, engine.book.loaded_at, is_by_rule, assembler.directory.seen
            )
            usage = TraceUsage(
                owner.tenant_id,
                owner.user_id,
                stored.start_time,
                known_at,
                (),
                stored.is_failed,
                stored.attributes.environment in assembler.billed_in,
            )
            charge = engine.charge(usage, stored.cost_picousd, known_at)
            return stored.cost_picousd or 0, charge.microcredits or 0
        now, *_ = assembler.trace_of(
            stored.id.hex,
            list(received.observations.values()),
            stored,
            len(received.deleted),
            settlement,
        )
        return now.cost_picousd or 0, now.microcredits or 0

    def _costs_the_same(self, stored: Stored) -> bool:
        """Whoever it is of: no tenant has prices of its own, and no list has changed since."""
        book = self.assembler.engine.book
        return (
            not book.tenant_prices
            and not book.repriced
            and (self.lists_changed is None or self.lists_changed <= stored.priced_as_of)
        )


def _with_rules(together: AttributionRules, rules: Iterable[AttributionRule]) -> Assembler:
    """The connection's assembler, if the rules held."""
    assembler = load_assembler(together.connection)
    of, position = together.connection_id, together.position
    holding = RulesThatHold(
        [
            *store.load_attribution_rules(of, rules__position__lte=position),
            *(one.as_rule() for one in rules),
            *store.load_attribution_rules(of, rules__position__gt=position),
        ],
        store.load_entries(assembler.directory),
    )
    return replace(assembler, rules=holding)


def _stored(together: AttributionRules) -> Iterator[Stored]:
    """The traces that the rules are about, as they are decided now."""
    traces = traces_of(together).filter(is_voided=False).order_by()
    columns = (
        *("id", "langfuse_trace_id", "tenant_id", "user_id", "dispute", "settled_as"),
        *("start_time", "priced_as_of", "unowned_as_of"),
    )
    amounts = [
        ExpressionWrapper(F(name), output_field=BigIntegerField())
        for name in ("cost_usd", "credits")
    ]
    rows = traces.values_list(
        *columns,
        *amounts,
        "received__steps",
        "received__deleted",
        "is_failed",
        *TraceAttributes._fields,
    )
    for row in rows.iterator(chunk_size=TRACES_A_FETCH):
        yield Stored._make((*row[:14], TraceAttributes(*row[14:])))


def _look_at(found: Preview, stored: Stored, terms: Terms, settlement: Settlement | None) -> None:
    """Count the trace, priced anew where it would change."""
    found.traces += 1
    received = unpacked(stored.langfuse_trace_id, stored.attributes, stored.steps, stored.deleted)
    ordered = in_precedence(list(received.observations.values()))
    assembler = terms.assembler
    attributed = assembler.rules.attribute(
        ordered,
        attributes_of(ordered),
        stored.start_time,
        assembler.directory,
        assembler.fixed_tenant_id,
    )
    owner = attributed.owner(stored.start_time, settlement)
    if owner.dispute and not owner.settled_as and not stored.dispute:
        found.disputed += 1
    after = owner.tenant_id, owner.user_id
    _look_for_unknown(found, assembler, after, owner.dispute, attributed.given)
    if after == stored.owner:
        found.named_otherwise += attributed.attributes[2:4] != stored.attributes[2:4]
        return
    cost_picousd, microcredits = terms.amounts(
        stored, owner, attributed.is_by_rule, received, settlement
    )
    known = _known(after) - _known(stored.owner)
    if not known:
        found.changed += 1
    elif known > 0:
        found.gained += 1
    else:
        found.lost += 1
    less, more = found.of(stored.owner), found.of(after)
    less.traces_less += 1
    less.cost_picousd -= stored.cost_picousd or 0
    less.microcredits -= stored.microcredits or 0
    more.traces_more += 1
    more.cost_picousd += cost_picousd
    more.microcredits += microcredits
    if len(found.samples) < SAMPLES:
        found.samples.append(
            Sample(
                stored.id,
                stored.langfuse_trace_id,
                stored.attributes.name,
                stored.start_time,
                stored.owner,
                after,
                owner.dispute,
                attributed.given,
            )
        )


def _look_for_unknown(
    found: Preview,
    assembler: Assembler,
    owner: tuple[UUID | None, UUID | None],
    dispute: str,
    given: tuple[Given, ...],
) -> None:
    """Count whom the rules would enter, of a run that they find no owner of."""
    tenant_id, user_id = owner
    if not assembler.rules.enters or user_id is not None or dispute:
        return
    if (tenant_id, given) not in found.looked_at:
        found.looked_at.add((tenant_id, given))
        found.entered.update(new_entries(assembler.rules, assembler.directory, given, tenant_id))


def _known(owner: tuple[UUID | None, UUID | None]) -> int:
    """How much of an owner is known."""
    tenant_id, user_id = owner
    return (tenant_id is not None) + (user_id is not None)
