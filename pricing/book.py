"""Loads the price book: one query a table, whatever the number of traces to price."""

from collections import defaultdict
from datetime import datetime
from functools import lru_cache
from uuid import UUID

from django.db.models import Max
from django.utils import timezone
from genai_prices.types import Provider

from pricing.conditions import Conditions
from pricing.model_names import Alias
from pricing.models import ModelAlias, ModelPrice, ShippedPriceList, TierAssignment
from pricing.models import TierRate as TierRateRow
from pricing.price_book import PriceBook, Repriced
from pricing.prices import EVER, NEVER, Assignment, Precedence, Price, RateCard, TierRate
from pricing.shipped_book import ShippedPrices, installed, unpacked


def load_price_book(repriced: list[Repriced] | None = None) -> PriceBook:
    """All prices, rates and assignments, withdrawn ones included, as the engine takes them."""
    loaded_at = timezone.now()
    user_tiers: dict[UUID, list[Assignment]] = defaultdict(list)
    tenant_tiers: dict[UUID, list[Assignment]] = defaultdict(list)
    platform_tiers: list[Assignment] = []
    columns = "user_id", "tenant_id", "tier_id", "valid_from", "recorded_at", "withdrawn_at"
    for user_id, tenant_id, tier_id, valid_from, recorded_at, withdrawn_at in _newest_first(
        TierAssignment
    ).values_list(*columns):
        target = (
            user_tiers[user_id]
            if user_id
            else tenant_tiers[tenant_id]
            if tenant_id
            else platform_tiers
        )
        target.append(Assignment(valid_from, tier_id, recorded_at, withdrawn_at or NEVER))
    tenant_prices: dict[UUID, list[Price]] = defaultdict(list)
    platform_prices: list[Price] = []
    for row in ModelPrice.objects.order_by():
        (platform_prices if row.tenant_id is None else tenant_prices[row.tenant_id]).append(
            price_of(row)
        )
    rates: dict[int, list[TierRate]] = defaultdict(list)
    for rate in _newest_first(TierRateRow):
        rates[rate.tier_id].append(rate_of(rate))
    return PriceBook(
        tenant_prices=dict(tenant_prices),
        platform_prices=platform_prices,
        shipped_books=load_shipped_books(),
        rates=dict(rates),
        user_tiers=dict(user_tiers),
        tenant_tiers=dict(tenant_tiers),
        platform_tiers=platform_tiers,
        repriced=repriced or [],
        aliases=load_aliases(),
        loaded_at=loaded_at,
    )


def prices_entered_since(moment: datetime) -> bool:
    """Whether model prices, what names mean, or a state of the shipped book were entered after
    ``moment``.
    """
    return any(
        model._default_manager.filter(recorded_at__gt=moment).exists()
        for model in (ModelPrice, ModelAlias, ShippedPriceList)
    )


def newest_entry() -> datetime | None:
    """When the newest of these was entered."""
    newest = [
        model._default_manager.aggregate(newest=Max("recorded_at"))["newest"]
        for model in (ModelPrice, ModelAlias, ShippedPriceList)
    ]
    return max(filter(None, newest), default=None)


def load_aliases() -> list[Alias]:
    """What names mean, withdrawn rows included."""
    return [
        Alias(
            row.name,
            row.model,
            row.provider,
            row.connection_id,
            row.valid_from,
            row.recorded_at,
            row.withdrawn_at or NEVER,
        )
        for row in ModelAlias.objects.order_by("id")
    ]


# a queryset of either
def _newest_first(model: type[TierAssignment] | type[TierRateRow]):  # type: ignore[no-untyped-def]
    return model._default_manager.order_by("-valid_from", "-recorded_at", "-id")


def price_of(row: ModelPrice) -> Price:
    """The row as the engine takes it."""
    conditions = Conditions.parsed(row.conditions)
    return Price(
        id=row.pk,
        model=row.model,
        card=RateCard.of(
            row.usd_per_million(),
            above_input_tokens=conditions.above_input_tokens,
            other_units=row.other_units,
        ),
        valid_from=row.valid_from,
        valid_until=row.valid_until or NEVER,
        precedence=Precedence(row.precedence),
        is_pattern=row.match == ModelPrice.Match.PATTERN,
        recorded_at=row.recorded_at,
        withdrawn_at=row.withdrawn_at or NEVER,
        conditions=conditions,
    )


def rate_of(row: TierRateRow) -> TierRate:
    """The row as the engine takes it."""
    return TierRate(
        id=row.pk,
        valid_from=row.valid_from,
        credits_per_usd=row.credits_per_usd,
        pricing_multiplier=row.pricing_multiplier,
        minimum_credits=row.minimum_credits_per_trace,
        maximum_credits=row.maximum_credits_per_trace,
        recorded_at=row.recorded_at,
        withdrawn_at=row.withdrawn_at or NEVER,
        charges_failed_runs=row.charges_failed_runs,
    )


def load_shipped_books() -> list[ShippedPrices]:
    """The states of the shipped price book, each until the next; the first counts for all time
    before it too.
    """
    states = list(
        ShippedPriceList.objects.order_by("recorded_at", "id").values_list("id", "recorded_at")
    )
    if not states:
        return [_installed()]
    starts = [EVER, *(recorded_at for _, recorded_at in states[1:]), NEVER]
    return [
        _shipped(state_id, starts[at], starts[at + 1]) for at, (state_id, _) in enumerate(states)
    ]


@lru_cache(maxsize=1)
def _installed() -> ShippedPrices:
    return ShippedPrices(installed)


@lru_cache(maxsize=64)
def _shipped(state_id: int, recorded_at: datetime, withdrawn_at: datetime) -> ShippedPrices:
    def read() -> list[Provider]:
        return unpacked(
            bytes(ShippedPriceList.objects.values_list("data", flat=True).get(pk=state_id))
        )

    return ShippedPrices(
        read, state_id=state_id, recorded_at=recorded_at, withdrawn_at=withdrawn_at
    )
