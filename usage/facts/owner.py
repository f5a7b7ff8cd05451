"""Whose a run is, by what it says and by what the directory knows (domain.md, What is counted).

What a run says is a claim: a tenant and a user, each as it is named. The directory finds them, and
a user counts in the tenant that it was of when the run began. A claim for a tenant that its user
was not of is disputed: it counts for nobody until an operator has settled it. Pure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from kluisz_analytics.identifiers import as_called
from kluisz_analytics.tenants.membership import Stay, tenant_at


class Dispute(StrEnum):
    """Why it can't be said whose a run is."""

    NOT_A_MEMBER = "not_a_member"
    STEPS_DISAGREE = "steps_disagree"


class Outcome(StrEnum):
    """What a disputed run is settled as."""

    NAMED_TENANT = "named_tenant"
    USERS_TENANT = "users_tenant"
    LEFT_OUT = "left_out"


class KnownUser(NamedTuple):
    """A user: its tenant now, and, of one who ever moved, when it was of which."""

    id: UUID
    tenant_id: UUID
    stays: Sequence[Stay] = ()

    def tenant_at(self, moment: datetime) -> UUID | None:
        return tenant_at(self.stays, moment) if self.stays else self.tenant_id


@dataclass(frozen=True, slots=True)
class Directory:
    """The tenants and users that are known, by id as text; and both by what else they are called,
    in lower case, users by the tenant where they are. A name of several there is None's.

    ``version`` tells states of it apart (``kluisz_analytics.tenants.directory``); ``seen``: those
    who are, or were, seen in usage only.
    """

    tenants: Mapping[str, UUID] = field(default_factory=dict)
    users: Mapping[str, KnownUser] = field(default_factory=dict)
    names: Mapping[str, Mapping[UUID, KnownUser | None]] = field(default_factory=dict)
    version: int = 0
    tenant_names: Mapping[str, UUID] = field(default_factory=dict)
    seen: frozenset[UUID] = frozenset()

    def tenant_called(self, reference: str) -> UUID | None:
        """The tenant, by its id or by an alias of it."""
        tenant_id = self.tenants.get(reference)
        if tenant_id is None and self.tenant_names:
            return self.tenant_names.get(as_called(reference))
        return tenant_id

    def user_called(self, reference: str, tenant_id: UUID | None) -> KnownUser | None:
        """The user, by its id or by a name of it in the tenant; where no tenant is named, by a name
        that no other user has anywhere.
        """
        user = self.users.get(reference)
        if user is not None or not self.names or not reference:
            return user
        return one_called(self.names, reference, tenant_id)


def one_called(
    names: Mapping[str, Mapping[UUID, KnownUser | None]], name: str, tenant_id: UUID | None
) -> KnownUser | None:
    """The user of the tenant who is called so; where no tenant is known, the only one anywhere."""
    called = names.get(as_called(name))
    if called is None:
        return None
    if tenant_id is not None:
        return called.get(tenant_id)
    users = set(called.values())
    return users.pop() if len(users) == 1 else None


class Owner(NamedTuple):
    """Whose a run is. Of a disputed one also whom it named, and what it was settled as."""

    tenant_id: UUID | None = None
    user_id: UUID | None = None
    dispute: str = ""
    disputed_tenant_id: UUID | None = None
    disputed_user_id: UUID | None = None
    settled_as: str = ""


class Settlement(NamedTuple):
    """What an operator decided of a run that named this tenant and this user."""

    outcome: Outcome
    tenant_id: UUID
    user_id: UUID


NOBODY = Owner()


def owner_of(
    directory: Directory,
    tenant_reference: str,
    user_reference: str,
    moment: datetime,
    fixed_tenant_id: UUID | None = None,
    settlement: Settlement | None = None,
) -> Owner:
    """The owner of a run that began at ``moment``. With no tenant named, the user's is it;
    ``fixed_tenant_id`` is it whatever is named.
    """
    tenant_id = fixed_tenant_id
    if tenant_id is None and tenant_reference:
        # By their ids, as nearly always, without a call for each.
        tenant_id = directory.tenants.get(tenant_reference) or directory.tenant_called(
            tenant_reference
        )
        if tenant_id is None:
            user = directory.users.get(user_reference)
            return NOBODY if user is None else Owner(None, user.id)
    user = directory.users.get(user_reference) or directory.user_called(user_reference, tenant_id)
    return owner_found(tenant_id, user, moment, settlement)


def owner_found(
    tenant_id: UUID | None,
    user: KnownUser | None,
    moment: datetime,
    settlement: Settlement | None = None,
) -> Owner:
    """The owner of a run whose tenant and user are these, as far as they are named."""
    if user is None:
        return Owner(tenant_id)
    of_then = user.tenant_at(moment)
    # Mostly one and the same: comparing two takes longer.
    if tenant_id is None or tenant_id is of_then or tenant_id == of_then:
        return Owner(of_then, user.id)
    dispute = Owner(None, None, Dispute.NOT_A_MEMBER.value, tenant_id, user.id)
    if settlement is None or settlement[1:] != (tenant_id, user.id):
        # Whoever settled it settled another claim.
        return dispute
    return _settled(dispute, settlement.outcome, of_then)


def _settled(dispute: Owner, outcome: Outcome, of_then: UUID | None) -> Owner:
    settled = dispute._replace(settled_as=outcome.value)
    if outcome is Outcome.NAMED_TENANT:
        return settled._replace(tenant_id=dispute.disputed_tenant_id)
    if outcome is Outcome.USERS_TENANT and of_then is not None:
        return settled._replace(tenant_id=of_then, user_id=dispute.disputed_user_id)
    return settled
