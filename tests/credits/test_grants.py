"""Grants in the ledger: they begin, are burned, end, recur and are voided; late usage burns what
was in force at its time.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from credits import grants, ledger
from credits.books import ledger_findings
from credits.grants import IdempotencyConflict, NewGrant
from credits.models import Account, Grant, Transaction
from credits.recurrence import Recurrence
from credits.top_up import top_up_all
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier
from tests.conftest import People

pytestmark = pytest.mark.django_db
D = Decimal
DAY = timedelta(days=1)
START = datetime(2026, 6, 1, tzinfo=UTC)
Clock = Callable[[datetime], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Sets what time it is."""
    now = [START]
    monkeypatch.setattr(timezone, "now", lambda: now[0])
    return lambda moment: now.__setitem__(0, moment)


def give(user: User, amount: str, **more: Any) -> Grant:
    given = grants.grant(
        NewGrant(
            user,
            D(amount),
            more.pop("source", Grant.Source.MANUAL),
            f"k{Grant.objects.count()}",
            "given",
            **more,
        )
    )
    balanced()
    return given


def use(user: User, amount: str, hour: datetime) -> None:
    ledger.post_usage({(user.pk, hour): D(amount)}, timezone.now())
    balanced()


def balanced() -> None:
    assert list(ledger_findings()) == []


def figures(user: User) -> tuple[Decimal, Decimal, Decimal]:
    account = Account.objects.get(pk=user.pk)
    return account.allocated, account.used, account.balance


def entries() -> list[tuple[str, Decimal]]:
    return list(Transaction.objects.order_by("pk").values_list("type", "amount"))


def test_a_grant_that_expires_takes_back_what_was_not_burned(people: People, clock: Clock) -> None:
    give(people.acme_user, "100", expires_at=START + 10 * DAY)
    use(people.acme_user, "30", START + DAY)
    clock(START + 10 * DAY)
    assert grants.catch_up() == 1
    assert entries() == [("addition", D(100)), ("deduction", D(-30)), ("expiry", D(-70))]
    assert figures(people.acme_user) == (0, 0, 0)
    assert grants.catch_up() == 0
    balanced()


def test_late_usage_burns_the_grant_that_was_in_force_then(people: People, clock: Clock) -> None:
    give(people.acme_user, "100", expires_at=START + 10 * DAY)
    give(people.acme_user, "50", starts_at=START + 10 * DAY)
    clock(START + 11 * DAY)
    grants.catch_up()
    assert figures(people.acme_user) == (50, 0, 50)
    use(people.acme_user, "30", START + 9 * DAY)
    assert figures(people.acme_user) == (50, 0, 50)
    assert entries()[-2:] == [("deduction", D(-30)), ("expiry", D(30))]
    use(people.acme_user, "5", START + 11 * DAY)
    assert figures(people.acme_user) == (50, 5, 45)
    use(people.acme_user, "10", START + 9 * DAY)
    assert entries()[-2:] == [("refund", D(20)), ("expiry", D(-20))]
    assert figures(people.acme_user) == (50, 5, 45)


def test_a_grant_of_the_future_is_there_when_it_begins(people: People, clock: Clock) -> None:
    give(people.acme_user, "100", starts_at=START + DAY)
    assert figures(people.acme_user) == (0, 0, 0)
    clock(START + DAY)
    grants.catch_up()
    assert figures(people.acme_user) == (100, 0, 100)


def test_a_grant_pays_the_debt_that_was_there_before_it(people: People, clock: Clock) -> None:
    use(people.acme_user, "20", START)
    assert figures(people.acme_user) == (0, 20, -20)
    give(people.acme_user, "100", expires_at=START + DAY)
    assert figures(people.acme_user) == (100, 20, 80)
    clock(START + DAY)
    grants.catch_up()
    assert figures(people.acme_user) == (0, 0, 0)


def test_a_recurring_grant_comes_again_also_after_a_beat_that_was_down(
    people: People, clock: Clock
) -> None:
    give(people.acme_user, "100", recurrence=Recurrence.WEEKLY, rollover_maximum=D(20))
    use(people.acme_user, "70", START + DAY)
    clock(START + 15 * DAY)
    grants.catch_up()
    assert list(Grant.objects.order_by("starts_at").values_list("posted", "returned")) == [
        (100, 30),
        (120, 120),
        (120, 0),
    ]
    assert figures(people.acme_user) == (120, 0, 120)
    balanced()
    use(people.acme_user, "95", START + 8 * DAY)
    assert list(Grant.objects.order_by("starts_at").values_list("posted", "returned")) == [
        (100, 30),
        (120, 25),
        (120, 0),
    ]
    use(people.acme_user, "90", START + DAY)
    assert list(Grant.objects.order_by("starts_at").values_list("posted", "returned")) == [
        (100, 10),
        (110, 15),
        (115, 0),
    ]
    assert figures(people.acme_user) == (115, 0, 115)


def test_one_run_over_a_period_equals_two_over_its_halves(people: People, clock: Clock) -> None:
    for user in (people.acme_user, people.acme_colleague):
        give(user, "100", recurrence=Recurrence.WEEKLY, rollover_maximum=None)
        give(user, "40", expires_at=START + 9 * DAY, priority=1)
        use(user, "70", START + DAY)
        use(user, "90", START + 8 * DAY)
    clock(START + 10 * DAY)
    grants.catch_up_accounts(ledger.lock([people.acme_user.pk]), timezone.now())
    clock(START + 20 * DAY)
    grants.catch_up()
    assert figures(people.acme_user) == figures(people.acme_colleague)
    balanced()


def test_voiding_ends_a_grant_and_its_series(people: People, clock: Clock) -> None:
    given = give(people.acme_user, "100", recurrence=Recurrence.WEEKLY)
    use(people.acme_user, "30", START)
    clock(START + DAY)
    grants.void(given, people.platform_admin)
    grants.void(given, people.platform_admin)
    assert entries()[-1] == ("adjustment", D(-70))
    assert figures(people.acme_user) == (0, 0, 0)
    clock(START + 30 * DAY)
    grants.catch_up()
    assert Grant.objects.count() == 1
    balanced()


def test_a_refund_and_an_adjustment_are_named_so(people: People, clock: Clock) -> None:
    user, by = people.acme_user, people.platform_admin
    grants.refund(user, D(5), reason="sorry", idempotency_key="a", by=by)
    grants.adjust(user, D(3), reason="more", idempotency_key="b", by=by)
    grants.adjust(user, D(-2), reason="less", idempotency_key="c", by=by)
    grants.adjust(user, D(-2), reason="less", idempotency_key="c", by=by)
    assert entries() == [("refund", D(5)), ("adjustment", D(3)), ("adjustment", D(-2))]
    assert figures(user) == (8, 2, 6)
    assert set(Transaction.objects.values_list("created_by", flat=True)) == {by.pk}
    balanced()


def test_a_correction_burns_grants_as_usage_does(people: People, clock: Clock) -> None:
    give(people.acme_user, "10", expires_at=START + DAY)
    grants.adjust(people.acme_user, D(-4), reason="less", idempotency_key="c", by=None)
    clock(START + DAY)
    grants.catch_up()
    assert entries()[-1] == ("expiry", D(-6))
    assert figures(people.acme_user) == (0, 0, 0)


def test_a_key_that_is_used_again_gives_nothing_or_is_a_conflict(people: People) -> None:
    new = NewGrant(people.acme_user, D(5), Grant.Source.MANUAL, "same")
    assert grants.grant(new) == grants.grant(new)
    for other in (
        NewGrant(people.acme_user, D(6), Grant.Source.MANUAL, "same"),
        NewGrant(people.acme_colleague, D(5), Grant.Source.MANUAL, "same"),
    ):
        with pytest.raises(IdempotencyConflict):
            grants.grant(other)
    assert figures(people.acme_user) == (5, 0, 5)


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "Infinity", "1e30", "0.0000001"])
def test_an_impossible_amount_is_refused_and_changes_nothing(people: People, amount: str) -> None:
    with pytest.raises(ValueError, match=r"not possible|too large|decimal places"):
        grants.grant(NewGrant(people.acme_user, D(amount), Grant.Source.MANUAL, "k"))
    assert not Grant.objects.exists()
    assert not Transaction.objects.exists()


def test_many_grants_take_as_many_queries_as_one(
    people: People, django_assert_max_num_queries: Any
) -> None:
    users = [User.objects.create_user(f"u{number}", tenant=people.acme) for number in range(40)]
    with django_assert_max_num_queries(14):
        grants.give(
            [NewGrant(user, D(5), Grant.Source.TIER_DEFAULT, f"d{user.pk}") for user in users]
        )
    assert Account.objects.filter(allocated=5).count() == 40


class TestMonthlyTopUp:
    @pytest.fixture(autouse=True)
    def no_default_credits(self, tiers: dict[str, PricingTier]) -> None:
        PricingTier.objects.update(default_credits=0)

    def test_it_is_given_once_a_month_and_ends_with_it(self, people: People, clock: Clock) -> None:
        clock(datetime(2026, 6, 10, tzinfo=UTC))
        assert top_up_all() == 4
        assert top_up_all() == 0
        grant = Grant.objects.get(account=people.acme_user.pk)
        assert (grant.amount, grant.source, grant.reason) == (
            10_000,
            "monthly",
            "Professional, June 2026",
        )
        # Amsterdam's June is two hours before UTC's.
        assert (grant.starts_at, grant.expires_at) == (
            datetime(2026, 5, 31, 22, tzinfo=UTC),
            datetime(2026, 6, 30, 22, tzinfo=UTC),
        )
        use(people.acme_user, "500", datetime(2026, 6, 11, tzinfo=UTC))
        clock(datetime(2026, 6, 30, 22, tzinfo=UTC))
        grants.catch_up()
        assert top_up_all() == 4
        assert figures(people.acme_user) == (10_000, 0, 10_000)
        balanced()

    def test_after_a_week_without_a_beat_the_new_month_is_whole(
        self, people: People, clock: Clock
    ) -> None:
        clock(datetime(2026, 6, 28, tzinfo=UTC))
        top_up_all()
        use(people.acme_user, "9000", datetime(2026, 6, 29, tzinfo=UTC))
        use(people.acme_user, "400", datetime(2026, 7, 2, tzinfo=UTC))
        clock(datetime(2026, 7, 5, tzinfo=UTC))
        top_up_all()
        grants.catch_up()
        assert figures(people.acme_user) == (10_000, 400, 9_600)
        balanced()

    def test_a_tier_without_monthly_credits_gives_none(
        self, people: People, tiers: dict[str, PricingTier]
    ) -> None:
        PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
        assert top_up_all() == 0
