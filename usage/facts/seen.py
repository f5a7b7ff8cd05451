"""People first seen in usage: whom attribution rules enter in the directory (domain.md, Seen in
usage).

An entry's id is a digest of its name, so whoever enters it, and however often, it is the same one.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, time
from typing import NamedTuple
from uuid import UUID, uuid5

from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.utils import timezone
from django.utils.text import slugify

from kluisz_analytics.bulk import among
from kluisz_analytics.identifiers import as_called
from kluisz_analytics.tenants.directory import change_directory
from kluisz_analytics.tenants.models import Standing, Tenant, User
from pricing.lists import assign_tiers_to_tenants, assign_tiers_to_users
from pricing.models import PricingTier
from usage.facts.owner import Directory
from usage.facts.rules import AttributionRules as RulesThatHold
from usage.facts.rules import Given, Gives, unpacked_given
from usage.models import AttributionRule
from usage.models.rework import Rework

NAMESPACE = UUID("7b0e3f5c-2f0a-5a43-9d53-6a1f0d0a7c11")
FROM_EVER = datetime(2020, 1, 1, tzinfo=UTC)


def tenant_seen_as(name: str) -> UUID:
    """The id of the tenant that a rule enters for the name."""
    return uuid5(NAMESPACE, f"tenant:{as_called(name)}")


def user_seen_as(name: str, tenant_id: UUID) -> UUID:
    """The id of the user whom a rule enters for the name in the tenant."""
    return uuid5(NAMESPACE, f"user:{tenant_id}:{as_called(name)}")


class WaitingTexts(NamedTuple):
    """What rules gave of runs that wait for an owner: how many have this tenant and this text."""

    attribution: str
    tenant_id: UUID | None
    runs: int


class NewEntry(NamedTuple):
    """A tenant to enter, or a user of ``tenant_id``, by a rule."""

    id: UUID
    name: str
    rule: int
    tenant_id: UUID | None = None

    @property
    def mark(self) -> str:
        """What tells it from those of the same name."""
        return self.id.hex[:8]


def entering_rules(connection_id: int) -> dict[int, AttributionRule]:
    """The rules of the connection that hold and enter whom they name, by their numbers."""
    rows = AttributionRule.objects.filter(
        rules__connection=connection_id, rules__state__in=Rework.HOLDING, enters=True
    )
    return {row.pk: row for row in rows.select_related("rules", "tier")}


def enter_unknown(
    connection_id: int,
    holding: RulesThatHold,
    directory: Directory,
    waiting: Iterable[WaitingTexts],
) -> int:
    """Enter whom the connection's rules name and nobody is known by, those with the most runs
    first, as far as each day's bound allows. Returns how many.

    Any number of workers may do so at once.
    """
    rules = entering_rules(connection_id)
    if not rules:
        return 0
    runs: Counter[NewEntry] = Counter()
    for of in waiting:
        for one in new_entries(holding, directory, unpacked_given(of.attribution), of.tenant_id):
            runs[one] += of.runs
    return _enter(sorted(runs, key=lambda one: _most_used_first(one, runs)), rules) if runs else 0


def _most_used_first(one: NewEntry, runs: Counter[NewEntry]) -> tuple[int, bool, str]:
    """So that a flood of names, each of a run or two, keeps no one else waiting; a tenant before
    its users.
    """
    return -runs[one], one.tenant_id is not None, as_called(one.name)


def new_entries(
    holding: RulesThatHold, directory: Directory, given: Sequence[Given], tenant_id: UUID | None
) -> Iterator[NewEntry]:
    """Whom the rules would enter, of a run whose tenant is this, to which they gave these texts."""
    if holding.finds_known(given, tenant_id, directory):
        return
    tenants, users = holding.unknown(given, tenant_id)
    for number, name in tenants:
        if as_called(name):
            tenant_id = holding.entries.seen_tenants.get(as_called(name))
            if tenant_id is None:
                tenant_id = tenant_seen_as(name)
                yield NewEntry(tenant_id, name, number)
    if tenant_id is None or holding.finds_known(_of_user(given), tenant_id, directory):
        return
    for number, name in users:
        if as_called(name):
            yield NewEntry(user_seen_as(name, tenant_id), name, number, tenant_id)


def _of_user(given: Iterable[Given]) -> list[Given]:
    return [one for one in given if one.gives == Gives.USER]


@transaction.atomic
def _enter(entries: Sequence[NewEntry], rules: Mapping[int, AttributionRule]) -> int:
    change_directory()
    left = _left_today({row.rules_id: row.rules.enters_a_day for row in rules.values()})
    known = _known(Tenant, [one.tenant_id or one.id for one in entries])
    known |= _known(User, [one.id for one in entries if one.tenant_id is not None])
    chosen: dict[UUID, NewEntry] = {}
    for one in entries:
        together = rules[one.rule].rules_id
        has_tenant = one.tenant_id is None or one.tenant_id in known or one.tenant_id in chosen
        if has_tenant and left[together] > 0 and one.id not in known:
            left[together] -= one.id not in chosen
            chosen.setdefault(one.id, one)
    _insert(chosen.values(), rules)
    return len(chosen)


def _known(model: type[Tenant] | type[User], ids: Iterable[UUID]) -> set[UUID]:
    column = f'"{model._meta.db_table}".id'
    rows = model._default_manager.filter(among(column, (one.hex for one in ids))).order_by()
    return set(rows.values_list("pk", flat=True))


def _left_today(bounds: Mapping[int, int]) -> dict[int, int]:
    """How many each of the rules may still enter on this day."""
    today = datetime.combine(timezone.now().date(), time(), UTC)
    entered = Counter(
        [
            *Tenant.objects.filter(seen_by__in=bounds, created_at__gte=today)
            .order_by()
            .values_list("seen_by", flat=True),
            *User.objects.filter(seen_by__in=bounds, date_joined__gte=today)
            .order_by()
            .values_list("seen_by", flat=True),
        ]
    )
    return {together: bound - entered[together] for together, bound in bounds.items()}


def _insert(entries: Collection[NewEntry], rules: Mapping[int, AttributionRule]) -> None:
    """A statement for all tenants, one for all users, and a few for the tiers of each."""
    tenants = [one for one in entries if one.tenant_id is None]
    users = [one for one in entries if one.tenant_id is not None]
    Tenant.objects.bulk_create(
        [_tenant(one, rules[one.rule].rules_id) for one in tenants], ignore_conflicts=True
    )
    User.objects.bulk_create(
        [user_row(one, rules[one.rule].rules_id) for one in users], ignore_conflicts=True
    )
    assign_tiers_to_tenants(list(_tiers(tenants, rules)))
    assign_tiers_to_users(list(_tiers(users, rules)))


def _tenant(one: NewEntry, together: int) -> Tenant:
    return Tenant(
        pk=one.id,
        name=one.name[:180] + " (seen in usage)",
        slug=f"{slugify(one.name)[:80]}-{one.mark}".strip("-"),
        seen=Standing.SEEN,
        seen_as=one.name,
        seen_by=together,
    )


def user_row(one: NewEntry, together: int | None) -> User:
    """The user, entered in the daily bound of these rules, or in none. While it is not active,
    nobody can log in as it, and nothing is given to it.
    """
    return User(
        pk=one.id,
        username=f"{one.name[:120]} (seen in usage {one.mark})",
        password=make_password(None),
        is_active=False,
        tenant_id=one.tenant_id,  # type: ignore[misc]  # a user's entry has one
        seen=Standing.SEEN,
        seen_as=one.name,
        seen_in_id=one.tenant_id,
        seen_by=together,
    )


def _tiers(
    entries: Iterable[NewEntry], rules: Mapping[int, AttributionRule]
) -> Iterator[tuple[UUID, PricingTier, datetime]]:
    for one in entries:
        tier = rules[one.rule].tier
        if tier is not None and tier.retired_at is None:
            yield one.id, tier, FROM_EVER
