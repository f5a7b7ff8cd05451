"""Names of models as those who trace write them, what an operator says that they mean, and which
prices are theirs.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.engine import ObservationUsage, PricingEngine
from pricing.model_names import (
    SPELLINGS,
    Alias,
    readings,
    understand,
)
from pricing.price_book import PriceBook
from pricing.prices import EVER, LATEST, NEVER, Price, RateCard
from pricing.shipped_book import ShippedPrices, installed
from pricing.units import UnitKind

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHIPPED = ShippedPrices(installed)
ARN = "arn:aws:bedrock:us-east-1:123456789012:"


@pytest.mark.parametrize(
    ("written", "provider", "model", "region", "variant", "base"),
    [
        ("gpt-4o", "openai", "gpt-4o", "", "", "gpt-4o"),
        ("openai/gpt-4o", "openai", "gpt-4o", "", "", "gpt-4o"),
        ("OpenAI/GPT-4o", "openai", "gpt-4o", "", "", "gpt-4o"),
        ("openai:gpt-4o", "openai", "gpt-4o", "", "", "gpt-4o"),
        ("openai/responses/gpt-5", "openai", "gpt-5", "", "", "gpt-5"),
        ("text-embedding-3-small", "openai", "text-embedding-3-small", "", "", None),
        ("o3-mini", "openai", "o3-mini", "", "", None),
        (
            "ft:gpt-4o-mini-2024-07-18:acme::abc",
            "openai",
            "ft:gpt-4o-mini-2024-07-18",
            "",
            "acme::abc",
            None,
        ),
        ("azure/gpt-4o", "azure", "gpt-4o", "", "", None),
        ("azure/eu/gpt-4o-2024-08-06", "azure", "gpt-4o-2024-08-06", "eu", "", None),
        ("azure/global-standard/gpt-4o", "azure", "gpt-4o", "", "", None),
        ("azure_ai/deepseek-r1", "azure", "deepseek-r1", "", "", None),
        ("gpt-35-turbo", "azure", "gpt-35-turbo", "", "", "gpt-3.5-turbo"),
        ("claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5", "", "", None),
        ("anthropic/claude-sonnet-4.5", "anthropic", "claude-sonnet-4.5", "", "", None),
        (
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            "aws",
            "anthropic.claude-sonnet-4-5-20250929-v1:0",
            "us",
            "",
            "claude-sonnet-4-5-20250929",
        ),
        (
            "bedrock/converse/eu.anthropic.claude-haiku-4-5-20251001-v1:0",
            "aws",
            "anthropic.claude-haiku-4-5-20251001-v1:0",
            "eu",
            "",
            "claude-haiku-4-5-20251001",
        ),
        (
            "bedrock/us-west-2/anthropic.claude-v2:1",
            "aws",
            "anthropic.claude-v2:1",
            "us-west-2",
            "",
            "claude-v2",
        ),
        (
            f"{ARN}inference-profile/us.amazon.nova-lite-v1:0",
            "aws",
            "amazon.nova-lite-v1:0",
            "us",
            "",
            "nova-lite",
        ),
        (
            "bedrock/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fmeta.llama3-1-8b-instruct-v1%3A0",
            "aws",
            "meta.llama3-1-8b-instruct-v1:0",
            "us-east-1",
            "",
            "llama3-1-8b-instruct",
        ),
        (
            f"{ARN}application-inference-profile/ab12cd34",
            "aws",
            "application-inference-profile/ab12cd34",
            "us-east-1",
            "",
            None,
        ),
        (
            "claude-sonnet-4-5@20250929",
            "google",
            "claude-sonnet-4-5-20250929",
            "",
            "",
            "claude-sonnet-4-5-20250929",
        ),
        ("vertex_ai/claude-opus-4@default", "google", "claude-opus-4", "", "", None),
        ("vertex_ai/gemini-2.5-pro", "google", "gemini-2.5-pro", "", "", None),
        ("gemini/gemini-2.5-pro", "google", "gemini-2.5-pro", "", "", None),
        ("models/gemini-2.5-flash", "google", "gemini-2.5-flash", "", "", None),
        ("google-gla:gemini-2.5-flash", "google", "gemini-2.5-flash", "", "", None),
        (
            "projects/p/locations/europe-west1/publishers/google/models/gemini-2.5-pro",
            "google",
            "gemini-2.5-pro",
            "europe-west1",
            "",
            None,
        ),
        ("accounts/fireworks/models/kimi-k3", "fireworks", "kimi-k3", "", "", None),
        ("fireworks_ai/kimi-k3", "fireworks", "kimi-k3", "", "", None),
        (
            "openrouter/anthropic/claude-sonnet-4.5",
            "openrouter",
            "anthropic/claude-sonnet-4.5",
            "",
            "",
            "claude-sonnet-4-5",
        ),
        (
            "openrouter/anthropic/claude-3.7-sonnet:thinking",
            "openrouter",
            "anthropic/claude-3.7-sonnet",
            "",
            "thinking",
            "claude-3-7-sonnet",
        ),
        (
            "openrouter/phi-4:free",
            "openrouter",
            "phi-4:free",
            "",
            "free",
            None,
        ),
        ("groq/llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile", "", "", None),
        ("groq/openai/gpt-oss-120b", "groq", "openai/gpt-oss-120b", "", "", "gpt-oss-120b"),
        ("together_ai/moonshotai/Kimi-K3", "together", "moonshotai/kimi-k3", "", "", "kimi-k3"),
        ("huggingface/together/Qwen/QwQ-32B", "huggingface_together", "qwen/qwq-32b", "", "", None),
        ("perplexity/sonar-pro", "perplexity", "sonar-pro", "", "", None),
        ("sonar", "perplexity", "sonar", "", "", None),
        ("mistral/mistral-large-latest", "mistral", "mistral-large-latest", "", "", None),
        ("codestral-latest", "mistral", "codestral-latest", "", "", None),
        ("cohere_chat/command-r-plus", "cohere", "command-r-plus", "", "", None),
        ("deepseek/deepseek-chat", "deepseek", "deepseek-chat", "", "", None),
        ("xai/grok-4", "x-ai", "grok-4", "", "", None),
        ("voyage-3-large", "voyageai", "voyage-3-large", "", "", None),
        ("litellm_proxy/azure/gpt-4o", "azure", "gpt-4o", "", "", None),
        ("ollama/gpt-oss:20b", "ollama", "gpt-oss:20b", "", "", None),
        ("llama3.1:8b", "ollama", "llama3.1:8b", "", "", None),
        ("mistral:7b", "ollama", "mistral:7b", "", "", None),
    ],
)
def test_a_name_is_read(
    written: str, provider: str, model: str, region: str, variant: str, base: str | None
) -> None:
    name = understand(written)
    assert (name.written, name.provider, name.model, name.region, name.variant) == (
        written,
        provider,
        model,
        region,
        variant,
    )
    if base is not None:
        assert name.base == base


@pytest.mark.parametrize(
    ("written", "credential", "provider", "model"),
    [
        ("team-a:gpt-4o", "team-a", "openai", "gpt-4o"),
        ("Prod Key:azure/gpt-4o", "Prod Key", "azure", "gpt-4o"),
        ("eu:claude-sonnet-4-5@20250929", "eu", "google", "claude-sonnet-4-5-20250929"),
        ("key:us.amazon.nova-lite-v1:0", "key", "aws", "amazon.nova-lite-v1:0"),
    ],
)
def test_a_gateways_credential_stands_before_the_model(
    written: str, credential: str, provider: str, model: str
) -> None:
    name = understand(written)
    assert (name.credential, name.provider, name.model) == (credential, provider, model)


@pytest.mark.parametrize(
    "written",
    [
        *("", " ", ":", "/", "prod-chat", "acme/gpt-4o", "key:prod-chat", "gpt-oss-120b"),
        *("deepseek-ai/DeepSeek-V3", "meta-llama/Llama-3.3-70B-Instruct", "%", "gpt4all"),
    ],
)
def test_what_is_not_understood_stays_as_it_is(written: str) -> None:
    name = understand(written)
    assert (name.written, name.provider, name.says_provider) == (written, "", False)
    assert name.model == written.strip().lower()


@given(st.text(max_size=60))
def test_any_text_is_read(written: str) -> None:
    name = understand(written)
    assert name.written == written
    assert name.provider in ("", *SPELLINGS)


PARTS = ["gpt-4o", "claude-", "us.", "anthropic.", "azure/", "bedrock/", ":", "@", "/", "-v1:0"]


@given(st.lists(st.sampled_from([*PARTS, "arn:aws:bedrock:", "models/", "ft:"]), max_size=8))
def test_parts_in_any_order_are_read(parts: list[str]) -> None:
    name = understand("".join(parts))
    assert all(asked for asked in name.asked)


def test_nearly_all_shipped_prices_are_reached_by_provider_and_model() -> None:
    """Without the provider, 395 of the package's 2,330 are; the others have ids that no trace has
    (``regional.…``) or that the package itself takes for another's.
    """
    models = [(provider.id, model) for provider in installed() for model in provider.models]
    reached = [
        getattr(SHIPPED.listed(understand(f"{provider}/{model.id}")), "model", None) is model
        for provider, model in models
    ]
    assert sum(reached) / len(reached) > 0.97


def test_what_another_sells_does_not_get_the_makers_price() -> None:
    for name in ("ollama/gpt-4o", "ft:gpt-3.9-2025-04-14:acme:x:abc", "azure/eu/gpt-4o-2024-08-06"):
        assert SHIPPED.cards(understand(name)) == [], name


def test_bedrocks_regions_and_googles_claude_have_their_prices() -> None:
    def dollars(name: str) -> Decimal:
        engine = PricingEngine(PriceBook(shipped_books=[SHIPPED]))
        cost = engine.cost_of(None, ObservationUsage(name, {"input": 1_000_000}, None, NOW))
        assert cost.cost_usd is not None, name
        return cost.cost_usd

    claude = "anthropic.claude-haiku-4-5-20251001-v1:0"
    assert dollars(f"us.{claude}") == Decimal("1.1")
    assert dollars(f"bedrock/global.{claude}") == Decimal(1)
    assert dollars("claude-haiku-4-5@20251001") == Decimal(1)


def price(model: str, key: int = 1, *, is_pattern: bool = False) -> Price:
    return Price(key, model, RateCard.of({UnitKind.INPUT: Decimal(1)}), is_pattern=is_pattern)


def price_of(
    written: str,
    *prices: Price,
    aliases: tuple[Alias, ...] = (),
    at: datetime = NOW,
    known_at: datetime = LATEST,
    connection_id: int | None = None,
) -> int | None:
    book = PriceBook(platform_prices=prices, aliases=aliases)
    usage = ObservationUsage(written, {"input": 1}, None, at)
    return PricingEngine(book).cost_of(None, usage, known_at, connection_id).price_id


@pytest.mark.parametrize(
    ("of_price", "written"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("gpt-4o", "azure/gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("azure/gpt-4o", "azure_openai:gpt-4o"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("claude-sonnet-4-5", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ("claude-sonnet-4-5", "claude-sonnet-4-5@20250929"),
        ("claude-sonnet-4-5", "openrouter/anthropic/claude-sonnet-4.5"),
        ("anthropic.claude-haiku-4-5-20251001-v1:0", "eu.anthropic.claude-haiku-4-5-20251001-v1:0"),
        ("ft:gpt-4o-mini-2024-07-18", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        ("prod-chat", "Prod-Chat"),
        ("mistral-large", "mistral/mistral-large-latest"),
    ],
)
def test_a_price_is_for_the_name_as_it_is_understood(of_price: str, written: str) -> None:
    assert price_of(written, price(of_price)) == 1


@pytest.mark.parametrize(
    ("of_price", "written"),
    [
        ("azure/gpt-4o", "openai/gpt-4o"),
        ("azure/gpt-4o", "gpt-4o"),
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini", "ft:gpt-4o-mini-2024-07-18:acme::abc"),
        (
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "eu.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        ("deepseek-r1", "deepseek-r1:7b"),
        ("phi-4", "openrouter/phi-4:free"),
    ],
)
def test_a_price_of_another_model_is_not(of_price: str, written: str) -> None:
    assert price_of(written, price(of_price)) is None


def test_the_closest_name_goes_first_and_a_pattern_last() -> None:
    names = ["azure/GPT-4o-2024-08-06", "azure/gpt-4o-2024-08-06", "gpt-4o-2024-08-06", "gpt-4o"]
    prices = [price(name, key) for key, name in enumerate(names, 1)]
    patterns = [price(r"azure/.*", 5, is_pattern=True), price(r"gpt-4o.*", 6, is_pattern=True)]
    listed = [*prices, *patterns]
    for key in range(1, 7):
        assert price_of(names[0], *reversed(listed)) == key
        del listed[0]


def test_an_alias_says_which_model_a_deployment_is() -> None:
    prices = price("azure/gpt-4o", 1), price("gpt-4o-mini", 2)
    alias = Alias("prod-chat", "gpt-4o", "azure")
    assert price_of("prod-chat", *prices) is None
    for written in ("prod-chat", "Prod-Chat", "azure/prod-chat"):
        assert price_of(written, *prices, aliases=(alias,)) == 1
    assert price_of("openai/prod-chat", *prices, aliases=(alias,)) is None
    assert price_of("prod-chat-2", *prices, aliases=(alias,)) is None


def test_an_alias_without_a_model_says_whose_a_bare_name_is() -> None:
    prices = price("azure/gpt-4o", 1), price("openai/gpt-4o", 2)
    alias = Alias("gpt-4o", provider="azure")
    assert price_of("gpt-4o", *prices, aliases=(alias,)) == 1
    assert price_of("openai/gpt-4o", *prices, aliases=(alias,)) == 2


def test_the_text_of_a_star_is_put_into_the_model() -> None:
    aliases = Alias("acme/*", "*"), Alias("acme/*-eu", "azure/*")
    prices = price("azure/gpt-4o", 1), price("gpt-4o", 2)
    assert price_of("acme/gpt-4o", *prices, aliases=aliases) == 2
    assert price_of("acme/gpt-4o-eu", *prices, aliases=aliases) == 1, "the longer pattern"
    assert price_of("other/gpt-4o", *prices, aliases=aliases) is None


def test_a_connections_own_alias_goes_before_all_others() -> None:
    prices = price("gpt-4o", 1), price("gpt-4o-mini", 2)
    aliases = Alias("chat", "gpt-4o"), Alias("chat*", "gpt-4o-mini", connection_id=7)
    assert price_of("chat", *prices, aliases=aliases) == 1
    assert price_of("chat", *prices, aliases=aliases, connection_id=8) == 1
    assert price_of("chat", *prices, aliases=aliases, connection_id=7) == 2


def test_an_alias_is_dated_as_a_price_is() -> None:
    prices = price("gpt-4o", 1), price("gpt-4o-mini", 2)
    first = Alias("chat", "gpt-4o", recorded_at=NOW - 9 * HOUR)
    second = Alias("chat", "gpt-4o-mini", valid_from=NOW, recorded_at=NOW - 8 * HOUR)
    late = Alias("chat", "nobody-knows", valid_from=NOW, recorded_at=NOW + 5 * HOUR)
    both = first, second
    assert price_of("chat", *prices, aliases=both, at=NOW - HOUR) == 1
    assert price_of("chat", *prices, aliases=both, at=NOW) == 2
    assert price_of("chat", *prices, aliases=(*both, late), known_at=NOW) == 2
    assert price_of("chat", *prices, aliases=(*both, late)) is None, "no older meaning comes back"


def test_one_that_is_entered_late_prices_only_what_had_no_price() -> None:
    late = Alias("chat", "gpt-4o", recorded_at=NOW + HOUR)
    gone = Alias("chat", "gpt-4o", recorded_at=EVER, withdrawn_at=NOW + HOUR)
    other = price("chat", 9)
    assert price_of("chat", price("gpt-4o"), aliases=(late,), known_at=NOW) == 1
    assert price_of("chat", price("gpt-4o"), other, aliases=(late,), known_at=NOW) == 9
    assert price_of("chat", price("gpt-4o"), aliases=(gone,), known_at=NOW) == 1
    assert price_of("chat", price("gpt-4o"), aliases=(gone,), known_at=NOW + HOUR) is None


moments = st.integers(-3, 3).map(lambda hours: NOW + hours * HOUR)
aliases = st.builds(
    Alias,
    st.sampled_from(["chat", "ch*", "*"]),
    st.sampled_from(["gpt-4o", "gpt-4o-mini", "azure/gpt-4o"]),
    st.just(""),
    st.none(),
    moments | st.just(EVER),
    moments | st.just(EVER),
    moments | st.just(NEVER),
)


@given(st.lists(aliases, max_size=5), moments, moments)
def test_at_any_time_a_name_means_one_thing_whatever_the_order(
    listed: list[Alias], moment: datetime, known_at: datetime
) -> None:
    def meant(listed: list[Alias]) -> list[str]:
        found = readings("chat", listed)
        return [one.name.model for one in found if one.span.holds(moment, known_at)]

    assert len(meant(listed)) == 1
    in_force = [
        one
        for one in listed
        if one.valid_from <= moment and one.recorded_at <= known_at < one.withdrawn_at
    ]
    if not in_force:
        assert meant(listed) == ["chat"]
    elif len({(one.name, one.valid_from, one.recorded_at) for one in listed}) == len(listed):
        assert meant(listed) == meant(listed[::-1])
