"""The lists: dated, recorded and withdrawn, never edited; the database itself refuses what must not
be (domain.md, Price).
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from pricing import lists
from pricing.book import load_price_book
from pricing.models import IN_LIST, ModelAlias, ModelPrice, PricingTier, TierAssignment, TierRate
from pricing.signals import prices_entered
from tests.conftest import LONG_AGO, People

pytestmark = pytest.mark.django_db
JANUARY, MARCH, MAY = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 3, 5))
D = Decimal


def price(**fields: Any) -> ModelPrice:
    return ModelPrice(**{"model": "m", "valid_from": JANUARY, "input": D(2), **fields})


def stored(**fields: Any) -> ModelPrice:
    one = price(**fields)
    one.save()
    return one


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({}, {"valid_from": MARCH}),
        ({"valid_until": MAY}, {"valid_from": MARCH}),
        ({"valid_from": MARCH}, {"valid_until": MAY}),
        ({"valid_from": MARCH, "valid_until": MAY}, {}),
        ({"match": "pattern"}, {"match": "pattern", "valid_from": MAY}),
        ({"precedence": "fallback"}, {"precedence": "fallback"}),
    ],
)
def test_the_database_refuses_two_prices_at_the_same_time(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    stored(**first)
    with pytest.raises(IntegrityError), transaction.atomic():
        stored(**second)


def test_prices_of_other_times_models_tenants_and_precedences_do_not_overlap(
    people: People,
) -> None:
    stored(valid_until=MARCH)
    stored(valid_from=MARCH)
    for fields in (
        {"model": "n"},
        {"tenant": people.acme},
        {"tenant": people.globex},
        {"precedence": "fallback"},
        {"match": "pattern"},
    ):
        stored(**fields)
    lists.withdraw(ModelPrice.objects.get(tenant=people.acme), None)
    stored(tenant=people.acme)


@pytest.mark.parametrize(
    "change",
    [
        {"input": D(3)},
        {"valid_from": MARCH},
        {"valid_until": MAY},
        {"model": "n"},
        {"recorded_at": MARCH},
    ],
    ids=str,
)
def test_the_database_refuses_to_change_what_was_recorded(change: dict[str, Any]) -> None:
    stored()
    with pytest.raises(IntegrityError, match="withdraw it"), transaction.atomic():
        ModelPrice.objects.update(**change)


def test_what_was_withdrawn_stays_withdrawn(people: People) -> None:
    one = stored()
    lists.withdraw(one, people.platform_admin)
    with pytest.raises(IntegrityError), transaction.atomic():
        ModelPrice.objects.update(withdrawn_at=None)
    for rows in (TierRate.objects.all(), TierAssignment.objects.all()):
        with pytest.raises(IntegrityError), transaction.atomic():
            rows.update(valid_from=MAY)


@pytest.mark.parametrize(
    "fields",
    [{"input": D(-1)}, {"input": None}, {"valid_until": JANUARY}, {"request": D("-0.000001")}],
    ids=str,
)
def test_the_database_refuses_what_is_no_price(fields: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        stored(**fields)


def test_a_tenants_price_always_replaces(people: People) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        stored(tenant=people.acme, precedence="fallback")


@pytest.mark.parametrize(
    "terms",
    [
        {"pricing_multiplier": D(0)},
        {"credits_per_usd": D(-1)},
        {"minimum_credits_per_trace": D(-1)},
    ],
    ids=str,
)
def test_the_database_refuses_an_impossible_rate(
    tiers: dict[str, PricingTier], terms: dict[str, Decimal]
) -> None:
    values = {"credits_per_usd": D(100), "pricing_multiplier": D(1), **terms}
    with pytest.raises(IntegrityError), transaction.atomic():
        TierRate.objects.create(tier=tiers["Starter"], valid_from=MAY, **values)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": D(-1)}, "-1 is not possible: write 0 or a number above it."),
        ({"model": "gpt-(", "match": "pattern"}, "“gpt-(” is not a valid pattern"),
        ({"valid_until": JANUARY}, "2026-01-01 00:00 is not after the beginning"),
        ({"input": None}, "Write a price for at least one kind of unit"),
        ({"input": D("1e30")}, "1E+30"),
        ({"match": "glob"}, "'glob'"),
    ],
)
def test_a_price_that_is_none_is_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        lists.enter_price(price(**fields), None)
    assert (
        message in str(refused.value)
        or message in " ".join(refused.value.messages)
        or "digits" in str(refused.value)
    )
    assert not ModelPrice.objects.exists()


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"pricing_multiplier": D(0)}, "0 is not possible: write a number above 0."),
        ({"pricing_multiplier": "abc"}, "“abc” value must be a decimal number."),
        (
            {"minimum_credits_per_trace": D(5), "maximum_credits_per_trace": D(4)},
            "5 is above the maximum of 4",
        ),
    ],
)
def test_a_rate_that_is_none_is_refused_by_name(
    tiers: dict[str, PricingTier], terms: dict[str, Any], message: str
) -> None:
    values = {"credits_per_usd": D(100), "pricing_multiplier": D(1), **terms}
    with pytest.raises(ValidationError, match=message.replace(".", r"\.")):
        lists.enter_rate(TierRate(tier=tiers["Starter"], valid_from=MAY, **values), None)


def test_an_open_price_ends_where_the_next_begins_and_its_old_form_is_history(
    people: People,
) -> None:
    lists.enter_price(price(), people.platform_admin)
    lists.enter_price(price(valid_from=MAY, input=D(3)), people.platform_admin)
    lists.enter_price(price(valid_from=MARCH, input=D(4)), people.platform_admin)
    current = (
        ModelPrice.objects.filter(IN_LIST)
        .order_by("valid_from")
        .values_list("valid_from", "valid_until", "input")
    )
    assert list(current) == [(JANUARY, MARCH, D(2)), (MARCH, MAY, D(4)), (MAY, None, D(3))]
    assert ModelPrice.objects.count() == 5
    assert not ModelPrice.objects.exclude(recorded_by=people.platform_admin).exists()


def test_a_price_within_one_that_has_an_end_is_refused_with_the_way_out() -> None:
    other = lists.enter_price(price(valid_until=MAY), None)
    for beyond in (None, MAY + timedelta(days=1)):
        with pytest.raises(
            ValidationError, match=rf"until 2026-05-01 00:00 already \(number {other.pk}\)"
        ):
            lists.enter_price(price(valid_from=MARCH, valid_until=beyond), None)
    assert ModelPrice.objects.count() == 1


@pytest.mark.parametrize("end", [None, MAY, datetime(2026, 6, 1, tzinfo=UTC)])
def test_a_temporary_price_leaves_the_other_in_force_before_and_after(end: datetime | None) -> None:
    lists.enter_price(price(valid_until=end), None)
    april = datetime(2026, 4, 1, tzinfo=UTC)
    lists.enter_price(price(valid_from=MARCH, valid_until=april, input=D(1)), None)
    listed = ModelPrice.objects.filter(IN_LIST).order_by("valid_from")
    assert list(listed.values_list("valid_from", "valid_until", "input")) == [
        (JANUARY, MARCH, D(2)),
        (MARCH, april, D(1)),
        (april, end, D(2)),
    ]


def test_a_hole_after_a_price_is_said() -> None:
    assert lists.check_price(price(valid_until=MARCH)) is None, "the list's only one"
    lists.enter_price(price(valid_until=MARCH), None)
    april = datetime(2026, 4, 1, tzinfo=UTC)
    hole = lists.check_price(price(valid_from=MARCH, valid_until=april))
    assert str(hole) == "from 2026-04-01 00:00 on"
    lists.enter_price(price(valid_from=MAY), None)
    hole = lists.check_price(price(valid_from=MARCH, valid_until=april))
    assert str(hole) == "from 2026-04-01 00:00 until 2026-05-01 00:00"
    assert lists.check_price(price(valid_from=MARCH, valid_until=MAY)) is None


def test_changing_a_price_withdraws_it_and_records_another(people: People) -> None:
    old = lists.enter_price(price(), None)
    changed = ModelPrice.objects.get(pk=old.pk)
    changed.input = D(5)
    new = lists.enter_price(
        changed, people.platform_admin, replaces=ModelPrice.objects.get(pk=old.pk)
    )
    old.refresh_from_db()
    assert new.pk != old.pk
    assert (old.input, old.withdrawn_at, old.withdrawn_by) == (
        D(2),
        new.recorded_at,
        people.platform_admin,
    )


def test_a_check_records_nothing_and_announces_nothing(
    django_capture_on_commit_callbacks: Any,
) -> None:
    with django_capture_on_commit_callbacks() as callbacks:
        lists.check_price(price())
    assert not callbacks
    assert not ModelPrice.objects.exists()


def test_an_entered_price_is_announced_once_it_is_committed(
    django_capture_on_commit_callbacks: Any,
) -> None:
    heard = []
    prices_entered.connect(
        lambda **kwargs: heard.append(kwargs["models"]), weak=False, dispatch_uid="test"
    )
    with django_capture_on_commit_callbacks(execute=True):
        lists.enter_price(price(), None)
        assert heard == []
    prices_entered.disconnect(dispatch_uid="test")
    assert heard == [["m"]]


def test_a_retired_tier_is_given_to_nobody_anew(
    people: People, tiers: dict[str, PricingTier]
) -> None:
    assert lists.retire_tiers([tiers["Starter"]]) == 1
    tiers["Starter"].refresh_from_db()
    with pytest.raises(ValidationError, match="“Starter” is retired"):
        lists.assign_tier(
            TierAssignment(tier=tiers["Starter"], user=people.acme_user, valid_from=timezone.now()),
            None,
        )
    with pytest.raises(ValidationError, match="“Starter” is retired"):
        lists.assign_tiers_to_users([(people.acme_user.pk, tiers["Starter"], MAY)])


def test_a_tier_in_use_can_not_be_deleted(people: People, tiers: dict[str, PricingTier]) -> None:
    with pytest.raises(Exception, match="protected"):
        tiers["Professional"].delete()
    tiers["Enterprise"].delete()


def test_assignments_are_given_in_bulk_and_again_change_nothing(
    people: People, tiers: dict[str, PricingTier], django_assert_num_queries: Any
) -> None:
    with CaptureQueriesContext(connection) as for_one:
        alone = [(people.globex_user.pk, tiers["Enterprise"], LONG_AGO)]
        assert lists.assign_tiers_to_users(alone) == 1
    wanted = [
        (user.pk, tiers["Enterprise"], LONG_AGO)
        for user in (people.acme_user, people.acme_colleague, people.globex_admin)
    ]
    with django_assert_num_queries(len(for_one)):
        assert lists.assign_tiers_to_users(wanted) == 3
    assert lists.assign_tiers_to_users(wanted) == 0
    assert (
        TierAssignment.objects.filter(IN_LIST, user=people.acme_user).get().tier
        == tiers["Enterprise"]
    )
    assert TierAssignment.objects.filter(user=people.acme_user).count() == 2


def test_the_book_is_loaded_with_a_handful_of_queries_however_long_the_lists_are(
    people: People, django_assert_num_queries: Any
) -> None:
    for number in range(20):
        lists.enter_price(
            price(model=f"m{number}", tenant=people.acme if number % 2 else None), None
        )
        alias = ModelAlias(name=f"m{number}", model="gpt-4o", valid_from=LONG_AGO)
        lists.enter_alias(alias, None)
    with django_assert_num_queries(5):
        book = load_price_book()
    assert (len(book.platform_prices), len(book.tenant_prices[people.acme.pk])) == (10, 10)
    assert len(book.aliases) == 20


def test_a_price_that_begins_tomorrow_changes_nothing_today() -> None:
    lists.enter_price(price(valid_from=timezone.now() + timedelta(days=1)), None)
    assert ModelPrice.objects.filter(IN_LIST, valid_from__lte=timezone.now()).count() == 0
