"""What becomes of those seen in usage once the directory has them otherwise (domain.md, Seen in
usage).

Whose their usage is then is a function of the directory and of what an operator merged, whatever
order that and the usage came in: who is known by their names, else they themselves.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q

from kluisz_analytics.bulk import among
from kluisz_analytics.tenants.directory import change_directory
from kluisz_analytics.tenants.models import DirectoryChange, Standing, Tenant, User
from pricing.lists import assign_tiers_to_users
from pricing.models import IN_LIST, TierAssignment
from usage.facts import store
from usage.facts.owner import Directory
from usage.facts.rules import AttributionRules as RulesThatHold
from usage.facts.seen import NewEntry, user_row, user_seen_as
from usage.models import AttributionRule

SEEN = ~Q(seen=Standing.ENTERED)


def follow_directory() -> int:
    """Have the usage of those seen in usage decided anew whom the directory has otherwise than it
    had: the next sync does. Returns how many they are.
    """
    if not any(model._default_manager.filter(SEEN).exists() for model in (Tenant, User)):
        return 0
    if not _changes():
        return 0
    with transaction.atomic():
        change_directory()
        changes = _changes()
        _store(changes)
    return len(changes)


@dataclass(frozen=True, slots=True)
class Change:
    """That somebody seen in usage is known as somebody else (None: nobody else) by now.
    ``followed_by``: a user to enter for it in the tenant that its own is known as.
    """

    row: Tenant | User
    into: UUID | None
    followed_by: NewEntry | None = None

    @property
    def standing(self) -> Standing:
        if _is_merged(self.row):
            return Standing.MERGED
        return Standing.SEEN if self.into is None else Standing.KNOWN

    @property
    def is_news(self) -> bool:
        return (self.standing, self.into) != (self.row.seen, self.row.merged_into_id)


def _changes() -> list[Change]:
    """Those whose standing is another than is stored."""
    known = Known.now()
    found = [*known.tenants(), *known.users()]
    return [one for one in found if one.is_news]


class Known:
    """Whom the directory has by the names of those seen in usage."""

    def __init__(
        self,
        directory: Directory,
        rules: RulesThatHold,
        tenants: Mapping[UUID, Tenant],
        users: Mapping[UUID, User],
    ) -> None:
        self._directory, self._rules = directory, rules
        self._tenants, self._users = tenants, users
        self._where = {pk: self._tenant_of(row) for pk, row in tenants.items()}

    @classmethod
    def now(cls) -> "Known":
        """As all rules find somebody that enter whom nobody knows, also those that hold no more."""
        directory = store.load_directory()
        rules = AttributionRule.objects.filter(enters=True).select_related("rules")
        return cls(
            directory,
            RulesThatHold([row.as_rule() for row in rules], store.load_entries(directory)),
            Tenant.objects.filter(SEEN).in_bulk(),
            User.objects.filter(SEEN).in_bulk(),
        )

    def tenants(self) -> Iterator[Change]:
        for pk, row in self._tenants.items():
            yield Change(row, self._where[pk])

    def users(self) -> Iterator[Change]:
        for row in self._users.values():
            if row.seen_in_id is not None:
                yield self._user(row, row.seen_in_id)

    def _tenant_of(self, row: Tenant) -> UUID | None:
        if _is_merged(row):
            return row.merged_into_id
        found = self._rules.tenant_known_as(row.seen_as, self._directory)
        return None if found in self._tenants else found

    def _user(self, row: User, tenant_id: UUID) -> Change:
        if _is_merged(row):
            return Change(row, row.merged_into_id)
        now_in = self._where.get(tenant_id) or tenant_id
        found = self._rules.user_known_as(row.seen_as, now_in, self._directory)
        if found is not None and found.id not in self._users:
            return Change(row, found.id)
        if now_in == tenant_id:
            return Change(row, None)
        there = user_seen_as(row.seen_as, now_in)
        if str(there) in self._directory.users:
            # As the directory has it, that is merged into somebody or not.
            return Change(row, self._directory.users[str(there)].id)
        return Change(row, there, NewEntry(there, row.seen_as, 0, now_in))


def _is_merged(row: Tenant | User) -> bool:
    """Whether an operator merged it into somebody who is still there."""
    return row.seen == Standing.MERGED and row.merged_into_id is not None


def _store(changes: Iterable[Change]) -> None:
    new = {one.followed_by: one.row for one in changes if one.followed_by is not None}
    # What they enter is in no day's bound: it was, as they were entered.
    User.objects.bulk_create([user_row(one, None) for one in new], ignore_conflicts=True)
    _hand_on_tiers({row.pk: one.id for one, row in new.items()})
    were = []
    for model, column in ((Tenant, "tenant_id"), (User, "user_id")):
        of_model = [one for one in changes if isinstance(one.row, model)]
        for one in of_model:
            were += [{column: pk} for pk in (one.row.pk, one.row.merged_into_id) if pk]
            one.row.seen, one.row.merged_into_id = one.standing, one.into
        rows: list[Any] = [one.row for one in of_model]
        model._default_manager.bulk_update(rows, ["seen", "merged_into"], batch_size=1_000)
    DirectoryChange.objects.bulk_create(DirectoryChange(**one) for one in were)


def _hand_on_tiers(followed_by: Mapping[UUID, UUID]) -> None:
    """Give users the tiers of those whom they follow."""
    of = among('"pricing_tier_assignment".user_id', (pk.hex for pk in followed_by))
    assigned = TierAssignment.objects.filter(IN_LIST, of).select_related("tier").order_by()
    assign_tiers_to_users(
        [
            (followed_by[row.user_id], row.tier, row.valid_from)
            for row in assigned
            if row.user_id is not None and row.tier.retired_at is None
        ]
    )
