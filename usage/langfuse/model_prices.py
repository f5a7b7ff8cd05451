"""What a Langfuse server takes models to cost, as offers to compare with. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from kluisz_analytics.scales import USD_PLACES, round_half_up
from pricing.comparison import Offer
from pricing.prices import MILLION
from pricing.units import UnitKind
from pricing.vocabulary import term_of


def offers_of(models: Iterable[Mapping[str, Any]], names: Iterable[str]) -> Iterator[Offer]:
    """What calls of the models of these names cost by the server's list: of its definitions whose
    pattern is for a name, a project's own before Langfuse's, and the newest.
    """
    known = sorted(
        models,
        key=lambda one: (not one.get("isLangfuseManaged"), str(one.get("startDate") or "")),
        reverse=True,
    )
    for name in sorted(set(names)):
        model = next((one for one in known if _is_for(one, name)), None)
        prices = {} if model is None else _prices(model)
        if prices:
            yield Offer(name, "", prices)


def _is_for(model: Mapping[str, Any], name: str) -> bool:
    try:
        return re.search(str(model.get("matchPattern")), name) is not None
    except re.error:
        # A pattern of PostgreSQL's that Python doesn't read.
        return str(model.get("modelName")) == name


def _prices(model: Mapping[str, Any]) -> dict[UnitKind, Decimal]:
    """USD for a million of each kind; of several names of one kind, the first."""
    if model.get("unit") not in (None, "TOKENS"):
        return {}
    found: dict[UnitKind, Decimal] = {}
    for unit, priced in (model.get("prices") or {}).items():
        kind = term_of(unit).kind
        if kind is not None and kind not in found:
            usd = Decimal(str(priced["price"]))
            found[kind] = round_half_up(usd * MILLION, USD_PLACES)
    return found
