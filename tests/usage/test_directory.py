"""load_directory: what the host application knows, taken over once or many times."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command

from credits.models import Account, Transaction
from kluisz_analytics.tenants.models import (
    DirectoryChange,
    Flow,
    Membership,
    Project,
    Tenant,
    User,
    UserAlias,
)
from pricing.models import PricingTier, TierAssignment, TierRate

pytestmark = pytest.mark.django_db
TENANT, PROJECT, FLOW, USER = (str(uuid4()) for _ in range(4))


def document() -> dict[str, Any]:
    return {
        "tiers": [
            {
                "name": "Pro",
                "credits_per_usd": "200",
                "pricing_multiplier": 0.95,
                "default_credits": "100",
                "valid_from": "2026-01-01T00:00:00Z",
            }
        ],
        "tenants": [
            {
                "id": TENANT,
                "name": "Acme",
                "slug": "acme",
                "timezone": "Europe/Amsterdam",
                "default_tier": "Pro",
            }
        ],
        "projects": [{"id": PROJECT, "name": "Care", "tenant": "acme"}],
        "flows": [{"id": FLOW, "name": "Triage", "project": PROJECT}],
        "users": [
            {
                "id": USER,
                "username": "ann",
                "email": "ann@example.com",
                "tenant": "acme",
                "tier": "Pro",
                "is_tenant_admin": True,
            }
        ],
    }


def load(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "directory.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    call_command("load_directory", str(path))


def counts() -> list[int]:
    return [
        model.objects.count()
        for model in (
            Tenant,
            Project,
            Flow,
            User,
            PricingTier,
            TierRate,
            TierAssignment,
            Account,
            Transaction,
        )
    ]


def test_it_works(tmp_path: Path) -> None:
    load(tmp_path, document())
    user = User.objects.get()
    assert (str(user.pk), user.tenant.slug, user.is_tenant_admin, user.has_usable_password()) == (
        USER,
        "acme",
        True,
        False,
    )
    assert Flow.objects.get().project.tenant.name == "Acme"
    assert str(TierRate.objects.get().pricing_multiplier) == "0.950000"
    assert Account.objects.get().allocated == 100


def test_loading_it_again_changes_nothing(tmp_path: Path) -> None:
    load(tmp_path, document())
    before = counts()
    load(tmp_path, document())
    assert counts() == before


def test_what_changed_is_taken_over(tmp_path: Path) -> None:
    load(tmp_path, document())
    User.objects.update(password="kept")
    changed = document()
    changed["tenants"][0]["name"] = "Acme & Sons"
    changed["users"][0]["is_active"] = False
    load(tmp_path, changed)
    assert Tenant.objects.get(slug="acme").name == "Acme & Sons"
    assert (User.objects.get().is_active, User.objects.get().password) == (False, "kept")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tiers": [{"name": "Pro", "credits_per_usd": "0", "pricing_multiplier": 1}]},
            "credits_per_usd is 0",
        ),
        (
            {"tiers": [{"name": "Pro", "credits_per_usd": "abc", "pricing_multiplier": 1}]},
            "tiers[0]",
        ),
        (
            {"tiers": [{"name": "Pro", "credits_per_usd": "1", "pricing_multiplier": -1}]},
            "pricing_multiplier is -1",
        ),
        ({"tiers": [{"name": "Pro", "credits_per_usd": "NaN", "pricing_multiplier": 1}]}, "NaN"),
        (
            {"tenants": [{"id": TENANT, "name": "A", "slug": "a", "timezone": "Mars/Olympus"}]},
            "Mars/Olympus",
        ),
        ({"tenants": [{"id": "acme", "name": "A", "slug": "a"}]}, "tenants[0].id"),
        ({"tenants": [{"id": TENANT, "name": "A", "slug": "not a slug"}]}, "tenants[0].slug"),
        (
            {"users": [{"id": USER, "username": "ann", "tenant": "nobody"}]},
            "tenant “nobody” of user “ann”",
        ),
        (
            {"users": [{"id": USER, "username": "ann", "tenant": "acme", "tier": "Gold"}]},
            "tier “Gold” of user “ann”",
        ),
        ({"flows": [{"id": FLOW, "name": "T", "project": str(uuid4())}]}, "of flow “T” is unknown"),
        ({"planets": []}, "planets"),
        (
            {
                "users": [
                    {"id": USER, "username": "a", "tenant": "acme"},
                    {"id": str(uuid4()), "username": "a", "tenant": "acme"},
                ]
            },
            "contradicts",
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_changed(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    before = counts()
    with pytest.raises(CommandError) as caught:
        load(tmp_path, {**document(), **change})
    assert words in str(caught.value)
    assert counts() == before


def test_what_is_no_directory_is_said_to_be_none(tmp_path: Path) -> None:
    for content, words in (("{", "truncated"), ("[]", "Expected `object`")):
        with pytest.raises(CommandError, match=words):
            load(tmp_path, content)
    with pytest.raises(CommandError, match="There is no file"):
        call_command("load_directory", str(tmp_path / "nothing.json"))


def test_a_user_that_moves_leaves_its_past_where_it_was(tmp_path: Path) -> None:
    load(tmp_path, document())
    moved = document()
    moved["tenants"].append({"id": str(uuid4()), "name": "Globex", "slug": "globex"})
    moved["users"][0] |= {"tenant": "globex", "tenant_since": "2026-11-01T00:00:00Z"}
    for _ in range(2):
        load(tmp_path, moved)
        assert {
            one.tenant.slug: (one.since and one.since.isoformat()[:10], one.until is None)
            for one in Membership.objects.all()
        } == {"acme": (None, False), "globex": ("2026-11-01", True)}
        assert DirectoryChange.objects.count() == 1
    # The file knows better now.
    moved["users"][0]["tenant_since"] = "2026-10-01T00:00:00Z"
    load(tmp_path, moved)
    assert Membership.objects.get(tenant__slug="globex").since.isoformat()[:10] == "2026-10-01"
    assert Membership.objects.get(tenant__slug="acme").until.isoformat()[:10] == "2026-10-01"


def test_users_are_called_what_the_file_says(tmp_path: Path) -> None:
    named = document()
    named["tenants"][0]["finds_users_by"] = ["email"]
    named["users"][0]["aliases"] = ["boss", "annie"]
    load(tmp_path, named)
    load(tmp_path, named)
    assert {*UserAlias.objects.values_list("name", flat=True)} == {"boss", "annie"}
    tenant = Tenant.objects.get(slug="acme")
    assert (tenant.finds_users_by_email, tenant.finds_users_by_username) == (True, False)
    named["users"][0] |= {"aliases": ["boss"], "email": "new@example.com"}
    load(tmp_path, named)
    # She is still found by the address that runs named her with.
    assert {*UserAlias.objects.values_list("name", flat=True)} == {"boss", "ann@example.com"}
    named["users"].append(
        {"id": str(uuid4()), "username": "bob", "tenant": "acme", "aliases": ["Boss"]}
    )
    with pytest.raises(CommandError, match="contradicts"):
        load(tmp_path, named)
