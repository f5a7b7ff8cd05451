"""What the sandbox charges for the models that it knows, computed and shown as Langfuse does."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

STORE_PLACES = Decimal("1e-12")


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model with its prices in USD for one unit."""

    id: str
    pattern: re.Pattern[str]
    prices: Mapping[str, Decimal]


def known_models() -> list[KnownModel]:
    rows = json.loads((Path(__file__).parent / "models.json").read_text())
    return [
        KnownModel(
            row["id"],
            re.compile(row["pattern"]),
            {unit: Decimal(price) for unit, price in row["prices"].items()},
        )
        for row in rows
    ]


MODELS = known_models()


def answered_models() -> dict[str, Any]:
    """The models as Langfuse's API lists them, all on one page."""
    data = [
        {
            "id": model.id,
            "matchPattern": model.pattern.pattern,
            "startDate": None,
            "unit": "TOKENS",
            "prices": {unit: {"price": float(price)} for unit, price in model.prices.items()},
            "isLangfuseManaged": True,
        }
        for model in MODELS
    ]
    return {"data": data, "meta": {"page": 1, "totalPages": 1, "totalItems": len(data)}}


@lru_cache(maxsize=1024)
def find_model(name: str) -> KnownModel | None:
    return next((model for model in MODELS if model.pattern.search(name)), None)


def cost_details(model: KnownModel, usage: Mapping[str, int]) -> dict[str, float]:
    """Unit → USD, and ``total``; {} when no unit has a price."""
    costs = {
        unit: float(count * model.prices[unit])
        for unit, count in usage.items()
        if unit in model.prices and unit != "total"
    }
    if costs:
        return {**costs, "total": as_stored(sum(costs.values()))}
    if "total" in model.prices and usage.get("total"):
        return {"total": as_stored(float(usage["total"] * model.prices["total"]))}
    return {}


def as_stored(cost: float) -> float:
    """The float that comes back from a store that reads the text of a float and cuts it off after
    twelve decimals.

    1.75e-05 + 1e-05 is written 2.7499999999999997e-05 and comes back as 2.7499999e-05; 0.0025 +
    0.005 comes back as 0.0075.
    """
    return float(Decimal(repr(float(cost))).quantize(STORE_PLACES, rounding=ROUND_DOWN))


def price_text(price: Decimal | None) -> str | None:
    """A price as Langfuse writes it: plain, and with an exponent below 1e-7."""
    if price is None:
        return None
    if price and price < Decimal("1e-7"):
        digits = price.normalize()
        exponent = digits.adjusted()
        return f"{digits.scaleb(-exponent).normalize():f}e{exponent}"
    return f"{price.normalize():f}"
