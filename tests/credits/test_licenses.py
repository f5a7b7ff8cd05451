"""Licenses: pools that can't disagree with what is given, and every step atomic, logged, and
refused with a reason.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from credits import enforcement, gate, licenses
from credits.gate import Status, standing_of
from credits.licenses import CreditsPolicy, LicenseRefused
from credits.models import Account, Grant, License, LicenseEvent, LicensePool
from credits.status import credit_status
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier
from pricing.tiers import tiers_of
from tests.conftest import People
from usage.books import verify_books

pytestmark = pytest.mark.django_db
D = Decimal


@pytest.fixture
def pools(people: People, tiers: dict[str, PricingTier]) -> dict[str, LicensePool]:
    return {
        name: LicensePool.objects.create(tenant=people.acme, tier=tiers[name], total=2)
        for name in ("Starter", "Professional")
    }


@pytest.fixture
def newcomer(people: People) -> User:
    return User.objects.create_user("newcomer", tenant=people.acme)


def assigned(pools: dict[str, LicensePool]) -> list[int]:
    for pool in pools.values():
        pool.refresh_from_db()
        assert pool.assigned == pool.licenses.filter(ended_at__isnull=True).count()
    assert verify_books() == []
    return [pool.assigned for pool in pools.values()]


def test_it_works(
    pools: dict[str, LicensePool], newcomer: User, people: People, tiers: dict[str, PricingTier]
) -> None:
    assert standing_of(newcomer, timezone.now()).license_status is Status.INACTIVE
    licenses.assign(newcomer, tiers["Starter"], people.platform_admin, reason="hired")
    assert assigned(pools) == [1, 0]
    state = standing_of(newcomer, timezone.now())
    assert (state.license_status, state.tier) == (Status.ACTIVE, tiers["Starter"])
    assert Account.objects.get(pk=newcomer.pk).allocated == 1000
    licenses.unassign(newcomer, people.platform_admin, reason="left")
    assert assigned(pools) == [0, 0]
    with pytest.raises(gate.NoActiveLicense, match="was taken back on"):
        enforcement.check(newcomer)
    assert list(
        LicenseEvent.objects.order_by("pk").values_list("kind", "reason", "created_by")
    ) == [
        ("assigned", "hired", people.platform_admin.pk),
        ("unassigned", "left", people.platform_admin.pk),
    ]


def test_given_again_there_is_no_second_helping_of_default_credits(
    pools: dict[str, LicensePool], newcomer: User, tiers: dict[str, PricingTier]
) -> None:
    for _ in range(2):
        licenses.assign(newcomer, tiers["Starter"], None)
        licenses.unassign(newcomer, None)
    assert Account.objects.get(pk=newcomer.pk).allocated == 1000


def test_what_can_not_be_done_is_refused_with_a_reason_and_changes_nothing(
    pools: dict[str, LicensePool], newcomer: User, people: People, tiers: dict[str, PricingTier]
) -> None:
    def refused(code: str, act: Any) -> None:
        before = (
            assigned(pools),
            License.objects.count(),
            LicenseEvent.objects.count(),
            Grant.objects.count(),
        )
        with pytest.raises(LicenseRefused) as error:
            act()
        assert error.value.code == code
        assert (
            assigned(pools),
            License.objects.count(),
            LicenseEvent.objects.count(),
            Grant.objects.count(),
        ) == before

    refused("not_licensed", lambda: licenses.unassign(newcomer, None))
    refused("not_licensed", lambda: licenses.change(newcomer, tiers["Starter"], None))
    refused("no_pool", lambda: licenses.assign(newcomer, tiers["Enterprise"], None))
    refused(
        "already_expired",
        lambda: licenses.assign(newcomer, tiers["Starter"], None, expires_at=timezone.now()),
    )
    licenses.assign(newcomer, tiers["Starter"], None)
    refused("already_licensed", lambda: licenses.assign(newcomer, tiers["Professional"], None))
    refused("same_tier", lambda: licenses.change(newcomer, tiers["Starter"], None))
    for user in (people.acme_user, people.acme_colleague):
        licenses.assign(user, tiers["Professional"], None)
    refused("pool_is_empty", lambda: licenses.change(newcomer, tiers["Professional"], None))
    tiers["Professional"].retired_at = timezone.now()
    tiers["Professional"].save()
    refused("tier_is_retired", lambda: licenses.change(newcomer, tiers["Professional"], None))


def test_the_database_refuses_a_pool_that_gave_more_than_it_has(
    pools: dict[str, LicensePool],
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        LicensePool.objects.update(assigned=3)


@pytest.mark.parametrize(
    ("policy", "sources"),
    [
        (CreditsPolicy.KEEP, {("tier_default", "1000", True), ("monthly", "1000", True)}),
        (
            CreditsPolicy.RESET,
            {
                ("tier_default", "1000", False),
                ("monthly", "1000", False),
                ("tier_default", "10000", True),
                ("monthly", "10000", True),
            },
        ),
        (
            CreditsPolicy.PRORATE,
            {("tier_default", "1000", True), ("monthly", "1000", False), ("monthly", "5000", True)},
        ),
    ],
)
def test_a_change_of_tier_keeps_resets_or_prorates_the_credits(
    pools: dict[str, LicensePool],
    newcomer: User,
    tiers: dict[str, PricingTier],
    monkeypatch: pytest.MonkeyPatch,
    policy: CreditsPolicy,
    sources: set[tuple[str, str, bool]],
) -> None:
    # Half of June has gone in Amsterdam.
    now = datetime(2026, 6, 15, 22, tzinfo=UTC)
    monkeypatch.setattr(timezone, "now", lambda: now)
    licenses.assign(newcomer, tiers["Starter"], None)
    from credits.top_up import top_up

    top_up([newcomer], now)
    monkeypatch.setattr(timezone, "now", lambda: now + timedelta(microseconds=0))
    licenses.change(newcomer, tiers["Professional"], None, credits=policy)
    assert assigned(pools) == [0, 1]
    assert tiers_of([newcomer], now)[newcomer.pk] == tiers["Professional"]
    found = {
        (one.source, f"{one.amount.normalize():f}", one.voided_at is None)
        for one in Grant.objects.filter(account=newcomer.pk)
    }
    assert found == sources
    assert LicenseEvent.objects.first().credits == policy  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("days", "status"),
    [
        (30, Status.ACTIVE),
        (14, Status.EXPIRING),
        (10, Status.EXPIRING),
        (0, Status.INACTIVE),
        (-1, Status.INACTIVE),
    ],
)
def test_a_license_is_active_expiring_or_inactive(
    pools: dict[str, LicensePool],
    newcomer: User,
    tiers: dict[str, PricingTier],
    days: int,
    status: Status,
) -> None:
    end = timezone.now() + timedelta(days=60)
    licenses.assign(newcomer, tiers["Starter"], None, expires_at=end)
    moment = end - timedelta(days=days)
    assert standing_of(newcomer, moment).license_status is status
    shown = credit_status(newcomer, moment)
    assert (shown.license_status, shown.license_is_active) == (
        status.value,
        status is not Status.INACTIVE,
    )
