"""What the generated tests need to know of each admin: what to fill into its forms, what its
actions take, and which addresses it has beside the usual ones.

A new admin, action or address fails the tests until it is declared here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.db.models import Model

from credits.models import (
    Account,
    Grant,
    License,
    LicensePool,
    TenantBudget,
    Webhook,
)
from kluisz_analytics.tenants.models import (
    ApiToken,
    Flow,
    Project,
    Tenant,
    TenantAlias,
    User,
    UserAlias,
)
from pricing.models import IN_LIST, ModelAlias, ModelPrice, PricingTier, TierAssignment
from tests.conftest import People
from usage.facts.disputes import settle
from usage.facts.owner import Outcome
from usage.models import (
    AttributionRules,
    DisputedTrace,
    LangfuseConnection,
    RejectedObservation,
    Repricing,
    Trace,
    UsageRuling,
)

Filled = Mapping[str, Any]


def moment(name: str, day: str, time: str = "00:00:00") -> dict[str, str]:
    """A time, as the admin's two inputs take it."""
    return {f"{name}_0": day, f"{name}_1": time}


@dataclass(frozen=True)
class Form:
    """What to fill in: something valid, and what makes it invalid each time, with a word of the
    error.
    """

    valid: Filled
    invalid: list[tuple[Filled, str]]


@dataclass(frozen=True)
class Action:
    """What an action takes beside the rows, and whether it changes anything or reaches out."""

    valid: Filled = field(default_factory=dict)
    invalid: list[tuple[Filled, str]] = field(default_factory=list)
    changes: bool = True
    ready: Callable[[], object] = lambda: None


def tier(name: str) -> PricingTier:
    return PricingTier.objects.get(name=name)


def add_forms(world: People) -> dict[type[Model], Form]:
    """Of each admin where rows are added."""
    acme, starter = str(world.acme.pk), str(tier("Starter").pk)
    return {
        Tenant: Form(
            {"name": "New", "slug": "new", "timezone": "Europe/Paris"},
            [({"slug": "acme"}, "already exists"), ({"timezone": "Mars/Base"}, "Mars/Base")],
        ),
        User: Form(
            {
                "username": "new",
                "tenant": acme,
                "usable_password": "true",
                "password1": "rather-long-1",
                "password2": "rather-long-1",
            },
            [({"username": "ann"}, "already exists"), ({"tenant": "nonsense"}, "valid")],
        ),
        UserAlias: Form(
            {"tenant": acme, "user": str(world.acme_user.pk), "name": "the boss"},
            [
                ({"name": "ANNIE"}, "another user's"),
                ({"name": "Bob"}, "so it would name two"),
                ({"name": ""}, "required"),
                ({"user": str(world.globex_user.pk)}, "choose its tenant"),
                ({"tenant": "nonsense"}, "valid"),
            ],
        ),
        TenantAlias: Form(
            {"tenant": acme, "name": "team eight"},
            [
                ({"name": "TEAM 7"}, "another tenant"),
                ({"name": "Globex"}, "so it would name two"),
                ({"name": ""}, "required"),
                ({"tenant": "nonsense"}, "valid"),
            ],
        ),
        Project: Form({"name": "New", "tenant": acme}, [({"id": "1"}, "valid UUID")]),
        Flow: Form(
            {"name": "New", "project": str(world.project.pk)},
            [({"project": "nonsense"}, "valid")],
        ),
        PricingTier: Form(
            {
                "name": "New",
                "default_credits": "5",
                "default_credits_per_month": "5",
                "rates-TOTAL_FORMS": "1",
                **moment("rates-0-valid_from", "2026-01-01"),
                "rates-0-credits_per_usd": "100",
                "rates-0-pricing_multiplier": "1",
                "rates-0-grace_credits": "0",
            },
            [
                ({"name": "Starter"}, "already exists"),
                ({"default_credits": "999999999999"}, "at most 1,000,000,000"),
                ({"default_credits_per_month": "1_000"}, "1_000"),
                ({"rates-0-credits_per_usd": "1000001"}, "at most 1,000,000"),
                ({"rates-0-pricing_multiplier": "999999999999"}, "at most 100"),
                ({"rates-0-pricing_multiplier": "1_0"}, "1_0"),
                ({"rates-0-grace_credits": "1e11"}, "at most 1,000,000,000"),
                ({"rates-0-minimum_credits_per_trace": "1e8"}, "at most 10,000,000"),
                (
                    {
                        "rates-0-minimum_credits_per_trace": "2",
                        "rates-0-maximum_credits_per_trace": "1",
                    },
                    "no charge fits both",
                ),
                ({"rates-0-valid_from_0": ""}, "required"),
                ({"rates-TOTAL_FORMS": "0"}, "A tier needs a rate"),
                (
                    {
                        "rates-TOTAL_FORMS": "2",
                        **moment("rates-1-valid_from", "2026-01-01"),
                        "rates-1-credits_per_usd": "200",
                        "rates-1-pricing_multiplier": "1",
                        "rates-1-grace_credits": "0",
                    },
                    "Two rates begin at 2026-01-01 00:00",
                ),
            ],
        ),
        TierAssignment: Form(
            {"tier": starter, "tenant": acme, **moment("valid_from", "2026-01-01")},
            [
                ({"user": str(world.acme_user.pk)}, "not both"),
                ({"tier": "nonsense"}, "valid"),
                ({"valid_from_0": ""}, "required"),
            ],
        ),
        ModelPrice: Form(
            {
                "model": "gpt-4o",
                "tenant": acme,
                "input": "2.5",
                **moment("valid_from", "2026-02-01"),
            },
            [
                ({"input": "500001"}, "at most 500,000"),
                ({"request": "6/one"}, "at most 5,000,000"),
                ({"request": "1/dozen"}, "for a million units or for so many"),
                ({"conditions": "tier=flex"}, "is no condition"),
                ({"other": "1"}, "both their names and a price"),
                ({"input": "2_5"}, "2_5"),
                ({"model": "m(", "match": "pattern"}, "not a valid pattern"),
                ({"precedence": "fallback"}, "always goes first"),
                ({"input": ""}, "at least one kind"),
            ],
        ),
        ModelAlias: Form(
            {"name": "acme/*", "model": "*", **moment("valid_from", "2026-01-01")},
            [
                ({"name": "acme/*/*"}, "more than one *"),
                ({"name": "acme"}, "stands for nothing"),
                ({"model": ""}, "would mean what it means anyway"),
                ({"model": "ACME/*"}, "would mean what it means anyway"),
                ({"provider": "azur"}, "azur is not one of"),
                ({"connection": "nonsense"}, "valid"),
                ({"name": "n" * 201}, "at most 200"),
                ({"name": "*"}, "every name"),
                ({"valid_from_0": ""}, "required"),
            ],
        ),
        Grant: Form(
            {"account": str(world.acme_user.pk), "amount": "5", "reason": "sorry"},
            [
                ({"amount": "0"}, "0 is not possible"),
                ({"amount": "1e10"}, "at most 1,000,000,000"),
                ({"priority": "1_0"}, "1_0"),
                ({"rollover_maximum": "-1"}, "-1"),
                ({"starts_at_0": "1999-01-01"}, "years away"),
                (moment("expires_at", "2020-01-01"), "not after the beginning"),
            ],
        ),
        TenantBudget: Form(
            {"tenant": acme, "unit": "usd", "amount": "50"},
            [
                ({"unit": "credits"}, "already exists"),
                ({"amount": "0"}, "above 0"),
                ({"amount": "-5"}, "above 0"),
                ({"amount": "1e10"}, "at most 1,000,000,000"),
            ],
        ),
        Webhook: Form(
            {"url": "https://example.test/", "new_secret": "sixteen characters"},
            [({"new_secret": ""}, "Enter the secret"), ({"url": "nonsense"}, "valid URL")],
        ),
        LicensePool: Form(
            {"tenant": acme, "tier": str(tier("Professional").pk), "total": "5"},
            [
                ({"tier": starter}, "already exists"),
                ({"total": "1_0"}, "1_0"),
                ({"total": "99999999999"}, "at most 1,000,000"),
            ],
        ),
        License: Form(
            {"user": str(world.acme_user.pk), "tier": starter},
            [
                ({"tier": str(tier("Professional").pk)}, "no licenses of Professional"),
                (moment("expires_at", "2020-01-01"), "expired already"),
                ({"user": ""}, "required"),
            ],
        ),
        LangfuseConnection: Form(
            {
                "name": "another",
                "host": "https://langfuse.test",
                "public_key": "pk-lf-2",
                "new_secret_key": "sk-lf-2",
            },
            [({"new_secret_key": ""}, "Enter the secret key"), ({"name": "bare"}, "already")],
        ),
        Repricing: Form(
            {"first_day": "2026-11-10", "last_day": "2026-11-10", "reason": "agreed"},
            [
                ({"first_day": "2026-11-31"}, "valid date"),
                ({"last_day": "2026-11-01"}, "before the first day"),
                ({"reason": " "}, "Say why"),
                ({"tenant": "nonsense"}, "nonsense"),
                ({"reason": "r" * 401}, "at most 400"),
                ({"last_day": "9999-12-31"}, "9999"),
                ({"first_day": "0001-01-01"}, "0001"),
            ],
        ),
        AttributionRules: Form(
            {
                "connection": str(
                    LangfuseConnection.objects.order_by("pk").values_list("pk")[0][0]
                ),
                "name": "teams",
                "position": "0",
                "reason": "agreed",
                "begin": "yes",
                "rules-TOTAL_FORMS": "1",
                "rules-INITIAL_FORMS": "0",
                "rules-0-gives": "tenant",
                "rules-0-source": "metadata",
                "rules-0-path": "team",
                "rules-0-finds_by": "id,slug,alias",
            },
            [
                ({"connection": "4711"}, "valid choice"),
                ({"name": ""}, "required"),
                ({"since": "soon"}, "valid date"),
                ({"position": "1e9"}, "whole number"),
                ({"reason": " "}, "Say why"),
                ({"reason": "r" * 401}, "at most 400"),
                ({"rules-0-gives": "nobody"}, "nobody"),
                ({"rules-0-path": ""}, "Metadata has a path"),
                ({"rules-0-pattern": "(?P<tenant>(a+)+)"}, "repeat single characters"),
                ({"rules-0-finds_by": "email"}, "write one or more of"),
                ({"rules-0-table": "{"}, "JSON map"),
            ],
        ),
        UsageRuling: Form(
            {
                "finding": "cost",
                "takes": "price_book",
                "connection": str(
                    LangfuseConnection.objects.order_by("pk").values_list("pk")[0][0]
                ),
                "reason": "agreed",
            },
            [
                ({"takes": "both"}, "is no choice"),
                ({"finding": "nonsense"}, "nonsense"),
                ({"connection": "4711"}, "valid choice"),
                ({"trace": "nonsense", "observation": "x"}, "valid UUID"),
                ({"observation": "x"}, "or neither"),
                ({"reason": " "}, "Say why"),
                ({"reason": "r" * 401}, "at most 400"),
            ],
        ),
    }


def change_forms(world: People) -> dict[type[Model], Form]:
    """Of each admin where rows are changed, what is filled in otherwise than it is."""
    return {
        Tenant: Form({"name": "Renamed"}, [({"slug": "globex"}, "already exists")]),
        User: Form({"first_name": "Ann"}, [({"username": "bob"}, "already exists")]),
        Project: Form({"name": "Renamed"}, [({"tenant": ""}, "required")]),
        Flow: Form({"name": "Renamed"}, [({"name": ""}, "required")]),
        ApiToken: Form({"name": "renamed"}, [({"name": "n" * 101}, "at most 100")]),
        PricingTier: Form(
            {"default_credits": "7"},
            [({"default_credits": "-1"}, "-1 is not possible"), ({"name": ""}, "required")],
        ),
        ModelPrice: Form(
            {"input": "3"},
            [
                ({"input": "-1"}, "-1 is not possible"),
                ({"input": "3_0"}, "3_0"),
                ({"valid_until_0": "2019-01-01", "valid_until_1": "00:00:00"}, "not after"),
            ],
        ),
        TenantBudget: Form({"amount": "70"}, [({"amount": "-1"}, "above 0")]),
        Webhook: Form({"is_enabled": ""}, [({"new_secret": "short"}, "at least 16")]),
        LicensePool: Form({"total": "6"}, [({"total": "0"}, "take some back")]),
        LangfuseConnection: Form({"plan": "core"}, [({"plan": "nonsense"}, "valid choice")]),
    }


def row_of(model: type[Model]) -> Model:
    """A row that can be changed where any can."""
    if model is User:
        return User.objects.get(username="ann")
    if model is LicensePool:
        return LicensePool.objects.get(assigned=1)
    if model is Tenant:
        return Tenant.objects.get(slug="acme")
    if model is ModelPrice:
        return ModelPrice.objects.get(IN_LIST, tenant__isnull=False)
    found = model._default_manager.first()
    assert found is not None, f"The world has no {model._meta.label}: make one in conftest.py."
    return found


def actions(world: People) -> dict[tuple[type[Model], str], Action]:
    """Of each admin, what is done with chosen rows."""
    return {
        (PricingTier, "retire"): Action(),
        (TierAssignment, "withdraw"): Action(),
        (ModelAlias, "withdraw"): Action(),
        (ModelPrice, "withdraw"): Action(),
        (ModelPrice, "export_chosen"): Action(changes=False),
        (Account, "adjust_accounts"): Action(
            {"amount": "5", "reason": "more"},
            [
                ({"amount": "0"}, "other than 0"),
                ({"amount": "1_000"}, "1_000"),
                ({"amount": "NaN"}, "NaN"),
                ({"amount": "1e30"}, "at most 1,000,000,000"),
                ({"amount": "-1e30"}, "at most 1,000,000,000"),
                ({"amount": "0.0000001"}, "decimal places"),
                ({"reason": " "}, "reason"),
                ({"reason": "r" * 501}, "500"),
            ],
        ),
        (Grant, "void"): Action(),
        (License, "take_back"): Action(),
        (License, "change_tier"): Action(
            {"tier": str(tier("Enterprise").pk), "credits": "keep"},
            [
                ({"tier": ""}, "Choose the tier"),
                ({"tier": "nonsense"}, "valid choice"),
                ({"credits": "nonsense"}, "valid choice"),
                ({"tier": str(tier("Professional").pk)}, "no licenses of Professional"),
            ],
        ),
        (Trace, "void_traces"): Action({"reason": "asked for"}, [({"reason": ""}, "Say why")]),
        (Trace, "restore_traces"): Action(),
        (Trace, "reprice_period"): Action(changes=False),
        (DisputedTrace, "settle_named_tenant"): Action(),
        (DisputedTrace, "settle_users_tenant"): Action(),
        (DisputedTrace, "leave_out"): Action(),
        (DisputedTrace, "undo_settlement"): Action(
            ready=lambda: settle(
                [DisputedTrace.objects.get().pk.hex], Outcome.LEFT_OUT, world.platform_admin
            )
        ),
        (RejectedObservation, "try_again"): Action(),
    }


@dataclass(frozen=True)
class Address:
    """An address of an admin's own. ``form`` is what it takes by GET or POST; ``changes`` whether
    it changes anything or reaches out, so that it asks first and is done by POST.
    """

    form: Form | None = None
    is_get: bool = True
    changes: bool = False
    ready: Callable[[], object] = lambda: None


def price_file(text: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile("prices.csv", text)


def repricing_is(state: str) -> None:
    Repricing.objects.update(state=state)


def ruling_is(state: str) -> None:
    UsageRuling.objects.update(state=state)


def rules_are(state: str) -> None:
    AttributionRules.objects.update(state=state)


def addresses(world: People) -> dict[str, Address]:
    """Beside changelist, add, change, delete and history."""
    days = {"first_day": "2026-11-10", "last_day": "2026-11-10"}
    return {
        "pricing_modelprice_import_list": Address(
            Form(
                {"file": price_file(b"model,valid_from,input\nm,2026-01-01,1\n")},
                [
                    ({"file": price_file(b"model\n")}, "valid_from"),
                    ({"file": price_file(b"model,valid_from,input\nm,2026-01-01,1_0\n")}, "1_0"),
                    ({"file": price_file(b"model,valid_from,input\nm,x,600000\n")}, "no ISO date"),
                    (
                        {"file": price_file(b"model,valid_from,input\nm,2026-01-01,600000\n")},
                        "at most 500,000",
                    ),
                    ({"file": price_file(b"model,valid_from,input\nm\x00,2026-01-01,1\n")}, "NUL"),
                ],
            ),
            is_get=False,
        ),
        "pricing_modelprice_export_list": Address(),
        "usage_unpricedusage": Address(),
        "usage_expectedusage": Address(),
        "usage_doubtful": Address(),
        "usage_unknownowners": Address(),
        "usage_seeninusage": Address(),
        "usage_sources": Address(),
        "usage_attributionrules_stop": Address(changes=True, ready=lambda: rules_are("applying")),
        "usage_attributionrules_resume": Address(changes=True, ready=lambda: rules_are("stopped")),
        "usage_attributionrules_undo": Address(changes=True, ready=lambda: rules_are("applied")),
        "usage_attributionrules_end": Address(changes=True, ready=lambda: rules_are("applied")),
        "usage_usageruling_stop": Address(changes=True, ready=lambda: ruling_is("applying")),
        "usage_usageruling_resume": Address(changes=True, ready=lambda: ruling_is("stopped")),
        "usage_usageruling_undo": Address(changes=True, ready=lambda: ruling_is("applied")),
        "usage_whatif": Address(
            Form(
                {**days, "tiers": [str(tier("Starter").pk)]},
                [
                    ({"first_day": "nonsense"}, "valid date"),
                    ({"tiers": ["nonsense"]}, "nonsense"),
                    ({"model": "gpt-4o", "other_model": ""}, "both models"),
                    ({"model": "gpt-4oo", "other_model": "gpt-4o"}, "Is it “gpt-4o”"),
                    ({"model": "gpt-4o", "other_model": "gtp-4o-mini"}, "gpt-4o-mini"),
                    ({"last_day": "9999-12-31"}, "9999"),
                    ({"first_day": "0001-01-01"}, "0001"),
                ],
            )
        ),
        "usage_repricing_stop": Address(changes=True, ready=lambda: repricing_is("applying")),
        "usage_repricing_resume": Address(changes=True, ready=lambda: repricing_is("stopped")),
        "usage_repricing_undo": Address(changes=True, ready=lambda: repricing_is("applied")),
        "credits_webhook_test": Address(changes=True),
        "usage_langfuseconnection_test_connection": Address(changes=True),
        "auth_user_password_change": Address(
            Form(
                {
                    "usable_password": "true",
                    "password1": "rather-long-1",
                    "password2": "rather-long-1",
                },
                [({"password2": "other"}, "match")],
            ),
            is_get=False,
        ),
    }
