"""The shipped price book: priced by the engine, it comes to what the package itself says; and its
states are kept.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import httpx2
import pytest
from genai_prices import Usage, calc_price
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from kluisz_analytics.scales import USD_PLACES, round_half_up
from pricing import shipped_book, shipped_update
from pricing.book import load_shipped_books
from pricing.conditions import context_of
from pricing.engine import ObservationUsage, PricingEngine
from pricing.models import ShippedPriceList
from pricing.price_book import PriceBook
from pricing.shipped_book import ShippedPrices, installed, packed, unpacked
from pricing.shipped_corrections import corrected

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
ENGINE = PricingEngine(PriceBook(shipped_books=[ShippedPrices(installed)]))
AS_PACKAGED = PricingEngine(PriceBook(shipped_books=[ShippedPrices(lambda: providers)]))
counts = st.integers(1, 500_000)
CONTEXTS = [
    ("gpt-4o", {"service_tier": "priority"}),
    ("gpt-5", {"service_tier": "flex"}),
    ("gpt-5.4", {"processing": "batch"}),
    ("gpt-5.4", {"service_tier": "flex"}),
    ("claude-sonnet-4-5", {"processing": "batch"}),
    ("claude-opus-4-8", {"speed": "fast"}),
    ("gemini-2.5-pro", {"processing": "batch"}),
]


def shipped_cost(
    model: str,
    usage: Mapping[str, int],
    moment: datetime = NOW,
    context: str = "",
    engine: PricingEngine = ENGINE,
) -> Decimal | None:
    asked = ObservationUsage(model, usage, None, moment, context=context)
    return engine.cost_of(None, asked).cost_usd


@given(
    st.sampled_from([*((model, {}) for model in MODELS), *CONTEXTS]),
    counts,
    counts,
    counts,
    counts,
    counts,
    st.integers(0, 9),
    st.integers(0, 2 * 365),
)
def test_it_comes_to_what_the_package_says(
    asked: tuple[str, dict[str, str]],
    plain: int,
    cached: int,
    written: int,
    hour: int,
    output: int,
    searches: int,
    days: int,
) -> None:
    model, context = asked
    # The package knows a context only since a day; here it holds before, too.
    moment = NOW - timedelta(days=0 if context else days)
    if model == "deepseek-chat":
        searches = 0
    theirs = calc_price(
        Usage(
            input_tokens=plain + cached + written + hour,
            cache_read_tokens=cached,
            cache_write_tokens=written + hour,
            cache_write_1h_tokens=hour,
            output_tokens=output,
            web_searches=searches,
        ),
        model_ref=model,
        genai_request_timestamp=moment,
        price_context=context,
    )
    ours = shipped_cost(
        model,
        {
            "input": plain,
            "cache_read_input_tokens": cached,
            "input_cache_creation_5m": written,
            "input_cache_creation_1h": hour,
            "output": output,
            "web_search_requests": searches,
        },
        moment,
        context_of(context),
        AS_PACKAGED,
    )
    assert ours == round_half_up(theirs.total_price, USD_PLACES)


@pytest.mark.parametrize(
    ("usage", "cost"), [({"input": 1_000_000}, "2.5"), ({"input_cached_tokens": 1_000_000}, "1.25")]
)
def test_gpt_4o_costs_what_openai_says(usage: Mapping[str, int], cost: str) -> None:
    assert shipped_cost("gpt-4o", usage) == Decimal(cost)


def test_a_long_request_costs_more_where_the_provider_says_so() -> None:
    assert shipped_cost("gemini-2.5-pro", {"input": 200_000}) == Decimal("0.25")
    assert shipped_cost("gemini-2.5-pro", {"input": 200_001}) == Decimal("0.5000025")


@pytest.mark.parametrize(
    ("model", "context", "cost"),
    [
        ("azure/gpt-4o", "processing=batch", "1.25"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "processing=batch", "1.65"),
        ("groq/llama-3.3-70b-versatile", "service_tier=flex", "0.59"),
        ("gpt-4o", "service_tier=scale", None),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "service_tier=priority", None),
        ("gpt-4o", "inference_geo=us route=any", "2.5"),
        ("claude-opus-4-8", "inference_geo=us", "5.5"),
        ("claude-opus-4-8", "inference_geo=us processing=batch", "2.75"),
    ],
)
def test_what_the_book_does_not_say_of_a_call_is_known_or_has_no_price(
    model: str, context: str, cost: str | None
) -> None:
    found = shipped_cost(model, {"input": 1_000_000}, context=context)
    assert found == (None if cost is None else Decimal(cost))


def test_a_batchs_price_held_before_the_package_knew_it() -> None:
    usage = {"input": 1_000_000}
    august = NOW.replace(month=8)
    assert shipped_cost("gpt-4o", usage, august, "processing=batch") == Decimal("1.25")
    # Of then the package has another usual price.
    assert shipped_cost("o3", usage, august.replace(year=2025, month=5), "processing=batch") is None


@pytest.mark.parametrize(
    ("model", "since", "before", "after"),
    [
        ("mistral-large-latest", datetime(2025, 12, 2, tzinfo=UTC), "2", "0.5"),
        ("deepseek-reasoner", datetime(2025, 9, 29, tzinfo=UTC), "0.55", "0.28"),
        ("ft:gpt-4.1-2025-04-14:acme::x", NOW, "3", "3"),
    ],
)
def test_a_former_price_of_the_package_is_put_right(
    model: str, since: datetime, before: str, after: str
) -> None:
    usage = {"input": 1_000_000}
    # DeepSeek's former prices were by the time of day.
    assert shipped_cost(model, usage, since - timedelta(hours=12)) == Decimal(before)
    assert shipped_cost(model, usage, since) == Decimal(after)


def test_a_price_that_the_package_has_changed_since_is_not_put_right() -> None:
    changed = unpacked(packed(providers))
    mistral = next(one for one in changed if one.id == "mistral")
    large = mistral.find_model("mistral-large-latest")
    assert large is not None
    assert isinstance(large.prices, shipped_book.ModelPrice)
    large.prices.input_mtok = Decimal(9)
    engine = PricingEngine(PriceBook(shipped_books=[ShippedPrices(lambda: corrected(changed))]))
    found = shipped_cost("mistral-large-latest", {"input": 1_000_000}, engine=engine)
    assert found == Decimal(9)


def test_an_invented_model_has_no_price() -> None:
    assert shipped_cost("acme-llm-7b-nobody-knows", {"input": 1}) is None


def test_a_kept_state_is_the_book_itself() -> None:
    kept = unpacked(packed(installed()))
    assert packed(kept) == packed(installed())
    assert [[model.prices for model in provider.models] for provider in kept] == [
        [model.prices for model in provider.models] for provider in installed()
    ]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[shipped_book.Provider]:
    """What the package's authors publish, one price changed."""
    providers = unpacked(packed(installed()))
    model = next(
        model
        for provider in providers
        if provider.id == "openai"
        for model in provider.models
        if model.id == "gpt-4o-mini"
    )
    assert isinstance(model.prices, shipped_book.ModelPrice)
    model.prices.input_mtok = Decimal(7)
    monkeypatch.setattr(
        shipped_book.UpdatePrices,
        "fetch",
        lambda self: shipped_book.DataSnapshot(providers, from_auto_update=True),
    )
    return providers


@pytest.mark.django_db
def test_the_installed_book_is_kept_at_the_first_migration() -> None:
    state = ShippedPriceList.objects.get()
    assert (state.origin, bytes(state.data)) == ("installed", packed(installed()))
    assert shipped_update.record_installed() is None


@pytest.mark.django_db
def test_what_is_published_is_kept_once_and_is_for_what_is_priced_after(
    published: list[shipped_book.Provider],
) -> None:
    state = shipped_update.update_from_authors()
    assert state is not None
    assert state.origin == "fetched"
    assert shipped_update.update_from_authors() is None
    engine = PricingEngine(PriceBook(shipped_books=load_shipped_books()))
    usage = ObservationUsage("gpt-4o-mini", {"input": 1_000_000}, None, NOW)
    before, after = (
        engine.cost_of(None, usage, state.recorded_at + timedelta(seconds=step)) for step in (-1, 1)
    )
    assert (before.cost_usd, after.cost_usd, after.price_id) == (
        Decimal("0.15"),
        Decimal(7),
        state.pk,
    )


@pytest.mark.django_db
@pytest.mark.parametrize(
    "failure",
    [
        httpx2.ConnectError("no network"),
        ValueError("Expected fetched prices payload to be a provider array"),
    ],
)
def test_without_a_network_the_last_state_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    def fail(self: object) -> None:
        raise failure

    monkeypatch.setattr(shipped_book.UpdatePrices, "fetch", fail)
    assert shipped_update.update_from_authors() is None
    assert str(failure) in caplog.text
    assert ShippedPriceList.objects.count() == 1
