"""Default credits welcome a user once, however its tier came to it."""

import json
import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from credits import enforcement, licenses
from credits.licenses import CreditsPolicy
from credits.models import Account, Grant, LicensePool
from credits.top_up import top_up_all
from kluisz_analytics.tenants.models import Tenant, User
from pricing import lists
from pricing.models import PricingTier, TierAssignment
from tests.conftest import LONG_AGO, People
from usage.books import verify_books

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def starter(tiers: dict[str, PricingTier]) -> PricingTier:
    PricingTier.objects.update(default_credits_per_month=0)
    for tier in tiers.values():
        tier.refresh_from_db()
    return tiers["Starter"]


@pytest.fixture
def tenant(db: None) -> Tenant:
    return Tenant.objects.create(name="Initech", slug="initech")


def newcomer(tenant: Tenant, **extra: Any) -> User:
    return User.objects.create_user(f"u-{uuid.uuid4().hex[:8]}", tenant=tenant, **extra)


def given(user: User) -> list[tuple[Decimal, str]]:
    """The default credits that the user has been given, and that the books are closed."""
    assert verify_books() == []
    found = Grant.objects.filter(account=user.pk, source=Grant.Source.TIER_DEFAULT)
    return list(found.order_by("pk").values_list("amount", "reason"))


ONCE = [(Decimal(1000), "Default credits of Starter")]


def assign(tier: PricingTier, **owner: Any) -> None:
    lists.assign_tier(TierAssignment(tier=tier, **{"valid_from": LONG_AGO, **owner}), None)


def test_a_new_user_gets_those_of_its_tenants_tier(tenant: Tenant, starter: PricingTier) -> None:
    assign(starter, tenant=tenant)
    user = newcomer(tenant)
    assert given(user) == ONCE
    assert Account.objects.get(pk=user.pk).remaining == 1000


def test_a_new_user_gets_those_of_the_platforms_tier(tenant: Tenant, starter: PricingTier) -> None:
    assign(starter)
    assert given(newcomer(tenant)) == ONCE


@pytest.mark.parametrize("owner", ["user", "tenant", "platform"])
def test_whoever_is_there_gets_them_when_the_tier_comes(
    tenant: Tenant, starter: PricingTier, people: People, owner: str
) -> None:
    user = newcomer(tenant)
    assign(starter, **{"user": {"user": user}, "tenant": {"tenant": tenant}}.get(owner, {}))
    assert given(user) == ONCE
    assert given(people.service) == (ONCE if owner == "platform" else [])


def test_the_admin_gives_a_tenant_a_tier(
    tenant: Tenant, starter: PricingTier, people: People
) -> None:
    user = newcomer(tenant)
    client = Client()
    client.force_login(people.platform_admin)
    answer = client.post(
        "/admin/pricing/tierassignment/add/",
        {
            "tier": starter.pk,
            "tenant": str(tenant.pk),
            "user": "",
            "valid_from_0": "2026-01-01",
            "valid_from_1": "00:00",
        },
    )
    assert answer.status_code == 302
    assert given(user) == ONCE
    assert Grant.objects.get(account=user.pk).created_by == people.platform_admin


def test_the_admin_adds_a_user_to_a_tenant_with_a_tier(
    tenant: Tenant, starter: PricingTier, people: People
) -> None:
    assign(starter, tenant=tenant)
    client = Client()
    client.force_login(people.platform_admin)
    word = "a-long-enough-word"
    answer = client.post(
        "/admin/tenants/user/add/",
        {"username": "new", "tenant": str(tenant.pk), "password1": word, "password2": word},
    )
    assert answer.status_code == 302
    assert given(User.objects.get(username="new")) == ONCE


def test_a_directory_gives_them_to_users_of_a_tenant_with_a_tier(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    document = {
        "tiers": [
            {
                "name": "Starter",
                "credits_per_usd": "100",
                "pricing_multiplier": "1",
                "default_credits": "1000",
            },
        ],
        "tenants": [
            {"id": ids[0], "name": "Umbrella", "slug": "umbrella", "default_tier": "Starter"}
        ],
        "users": [
            {"id": ids[1], "username": "uma", "tenant": "umbrella"},
            {"id": ids[2], "username": "udo", "tenant": "umbrella", "is_active": False},
        ],
    }
    path = tmp_path / "directory.json"
    for _ in range(2):
        path.write_text(json.dumps(document))
        command("load_directory", str(path))
        assert given(User.objects.get(username="uma")) == ONCE
        assert given(User.objects.get(username="udo")) == []
    document["users"][1]["is_active"] = True
    path.write_text(json.dumps(document))
    command("load_directory", str(path))
    assert given(User.objects.get(username="udo")) == ONCE


def test_a_tier_to_come_brings_them_when_it_comes(
    tenant: Tenant, starter: PricingTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, tomorrow = newcomer(tenant), timezone.now() + timedelta(days=1)
    assign(starter, tenant=tenant, valid_from=tomorrow)
    assert top_up_all() == 0
    monkeypatch.setattr(timezone, "now", lambda: tomorrow + timedelta(minutes=1))
    assert [top_up_all(), top_up_all()] == [1, 0]
    assert given(user) == ONCE


def test_the_gate_gives_them_where_the_beat_was_down(tenant: Tenant, starter: PricingTier) -> None:
    user = newcomer(tenant)
    TierAssignment.objects.create(tier=starter, tenant=tenant, valid_from=LONG_AGO)
    assert given(user) == []
    assert enforcement.reserve_credits(user, "t1", credits=Decimal(1000)).is_new
    assert given(user) == ONCE


def test_another_tier_brings_no_second_helping(
    tenant: Tenant, starter: PricingTier, tiers: dict[str, PricingTier]
) -> None:
    """Else giving a tenant one tier and the other in turn would make credits out of nothing."""
    assign(starter, tenant=tenant)
    user = newcomer(tenant)
    assign(tiers["Professional"], tenant=tenant, valid_from=timezone.now())
    assign(tiers["Enterprise"], user=user)
    top_up_all()
    assert given(user) == ONCE


def test_a_tier_that_gives_nothing_is_no_welcome(
    tenant: Tenant, starter: PricingTier, tiers: dict[str, PricingTier]
) -> None:
    PricingTier.objects.filter(pk=starter.pk).update(default_credits=0)
    assign(starter, tenant=tenant)
    user = newcomer(tenant)
    assert given(user) == []
    assign(tiers["Professional"], user=user)
    assert given(user) == [(Decimal(10_000), "Default credits of Professional")]


def test_whoever_is_not_active_waits(tenant: Tenant, starter: PricingTier) -> None:
    assign(starter, tenant=tenant)
    user = newcomer(tenant, is_active=False)
    top_up_all()
    assert given(user) == []
    User.objects.filter(pk=user.pk).update(is_active=True)
    top_up_all()
    assert given(user) == ONCE


def test_a_reset_gives_the_new_tiers_once(
    tenant: Tenant, starter: PricingTier, tiers: dict[str, PricingTier]
) -> None:
    for tier in (starter, tiers["Professional"]):
        LicensePool.objects.create(tenant=tenant, tier=tier, total=1)
    PricingTier.objects.filter(pk=starter.pk).update(default_credits=0)
    starter.refresh_from_db()
    user = newcomer(tenant)
    licenses.assign(user, starter, None)
    assert given(user) == []
    licenses.change(user, tiers["Professional"], None, credits=CreditsPolicy.RESET)
    top_up_all()
    assert given(user) == [(Decimal(10_000), "Default credits of Professional")]
    assert Account.objects.get(pk=user.pk).remaining == 10_000
