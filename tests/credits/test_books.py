"""What is found of a ledger that does not hold by itself, and that the whole books find it too."""

from collections.abc import Callable
from decimal import Decimal

import pytest
from django.db.models import F

from credits import grants, ledger
from credits.books import LEDGER_CHECKS, ledger_findings
from credits.grants import NewGrant
from credits.models import Account, Grant, HourCut, Transaction, UsageCharge
from tests.conftest import NOON, People
from usage.books import verify_books

pytestmark = pytest.mark.django_db
D = Decimal


def an_entry_from_another_balance() -> None:
    last = Transaction.objects.latest("pk")
    Transaction.objects.create(
        account=last.account,
        type=Transaction.Type.ADJUSTMENT,
        amount=D(0),
        balance_before=last.balance_after + 1,
        balance_after=last.balance_after + 1,
        idempotency_key="from another balance",
        created_at=NOON,
    )


FAULTS: dict[str, Callable[[], object]] = {
    "invariant 5: an account's transactions sum to its balance": (
        lambda: Account.objects.update(allocated=F("allocated") + D(1))
    ),
    "invariant 5: each transaction goes on from the balance before it": (
        an_entry_from_another_balance
    ),
    "invariant 5: an hour's transactions sum to what is posted for it": (
        lambda: UsageCharge.objects.update(credits=D(3))
    ),
    "invariant 4: what is held is the sum of the holds": (
        lambda: Account.objects.update(held=D(1))
    ),
    "invariant 5: a grant's transactions sum to what is posted of it": (
        lambda: Grant.objects.update(posted=D(50))
    ),
    "invariant 5: an hour is cut where a grant begins or ends in it": (
        lambda: HourCut.objects.all().delete()
    ),
}


def test_every_check_of_the_ledger_is_tried() -> None:
    assert FAULTS.keys() == LEDGER_CHECKS.keys()


@pytest.mark.parametrize("check", LEDGER_CHECKS)
def test_each_check_finds_its_fault_and_no_other_does(people: People, check: str) -> None:
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "k", "welcome"))
    ledger.post_usage({(people.acme_user.pk, NOON): D(7)}, NOON)
    assert list(ledger_findings()) == []
    FAULTS[check]()
    assert [one.check for one in ledger_findings()] == [check]
    assert check in [one.check for one in verify_books()]
