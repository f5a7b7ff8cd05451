"""Two at once, on PostgreSQL: for the last license, for one trace, and for the beat's work."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from threading import Barrier
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from credits import enforcement, grants, licenses
from credits.grants import NewGrant
from credits.licenses import LicenseRefused
from credits.models import Account, Grant, Hold, LicensePool
from credits.top_up import top_up_all
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier
from tests.conftest import People
from usage.books import verify_books

pytestmark = [
    pytest.mark.skipif(
        connection.vendor != "postgresql", reason="two connections at once: PostgreSQL only"
    ),
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]
D = Decimal


def at_once(*tasks: Callable[[], Any]) -> list[Any]:
    """What each task returned or raised, all begun at one moment."""
    start = Barrier(len(tasks))

    def run(task: Callable[[], Any]) -> Any:
        try:
            start.wait()
            return task()
        except Exception as error:  # noqa: BLE001  (it is what is looked at)
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(tasks)) as threads:
        return list(threads.map(run, tasks))


def balanced() -> None:
    assert verify_books() == []


def test_of_two_who_take_the_last_license_one_gets_it(
    people: People, tiers: dict[str, PricingTier]
) -> None:
    pool = LicensePool.objects.create(tenant=people.acme, tier=tiers["Starter"], total=3)
    for round_number in range(3):
        users = [
            User.objects.create_user(f"u{round_number}{side}", tenant=people.acme) for side in "ab"
        ]
        LicensePool.objects.filter(pk=pool.pk).update(total=round_number + 1)
        found = at_once(
            *(lambda user=user: licenses.assign(user, tiers["Starter"], None) for user in users)
        )  # type: ignore[misc]
        refused = [one for one in found if isinstance(one, LicenseRefused)]
        assert [one.code for one in refused] == ["pool_is_empty"]
        pool.refresh_from_db()
        assert pool.assigned == pool.licenses.count() == round_number + 1
    balanced()


def test_one_user_is_given_one_license(people: People, tiers: dict[str, PricingTier]) -> None:
    pool = LicensePool.objects.create(tenant=people.acme, tier=tiers["Starter"], total=5)
    found = at_once(*[lambda: licenses.assign(people.acme_user, tiers["Starter"], None)] * 4)
    assert sorted(getattr(one, "code", "given") for one in found) == ["already_licensed"] * 3 + [
        "given"
    ]
    pool.refresh_from_db()
    assert pool.assigned == 1


def test_one_trace_is_held_once(people: People) -> None:
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "ann"))
    found = at_once(
        *[lambda: enforcement.reserve_credits(people.acme_user, "t1", credits=D(10))] * 6
    )
    assert sorted(one.is_new for one in found) == [False] * 5 + [True]
    assert len({one.hold.pk for one in found}) == 1
    assert Account.objects.get(pk=people.acme_user.pk).held == 10
    balanced()


def test_beats_that_overlap_do_everything_once(people: People) -> None:
    now = timezone.now()
    for number in range(10):
        user = User.objects.create_user(f"u{number}", tenant=people.acme)
        grants.grant(
            NewGrant(
                user, D(10), Grant.Source.MANUAL, f"g{number}", expires_at=now + timedelta(hours=1)
            )
        )
    later = now + timedelta(hours=2)
    at_once(*[lambda: grants.catch_up(later)] * 3, *[lambda: top_up_all(later)] * 3)
    assert (
        Grant.objects.filter(source=Grant.Source.MONTHLY).values("account").distinct().count()
        == Grant.objects.filter(source="monthly").count()
    )
    assert not Account.objects.filter(user__username__startswith="u", used__gt=0).exists()
    balanced()
    assert not Hold.objects.exists()


def test_of_two_users_given_something_under_one_key_at_once_one_gets_it_and_the_other_is_told(
    people: People,
) -> None:
    users = [people.acme_user, people.globex_user]
    for number in range(10):
        given = [NewGrant(user, D(5), Grant.Source.PROMOTION, f"key-{number}") for user in users]
        found = at_once(*(lambda new=new: grants.grant(new) for new in given))  # type: ignore[misc]
        assert sorted(type(one).__name__ for one in found) == [
            "Grant",
            "IdempotencyConflict",
        ], found
    balanced()
