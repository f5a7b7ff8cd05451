"""Upserts a directory document in one transaction, then attributes the usage that was waiting for
it.
"""

from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import F

from credits.top_up import welcome
from kluisz_analytics.bulk import among
from kluisz_analytics.tenants.directory import Known, names_change, record_changes
from kluisz_analytics.tenants.models import Flow, Project, Tenant, User, UserAlias
from pricing import lists
from pricing.models import IN_LIST, PricingTier, TierAssignment, TierRate
from usage.directory.document import DirectoryDocument, DirectoryError
from usage.facts.apply import Applied
from usage.facts.attribution import attribute_all

K = TypeVar("K")
V = TypeVar("V")
FOUND_BY = ("email", "username")
# Of one seen in usage that the file has by its id: it is an entry as others are by then.
ENTERED = ("seen", "merged_into")
RATE_TERMS = (
    "credits_per_usd",
    "pricing_multiplier",
    "minimum_credits_per_trace",
    "maximum_credits_per_trace",
    "grace_credits",
    "charges_failed_runs",
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """How many rows of each kind the document had, and the usage that found its owner."""

    tiers: int
    tenants: int
    projects: int
    flows: int
    users: int
    traces_attributed: int


def load_directory(document: DirectoryDocument) -> Loaded:
    """Make the database know everything in the document; loading it again changes nothing.

    Raises DirectoryError for a reference to something unknown or a name that is taken; nothing is
    changed then.
    """
    try:
        with names_change():
            _load(document)
    except ValidationError as error:
        raise DirectoryError(f"{' '.join(error.messages)} Nothing was changed.") from error
    except IntegrityError as error:
        raise DirectoryError(
            f"The directory contradicts what is stored: {error}. Nothing was changed."
        ) from error
    attributed: Applied = attribute_all()
    return Loaded(
        tiers=len(document.tiers),
        tenants=len(document.tenants),
        projects=len(document.projects),
        flows=len(document.flows),
        users=len(document.users),
        traces_attributed=attributed.traces_changed,
    )


def _load(document: DirectoryDocument) -> None:
    _load_tiers(document)
    tiers = {tier.name: tier for tier in PricingTier.objects.all()}
    _load_tenants(document, tiers)
    tenants = dict(Tenant.objects.values_list("slug", "pk"))
    projects = [
        Project(
            pk=entry.id,
            name=entry.name,
            tenant_id=_known(tenants, entry.tenant, f"project “{entry.name}”", "tenant"),
        )
        for entry in document.projects
    ]
    Project.objects.bulk_create(
        projects, update_conflicts=True, unique_fields=["id"], update_fields=["name", "tenant"]
    )
    known_projects: dict[UUID, UUID] = {
        pk: pk for pk in Project.objects.values_list("pk", flat=True)
    }
    flows = [
        Flow(
            pk=entry.id,
            name=entry.name,
            project_id=_known(known_projects, entry.project, f"flow “{entry.name}”", "project"),
        )
        for entry in document.flows
    ]
    Flow.objects.bulk_create(
        flows, update_conflicts=True, unique_fields=["id"], update_fields=["name", "project"]
    )
    _load_users(document, tenants, tiers)


def _load_tiers(document: DirectoryDocument) -> None:
    for entry in document.tiers:
        tier, _ = PricingTier.objects.update_or_create(
            name=entry.name,
            defaults={
                "default_credits": entry.default_credits,
                "default_credits_per_month": entry.default_credits_per_month,
            },
        )
        terms = {name: getattr(entry, name) for name in RATE_TERMS}
        if not TierRate.objects.filter(
            IN_LIST, tier=tier, valid_from=entry.valid_from, **terms
        ).exists():
            lists.enter_rate(TierRate(tier=tier, valid_from=entry.valid_from, **terms), None)


def _load_tenants(document: DirectoryDocument, tiers: dict[str, PricingTier]) -> None:
    rows = [
        Tenant(
            pk=entry.id,
            name=entry.name,
            slug=entry.slug,
            timezone=entry.timezone,
            **{f"finds_users_by_{one}": one in entry.finds_users_by for one in FOUND_BY},
        )
        for entry in document.tenants
    ]
    Tenant.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=[
            *("name", "slug", "timezone", *ENTERED),
            *(f"finds_users_by_{one}" for one in FOUND_BY),
        ],
    )
    for entry in document.tenants:
        if entry.default_tier is None:
            continue
        tier = _known(tiers, entry.default_tier, f"tenant “{entry.slug}”", "tier")
        rate = tier.rates.filter(IN_LIST).order_by("valid_from").first()
        if rate is None:
            raise DirectoryError(f"Tier “{tier.name}” has no rate; add it to the file's tiers.")
        if not TierAssignment.objects.filter(IN_LIST, tenant_id=entry.id, tier=tier).exists():
            lists.assign_tier(
                TierAssignment(tenant_id=entry.id, tier=tier, valid_from=rate.valid_from), None
            )


def _load_users(
    document: DirectoryDocument, tenants: dict[str, UUID], tiers: dict[str, PricingTier]
) -> None:
    loaded = User.objects.filter(pk__in=[entry.id for entry in document.users])
    existing = {pk: Known(*known) for pk, *known in loaded.values_list("pk", *Known._fields)}
    rows = []
    for entry in document.users:
        user = User(
            pk=entry.id,
            username=entry.username,
            email=entry.email,
            tenant_id=_known(tenants, entry.tenant, f"user “{entry.username}”", "tenant"),
            is_tenant_admin=entry.is_tenant_admin,
            is_superuser=entry.is_superuser,
            is_staff=entry.is_superuser,
            is_active=entry.is_active,
        )
        if entry.id not in existing:
            user.set_unusable_password()
        rows.append(user)
    User.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=[
            "username",
            "email",
            "tenant",
            "is_tenant_admin",
            "is_superuser",
            "is_staff",
            "is_active",
            *ENTERED,
        ],
    )
    record_changes(
        existing, {entry.id: entry.tenant_since for entry in document.users if entry.tenant_since}
    )
    _load_aliases(document, tenants)
    _assign_tiers(document, tiers)
    # Those without a tier of their own have their tenant's, or the platform's.
    welcome(User.objects.filter(among('"user".id', (entry.id.hex for entry in document.users))))


def _load_aliases(document: DirectoryDocument, tenants: dict[str, UUID]) -> None:
    """Of each user that the file has aliases of, these and no others in its tenant."""
    wanted = {
        (tenants[entry.tenant], name.strip()): entry
        for entry in document.users
        for name in entry.aliases or ()
    }
    users = [entry.id for entry in document.users if entry.aliases is not None]
    stored = {
        (row.tenant_id, row.name): row
        for row in UserAlias.objects.filter(user__in=users, user__tenant=F("tenant"))
    }
    removed = [
        row.pk
        for key, row in stored.items()
        if not row.was_its_name and (key not in wanted or wanted[key].id != row.user_id)
    ]
    UserAlias.objects.filter(pk__in=removed).delete()
    kept = {key for key, row in stored.items() if row.pk not in removed}
    UserAlias.objects.bulk_create(
        UserAlias(tenant_id=key[0], user_id=entry.id, name=key[1])
        for key, entry in wanted.items()
        if key not in kept
    )


def _assign_tiers(document: DirectoryDocument, tiers: dict[str, PricingTier]) -> None:
    assignments = []
    for entry in document.users:
        if entry.tier is None:
            continue
        tier = _known(tiers, entry.tier, f"user “{entry.username}”", "tier")
        assignments.append((entry.id, tier, entry.tier_valid_from))
    lists.assign_tiers_to_users(assignments)


def _known(known: dict[K, V], key: K, where: str, kind: str) -> V:
    try:
        return known[key]
    except KeyError:
        raise DirectoryError(
            f"The {kind} “{key}” of {where} is unknown; add it to the file's {kind}s."
        ) from None
