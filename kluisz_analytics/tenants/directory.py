"""Changes of the directory that move usage: who moves to another tenant, and whose names come to
mean somebody else, or nobody.

Each is written down (DirectoryChange). Whoever stores usage decides it by the newest directory
(:func:`keep_directory`), and the next sync decides anew what was decided by an older one.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import reduce
from operator import or_
from typing import NamedTuple
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Max, Q
from django.utils import timezone

from kluisz_analytics.identifiers import as_called
from kluisz_analytics.tenants.membership import Stay, moved
from kluisz_analytics.tenants.models import (
    DirectoryChange,
    Membership,
    Standing,
    Tenant,
    User,
    UserAlias,
)

# Any number, the same in every process; PostgreSQL's own locks for what no row stands for.
LOCK = 4_711_203


class Move(NamedTuple):
    """A user who was of one tenant and is of another since a moment."""

    user_id: UUID
    from_tenant_id: UUID
    to_tenant_id: UUID
    since: datetime | None = None
    """None: since now."""


def keep_directory() -> int:
    """Let nobody move until this transaction ends, others may do the same at once. Returns which
    state of the directory that is.
    """
    _lock("pg_advisory_xact_lock_shared")
    return directory_version()


def directory_version() -> int:
    """Greater after each change."""
    return DirectoryChange.objects.aggregate(newest=Max("pk"))["newest"] or 0


def change_directory() -> None:
    """Wait for all transactions that store usage, and let none begin to until this one ends."""
    _lock("pg_advisory_xact_lock")


def _lock(function: str) -> None:
    # A transaction of SQLite has the database to itself.
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {function}(%s)", [LOCK])


class Known(NamedTuple):
    """What was known of a user before it was changed."""

    tenant: UUID
    username: str
    email: str


@transaction.atomic
def record_changes(
    before: Mapping[UUID, Known], since: Mapping[UUID, datetime] | None = None
) -> None:
    """Keep what users were who are changed in this transaction: of which tenant until now, or until
    the moment that ``since`` has of them, and what they were called where that names them.
    """
    tenants = Tenant.objects.in_bulk({one.tenant for one in before.values()})
    moves, names = [], []
    for user in User.objects.filter(pk__in=before):
        was, moment = before[user.pk], (since or {}).get(user.pk)
        if was.tenant != user.tenant_id or moment is not None:
            moves.append(Move(user.pk, was.tenant, user.tenant_id, moment))
        for column in ("username", "email"):
            name, is_found_by = getattr(was, column), f"finds_users_by_{column}"
            if name and name != getattr(user, column) and getattr(tenants[was.tenant], is_found_by):
                names.append(
                    UserAlias(tenant_id=was.tenant, user=user, name=name, was_its_name=True)
                )
    record_moves(moves)
    # A name that another has there is not taken from it.
    UserAlias.objects.bulk_create(names, ignore_conflicts=True)


@transaction.atomic
def record_moves(moves: Collection[Move]) -> None:
    """Keep since when the users are of their new tenants. Call it in the transaction that moves
    them.

    One that is recorded already changes nothing.
    """
    if not moves:
        return
    change_directory()
    now, known = timezone.now(), stays_of({one.user_id for one in moves})
    new: dict[UUID, list[Stay]] = {}
    changes = []
    for move in moves:
        before = known.get(move.user_id) or [Stay(move.from_tenant_id, None, None)]
        since = move.since or now
        after = moved(before, move.to_tenant_id, since)
        if after != before:
            new[move.user_id] = after
            changes.append(DirectoryChange(user_id=move.user_id, since=since))
    Membership.objects.filter(user__in=new).delete()
    Membership.objects.bulk_create(
        Membership(user_id=user_id, **stay._asdict())
        for user_id, stays in new.items()
        for stay in stays
    )
    DirectoryChange.objects.bulk_create(changes)


class Called(NamedTuple):
    """That a user is called so in a tenant beside its id; ``name`` as names are compared."""

    name: str
    tenant_id: UUID
    user_id: UUID


def names_in_use(names: Collection[str] | None = None) -> set[Called]:
    """Who is called what: by aliases, and where the tenant says so by user names and e-mail
    addresses; the latter also in the tenants that users have left. Of all names, or of these.
    """
    aliases = UserAlias.objects.filter(_is_one_of("name", names)).order_by()
    found = [*aliases.values_list("name", "tenant", "user")]
    for column in ("username", "email"):
        for where in ("tenant", "memberships__tenant"):
            says_so = {f"{where}__finds_users_by_{column}": True}
            users = User.objects.filter(_is_one_of(column, names), seen=Standing.ENTERED, **says_so)
            found += users.exclude(**{column: ""}).order_by().values_list(column, where, "pk")
    return {Called(as_called(name), tenant_id, user_id) for name, tenant_id, user_id in found}


def _is_one_of(column: str, names: Collection[str] | None) -> Q:
    if names is None:
        return Q()
    # Without a name it is nobody's.
    wanted = (Q(**{f"{column}__iexact": name.strip()}) for name in names if name.strip())
    return reduce(or_, wanted, Q(pk__in=[]))


@contextmanager
def names_change(names: Collection[str] | None = None) -> Iterator[None]:
    """What is done in the block may change who is called what (of all names, or of these): whoever
    was found by a name that means others now has its usage decided anew. So it depends on what the
    directory says in the end, and not on the order in which that and the usage came.
    """
    with transaction.atomic():
        before = names_in_use(names)
        yield
        changed = {one.name for one in before ^ names_in_use(names)}
        if lost := {one.user_id for one in before if one.name in changed}:
            record_lost_names(lost)


@transaction.atomic
def record_lost_names(user_ids: Iterable[UUID]) -> None:
    """Have all usage of the users decided anew: they are no longer called what they were."""
    change_directory()
    DirectoryChange.objects.bulk_create(DirectoryChange(user_id=one) for one in user_ids)


@transaction.atomic
def record_lost_tenant_name(tenant_id: UUID) -> None:
    """Have all usage of the tenant decided anew: it is no longer called what it was."""
    change_directory()
    DirectoryChange.objects.create(tenant_id=tenant_id)


def users_called(name: str, tenant_id: UUID | None) -> int:
    """How many users have the name beside their ids, in the tenant or in any; one query."""
    name = name.strip()
    of_tenant = {} if tenant_id is None else {"aliases__tenant": tenant_id}
    called = Q(aliases__name__iexact=name, **of_tenant)
    for where in ("tenant", "memberships__tenant"):
        of_tenant = {} if tenant_id is None else {where: tenant_id}
        for column in ("username", "email"):
            says_so = {f"{where}__finds_users_by_{column}": True}
            is_so_called = {f"{column}__iexact": name, "seen": Standing.ENTERED}
            called |= Q(**is_so_called, **says_so, **of_tenant)
    return User.objects.filter(called).order_by().values("pk").distinct().count()


def stays_of(user_ids: Collection[UUID] | None = None) -> Mapping[UUID, list[Stay]]:
    """The history of the users, or of all, who ever moved; the earliest first."""
    rows = Membership.objects.order_by("user", "pk")
    if user_ids is not None:
        rows = rows.filter(user__in=user_ids)
    found: dict[UUID, list[Stay]] = defaultdict(list)
    for user_id, tenant_id, since, until in rows.values_list("user", "tenant", "since", "until"):
        found[user_id].append(Stay(tenant_id, since, until))
    return {
        user_id: sorted(stays, key=lambda one: (one.since is not None, one.since))
        for user_id, stays in found.items()
    }
