"""Usage that has found its tenant or its user, and usage of users who were elsewhere than it was
decided by (domain.md, What is counted).
"""

from collections.abc import Collection, Iterable
from uuid import UUID

from django.db import connection as database
from django.db.models import Q, QuerySet

from kluisz_analytics.identifiers import as_called
from kluisz_analytics.tenants.models import DirectoryChange, Tenant, User
from usage.facts import store
from usage.facts.apply import Applied, Assembler, committed, load_assembler, reassemble
from usage.facts.owner import Directory
from usage.models import LangfuseConnection, Trace
from usage.models.facts import NOT_OWNED

TRACES_A_BATCH = 5_000
REFERENCES_A_QUERY = 5_000

# Once the newest directory is what all usage is stored by, what was stored before is to be seen.
CHANGED = """
    SELECT t.connection_id, t.id FROM directory_change c
        JOIN usage_trace t ON t.user_id = c.user_id
    WHERE NOT c.is_done AND c.id <= %s AND (c.since IS NULL OR t.start_time >= c.since)
    UNION
    SELECT t.connection_id, t.id FROM directory_change c
        JOIN usage_trace t ON t.disputed_user_id = c.user_id AND t.dispute <> ''
    WHERE NOT c.is_done AND c.id <= %s AND (c.since IS NULL OR t.start_time >= c.since)"""


def attribute_known(connection: LangfuseConnection) -> Applied:
    """Attribute, price and charge every trace of the connection whose missing tenant or user is
    known by now, and, of whatever connection, what the directory says otherwise than it did.
    """
    applied = decide_changed()
    found = _attributable(connection)
    if found:
        applied += _decide(load_assembler(connection), found)
    return applied


def attribute_all() -> Applied:
    """The same for every connection, after the directory has changed."""
    applied = Applied()
    for connection in LangfuseConnection.objects.all():
        applied += attribute_known(connection)
    return applied


def decide_changed() -> Applied:
    """Decide anew the usage of all users who have moved, or have lost a name."""
    applied = Applied()
    newest = (
        DirectoryChange.objects.filter(is_done=False)
        .order_by("-pk")
        .values_list("pk", flat=True)
        .first()
    )
    if newest is None:
        return applied
    with database.cursor() as cursor:
        cursor.execute(CHANGED, [newest, newest])
        rows = cursor.fetchall()
    by_connection: dict[int, set[UUID]] = {}
    for connection_id, pk in rows:
        by_connection.setdefault(connection_id, set()).add(pk if isinstance(pk, UUID) else UUID(pk))
    for connection in LangfuseConnection.objects.filter(pk__in=by_connection):
        applied += _decide(load_assembler(connection), by_connection[connection.pk])
    # At the end: who is killed before does it again.
    DirectoryChange.objects.filter(is_done=False, pk__lte=newest).update(is_done=True)
    return applied


def _decide(assembler: Assembler, found: Iterable[UUID]) -> Applied:
    applied = Applied()
    for trace_ids in store.chunks(sorted(pk.hex for pk in found), TRACES_A_BATCH):
        applied += committed(lambda ids=trace_ids: reassemble(assembler, ids))  # type: ignore[misc]
    return applied


def _attributable(connection: LangfuseConnection) -> set[UUID]:
    """Traces without a tenant or a user that name one we know.

    Reads distinct references, not traces, to find out.
    """
    waiting = Trace.objects.filter(NOT_OWNED, connection=connection, dispute="").order_by()
    found: set[UUID] = set()
    for name, model in (("user", User), ("tenant", Tenant)):
        column = f"{name}_reference"
        named = waiting.filter(**{name: None}).exclude(**{column: ""})
        references = set(named.values_list(column, flat=True).distinct())
        known = store.known_ids(model, references)
        for texts in store.chunks(known, REFERENCES_A_QUERY):
            found.update(named.filter(**{f"{column}__in": texts}).values_list("pk", flat=True))
        if name == "user":
            found |= _called(named, references.difference(known))
    return found


def _called(named: QuerySet[Trace], references: Collection[str]) -> set[UUID]:
    """Those that name a user by what else it is called, in the tenant that is known of them."""
    directory = store.load_directory() if references else Directory()
    if not directory.names:
        return set()
    found = set()
    called = [text for text in references if as_called(text) in directory.names]
    for texts in store.chunks(called, REFERENCES_A_QUERY):
        traces = named.filter(user_reference__in=texts)
        # Of an unknown tenant nobody is known by another name than its id.
        traces = traces.filter(Q(tenant__isnull=False) | Q(tenant_reference=""))
        for pk, text, tenant_id in traces.values_list("pk", "user_reference", "tenant"):
            if directory.user_called(text, tenant_id) is not None:
                found.add(pk)
    return found
