"""Usage that has found its tenant or its user, and usage of users who were elsewhere than it was
decided by (domain.md, What is counted).
"""

from collections.abc import Collection, Iterable
from functools import reduce
from operator import or_
from uuid import UUID

from django.db import connection as database
from django.db.models import Count, Q, QuerySet

from kluisz_analytics.identifiers import as_called
from kluisz_analytics.tenants.models import DirectoryChange, Tenant, TenantAlias, User
from usage.facts import store
from usage.facts.apply import Applied, Assembler, committed, load_assembler, reassemble
from usage.facts.merged import follow_directory
from usage.facts.owner import Directory
from usage.facts.rules import Gives, unpacked_given
from usage.facts.seen import WaitingTexts, enter_unknown, entering_rules
from usage.models import FlowUsage, LangfuseConnection, Trace
from usage.models.facts import NOT_OWNED
from usage.periods import Granularity

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
    WHERE NOT c.is_done AND c.id <= %s AND (c.since IS NULL OR t.start_time >= c.since)
    UNION
    SELECT t.connection_id, t.id FROM directory_change c
        JOIN usage_trace t ON t.tenant_id = c.tenant_id
    WHERE NOT c.is_done AND c.id <= %s
    UNION
    SELECT t.connection_id, t.id FROM directory_change c
        JOIN usage_trace t ON t.disputed_tenant_id = c.tenant_id AND t.dispute <> ''
    WHERE NOT c.is_done AND c.id <= %s"""


def attribute_known(connection: LangfuseConnection) -> Applied:
    """Attribute, price and charge every trace of the connection whose missing tenant or user is
    known by now, or may be entered by a rule, and, of whatever connection, what the directory says
    otherwise than it did.
    """
    follow_directory()
    applied = decide_changed()
    found = _attributable(connection)
    if store.load_attribution_rules(connection.pk):
        applied += _by_rules(connection, found)
        return applied
    if found:
        applied += _decide(load_assembler(connection), found)
    return applied


def _by_rules(connection: LangfuseConnection, found: set[UUID]) -> Applied:
    applied = Applied()
    # Whose tenant is found only then has its user entered after it.
    for _ in range(2):
        assembler, waiting = load_assembler(connection), _waiting_texts(connection)
        if enter_unknown(connection.pk, assembler.rules, assembler.directory, waiting):
            assembler = load_assembler(connection)
        found |= _found_by_rule(connection, assembler, waiting) | _named_now(connection, assembler)
        applied += _decide(assembler, found)
        if not found or not assembler.rules.enters:
            break
        found = set()
    return applied


def up_to_date_with_seen(assembler: Assembler) -> Assembler:
    """A new assembler, after whom its rules enter has been entered of what is stored by now: so
    that most of a long reading is decided once.
    """
    connection = LangfuseConnection.objects.get(pk=assembler.connection_id)
    if assembler.rules.enters:
        waiting = _waiting_texts(connection)
        enter_unknown(connection.pk, assembler.rules, assembler.directory, waiting)
    return load_assembler(connection)


def attribute_seen(connection: LangfuseConnection) -> Applied:
    """The same after what was read has been stored, where rules enter whom nobody knows: so that
    they have their usage on the first day.
    """
    return attribute_known(connection) if entering_rules(connection.pk) else Applied()


def attribute_all() -> Applied:
    """The same for every connection, after the directory has changed."""
    applied = Applied()
    for connection in LangfuseConnection.objects.all():
        applied += attribute_known(connection)
    return applied


def decide_changed() -> Applied:
    """Decide anew the usage of all users and tenants that have moved, or have lost a name."""
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
        cursor.execute(CHANGED, [newest] * 4)
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
    not_owned = _waiting(connection).filter(attribution="")
    found: set[UUID] = set()
    for name, model in (("user", User), ("tenant", Tenant)):
        column = f"{name}_reference"
        named = not_owned.filter(**{name: None}).exclude(**{column: ""})
        references = set(named.values_list(column, flat=True).distinct())
        known = store.known_ids(model, references)
        if name == "tenant":
            known += _aliases(references)
        for texts in store.chunks(known, REFERENCES_A_QUERY):
            found.update(named.filter(**{f"{column}__in": texts}).values_list("pk", flat=True))
        if name == "user":
            found |= _called(named, references.difference(known))
    return found


def _waiting(connection: LangfuseConnection) -> QuerySet[Trace]:
    return Trace.objects.filter(NOT_OWNED, connection=connection, dispute="").order_by()


def _aliases(references: Collection[str]) -> list[str]:
    """Those of the references that are aliases of tenants."""
    names = TenantAlias.objects.order_by().values_list("name", flat=True) if references else ()
    aliases = {as_called(name) for name in names}
    return [text for text in references if as_called(text) in aliases]


def _waiting_texts(connection: LangfuseConnection) -> list[WaitingTexts]:
    """Distinct texts, not traces."""
    waiting = _waiting(connection).exclude(attribution="")
    rows = waiting.values_list("attribution", "tenant").annotate(runs=Count("pk"))
    return [WaitingTexts(*row) for row in rows]


def _found_by_rule(
    connection: LangfuseConnection, assembler: Assembler, waiting: Iterable[WaitingTexts]
) -> set[UUID]:
    """Those to whom attribution rules gave a text that somebody is known by now."""
    traces = _waiting(connection).exclude(attribution="")
    found: set[UUID] = set()
    by_tenant: dict[UUID | None, list[str]] = {}
    for text, tenant_id, _ in waiting:
        if assembler.rules.finds_now(unpacked_given(text), tenant_id, assembler.directory):
            by_tenant.setdefault(tenant_id, []).append(text)
    for of, texts in by_tenant.items():
        of_tenant = traces.filter(tenant=of)
        for some in store.chunks(sorted(texts), REFERENCES_A_QUERY):
            found.update(of_tenant.filter(attribution__in=some).values_list("pk", flat=True))
    return found


def _named_now(connection: LangfuseConnection, assembler: Assembler) -> set[UUID]:
    """Traces whose project or flow is counted by what it is called, and is the directory's of that
    name by now.

    The rollup of days says which there are, without reading traces.
    """
    rules, found = assembler.rules, set[UUID]()
    if not rules.find_by_name:
        return found
    counted = FlowUsage.objects.filter(granularity=Granularity.DAY).order_by()
    for gives, column in ((Gives.PROJECT, "project_id"), (Gives.FLOW, "flow_id")):
        rows = counted.exclude(**{column: ""}).values_list("tenant_key", column).distinct()
        known: dict[UUID, list[str]] = {}
        for tenant_id, text in rows:
            if rules.named(gives, text, tenant_id) not in ("", text):
                known.setdefault(tenant_id, []).append(text)
        of_names = (Q(tenant=pk, **{f"{column}__in": texts}) for pk, texts in known.items())
        of_connection = Trace.objects.filter(connection=connection).exclude(attribution="")
        traces = of_connection.filter(reduce(or_, of_names, Q(pk__in=[])), is_voided=False)
        named = traces.values_list(
            "pk", "attribution", "tenant", "project_id", "flow_id"
        ).order_by()
        for pk, text, tenant_id, project_id, flow_id in named.iterator(TRACES_A_BATCH):
            ids = {Gives.PROJECT: project_id, Gives.FLOW: flow_id}
            if rules.names_now(unpacked_given(text), tenant_id, ids):
                found.add(pk)
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
