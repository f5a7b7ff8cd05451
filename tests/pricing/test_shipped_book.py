"""The shipped price book: priced here, it comes to what the package itself says."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kluisz_analytics.fields import USD_PLACES, round_half_up
from pricing.shipped_book import _calculated, _flat_rates, shipped_price
from pricing.units import UnitKind

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
MODELS = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-5",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5",
    "gemini-2.5-flash",
    "gemini-2.5-pro",
    "deepseek-chat",
]
KINDS = [UnitKind.INPUT, UnitKind.CACHED_INPUT, UnitKind.CACHE_WRITE, UnitKind.OUTPUT, UnitKind.REASONING]


@given(st.sampled_from(MODELS), st.dictionaries(st.sampled_from(KINDS), st.integers(1, 500_000), min_size=1))
def test_it_comes_to_what_the_package_says(model: str, counts: Mapping[UnitKind, int]) -> None:
    calculation = _calculated(model, counts, NOW)
    assert calculation is not None
    assert shipped_price(model, counts, NOW) == round_half_up(calculation.total_price, USD_PLACES)


def test_some_models_have_flat_prices_and_some_do_not() -> None:
    assert _flat_rates("gpt-4o") is not None
    assert _flat_rates("gemini-2.5-pro") is None, "it costs more above 200,000 tokens"


def test_an_invented_model_has_no_price() -> None:
    assert shipped_price("acme-llm-7b-nobody-knows", {UnitKind.INPUT: 1}, NOW) is None


@pytest.mark.parametrize(("counts", "cost"), [({UnitKind.INPUT: 1_000_000}, "2.5"), ({UnitKind.CACHED_INPUT: 1_000_000}, "1.25")])
def test_gpt_4o_costs_what_openai_says(counts: Mapping[UnitKind, int], cost: str) -> None:
    assert shipped_price("gpt-4o", counts, NOW) == Decimal(cost)
