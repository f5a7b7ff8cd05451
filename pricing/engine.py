"""The pricing engine: pure and typed, with no query in it (domain.md, Price).

``cost_of`` finds what one observation cost and where that figure came from; ``price`` decides a
trace, ``price_all`` any number of them. Inside, amounts are exact integers as they are stored
(picousd, microcredits); what is public beside them is Decimal. Credits are rounded once for each
trace, half up, to six places.

A trace is priced with the lists as they were when it was first priced (``known_at``; for a step
that began later, then), or when its period was last repriced: what is entered late for a past date
changes nothing until an operator reprices. Only usage that nothing in those lists could price takes
the first price after.

Amounts beyond what any run can come to (pricing.bounds) are mistakes, of a price, a rate or the
usage. They are neither stored nor charged, and could not be: such a trace is set aside with its
reason, and all others go on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

import msgspec

from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES, from_scaled, to_scaled
from kluisz_analytics.tenants.attributed import is_attributed
from pricing.bounds import LARGEST_TRACE_CREDITS, LARGEST_TRACE_USD
from pricing.conditions import terms_of
from pricing.model_names import ModelName, understand
from pricing.price_book import PriceBook
from pricing.prices import EVER, LATEST, MILLION, NEVER, Precedence, TierRate
from pricing.quotes import Amount, CostSource, Quote, quotes_of, shipped_quotes
from pricing.units import shape_of, units_left_out, units_of

CUBED = MILLION**3
LARGEST_PICOUSD = to_scaled(LARGEST_TRACE_USD, USD_PLACES)
LARGEST_MICROCREDITS = to_scaled(LARGEST_TRACE_CREDITS, CREDIT_PLACES)
# A member of an enumeration is looked up slowly through its class, and these are asked for each
# observation.
FROM_LANGFUSE, WITHOUT_USAGE = CostSource.LANGFUSE, CostSource.NO_USAGE
BY_BOOK, PARTLY_PRICED = CostSource.PRICE_BOOK, CostSource.PARTLY_PRICED
COMPLETED, COMPLETED_BY_BOOK = CostSource.LANGFUSE_AND_PRICE, CostSource.LANGFUSE_AND_BOOK


class Cost(msgspec.Struct, frozen=True, gc=False):
    """What an observation cost; None when that is unknown, never 0 for unknown.

    ``price_id``: the model price's, or the shipped book's.
    """

    picousd: int | None
    source: CostSource
    price_id: int | None = None

    @property
    def cost_usd(self) -> Decimal | None:
        """USD at twelve places."""
        return None if self.picousd is None else from_scaled(self.picousd, USD_PLACES)


NO_USAGE = Cost(0, CostSource.NO_USAGE)
UNPRICED = Cost(None, CostSource.UNPRICED)
UNMETERED = Cost(None, CostSource.UNMETERED)


class Uncharged(StrEnum):
    """Why a run whose owner is known costs no credits."""

    ENVIRONMENT = "environment"
    FAILED = "failed"
    TWICE = "twice"
    """All of it is counted in another run."""


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a trace is billed; both amounts None where the cost or the tier is unknown.

    ``set_aside`` says why where both are known and come to too much: then both are None too;
    ``uncharged`` why nothing is charged by rule: then both are 0.
    """

    billed_picousd: int | None
    microcredits: int | None
    rate: TierRate | None = None
    set_aside: str = ""
    uncharged: Uncharged | None = None

    @property
    def billed_cost_usd(self) -> Decimal | None:
        """USD at twelve places."""
        return None if self.billed_picousd is None else from_scaled(self.billed_picousd, USD_PLACES)

    @property
    def credits(self) -> Decimal | None:
        """Credits at six places."""
        return None if self.microcredits is None else from_scaled(self.microcredits, CREDIT_PLACES)


NO_CHARGE = Charge(None, None)
NOT_OF_THIS_ENVIRONMENT = Charge(0, 0, uncharged=Uncharged.ENVIRONMENT)


def charge_for(cost_picousd: int | None, rate: TierRate | None) -> Charge:
    """A trace's charge: cost × multiplier × credits a dollar, then the minimum and the maximum,
    rounded once, half up; set aside where it comes to more than any run is charged.
    """
    if rate is None or cost_picousd is None:
        return Charge(None, None, rate)
    multiplier, per_usd, minimum, maximum = rate.scaled
    billed = cost_picousd * multiplier
    # Scaled by twelve places (cost) and by six twice (the two factors); credits have six.
    credits = (2 * billed * per_usd + CUBED) // (2 * CUBED)
    if minimum is not None and credits < minimum:
        credits = minimum
    if maximum is not None and credits > maximum:
        credits = maximum
    billed = (2 * billed + MILLION) // (2 * MILLION)
    if credits > LARGEST_MICROCREDITS or billed > LARGEST_PICOUSD:
        return Charge(None, None, rate, _why_not_charged(billed, credits))
    return Charge(billed, credits, rate)


def _why_not_charged(billed: int, credits: int) -> str:
    return (
        f"Its charge would be {from_scaled(credits, CREDIT_PLACES):,.2f} credits for"
        f" {from_scaled(billed, USD_PLACES):,.2f} USD billed, and no run is charged more than"
        f" {LARGEST_TRACE_CREDITS:,f} credits or {LARGEST_TRACE_USD:,f} USD: correct the rate of"
        " its tier, and reprice its period."
    )


def _why_unpriced(
    cost: int, observations: Sequence["ObservationUsage"], costs: Sequence[Cost]
) -> str:
    dearest = max(range(len(costs)), key=lambda at: costs[at].picousd or 0)
    return (
        f"Its cost would be {from_scaled(cost, USD_PLACES):,.2f} USD, and no run costs more than"
        f" {LARGEST_TRACE_USD:,f} USD: look at the price of “{observations[dearest].model[:100]}”,"
        " correct it, and reprice its period."
    )


def split(amount: int, weights: Sequence[int]) -> list[int]:
    """``amount`` in parts proportional to ``weights``; the parts sum to it exactly.

    Equal parts, cumulatively rounded, where all weights are 0. Used to tell a trace's credits apart
    by model.
    """
    total = sum(weights)
    if not total:
        weights, total = [1] * len(weights), len(weights)
    parts, given, seen = [], 0, 0
    for weight in weights:
        seen += weight
        reached = (2 * amount * seen + total) // (2 * total)
        parts.append(reached - given)
        given = reached
    return parts


class ObservationUsage(msgspec.Struct, frozen=True, gc=False):
    """What one observation used: unit → count as the provider named them, and what Langfuse says
    that it cost (None: nothing).

    ``uncosted``: the units that are left out of that cost; ``is_call``: whether it is a call of a
    model, which can't have used nothing; ``context``: how it was asked (pricing.conditions).
    """

    model: str
    usage_details: Mapping[str, int]
    langfuse_picousd: int | None
    started_at: datetime
    uncosted: tuple[str, ...] = ()
    is_call: bool = False
    context: str = ""


class TraceUsage(msgspec.Struct, frozen=True, gc=False):
    """A trace to price: whose it is (None: unknown), when it began, when it was first priced, and
    its observations; whether it failed, whether its environment is billed, and which connection
    read it.
    """

    tenant_id: UUID | None
    user_id: UUID | None
    started_at: datetime
    known_at: datetime
    observations: Sequence[ObservationUsage]
    is_failed: bool = False
    is_billed: bool = True
    connection_id: int | None = None


class PricedTrace(msgspec.Struct, frozen=True, gc=False):
    """A cost for each observation, in their order; the trace's cost (None when nothing of its usage
    has a price) and charge.

    ``set_aside``: why it has no cost or no charge though there are a price and a rate.
    """

    costs: list[Cost]
    cost_picousd: int | None
    charge: Charge
    set_aside: str = ""

    def parts(self) -> list[tuple[int, int, int]]:
        """How the charge is told apart: (which observation, billed picousd, microcredits), in
        proportion to cost; they sum to it exactly.

        Without a priced observation, all of it (a tier's minimum) is the first one's. Without a
        charge there are no parts.
        """
        billed, credits = self.charge.billed_picousd, self.charge.microcredits
        if billed is None or credits is None:
            return []
        if len(self.costs) == 1:
            return [(0, billed, credits)]
        sharing = [
            at
            for at, one in enumerate(self.costs)
            if one.picousd is not None and one.source is not WITHOUT_USAGE
        ]
        if len(sharing) < 2:
            return [(sharing[0] if sharing else 0, billed, credits)]
        weights = [self.costs[at].picousd or 0 for at in sharing]
        return list(zip(sharing, split(billed, weights), split(credits, weights), strict=True))


Lists = tuple[int | None, int | None]
"""Whose own prices go first, and which connection's own names of models hold."""


class _Plan(NamedTuple):
    """What may price usage of one model and one shape: before Langfuse's cost, and after it, the
    first that applies first.
    """

    before: tuple[Quote, ...]
    after: tuple[Quote, ...]
    sole: Amount | None
    """The only one's amount, where that one holds and was in the list at all times, as most are;
    then its source and its price.
    """
    sole_source: CostSource
    sole_price_id: int | None

    def entries_after(self, known_at: datetime) -> list[datetime]:
        """When something of it was entered later than then."""
        return sorted(
            {one.recorded_at for one in (*self.before, *self.after) if one.recorded_at > known_at}
        )


class PricingEngine:
    """Prices observations and traces with a price book.

    It remembers which prices are for which model and shape of usage.
    """

    def __init__(self, book: PriceBook) -> None:
        self.book = book
        self._own_lists = frozenset(
            tenant_id.int for tenant_id, prices in book.tenant_prices.items() if prices
        )
        self._has_lists = bool(self._own_lists or book.connections)
        self._has_replacing = any(
            one.precedence is Precedence.REPLACES for one in book.platform_prices
        )
        self._plans: dict[tuple[Lists | str | None, ...], _Plan] = {}

    def price_all(self, traces: Iterable[TraceUsage]) -> Iterator[PricedTrace]:
        """The batch form: the same as :meth:`price` of each, in their order."""
        return map(self.price, traces)

    def price(self, trace: TraceUsage) -> PricedTrace:
        """Cost of each observation, then the charge of the trace: none where its tenant is unknown;
        by the tenant's tier where its user is.
        """
        tenant_id, started_at, known_at = trace.tenant_id, trace.started_at, trace.known_at
        if self.book.repriced:
            known_at = self.book.knowledge(known_at, tenant_id, started_at)
        lists = self._lists(tenant_id, trace.connection_id)
        costs, total, unknown, unbilled = [], 0, 0, 0
        for usage in trace.observations:
            # What _cost does first; a call less for each of millions.
            if usage.langfuse_picousd is None and usage.usage_details:
                cost = self._cost_by_lists(lists, usage, known_at)
            else:
                cost = self._cost(lists, usage, known_at)
            costs.append(cost)
            if cost.picousd is None:
                unknown += 1
            elif cost.source is WITHOUT_USAGE:
                unbilled += 1
            else:
                total += cost.picousd
        if total > LARGEST_PICOUSD:
            why = _why_unpriced(total, trace.observations, costs)
            costs = [one if one in (NO_USAGE, UNMETERED) else UNPRICED for one in costs]
            return PricedTrace(costs, None, NO_CHARGE, why)
        cost_picousd = None if unknown and unknown + unbilled == len(costs) else total
        charge = self.charge(trace, cost_picousd, known_at)
        return PricedTrace(costs, cost_picousd, charge, charge.set_aside)

    def charge(self, trace: TraceUsage, cost_picousd: int | None, known_at: datetime) -> Charge:
        """What a trace of this cost is charged, by the lists as they were at ``known_at``."""
        tenant_id, started_at = trace.tenant_id, trace.started_at
        if not is_attributed(tenant_id):
            return NO_CHARGE
        if not trace.is_billed:
            return NOT_OF_THIS_ENVIRONMENT
        rate = self.book.rate_for(
            trace.user_id, tenant_id, started_at, known_at if known_at > started_at else started_at
        )
        if trace.is_failed and rate is not None and not rate.charges_failed_runs:
            return Charge(0, 0, rate, uncharged=Uncharged.FAILED)
        return charge_for(cost_picousd, rate)

    def cost_of(
        self,
        tenant_id: UUID | None,
        usage: ObservationUsage,
        known_at: datetime = LATEST,
        connection_id: int | None = None,
    ) -> Cost:
        """The cost of one observation: the first source that applies, by the list as it was at
        ``known_at``.

        Raises TypeError for a count that is not an integer: money is never made of floats.
        """
        return self._cost(self._lists(tenant_id, connection_id), usage, known_at)

    def own_cost(
        self,
        tenant_id: UUID | None,
        usage: ObservationUsage,
        known_at: datetime = LATEST,
        connection_id: int | None = None,
    ) -> Cost:
        """What one observation with usage costs by our own lists, whatever Langfuse says."""
        return self._cost_by_lists(self._lists(tenant_id, connection_id), usage, known_at)

    def named(
        self, model: str, moment: datetime, known_at: datetime, connection_id: int | None = None
    ) -> ModelName:
        """What a model's name means in usage of then that the connection reads, by the names as
        they were at ``known_at``.
        """
        if self.book.aliases:
            known_at = max(known_at, moment)
            for one in self.book.readings(model, connection_id):
                if one.span.holds(moment, known_at):
                    return one.name
        return understand(model)

    def is_priceable(
        self,
        tenant_id: UUID | None,
        model: str,
        since: datetime,
        until: datetime,
        connection_id: int | None = None,
    ) -> bool:
        """Whether any price is for the model at some time between two moments, both included; it
        may still lack a kind of unit.
        """
        plan = self._plan_for(self._lists(tenant_id, connection_id), model, "", ())
        return any(
            one.valid_from <= until and since < one.valid_until
            for one in (*plan.before, *plan.after)
        )

    def _lists(self, tenant_id: UUID | None, connection_id: int | None) -> Lists | None:
        """Which lists go before what holds for all; None for nearly all, who have none."""
        if not self._has_lists:
            return None
        own = tenant_id.int if tenant_id is not None and tenant_id.int in self._own_lists else None
        names = connection_id if connection_id in self.book.connections else None
        return None if own is None and names is None else (own, names)

    def _cost(self, lists: Lists | None, usage: ObservationUsage, known_at: datetime) -> Cost:
        usage_details, langfuse_picousd, started_at = (
            usage.usage_details,
            usage.langfuse_picousd,
            usage.started_at,
        )
        if langfuse_picousd is None:
            if not usage_details:
                return UNMETERED if usage.is_call else NO_USAGE
            return self._cost_by_lists(lists, usage, known_at)
        if usage.uncosted:
            return self._partly(lists, usage, langfuse_picousd, known_at)
        if lists is None and not self._has_replacing:
            return Cost(langfuse_picousd, FROM_LANGFUSE)
        before = self._plan_for(lists, usage.model, usage.context, tuple(usage_details)).before
        replaced = _first(before, usage_details, started_at, max(known_at, started_at))
        return replaced or Cost(langfuse_picousd, FROM_LANGFUSE)

    def _cost_by_lists(
        self, lists: Lists | None, usage: ObservationUsage, known_at: datetime
    ) -> Cost:
        """The cost by our own lists, whatever Langfuse says."""
        usage_details, started_at = usage.usage_details, usage.started_at
        plan = self._plans.get((lists, usage.model, usage.context, *usage_details))
        if plan is None:
            plan = self._plan_for(lists, usage.model, usage.context, tuple(usage_details))
        _, _, sole, sole_source, sole_price_id = plan
        if sole is not None:
            picousd = sole(usage_details)
            if picousd is not None:
                return Cost(picousd, sole_source, sole_price_id)
        known_at = max(known_at, started_at)
        cost = _first(plan.before, usage_details, started_at, known_at)
        cost = cost or _first(plan.after, usage_details, started_at, known_at)
        if cost is not None:
            return cost
        if not any(usage_details.values()):
            return UNMETERED if usage.is_call else NO_USAGE
        # Nothing in the list could price it: the first price that was entered after does.
        for moment in plan.entries_after(known_at):
            cost = _first((*plan.before, *plan.after), usage_details, started_at, moment)
            if cost is not None:
                return cost
        return UNPRICED

    def _partly(
        self,
        lists: Lists | None,
        usage: ObservationUsage,
        langfuse_picousd: int,
        known_at: datetime,
    ) -> Cost:
        """The cost where Langfuse left units out of its own: a price that goes before Langfuse's
        is of all units; else what is missing is added by the first price of ours that has it.
        """
        plan = self._plan_for(lists, usage.model, usage.context, tuple(usage.usage_details))
        started_at, known_at = usage.started_at, max(known_at, usage.started_at)
        whole = _first(plan.before, usage.usage_details, started_at, known_at)
        if whole is not None:
            return whole
        missing = units_left_out(usage.usage_details, usage.uncosted)
        if missing == {}:
            return Cost(langfuse_picousd, FROM_LANGFUSE)
        if missing is not None:
            units = units_of(usage.usage_details)
            for moment in (known_at, *plan.entries_after(known_at)):
                for one in _holding((*plan.before, *plan.after), started_at, moment):
                    card = one.card_at(started_at)
                    added = None if card is None else card.picousd_of_part(missing, units)
                    if added is not None:
                        source = COMPLETED_BY_BOOK if one.source is BY_BOOK else COMPLETED
                        return Cost(langfuse_picousd + added, source, one.price_id)
        return Cost(langfuse_picousd, PARTLY_PRICED)

    def _plan_for(
        self, lists: Lists | None, model: str, context: str, keys: tuple[str, ...]
    ) -> _Plan:
        key = (lists, model, context, *keys)
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._plan(lists, model, context, keys)
        return plan

    def _plan(self, lists: Lists | None, model: str, context: str, keys: tuple[str, ...]) -> _Plan:
        book, shape, terms = self.book, shape_of(keys), terms_of(context, keys)
        own_list, connection_id = lists or (None, None)
        named = book.readings(model, connection_id)
        own: list[Quote] = []
        if own_list is not None:
            prices = book.tenant_prices[UUID(int=own_list)]
            own = quotes_of(CostSource.TENANT_PRICE, prices, named, shape, terms)
            if not own:
                others = None if connection_id is None else (None, connection_id)
                return self._plan_for(others, model, context, keys)
        replacing, fallback = (
            [one for one in book.platform_prices if one.precedence is precedence]
            for precedence in (Precedence.REPLACES, Precedence.FALLBACK)
        )
        before = own + quotes_of(CostSource.PLATFORM_PRICE, replacing, named, shape, terms)
        after = quotes_of(CostSource.FALLBACK_PRICE, fallback, named, shape, terms)
        after += shipped_quotes(book.shipped_books, named, shape, terms)
        if len(after) == 1 and not before and after[0][:4] == (EVER, NEVER, EVER, NEVER):
            return _Plan((), tuple(after), after[0].amount, after[0].source, after[0].price_id)
        return _Plan(tuple(before), tuple(after), None, CostSource.UNPRICED, None)


def _holding(quotes: Iterable[Quote], started_at: datetime, known_at: datetime) -> Iterator[Quote]:
    """Those that hold for usage of then, of the list as it was at ``known_at``."""
    for one in quotes:
        if (
            one.valid_from <= started_at < one.valid_until
            and one.recorded_at <= known_at < one.withdrawn_at
        ):
            yield one


def _first(
    quotes: Iterable[Quote],
    usage_details: Mapping[str, int],
    started_at: datetime,
    known_at: datetime,
) -> Cost | None:
    """The cost by the first price that applies, of those in the list at ``known_at``."""
    for one in _holding(quotes, started_at, known_at):
        chosen = one.amount or (one.amount_at and one.amount_at(started_at))
        picousd = chosen(usage_details) if chosen else None
        if picousd is not None:
            return Cost(picousd, one.source, one.price_id)
    return None
