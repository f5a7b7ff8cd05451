"""Charges what is stored as the setting says which environments are billed (usage.environments)."""

from collections.abc import Sequence
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from pricing.engine import Uncharged
from usage.environments import BilledEnvironments, billed_environments
from usage.facts import store
from usage.facts.apply import Applied, committed, load_assembler, reassemble
from usage.models import LangfuseConnection, Trace

TRACES_A_BATCH = 5_000
OTHER_ENVIRONMENTS = "Other environments are billed"


def bill_in(connection: LangfuseConnection, environments: str) -> None:
    """Let these environments of the connection be billed from now on; what is stored follows with
    the next sync (:func:`charge_as_set`).

    Raises ValueError for what no environment can be called; nothing is changed then.
    """
    billed_environments(environments)
    with transaction.atomic():
        # Whoever stores traces by the setting of before is waited for.
        store.change_repricings()
        LangfuseConnection.objects.filter(pk=connection.pk).update(billed_environments=environments)
    connection.billed_environments = environments


def charge_as_set(connection: LangfuseConnection) -> Applied:
    """Charge the connection's stored traces anew whose environment was billed and isn't any more,
    or the other way round; what that changes is posted as adjustments.

    Interrupted, it goes on where it was; it is over when none is left. Where the setting changes
    meanwhile, it goes on by the new one.
    """
    applied = Applied()
    row = LangfuseConnection.objects.filter(pk=connection.pk)
    while True:
        asked, done = row.values_list("billed_environments", "environments_applied").get()
        if asked == done:
            return applied
        keys = [pk.hex for pk in _otherwise(connection, billed_environments(asked))]
        if keys:
            applied += _charged_anew(connection, keys)
        else:
            row.filter(billed_environments=asked).update(environments_applied=asked)


def _charged_anew(connection: LangfuseConnection, keys: Sequence[str]) -> Applied:
    assembler = load_assembler(connection)
    return committed(lambda: reassemble(assembler, keys, OTHER_ENVIRONMENTS))


def _otherwise(connection: LangfuseConnection, billed: BilledEnvironments) -> QuerySet[Trace, UUID]:
    """The keys of traces that are charged otherwise than so, at most a batch of them."""
    traces = Trace.objects.filter(connection=connection).order_by()
    names: Sequence[str] = list(traces.values_list("environment", flat=True).distinct())
    are_billed = Q(environment__in=[name for name in names if name in billed])
    was_left_out = Q(uncharged=Uncharged.ENVIRONMENT.value)
    is_otherwise = (are_billed & was_left_out) | (~are_billed & ~was_left_out)
    return traces.filter(is_otherwise).values_list("pk", flat=True)[:TRACES_A_BATCH]
