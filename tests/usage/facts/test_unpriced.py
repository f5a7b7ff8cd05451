"""Usage without a price is listed, and priced and charged as soon as one is entered (domain.md,
Price).
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits.models import Account
from pricing import lists
from pricing.models import ModelPrice, ShippedPriceList
from tests.conftest import LONG_AGO, NOON, People
from usage.analytics.unpriced import UnpricedModel, unpriced_models
from usage.books import verify_books
from usage.facts.unpriced import price_unpriced, price_unpriced_since
from usage.models import LangfuseConnection, Trace

pytestmark = pytest.mark.django_db
D = Decimal


@pytest.fixture
def unpriced_usage(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, None, model="acme-7b")
    use(people.globex_user, None, NOON + timedelta(hours=1), model="acme-7b")
    use(people.globex_user, None, model="globex-7b")


def price(**fields: Any) -> ModelPrice:
    values = {
        "model": "acme-7b",
        "valid_from": LONG_AGO,
        "input": D(1000),
        "output": D(1000),
        "precedence": "fallback",
        **fields,
    }
    return ModelPrice(**values)


@pytest.mark.usefixtures("unpriced_usage")
def test_it_is_listed_by_model() -> None:
    assert unpriced_models() == [
        UnpricedModel("acme-7b", "", 2, 30, 20, 10, 2, NOON, NOON + timedelta(hours=1)),
        UnpricedModel("globex-7b", "", 1, 15, 10, 5, 1, NOON, NOON),
    ]


@pytest.mark.usefixtures("unpriced_usage")
def test_it_is_priced_at_once_when_a_price_is_entered(
    people: People, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        lists.enter_price(price(), people.platform_admin)
    assert [one.model for one in unpriced_models()] == ["globex-7b"]
    assert set(Account.objects.values_list("used", flat=True)) == {D("2.85")}
    assert verify_books() == []


@pytest.mark.usefixtures("unpriced_usage")
def test_what_a_request_can_not_do_the_next_sync_does(
    people: People, bare_connection: LangfuseConnection
) -> None:
    before = price_unpriced_since(bare_connection, None)
    assert before.traces_changed == 0
    entered = lists.enter_price(price(), None)
    assert price_unpriced(bare_connection, at_most=1).traces_changed == 1
    assert price_unpriced_since(bare_connection, entered.recorded_at).traces_changed == 0, (
        "nothing was entered since"
    )
    assert (
        price_unpriced_since(
            bare_connection, entered.recorded_at - timedelta(seconds=1)
        ).traces_changed
        == 1
    )


@pytest.mark.usefixtures("unpriced_usage")
def test_a_tenants_price_is_for_its_own_usage(
    people: People, bare_connection: LangfuseConnection
) -> None:
    lists.enter_price(price(tenant=people.globex, precedence="replaces"), None)
    assert price_unpriced(bare_connection).traces_changed == 1
    assert Trace.objects.get(credits__isnull=False).tenant == people.globex


@pytest.mark.usefixtures("unpriced_usage")
@pytest.mark.parametrize(
    "fields",
    [
        {"model": "other"},
        {"valid_from": NOON + timedelta(days=1)},
        {"valid_until": NOON - timedelta(days=1)},
    ],
    ids=str,
)
def test_a_price_of_another_model_or_time_is_not_for_it(
    people: People, bare_connection: LangfuseConnection, fields: dict[str, Any]
) -> None:
    lists.enter_price(price(**fields), None)
    assert price_unpriced(bare_connection).traces_changed == 0


@pytest.mark.usefixtures("unpriced_usage")
def test_the_first_price_stays_its_price(
    people: People, bare_connection: LangfuseConnection
) -> None:
    first = lists.enter_price(price(), None)
    price_unpriced(bare_connection)
    lists.enter_price(price(input=D(1)), None, replaces=first)
    price_unpriced(bare_connection)
    assert set(Trace.objects.exclude(cost_usd=None).values_list("cost_usd", flat=True)) == {
        D("0.015")
    }


def test_unknown_is_never_zero(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, None, model="acme-7b")
    trace = Trace.objects.get()
    assert (trace.cost_usd, trace.billed_cost_usd, trace.credits) == (None, None, None)
    assert ShippedPriceList.objects.exists()
