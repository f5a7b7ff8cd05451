"""Loads the price book: one query a table, whatever the number of traces to price."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from pricing.engine import Assignment, Precedence, Price, PriceBook, TierRate
from pricing.models import ModelPrice, TierAssignment
from pricing.models import TierRate as TierRateRow
from pricing.shipped_book import shipped_price
from pricing.units import UnitKind


def load_price_book() -> PriceBook:
    """All prices, rates and assignments, as the engine takes them."""
    user_tiers: dict[UUID, list[Assignment]] = defaultdict(list)
    tenant_tiers: dict[UUID, list[Assignment]] = defaultdict(list)
    platform_tiers: list[Assignment] = []
    for user_id, tenant_id, tier_id, valid_from in TierAssignment.objects.order_by("-valid_from").values_list(
        "user_id", "tenant_id", "tier_id", "valid_from"
    ):
        target = user_tiers[user_id] if user_id else tenant_tiers[tenant_id] if tenant_id else platform_tiers
        target.append(Assignment(valid_from, tier_id))
    tenant_prices: dict[UUID, list[Price]] = defaultdict(list)
    platform_prices: list[Price] = []
    for row in ModelPrice.objects.prefetch_related("units").order_by("-valid_from", "-id"):
        (platform_prices if row.tenant_id is None else tenant_prices[row.tenant_id]).append(_price(row))
    return PriceBook(
        tenant_prices=dict(tenant_prices),
        platform_prices=platform_prices,
        shipped_price=shipped_price,
        rates=_by_tier(TierRateRow.objects.order_by("-valid_from")),
        user_tiers=dict(user_tiers),
        tenant_tiers=dict(tenant_tiers),
        platform_tiers=platform_tiers,
    )


def _price(row: ModelPrice) -> Price:
    return Price(
        id=row.pk,
        pattern=row.pattern(),
        valid_from=row.valid_from,
        valid_until=row.valid_until,
        usd_per_million={UnitKind(unit.kind): unit.usd_per_million for unit in row.units.all()},
        precedence=Precedence(row.precedence),
    )


def _by_tier(rows: Iterable[Any]) -> dict[int, list[TierRate]]:
    rates: dict[int, list[TierRate]] = defaultdict(list)
    for row in rows:
        rates[row.tier_id].append(
            TierRate(
                id=row.pk,
                valid_from=row.valid_from,
                credits_per_usd=row.credits_per_usd,
                pricing_multiplier=row.pricing_multiplier,
                minimum_credits=row.minimum_credits_per_trace,
                maximum_credits=row.maximum_credits_per_trace,
            )
        )
    return dict(rates)
