"""Where the ``genai-prices`` package has a model's former price or none, and its provider's own
page says it: put right before a state of the book is kept. Pure.

A correction is of the package as it was: once the package says something else, that holds.
"""

import dataclasses
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from genai_prices.types import (
    ClauseEquals,
    ClauseStartsWith,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
)

VERSION = "2026-11-30"
"""Changes with what is corrected."""
OPENAI = "https://platform.openai.com/docs/pricing"
MISTRAL = "https://docs.mistral.ai/getting-started/models/models_overview"
DEEPSEEK = "https://api-docs.deepseek.com/quick_start/pricing"


class Correction(NamedTuple):
    """What the name, or those that are tuned from it, cost from a day on (None: ever): as an entry
    of the book does, or USD for a million tokens in, cached and out. ``instead_of``: what the
    package says that they cost in (None: it doesn't know them).
    """

    provider: str
    name: str
    instead_of: str | None
    since: date | None
    source: str
    same_as: str = ""
    prices: tuple[str, ...] = ()
    batch: tuple[str, ...] = ()


CORRECTIONS = [
    Correction(
        "mistral",
        "mistral-large-latest",
        "2",
        date(2025, 12, 2),
        MISTRAL,
        same_as="mistral-large-2512",
    ),
    Correction(
        "mistral", "codestral-latest", "0.3", date(2025, 7, 30), MISTRAL, same_as="codestral-2508"
    ),
    *(
        Correction(
            "deepseek",
            name,
            "0.135",
            date(2025, 9, 29),
            DEEPSEEK,
            prices=("0.28", "0.028", "0.42"),
        )
        for name in ("deepseek-chat", "deepseek-reasoner")
    ),
    *(
        Correction("openai", f"ft:{name}", instead_of, None, OPENAI, prices=prices, batch=batch)
        for name, instead_of, prices, batch in (
            ("gpt-4.1-2025-04-14", None, ("3", "0.75", "12"), ("1.5", "0.5", "6")),
            ("gpt-4.1-mini-2025-04-14", None, ("0.8", "0.2", "3.2"), ("0.4", "0.1", "1.6")),
            ("gpt-4.1-nano-2025-04-14", None, ("0.2", "0.05", "0.8"), ("0.1", "0.025", "0.4")),
            ("gpt-4o-2024-08-06", "3.75", ("3.75", "1.875", "15"), ()),
            ("gpt-4o-mini-2024-07-18", "0.3", ("0.3", "0.15", "1.2"), ("0.15", "0.075", "0.6")),
        )
    ),
]
KEYS = "input_mtok", "cache_read_mtok", "output_mtok"


def corrected(providers: Sequence[Provider]) -> list[Provider]:
    """The book put right; what the package has itself is not changed."""
    return [_corrected(one) for one in providers]


def _corrected(provider: Provider) -> Provider:
    found = [
        model
        for one in CORRECTIONS
        if one.provider == provider.id and (model := _model(one, provider)) is not None
    ]
    # The first that matches a name is its model.
    return dataclasses.replace(provider, models=[*found, *provider.models]) if found else provider


def _model(one: Correction, provider: Provider) -> ModelInfo | None:
    """The model as it should be; None where the package says something else than it did."""
    known = provider.find_model(one.name)
    former = [] if known is None else _dated(known)
    said = former[0].prices.input_mtok if former else None
    if said != (None if one.instead_of is None else Decimal(one.instead_of)):
        return None
    like = provider.find_model(one.same_as) if one.same_as else None
    prices = _prices(one.prices) if like is None else _dated(like)[-1].prices
    since = None if one.since is None else StartDateConstraint(one.since)
    dated = [ConditionalPrice(since, prices=prices)]
    variants = like.price_variants if like else []
    if one.batch:
        variants = [PriceVariant({"processing": "batch"}, _prices(one.batch))]
    return ModelInfo(
        id=one.name,
        # What is tuned is called as it was by its owner.
        match=(ClauseStartsWith if one.name.startswith("ft:") else ClauseEquals)(one.name),
        prices=[*former, *dated] if since else dated,
        price_variants=variants or None,
    )


def _dated(model: ModelInfo) -> list[ConditionalPrice]:
    if isinstance(model.prices, ModelPrice):
        return [ConditionalPrice(None, prices=model.prices)]
    return model.prices


def _prices(usd_per_million: Sequence[str]) -> ModelPrice:
    return ModelPrice(**dict(zip(KEYS, map(Decimal, usd_per_million), strict=True)))
