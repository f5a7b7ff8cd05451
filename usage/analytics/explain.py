"""Why a trace was charged what it was: every figure between its units and its credits, from what is
stored (domain.md, Price).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from django.db.models import Q, Subquery, Value
from django.db.models.functions import Coalesce

from credits.models import HourCut, Transaction, UsageCharge
from kluisz_analytics.scales import CREDIT_PLACES, EXACT, USD_PLACES, Credits, Factor, Usd, Written
from kluisz_analytics.tenants.access import sees_user
from kluisz_analytics.tenants.directory import users_called
from kluisz_analytics.tenants.models import User
from pricing.book import load_aliases, load_shipped_books, price_of
from pricing.conditions import terms_of, whole_context
from pricing.engine import CostSource, Uncharged
from pricing.model_names import ModelName
from pricing.models import ModelPrice, TierRate
from pricing.own_total import by_own_total
from pricing.price_book import PriceBook
from pricing.prices import LineItem, RateCard
from pricing.shipped_book import ShippedPrices
from pricing.units import units_left_out
from usage.access import visible_traces
from usage.analytics.attribution import why_owned
from usage.analytics.names import name_of_person
from usage.analytics.steps import RunStep, steps_of
from usage.facts.findings import Takes
from usage.facts.owner import Dispute, Outcome
from usage.facts.rules import unpacked_given
from usage.models import Observation, Repricing, Trace, UsageRuling

Limit = Literal["", "minimum", "maximum"]
BilledExactly = Annotated[Decimal, Written(USD_PLACES + CREDIT_PLACES, is_rounded=False)]
WHY_UNCHARGED = {
    Uncharged.ENVIRONMENT: (
        "Its environment isn't one of those that are billed (a setting of its Langfuse"
        " connection), so it has a cost and costs no credits."
    ),
    Uncharged.FAILED: (
        "It failed, and its tier doesn't charge runs that failed, so it has a cost and costs no"
        " credits."
    ),
    Uncharged.TWICE: (
        "Another run records the same calls, so they are counted there and cost nothing here."
    ),
}
CreditsExactly = Annotated[Decimal, Written(USD_PLACES + 2 * CREDIT_PLACES, is_rounded=False)]


@dataclass(frozen=True, slots=True)
class PriceSource:
    """Where a cost came from: a price of a list (with its dates), a state of the shipped book,
    Langfuse, or nowhere.
    """

    source: CostSource
    label: str
    price_id: int | None = None
    model: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    recorded_at: datetime | None = None
    recorded_by: str = ""
    conditions: str = ""
    url_name: str = ""


@dataclass(frozen=True, slots=True)
class ObservationExplained:
    """A billed observation: its units times their prices (none where Langfuse said the cost; of
    what Langfuse's cost leaves out, where that was added), and its part of the trace's credits.
    """

    langfuse_observation_id: str
    name: str
    type: str
    model: str
    start_time: datetime
    usage_details: dict[str, int]
    context: str
    """How the model was asked, where that changes the price; "" as usual."""
    price: PriceSource
    line_items: Sequence[LineItem]
    cost_usd: Usd | None
    langfuse_cost_usd: Usd | None
    usage_doubt: str
    """What does not add up in its usage or its cost, in words; "" where all does."""
    credits: Credits | None


@dataclass(frozen=True, slots=True)
class CountedElsewhere:
    """A step that costs nothing, since what it used is counted in others: as the sum of these, or
    as it is recorded twice (``finding``). Of them the first is ``counted_in``, of this run unless
    ``counted_in_trace`` names another; both are empty where the viewer may not see that one.
    ``other_cost_usd`` is what it would cost, null where that is unknown.
    """

    langfuse_observation_id: str
    name: str
    type: str
    model: str
    start_time: datetime
    finding: str
    counted_in: str
    counted_in_name: str
    is_in_another_run: bool
    counted_in_trace: UUID | None
    other_cost_usd: Usd | None


@dataclass(frozen=True, slots=True)
class RateExplained:
    """The tier's rate that held."""

    tier: str
    valid_from: datetime
    recorded_at: datetime
    recorded_by: str
    credits_per_usd: Factor
    pricing_multiplier: Factor
    minimum_credits: Credits | None
    maximum_credits: Credits | None


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A transaction of the user's hour that the trace counts in, or of that part of it where a
    grant begins or ends in the hour.
    """

    id: int
    type: str
    amount: Credits
    created_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """From units to credits. ``observations`` are billed, ``counted_elsewhere`` say what is billed
    in others, ``steps`` are all steps.

    ``credits_before_limits`` and ``billed_cost_exact`` are not rounded; ``limit`` says which limit
    applied.
    """

    trace: Trace
    observations: list[ObservationExplained]
    counted_elsewhere: list[CountedElsewhere]
    steps: list[RunStep]
    rate: RateExplained | None
    billed_cost_exact: BilledExactly | None
    credits_before_limits: CreditsExactly | None
    limit: Limit
    why_no_credits: str
    why_owned: str
    """What attribution rules gave; "" where none did."""
    repricing: Repricing | None
    ledger: list[LedgerEntry]
    posted_for_hour: Credits | None

    @property
    def unbilled_observations(self) -> int:
        """Steps without usage of their own."""
        return self.trace.observations - len(self.observations)


def explain(trace: Trace, viewer: User) -> Explanation:
    """All that led to the trace's cost and credits, and the ledger entries that it went into if the
    viewer may see them.

    Eleven queries at most, however many observations it has.
    """
    billed_rows = list(trace.billed_observations.all())
    billed_rows.sort(key=lambda row: (not row.is_root, row.start_time, row.langfuse_observation_id))
    rows = [row for row in billed_rows if row.cost_source != CostSource.NO_USAGE.value]
    repricing = _repricing(trace)
    known_at = trace.priced_as_of if repricing is None else repricing.as_of
    prices = _Prices(viewer, rows, trace.connection_id, known_at)
    rate_row = (
        TierRate.objects.select_related("tier", "recorded_by").filter(pk=trace.rate_id or 0).first()
    )
    sees_ledger = trace.user is not None and sees_user(viewer, trace.user)
    billed = credits = None
    if rate_row is not None and trace.cost_usd is not None and not trace.uncharged:
        billed = EXACT.multiply(trace.cost_usd, rate_row.pricing_multiplier)
        credits = EXACT.multiply(billed, rate_row.credits_per_usd)
    return Explanation(
        trace=trace,
        observations=[prices.explain(row) for row in rows],
        counted_elsewhere=_counted_elsewhere(billed_rows, viewer),
        steps=steps_of(trace, billed_rows),
        rate=None if rate_row is None else _rate(rate_row, viewer),
        billed_cost_exact=billed,
        credits_before_limits=credits,
        limit=_limit(credits, rate_row),
        why_no_credits=_why_no_credits(trace, rate_row),
        why_owned=why_owned(unpacked_given(trace.attribution)),
        repricing=repricing,
        ledger=_ledger(trace) if sees_ledger else [],
        posted_for_hour=_posted_for_hour(trace) if sees_ledger else None,
    )


def _counted_elsewhere(rows: Sequence[Observation], viewer: User) -> list[CountedElsewhere]:
    names = {row.langfuse_observation_id: row.name for row in rows}
    of_others = {row.counted_in_trace for row in rows if row.counted_in_trace is not None}
    seen = {None, *visible_traces(viewer, of_others)}
    return [
        CountedElsewhere(
            row.langfuse_observation_id,
            row.name,
            row.type,
            row.model,
            row.start_time,
            row.finding,
            row.counted_in if row.counted_in_trace in seen else "",
            "" if row.counted_in_trace else names[row.counted_in],
            row.counted_in_trace is not None,
            row.counted_in_trace if row.counted_in_trace in seen else None,
            row.other_cost_usd,
        )
        for row in rows
        if row.counted_in
    ]


SHIPPED = (CostSource.PRICE_BOOK, CostSource.LANGFUSE_AND_BOOK)
COMPLETED = (CostSource.LANGFUSE_AND_PRICE, CostSource.LANGFUSE_AND_BOOK)


def _line_items(card: RateCard, row: Observation, usage: dict[str, int]) -> list[LineItem]:
    if row.takes == Takes.TOTAL:
        usage = by_own_total(usage)
    units = card.units_of(usage)
    if row.cost_source not in COMPLETED:
        return card.line_items(units)
    left_out = units_left_out(usage, msgspec.json.decode(row.uncosted, type=tuple[str, ...]))
    return card.line_items_of_part(left_out or {}, units)


class _Prices:
    """The prices that the observations were priced with, by the lists as they were at
    ``known_at``.
    """

    def __init__(
        self, viewer: User, rows: Sequence[Observation], connection_id: int, known_at: datetime
    ) -> None:
        self._viewer, self._connection_id, self._known_at = viewer, connection_id, known_at
        listed = {row.price_id for row in rows if row.price_id and row.cost_source not in SHIPPED}
        self._listed = ModelPrice.objects.select_related("tenant", "recorded_by").in_bulk(listed)
        is_shipped = any(row.cost_source in SHIPPED for row in rows)
        self._shipped = {book.id: book for book in load_shipped_books()} if is_shipped else {}
        self._names = PriceBook(aliases=load_aliases() if is_shipped else [])

    def explain(self, row: Observation) -> ObservationExplained:
        usage = msgspec.json.decode(row.usage_details) if row.usage_details else {}
        source, card = self._source(row, usage)
        return ObservationExplained(
            langfuse_observation_id=row.langfuse_observation_id,
            name=row.name,
            type=row.type,
            model=row.model,
            start_time=row.start_time,
            usage_details=usage,
            context=whole_context(row.context, tuple(usage)),
            price=source,
            line_items=_line_items(card, row, usage) if card else [],
            cost_usd=row.cost_usd,
            langfuse_cost_usd=row.langfuse_cost_usd,
            usage_doubt=_doubt(row),
            credits=row.credits,
        )

    def _source(
        self, row: Observation, usage: dict[str, int]
    ) -> tuple[PriceSource, RateCard | None]:
        source, label = CostSource(row.cost_source), row.get_cost_source_display()
        if source in SHIPPED:
            return self._shipped_source(self._shipped[row.price_id], row, usage, label)
        price = self._listed.get(row.price_id or 0)
        if price is None:
            return PriceSource(source, label), None
        return (
            PriceSource(
                source,
                label,
                price_id=price.pk,
                model=price.model,
                valid_from=price.valid_from,
                valid_until=price.valid_until,
                recorded_at=price.recorded_at,
                recorded_by=name_of_person(price.recorded_by, self._viewer),
                conditions=price.conditions,
                url_name="admin:pricing_modelprice_change",
            ),
            price_of(price).card,
        )

    def _shipped_source(
        self, book: ShippedPrices, row: Observation, usage: dict[str, int], label: str
    ) -> tuple[PriceSource, RateCard | None]:
        recorded_at = book.recorded_at if book.recorded_at.year > 1 else None
        name, card = self._understood(book, row, usage)
        return PriceSource(
            CostSource(row.cost_source),
            label,
            price_id=book.id,
            model=f"{name.provider}/{name.model}".removeprefix("/"),
            recorded_at=recorded_at,
        ), card

    def _understood(
        self, book: ShippedPrices, row: Observation, usage: dict[str, int]
    ) -> tuple[ModelName, RateCard | None]:
        """What the model's name meant when it was priced, and that model's prices for a call of its
        context.
        """
        terms = terms_of(row.context, tuple(usage))
        named = self._names.readings(row.model, self._connection_id)
        known_at = max(self._known_at, row.start_time)
        later = sorted({one.span.recorded_at for one in named if one.span.recorded_at > known_at})
        meant = [
            reading.name
            for moment in (known_at, *later)
            for reading in named
            if reading.span.holds(row.start_time, moment)
        ]
        cards = ((name, book.card_at(name, row.start_time, terms)) for name in meant)
        return next((found for found in cards if found[1] is not None), (meant[0], None))


def _rate(row: TierRate, viewer: User) -> RateExplained:
    return RateExplained(
        tier=row.tier.name,
        valid_from=row.valid_from,
        recorded_at=row.recorded_at,
        recorded_by=name_of_person(row.recorded_by, viewer),
        credits_per_usd=row.credits_per_usd,
        pricing_multiplier=row.pricing_multiplier,
        minimum_credits=row.minimum_credits_per_trace,
        maximum_credits=row.maximum_credits_per_trace,
    )


def _limit(credits: Decimal | None, rate: TierRate | None) -> Limit:
    if credits is None or rate is None:
        return ""
    if rate.minimum_credits_per_trace is not None and credits < rate.minimum_credits_per_trace:
        return "minimum"
    return (
        "maximum"
        if rate.maximum_credits_per_trace is not None and credits > rate.maximum_credits_per_trace
        else ""
    )


def _why_no_credits(trace: Trace, rate: TierRate | None) -> str:
    """Why nothing is charged; "" where something is."""
    if trace.is_voided:
        return "It was voided: deleted in Langfuse, and an operator took it out of all numbers."
    if trace.uncharged and trace.is_attributed:
        return WHY_UNCHARGED[Uncharged(trace.uncharged)]
    if trace.set_aside:
        return f"It was set aside. {trace.set_aside}"
    if trace.dispute and not trace.is_owned:
        return _why_disputed(trace)
    if not trace.is_owned and (problem := _names_several(trace)):
        return problem
    if not trace.is_attributed:
        return "Its tenant is unknown, so nobody is charged until it is known."
    if rate is None:
        return (
            "No pricing tier was known for its user, its tenant or the platform at its time, so it"
            " has a cost and no credits."
        )
    if not trace.is_owned:
        return (
            "It counts for its tenant, by the tenant's tier. Its user is not known, so nobody is"
            " charged until it is."
        )
    if trace.cost_usd is None and not trace.unpriced_observations:
        return (
            "Its calls of models say neither what they used nor what they cost, so its cost is"
            " unknown."
        )
    if trace.cost_usd is None:
        return (
            "Nothing of its usage has a price, so its cost is unknown; it is charged as soon as a"
            " price is entered."
        )
    return ""


def _why_disputed(trace: Trace) -> str:
    if trace.settled_as == Outcome.LEFT_OUT:
        return "It was disputed, and an operator settled it as nobody's."
    if trace.is_attributed:
        return "It was disputed, and an operator settled it as its tenant's, without a user."
    if trace.dispute == Dispute.STEPS_DISAGREE:
        return (
            "Its steps name several, and the attribution rule that reads them doesn't say who wins,"
            " so it counts for nobody."
        )
    return (
        "Its user was not of the tenant that it names when it began, so it counts for nobody until"
        " an operator settles that."
    )


def _names_several(trace: Trace) -> str:
    """What to do where the run's user is a name of several; "" where it isn't."""
    name = trace.user_reference
    if not name or (trace.tenant_id is None and trace.tenant_reference):
        return ""
    count = users_called(name, trace.tenant_id)
    if count < 2:
        return ""
    return (
        f"“{name}” is the name of {count} users, so it names nobody, and nobody is charged. Have"
        " runs name them by their ids, or by aliases that each are one user's."
    )


def _repricing(trace: Trace) -> Repricing | None:
    """The repricing whose list prices it, if one does."""
    holding = Repricing.objects.filter(
        Q(tenant=trace.tenant_id) | Q(tenant__isnull=True),
        state__in=Repricing.HOLDING,
        start__lte=trace.start_time,
        end__gt=trace.start_time,
        as_of__gt=trace.priced_as_of,
    )
    return holding.order_by("-as_of").first()


def _posted_for_hour(trace: Trace) -> Decimal | None:
    return (
        UsageCharge.objects.filter(account=trace.user_id, hour=_charged_in(trace))
        .values_list("credits", flat=True)
        .first()
    )


def _charged_in(trace: Trace) -> Coalesce:
    """The hour that the trace is charged in, or the beginning of its part where the hour is cut."""
    cuts = HourCut.objects.filter(account=trace.user_id, hour=trace.hour, at__lte=trace.start_time)
    return Coalesce(Subquery(cuts.order_by("-at").values("at")[:1]), Value(trace.hour))


def _ledger(trace: Trace) -> list[LedgerEntry]:
    entries = Transaction.objects.filter(
        account=trace.user_id, usage_hour=_charged_in(trace)
    ).order_by("id")
    return [
        LedgerEntry(entry.pk, entry.type, entry.amount, entry.created_at, entry.reason)
        for entry in entries
    ]


def _doubt(row: Observation) -> str:
    ruled = f"Ruled: “{UsageRuling.Choice(row.takes).label}”" if row.takes else ""
    found = (row.get_usage_doubt_display(), row.get_finding_display(), ruled)
    return ". ".join(str(one) for one in found if one)
