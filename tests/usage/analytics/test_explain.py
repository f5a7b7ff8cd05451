"""Why 11.4 credits? Every figure between the units and the ledger, and each of them comes to the
next.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from credits.models import Transaction
from kluisz_analytics.tenants.models import User
from pricing import lists
from pricing.engine import CostSource
from pricing.models import ModelPrice, TierRate
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.facts.test_decide import received
from usage.analytics.explain import Explanation, explain
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection, Trace
from usage.repricing import repricing

pytestmark = pytest.mark.django_db
D = Decimal


def explained(trace: Trace) -> Explanation:
    return explain(trace, User(is_superuser=True))


def only() -> Explanation:
    return explained(Trace.objects.get())


def test_why_11_4_credits(people: People, use: Callable[..., None]) -> None:
    lists.enter_price(
        ModelPrice(model="m", valid_from=LONG_AGO, input=D(5000), output=D(2000)),
        people.platform_admin,
    )
    use(people.acme_user, None, model="m")

    found = only()

    (step,) = found.observations
    assert [
        (item.kind.value, item.units, item.usd_per_million, item.amount_usd)
        for item in step.line_items
    ] == [
        ("input", 10, D(5000), D("0.05")),
        ("output", 5, D(2000), D("0.01")),
    ]
    price = step.price
    assert (price.source, price.valid_from, price.recorded_by) == (
        CostSource.PLATFORM_PRICE,
        LONG_AGO,
        "root",
    )
    assert (step.cost_usd, step.credits) == (D("0.06"), D("11.4"))
    assert found.rate is not None
    assert (found.rate.tier, found.rate.pricing_multiplier, found.rate.credits_per_usd) == (
        "Professional",
        D("0.95"),
        D(200),
    )
    assert (found.billed_cost_exact, found.credits_before_limits, found.limit) == (
        D("0.057"),
        D("11.4"),
        "",
    )
    assert (found.trace.credits, found.posted_for_hour, found.why_no_credits) == (
        D("11.4"),
        D("11.4"),
        "",
    )
    assert [(entry.id, entry.amount) for entry in found.ledger] == [
        (Transaction.objects.get().pk, D("-11.4"))
    ]
    assert found.unbilled_observations == 1


def test_langfuses_cost_has_no_lines_and_the_shipped_book_has(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    assert (only().observations[0].price.source, only().observations[0].line_items) == (
        CostSource.LANGFUSE,
        [],
    )
    Trace.objects.get()
    use(people.acme_user, None, NOON + timedelta(hours=1), model="gpt-4o")
    found = explained(Trace.objects.get(start_time__gt=NOON))
    assert found.observations[0].price.source is CostSource.PRICE_BOOK
    assert [(item.units, item.usd_per_million) for item in found.observations[0].line_items] == [
        (10, D("2.5")),
        (5, D(10)),
    ]


@pytest.mark.parametrize(
    ("minimum", "maximum", "limit", "credits"),
    [("20", None, "minimum", "20"), (None, "5", "maximum", "5")],
)
def test_a_limit_that_applies_is_named(
    people: People,
    use: Callable[..., None],
    minimum: str | None,
    maximum: str | None,
    limit: str,
    credits: str,
) -> None:
    tier = people.acme_user.tier_assignments.get().tier
    limits = {
        "minimum_credits_per_trace": minimum and D(minimum),
        "maximum_credits_per_trace": maximum and D(maximum),
    }
    lists.enter_rate(
        TierRate(
            tier=tier,
            valid_from=LONG_AGO,
            credits_per_usd=D(200),
            pricing_multiplier=D("0.95"),
            **limits,
        ),
        None,
    )
    use(people.acme_user, "0.06")
    assert (only().limit, only().credits_before_limits, only().trace.credits) == (
        limit,
        D("11.4"),
        D(credits),
    )


@pytest.mark.parametrize(
    ("user", "cost", "model", "why"),
    [
        (None, "0.06", "gpt-4o", "Its tenant is unknown"),
        ("globex_admin", "0.06", "gpt-4o", "No pricing tier was known"),
        ("acme_user", None, "acme-7b", "Nothing of its usage has a price"),
    ],
)
def test_it_says_why_nothing_is_charged(
    people: People,
    use: Callable[..., None],
    user: str | None,
    cost: str | None,
    model: str,
    why: str,
) -> None:
    use(getattr(people, user) if user else None, cost, model=model)
    assert only().why_no_credits.startswith(why)
    assert only().trace.credits is None


def test_a_repriced_run_names_the_repricing_and_its_adjustment(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    lists.enter_price(
        ModelPrice(model="gpt-4o", valid_from=LONG_AGO, input=D(1000), output=D(1000)), None
    )
    done = repricing.begin(NOON, NOON + timedelta(hours=1), reason="Agreed", by=None)
    repricing.advance(done)
    assert only().repricing == done
    assert [entry.type for entry in only().ledger] == ["deduction", "adjustment"]
    assert sum(entry.amount for entry in only().ledger) == -D("2.85")


steps = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["m", "gpt-4o", "unknown-7b"]),
        "usage_details": st.dictionaries(
            st.sampled_from(
                ["input", "output", "input_cached_tokens", "output_reasoning_tokens", "requests"]
            ),
            st.integers(0, 10**6),
            max_size=4,
        ),
        "cost_usd": st.none() | st.none() | st.decimals(min_value=0, max_value=3, places=12),
    }
)


@settings(max_examples=40)
@given(st.lists(steps, min_size=1, max_size=4))
def test_each_figure_comes_to_the_next(
    people: People, bare_connection: LangfuseConnection, many: list[dict[str, Any]]
) -> None:
    owner = {"user_reference": str(people.acme_user.pk), "tenant_reference": str(people.acme.pk)}
    with transaction.atomic():
        lists.enter_price(
            ModelPrice(
                model="m",
                valid_from=LONG_AGO,
                input=D("0.123456789"),
                cached_input=D("0.01"),
                output=D(7),
                request=D(3),
            ),
            None,
        )
        apply_received(
            bare_connection, [received(f"s{at}", **one, **owner) for at, one in enumerate(many)]
        )
        found = only()
        transaction.set_rollback(True)
    twelve, six = D("0.000000000001"), D("0.000001")
    for step in found.observations:
        if step.line_items:
            assert (
                sum(item.amount_usd for item in step.line_items).quantize(twelve, ROUND_HALF_UP)
                == step.cost_usd
            )
    known = [step.cost_usd for step in found.observations if step.cost_usd is not None]
    assert found.trace.cost_usd == (sum(known, D(0)) if known or not found.observations else None)
    if found.credits_before_limits is not None:
        assert (
            found.credits_before_limits.quantize(six, ROUND_HALF_UP)
            == found.trace.credits
            == (found.posted_for_hour or 0)
        )
        assert found.billed_cost_exact is not None
        assert (
            found.billed_cost_exact.quantize(twelve, ROUND_HALF_UP) == found.trace.billed_cost_usd
        )
        if found.observations:
            assert (
                sum((step.credits or D(0) for step in found.observations), D(0))
                == found.trace.credits
            )


def test_it_takes_a_fixed_number_of_queries(
    people: People, bare_connection: LangfuseConnection, django_assert_max_num_queries: Any
) -> None:
    owner = {"user_reference": str(people.acme_user.pk), "tenant_reference": str(people.acme.pk)}
    with transaction.atomic():
        apply_received(
            bare_connection,
            [
                received(f"s{at}", model="gpt-4o", usage_details={"input": 5}, **owner)
                for at in range(50)
            ],
        )
    trace = Trace.objects.get()
    with django_assert_max_num_queries(9):
        assert len(explained(trace).observations) == 50
