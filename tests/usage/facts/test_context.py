"""How a call was asked, from Langfuse's answer to its price, its explanation and a repricing
(docs/pricing.md, Conditions).
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.urls import reverse

from pricing import lists
from pricing.conditions import TERMS
from pricing.models import ModelPrice
from pricing.scenario import Scenario
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.facts.test_partly_priced import ROW
from usage.books import verify_books
from usage.langfuse.wire import WireParameters, decode_page
from usage.models import Observation, Trace
from usage.repricing.stored import stored_traces
from usage.repricing.what_if import what_if

USAGE = {"input": 1_000_000, "output": 0, "total": 1_000_000}


def context_of_row(**fields: Any) -> str:
    page = decode_page(msgspec.json.encode({"data": [{**ROW, **fields}], "meta": {}}))
    (one,) = page.observations
    return one.step.context


@pytest.mark.parametrize(
    ("parameters", "context"),
    [
        ({"service_tier": "flex", "temperature": "0.2"}, "service_tier=flex"),
        ({"temperature": "0.2"}, ""),
        ({}, ""),
        (None, ""),
        ("of another form", ""),
        ([1], ""),
    ],
)
def test_it_is_read_from_the_models_parameters(parameters: Any, context: str) -> None:
    assert context_of_row(modelParameters=parameters) == context
    # A row that is decoded by itself says the same.
    assert context_of_row(modelParameters=parameters, metadata="none") == context


def test_the_parameters_that_are_decoded_are_those_that_change_prices() -> None:
    assert {*WireParameters.__struct_fields__} == {*TERMS}


@pytest.mark.django_db
def test_a_batch_costs_what_a_batch_costs(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.acme_user, None, usage_details=USAGE)
    use(people.acme_user, None, usage_details=USAGE, context="processing=batch")
    usual, batch = Trace.objects.order_by("cost_usd").reverse()
    assert (usual.cost_usd, batch.cost_usd) == (Decimal("2.5"), Decimal("1.25"))
    explained = api(people.platform_admin, f"traces/{batch.pk}/explanation").json()
    (step,) = explained["observations"]
    assert step["context"] == "processing=batch"
    assert [item["usd_per_million"] for item in step["line_items"]] == ["1.250000000000"]
    assert {
        usage.context
        for stored in stored_traces(NOON, NOON + timedelta(days=1))
        for usage in stored.usage.observations
    } == {"", "processing=batch"}
    assert verify_books() == []


@pytest.mark.django_db
def test_what_the_book_can_not_know_is_listed_by_how_it_was_asked(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.acme_user, None, usage_details=USAGE, context="service_tier=scale")
    use(people.acme_user, None, usage_details=USAGE)
    (found,) = api(people.platform_admin, "unpriced").json()["results"]
    assert (found["model"], found["context"]) == ("gpt-4o", "service_tier=scale")
    client = Client()
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_unpricedusage")).content.decode()
    assert "conditions=service_tier%3Dscale" in page


@pytest.mark.django_db
def test_what_if_asks_another_model_as_this_one_was_asked(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, None, usage_details=USAGE, context="processing=batch")
    scenario = Scenario("another", NOON, models={"gpt-4o": "gpt-4.1"})
    (found,) = what_if(NOON, NOON + timedelta(days=1), [scenario])
    assert found.scenarios[0].cost_usd == Decimal(1)


@pytest.mark.django_db
def test_an_own_price_for_a_tier_is_of_its_calls(people: People, use: Callable[..., None]) -> None:
    common = {"tenant": people.acme, "model": "gpt-4o", "valid_from": LONG_AGO}
    lists.enter_price(ModelPrice(**common, input=2), people.platform_admin)
    flex = ModelPrice(**common, input=1, conditions="service_tier=flex")
    lists.enter_price(flex, people.platform_admin)
    for context in ("", "service_tier=flex"):
        use(people.acme_user, None, usage_details={"input": 1_000_000}, context=context)
    of = Observation.objects.filter(cost_source="tenant_price")
    assert dict(of.values_list("context", "cost_usd")) == {
        "": Decimal(2),
        "service_tier=flex": Decimal(1),
    }
