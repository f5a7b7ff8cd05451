"""The directory file: its form, read strictly (api.md, Commands)."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from django.core.exceptions import ValidationError
from msgspec import Meta, Struct

from kluisz_analytics.plain_numbers import refuse_underscores
from kluisz_analytics.tenants.models import validate_timezone
from pricing.models import PricingTier, TierRate

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Slug = Annotated[str, Meta(min_length=1, max_length=100, pattern="^[-a-zA-Z0-9_]+$")]
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
AMOUNT_COLUMNS: dict[str, Any] = {
    name: model._meta.get_field(name)
    for model, names in (
        (
            TierRate,
            (
                "credits_per_usd",
                "pricing_multiplier",
                "minimum_credits_per_trace",
                "maximum_credits_per_trace",
                "grace_credits",
            ),
        ),
        (PricingTier, ("default_credits", "default_credits_per_month")),
    )
    for name in names
}


class DirectoryError(ValueError):
    """The file can't be taken over.

    The message names the value and the way out; nothing was changed.
    """


class TierEntry(Struct, forbid_unknown_fields=True):
    name: Name
    credits_per_usd: Decimal
    pricing_multiplier: Decimal
    minimum_credits_per_trace: Decimal | None = None
    maximum_credits_per_trace: Decimal | None = None
    grace_credits: Decimal = Decimal(0)
    charges_failed_runs: bool = True
    default_credits: Decimal = Decimal(0)
    default_credits_per_month: Decimal = Decimal(0)
    valid_from: datetime = LONG_AGO


class TenantEntry(Struct, forbid_unknown_fields=True):
    id: UUID
    name: Name
    slug: Slug
    timezone: str = "UTC"
    default_tier: str | None = None
    finds_users_by: list[Literal["email", "username"]] = []


class ProjectEntry(Struct, forbid_unknown_fields=True):
    id: UUID
    name: Name
    tenant: str


class FlowEntry(Struct, forbid_unknown_fields=True):
    id: UUID
    name: Name
    project: UUID


class UserEntry(Struct, forbid_unknown_fields=True):
    id: UUID
    username: Annotated[str, Meta(min_length=1, max_length=150)]
    tenant: str
    email: str = ""
    tier: str | None = None
    tier_valid_from: datetime = LONG_AGO
    is_tenant_admin: bool = False
    is_superuser: bool = False
    is_active: bool = True
    tenant_since: datetime | None = None
    aliases: list[Name] | None = None


class DirectoryDocument(Struct, forbid_unknown_fields=True):
    tiers: list[TierEntry] = []
    tenants: list[TenantEntry] = []
    projects: list[ProjectEntry] = []
    flows: list[FlowEntry] = []
    users: list[UserEntry] = []


class WrittenTiers(Struct):
    """The tiers as they are written, with what Python would read as a number all the same."""

    tiers: list[dict[str, Any]] = []


def read_document(path: Path) -> DirectoryDocument:
    """The directory in the file. Raises DirectoryError naming what is wrong and where."""
    try:
        text = path.read_bytes()
        document = msgspec.json.decode(text, type=DirectoryDocument)
    except FileNotFoundError as error:
        raise DirectoryError(f"There is no file {path}.") from error
    except msgspec.DecodeError as error:
        raise DirectoryError(f"{path}: {error}. See docs/directory.md for the form.") from error
    _refuse_underscores(msgspec.json.decode(text, type=WrittenTiers))
    _check(document)
    return document


def _refuse_underscores(written: WrittenTiers) -> None:
    for tier in written.tiers:
        for name in AMOUNT_COLUMNS:
            try:
                refuse_underscores(str(tier.get(name, "")))
            except ValueError as error:
                raise DirectoryError(
                    f"Tier “{tier['name']}”: {name} is {tier[name]}. {error}"
                ) from error


def _check(document: DirectoryDocument) -> None:
    for tier in document.tiers:
        for name in AMOUNT_COLUMNS:
            _check_amount(tier.name, name, getattr(tier, name))
        _check_zone(tier.valid_from, f"tier “{tier.name}”")
    for tenant in document.tenants:
        try:
            validate_timezone(tenant.timezone)
        except Exception as error:
            raise DirectoryError(
                f"Tenant “{tenant.slug}”: “{tenant.timezone}” is not an IANA time zone."
            ) from error
    for user in document.users:
        _check_zone(user.tier_valid_from, f"user “{user.username}”")
        if user.tenant_since is not None:
            _check_zone(user.tenant_since, f"user “{user.username}”")


def _check_amount(tier: str, name: str, amount: Decimal | None) -> None:
    """By the rules of the column that it is for."""
    if amount is None:
        return
    column = AMOUNT_COLUMNS[name]
    if not amount.is_finite():
        raise DirectoryError(f"Tier “{tier}”: {name} is {amount}; write a number.")
    try:
        column.run_validators(amount)
    except ValidationError as error:
        raise DirectoryError(
            f"Tier “{tier}”: {name} is {amount}. {' '.join(error.messages)}"
        ) from error


def _check_zone(moment: datetime, where: str) -> None:
    if moment.tzinfo is None:
        raise DirectoryError(
            f"The time {moment.isoformat()} of {where} has no zone; write for example"
            f" {moment.isoformat()}Z."
        )
