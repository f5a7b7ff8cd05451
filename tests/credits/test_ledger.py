"""The ledger: grants, charges as differences, and a book that nobody can rewrite."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import DatabaseError, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from credits import grants, ledger
from credits.books import ledger_findings
from credits.grants import NewGrant
from credits.models import Account, Grant, Transaction, UsageCharge
from credits.status import credit_status
from tests.conftest import NOON, People

pytestmark = pytest.mark.django_db
D = Decimal


def give(people: People, amount: str, key: str = "k1") -> Transaction:
    given = grants.grant(NewGrant(people.acme_user, D(amount), Grant.Source.MANUAL, key, "welcome"))
    return given.transactions.get()


def unbalanced() -> list[str]:
    """What doesn't hold of the ledger by itself (usage without traces is made up in these
    tests).
    """
    return [one.check for one in ledger_findings()]


def test_a_grant_adds_to_the_balance(people: People) -> None:
    entry = give(people, "100.5")
    account = Account.objects.get()
    assert (account.allocated, account.used, account.balance, account.remaining) == (
        D("100.5"),
        0,
        D("100.5"),
        D("100.5"),
    )
    assert (entry.type, entry.amount, entry.balance_before, entry.balance_after) == (
        "addition",
        D("100.5"),
        0,
        D("100.5"),
    )
    assert unbalanced() == []


def test_the_same_grant_again_gives_nothing(people: People) -> None:
    assert give(people, "10").pk == give(people, "10").pk
    assert Account.objects.get().allocated == 10


@pytest.mark.parametrize("amount", ["0", "-1", "NaN"])
def test_a_grant_has_to_be_above_zero(people: People, amount: str) -> None:
    with pytest.raises(ValueError, match="write more than 0"):
        give(people, amount)
    assert Transaction.objects.count() == 0


def test_usage_is_posted_as_the_difference(people: People) -> None:
    user, hour = people.acme_user.pk, NOON
    give(people, "100")
    assert ledger.post_usage({(user, hour): D("11.4")}, NOON) == ledger.Posted(1, D("11.4"))
    assert ledger.post_usage({(user, hour): D("11.4")}, NOON) == ledger.Posted(0, 0)
    assert ledger.post_usage({(user, hour): D("20")}, NOON) == ledger.Posted(1, D("8.6"))
    assert ledger.post_usage({(user, hour): D("5")}, NOON) == ledger.Posted(1, D("-15"))
    assert list(
        Transaction.objects.order_by("pk").values_list("type", "amount", "balance_after")
    ) == [
        ("addition", D(100), D(100)),
        ("deduction", D("-11.4"), D("88.6")),
        ("deduction", D("-8.6"), D(80)),
        ("refund", D(15), D(95)),
    ]
    assert UsageCharge.objects.get().credits == 5
    assert unbalanced() == []


def test_usage_that_happened_is_charged_beyond_zero(people: People) -> None:
    ledger.post_usage({(people.acme_user.pk, NOON): D("7")}, NOON)
    assert Account.objects.get().remaining == -7
    status = credit_status(people.acme_user, NOON)
    assert (status.is_out_of_credits, status.can_execute, status.usage_percent) == (
        True,
        False,
        None,
    )


def test_the_database_itself_refuses_to_change_or_delete_an_entry(people: People) -> None:
    entry = give(people, "10")
    for change in (
        lambda: Transaction.objects.filter(pk=entry.pk).update(amount=D(1)),
        lambda: Transaction.objects.filter(pk=entry.pk)._raw_delete("default"),
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()
    assert Transaction.objects.get().amount == 10


def test_credits_are_exact_to_the_sixth_decimal(people: People) -> None:
    for number in range(1, 11):
        ledger.post_usage({(people.acme_user.pk, NOON): D("0.000001") * number}, NOON)
    assert Account.objects.get().used == D("0.000010")


def test_a_status_says_low_and_out(people: People) -> None:
    give(people, "100")
    ledger.post_usage({(people.acme_user.pk, NOON): D("79.99")}, NOON)
    assert not credit_status(people.acme_user, NOON).is_low_credits
    ledger.post_usage({(people.acme_user.pk, NOON): D("80")}, NOON)
    status = credit_status(people.acme_user, NOON)
    assert (status.is_low_credits, status.can_execute, status.tier_name, status.usage_percent) == (
        True,
        True,
        "Professional",
        80.0,
    )
    ledger.post_usage({(people.acme_user.pk, NOON): D("100")}, NOON)
    status = credit_status(people.acme_user, NOON)
    assert (status.is_low_credits, status.is_out_of_credits, status.can_execute) == (
        False,
        True,
        False,
    )


def test_without_a_tier_there_is_no_license(people: People) -> None:
    assert credit_status(people.service, NOON).license_is_active is False
    people.acme.is_active = False
    people.acme.save()
    assert credit_status(people.acme_user, NOON).license_is_active is False


def test_the_projected_end_is_by_the_weekday_pattern(people: People) -> None:
    give(people, "100")
    assert credit_status(people.acme_user, NOON).projected_exhaustion_date is None
    ledger.post_usage(
        {(people.acme_user.pk, NOON - timedelta(days=day)): D("1") for day in range(28)}, NOON
    )
    assert (
        credit_status(people.acme_user, NOON).projected_exhaustion_date
        == (NOON + timedelta(days=72)).date()
    )


hours = st.integers(0, 4).map(lambda number: datetime(2026, 11, 10, number, tzinfo=UTC))
amounts = st.decimals(min_value=0, max_value=1000, places=6)
postings = st.lists(
    st.dictionaries(st.tuples(st.booleans(), hours), amounts, max_size=6), max_size=8
)


@settings(max_examples=30)
@given(postings)
def test_any_sequence_of_postings_leaves_a_closed_book(
    people: People, batches: list[dict[tuple[bool, datetime], Decimal]]
) -> None:
    expected: dict[tuple[object, datetime], Decimal] = {}
    with transaction.atomic():
        for batch in batches:
            usage = {
                ((people.acme_user if first else people.globex_user).pk, hour): amount
                for (first, hour), amount in batch.items()
            }
            expected.update(usage)
            ledger.post_usage(usage, NOON)
        used = dict(Account.objects.values_list("pk", "used"))
        for user in (people.acme_user.pk, people.globex_user.pk):
            assert used.get(user, 0) == sum(
                amount for (who, _), amount in expected.items() if who == user
            )
        assert unbalanced() == []
        transaction.set_rollback(True)
