"""What a run said and whose trace never comes is charged where the platform says so, and taken back
when the trace comes, exactly once.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from credits import grants, holds
from credits.grants import NewGrant
from credits.ledger import lock, settle_late
from credits.models import Account, Grant, Hold, Transaction
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier
from tests.conftest import People
from usage.books import verify_books
from usage.desk.untraced import charge_untraced

pytestmark = pytest.mark.django_db
RUN = "8f2b0c1e5a3d4c779b1e0d7a4e6f9c21"


@pytest.fixture
def ann(people: People, settings: Any) -> User:
    settings.CHARGE_UNTRACED = True
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "ann"))
    return people.acme_user


def settled(user: User, credits: str = "7.5") -> Hold:
    now = timezone.now()
    account = lock([user.pk])[user.pk]
    hold = Hold.objects.create(
        account=account,
        trace_id=RUN,
        credits=D(10),
        created_at=now,
        expires_at=now + timedelta(hours=1),
    )
    Account.objects.filter(pk=user.pk).update(held=account.held + 10)
    return holds.settle(hold.pk, D(credits))


def balance(user: User) -> D:
    return Account.objects.get(pk=user.pk).balance


def later() -> Any:
    return timezone.now() + holds.SETTLED_TTL + timedelta(minutes=1)


def test_it_is_off_by_default(ann: User, settings: Any) -> None:
    del settings.CHARGE_UNTRACED
    settings.CHARGE_UNTRACED = False
    settled(ann)
    assert charge_untraced(later()) == 0
    assert balance(ann) == 100


def test_it_is_charged_once_after_two_days_and_taken_back_when_the_trace_comes(
    ann: User, use: Callable[..., None]
) -> None:
    hold = settled(ann)
    assert charge_untraced() == 0, "its two days are not over"
    assert [charge_untraced(later()) for _ in range(3)] == [1, 0, 0]
    assert balance(ann) == D("92.5")
    assert Account.objects.get(pk=ann.pk).held == 0
    hold.refresh_from_db()
    assert hold.state == "presumed"
    assert verify_books() == []
    use(ann, "0.06", trace_id=RUN)
    use(ann, "0.06", trace_id=RUN)
    hold.refresh_from_db()
    assert hold.state == "charged"
    charged = sum(Transaction.objects.filter(type="deduction").values_list("amount", flat=True))
    assert charged < 0
    assert balance(ann) == 100 + charged
    assert charge_untraced(later()) == 0
    entries = Transaction.objects.filter(idempotency_key__startswith="hold:")
    assert sorted(entries.values_list("amount", flat=True)) == [D("-7.5"), D("7.5")]
    assert verify_books() == []


def test_a_trace_that_came_before_is_not_charged_twice(ann: User, use: Callable[..., None]) -> None:
    """The hold expired, the trace came, and the run said only then what it used."""
    now = timezone.now()
    hold = Hold.objects.create(
        account=lock([ann.pk])[ann.pk],
        trace_id=RUN,
        credits=D(10),
        created_at=now,
        expires_at=now,
        ended_at=now,
        state=Hold.State.EXPIRED,
    )
    use(ann, "0.06", trace_id=RUN)
    charged = balance(ann)
    assert holds.settle(hold.pk, D("7.5")).state == "uncharged"
    assert charge_untraced(later()) == 0
    hold.refresh_from_db()
    assert (hold.state, balance(ann)) == ("charged", charged)


def test_a_grant_that_ended_meanwhile_is_as_if_nothing_had_been_presumed(
    ann: User, use: Callable[..., None]
) -> None:
    now, day = timezone.now(), timedelta(days=1)
    grants.grant(
        NewGrant(
            ann,
            D(5),
            Grant.Source.MANUAL,
            "short",
            priority=1,
            starts_at=now - 10 * day,
            expires_at=now - day,
        )
    )
    assert balance(ann) == 100, "it has expired with all that it had"
    Grant.objects.filter(idempotency_key="ann").update(starts_at=now - 10 * day)
    Hold.objects.create(
        account=lock([ann.pk])[ann.pk],
        trace_id=RUN,
        credits=D(10),
        settled_credits=D("7.5"),
        created_at=now - 6 * day,
        expires_at=now - 3 * day,
        ended_at=now - 3 * day,
        state=Hold.State.UNCHARGED,
    )
    assert charge_untraced(now - 2 * day) == 1
    with transaction.atomic():
        settle_late([ann.pk], now)
    assert balance(ann) == D("97.5"), "five of the 7.5 burned the short one"
    use(ann, "0", trace_id=RUN)
    assert balance(ann) == 100
    assert verify_books() == []


def test_a_run_of_an_id_of_its_own_form_that_was_charged_is_not_charged_again(
    ann: User, use: Callable[..., None]
) -> None:
    """The hold has a digest of such an id, and had expired when the trace came."""
    now = timezone.now()
    hold = Hold.objects.create(
        account=lock([ann.pk])[ann.pk],
        trace_id=as_trace_id("order-4711"),
        credits=D(10),
        settled_credits=D("7.5"),
        created_at=now - timedelta(days=4),
        expires_at=now - timedelta(days=1),
        ended_at=now - timedelta(days=1),
        state=Hold.State.UNCHARGED,
    )
    use(ann, "0.05", start=now - timedelta(days=4), trace_id="order-4711")
    Hold.objects.filter(pk=hold.pk).update(state=Hold.State.UNCHARGED)
    charged = balance(ann)
    assert charge_untraced(now) == 0
    hold.refresh_from_db()
    assert (hold.state, balance(ann)) == ("charged", charged)
