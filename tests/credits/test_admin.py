"""The admin's pages for credits: giving, voiding and adjusting with a reason; pools and
licenses.
"""

from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from credits import grants
from credits.grants import NewGrant
from credits.models import (
    Account,
    Grant,
    License,
    LicenseEvent,
    LicensePool,
    TenantBudget,
    Transaction,
)
from pricing.models import PricingTier
from tests.conftest import People

pytestmark = pytest.mark.django_db
D = Decimal
CONFIRMED = {"confirmed": "yes"}
GRANT = {
    "source": "manual",
    "reason": "sorry",
    "priority": "100",
    "starts_at_0": "2026-11-01",
    "starts_at_1": "00:00:00",
    "rollover_maximum": "0",
}


@pytest.fixture
def client(people: People) -> Client:
    client = Client()
    client.force_login(people.platform_admin)
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "ann"))
    return client


def ann(people: People) -> Account:
    return Account.objects.get(pk=people.acme_user.pk)


def test_a_grant_goes_through_the_ledger(client: Client, people: People) -> None:
    form = {**GRANT, "account": str(people.acme_user.pk), "amount": "50"}
    assert client.post(reverse("admin:credits_grant_add"), form).status_code == 302
    assert ann(people).allocated == 150
    assert Transaction.objects.latest("pk").created_by == people.platform_admin


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amount": "0"}, "0 is not possible"),
        ({"amount": "-1"}, "-1 is not possible"),
        ({"amount": "NaN"}, "Enter a number"),
        ({"amount": "1e30"}, "digits"),
        ({"reason": ""}, "required"),
    ],
)
def test_an_impossible_grant_is_refused_by_name(
    client: Client, people: People, change: dict[str, str], message: str
) -> None:
    answer = client.post(
        reverse("admin:credits_grant_add"),
        {**GRANT, "account": str(people.acme_user.pk), "amount": "50", **change},
    )
    assert message in answer.content.decode()
    assert ann(people).allocated == 100


def test_a_grant_is_voided(client: Client, people: People) -> None:
    chosen = {"action": "void", "_selected_action": str(Grant.objects.get().pk), **CONFIRMED}
    client.post(reverse("admin:credits_grant_changelist"), chosen)
    assert (ann(people).allocated, Transaction.objects.latest("pk").created_by) == (
        0,
        people.platform_admin,
    )


@pytest.mark.parametrize(
    ("amount", "reason", "balance", "message"),
    [
        ("5", "more", "105", "Adjusted 1 account by +5 credits."),
        ("-30", "less", "70", "Adjusted 1 account by -30 credits."),
        ("0", "none", "100", "Write an amount other than 0"),
        ("abc", "x", "100", "“abc” is not a number"),
        ("5", " ", "100", "a reason"),
        ("1e30", "x", "100", "at most 1,000,000,000 at once"),
    ],
)
def test_accounts_are_adjusted_with_a_reason(
    client: Client, people: People, amount: str, reason: str, balance: str, message: str
) -> None:
    chosen = {
        "action": "adjust_accounts",
        "_selected_action": str(people.acme_user.pk),
        "amount": amount,
        "reason": reason,
        **CONFIRMED,
    }
    answer = client.post(reverse("admin:credits_account_changelist"), chosen, follow=True)
    assert message in answer.content.decode()
    assert ann(people).balance == D(balance)


def test_licenses_are_given_changed_and_taken_back(
    client: Client, people: People, tiers: dict[str, PricingTier]
) -> None:
    for name in ("Starter", "Enterprise"):
        form = {"tenant": str(people.acme.pk), "tier": str(tiers[name].pk), "total": "1"}
        assert client.post(reverse("admin:credits_licensepool_add"), form).status_code == 302

    def give(user: Any) -> Any:
        return client.post(
            reverse("admin:credits_license_add"),
            {"user": str(user.pk), "tier": str(tiers["Starter"].pk)},
        )

    assert give(people.acme_user).status_code == 302
    assert "All 1 licenses of Starter are given" in give(people.acme_colleague).content.decode()
    license = License.objects.get()
    chosen = {
        "_selected_action": str(license.pk),
        "tier": str(tiers["Enterprise"].pk),
        "credits": "keep",
        **CONFIRMED,
    }
    client.post(reverse("admin:credits_license_changelist"), {**chosen, "action": "change_tier"})
    assert list(
        LicensePool.objects.order_by("tier__name").values_list("tier__name", "assigned")
    ) == [("Enterprise", 1), ("Starter", 0)]
    answer = client.post(
        reverse("admin:credits_license_changelist"),
        {**chosen, "action": "change_tier"},
        follow=True,
    )
    assert "has a license of Enterprise already" in answer.content.decode()
    client.post(reverse("admin:credits_license_changelist"), {**chosen, "action": "take_back"})
    assert not LicensePool.objects.filter(assigned__gt=0).exists()
    assert list(LicenseEvent.objects.order_by("pk").values_list("kind", "created_by")) == [
        (kind, people.platform_admin.pk) for kind in ("assigned", "changed", "unassigned")
    ]
    assert client.get(reverse("admin:credits_license_change", args=[license.pk])).status_code == 200


def test_a_pool_is_never_made_smaller_than_what_is_given(
    client: Client, people: People, tiers: dict[str, PricingTier]
) -> None:
    pool = LicensePool.objects.create(
        tenant=people.acme, tier=tiers["Starter"], total=1, assigned=1
    )
    answer = client.post(
        reverse("admin:credits_licensepool_change", args=[pool.pk]), {"total": "0"}
    )
    assert answer.status_code == 200
    pool.refresh_from_db()
    assert pool.total == 1


BUDGET = {"period": "month", "unit": "credits", "amount": "100"}


KINDS: list[tuple[dict[str, str], str, str]] = [
    ({"user": "acme_user"}, "user", "ann"),
    ({"flow_id": "0F8F2B0C1E5A3D4C779B1E0D7A4E6F9C"}, "flow", "Acme's flow 0f8f2b0c-1e5a"),
    ({"model": "gpt-5"}, "model", "Acme's model gpt-5"),
    ({}, "tenant", "Acme"),
]


def of_people(people: People, fields: dict[str, str]) -> dict[str, str]:
    return {
        name: str(getattr(people, value).pk) if name in ("user", "tenant") else value
        for name, value in fields.items()
    }


@pytest.mark.parametrize(("fields", "kind", "subject"), KINDS)
def test_a_budget_of_each_kind_is_entered_changed_and_taken_away(
    client: Client, people: People, fields: dict[str, str], kind: str, subject: str
) -> None:
    form = {**BUDGET, **of_people(people, {"tenant": "acme", **fields})}
    answer = client.post(reverse("admin:credits_tenantbudget_add"), {**form, "is_hard": "on"})
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    made = TenantBudget.objects.get()
    assert (made.kind, made.is_hard, made.amount) == (kind, True, 100)
    assert made.subject.startswith(subject)
    page = client.get(reverse("admin:credits_tenantbudget_changelist")).content.decode()
    assert subject.replace("'", "&#x27;") in page
    change = reverse("admin:credits_tenantbudget_change", args=[made.pk])
    assert client.get(change).status_code == 200
    changed = {**form, "period": "week", "unit": "usd", "amount": "2.5"}
    assert client.post(change, changed).status_code == 302
    made.refresh_from_db()
    assert (made.period, made.unit, made.amount, made.is_hard) == ("week", "usd", D("2.5"), False)
    again = client.post(reverse("admin:credits_tenantbudget_add"), changed)
    assert "Such a budget already exists." in again.content.decode()
    delete = reverse("admin:credits_tenantbudget_delete", args=[made.pk])
    assert client.post(delete, {"post": "yes"}).status_code == 302
    assert not TenantBudget.objects.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": "globex_user"}, "gus is not a user of Acme."),
        ({"user": "acme_user", "flow_id": "f"}, "name only one of them"),
        ({"user": "acme_user", "model": "m"}, "name only one of them"),
        ({"flow_id": "f", "model": "m"}, "name only one of them"),
        ({"flow_id": "f" * 201}, "at most 200 characters"),
        ({"model": "m" * 201}, "at most 200 characters"),
        ({"user": "acme_user", "amount": "0"}, "write a number above 0"),
        ({"flow_id": "f", "amount": "-1"}, "write a number above 0"),
        ({"model": "m", "amount": "1000000001"}, "1,000,000,000"),
        ({"model": "m", "amount": "0.0000001"}, "decimal places"),
        ({"model": "m", "amount": "much"}, "Enter a number."),
        ({"user": "acme_user", "period": "year"}, "year is not one of the available choices"),
        ({"flow_id": "f", "unit": "eur"}, "eur is not one of the available choices"),
    ],
)
def test_an_impossible_budget_is_refused_by_name(
    client: Client, people: People, fields: dict[str, str], message: str
) -> None:
    form = {**BUDGET, **of_people(people, {"tenant": "acme", **fields})}
    answer = client.post(reverse("admin:credits_tenantbudget_add"), form)
    assert answer.status_code == 200
    errors = answer.context["adminform"].form.errors
    assert message in " ".join(text for texts in errors.values() for text in texts)
    assert not TenantBudget.objects.exists()


@pytest.mark.parametrize("who", ["acme_admin", "acme_user", "service"])
def test_only_a_platform_admin_enters_budgets(people: People, who: str) -> None:
    client = Client()
    client.force_login(getattr(people, who))
    form = {**BUDGET, "tenant": str(people.acme.pk), "model": "gpt-5"}
    client.post(reverse("admin:credits_tenantbudget_add"), form)
    assert not TenantBudget.objects.exists()


@pytest.mark.parametrize("tenant", ["", "no-tenant", "00000000-0000-0000-0000-000000000001"])
def test_a_users_budget_without_its_tenant_is_refused_by_name(
    client: Client, people: People, tenant: str
) -> None:
    form = {**BUDGET, "tenant": tenant, "user": str(people.acme_user.pk)}
    answer = client.post(reverse("admin:credits_tenantbudget_add"), form)
    assert answer.status_code == 200
    assert "tenant" in answer.context["adminform"].form.errors
    assert not TenantBudget.objects.exists()


def test_a_budget_of_an_unknown_flow_is_saved_with_a_warning(
    client: Client, people: People
) -> None:
    add = reverse("admin:credits_tenantbudget_add")
    form = {**BUDGET, "tenant": str(people.acme.pk)}
    known = client.post(add, {**form, "flow_id": str(people.flow.pk)}, follow=True)
    assert "is the id of no flow" not in known.content.decode()
    unknown = client.post(add, {**form, "flow_id": "Triage"}, follow=True)
    assert "“Triage” is the id of no flow of Acme" in unknown.content.decode()
    assert TenantBudget.objects.count() == 2
