"""Unattributed usage that has found its tenant or its user (domain.md, What is counted)."""

from uuid import UUID

from kluisz_analytics.tenants.models import Tenant, User
from usage.facts import store
from usage.facts.apply import Applied, committed, load_assembler, reassemble
from usage.models import LangfuseConnection, Trace
from usage.models.facts import NOT_OWNED

TRACES_A_BATCH = 5_000
REFERENCES_A_QUERY = 5_000


def attribute_known(connection: LangfuseConnection) -> Applied:
    """Attribute, price and charge every trace of the connection whose missing tenant or user is
    known by now.
    """
    applied = Applied()
    found = sorted(pk.hex for pk in _attributable(connection))
    if not found:
        return applied
    assembler = load_assembler(connection)
    for trace_ids in store.chunks(found, TRACES_A_BATCH):
        applied += committed(lambda ids=trace_ids: reassemble(assembler, ids))  # type: ignore[misc]
    return applied


def attribute_all() -> Applied:
    """The same for every connection, after the directory has changed."""
    applied = Applied()
    for connection in LangfuseConnection.objects.all():
        applied += attribute_known(connection)
    return applied


def _attributable(connection: LangfuseConnection) -> set[UUID]:
    """Traces without a tenant or a user that name one we know.

    Reads distinct references, not traces, to find out.
    """
    unattributed = Trace.objects.filter(NOT_OWNED, connection=connection).order_by()
    found: set[UUID] = set()
    for name, model in (("user", User), ("tenant", Tenant)):
        column = f"{name}_reference"
        named = unattributed.filter(**{name: None}).exclude(**{column: ""})
        references = set(named.values_list(column, flat=True).distinct())
        known = store.known_ids(model, references)
        for texts in store.chunks(known, REFERENCES_A_QUERY):
            found.update(named.filter(**{f"{column}__in": texts}).values_list("pk", flat=True))
    return found
