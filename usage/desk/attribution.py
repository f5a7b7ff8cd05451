"""Makes attribution rules hold, and undoes them: a rework of the runs that they are about."""

from collections.abc import Callable, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from kluisz_analytics.tenants.models import User
from usage.facts import rework
from usage.facts.apply import load_assembler, reassemble
from usage.facts.attribution import attribute_seen
from usage.facts.store import change_repricings
from usage.models import AttributionRule, AttributionRules, LangfuseConnection, Trace
from usage.models.attribution import ENTERED_A_DAY
from usage.repricing.stored import after

MOST_RULES = 40
stop, resume, undo = rework.stop, rework.resume, rework.undo


def begin(
    connection: LangfuseConnection,
    rules: Sequence[AttributionRule],
    *,
    name: str,
    reason: str,
    by: User | None,
    since: datetime | None = None,
    until: datetime | None = None,
    position: int = 0,
    enters_a_day: int = ENTERED_A_DAY,
) -> AttributionRules:
    """Rules of the connection, in their order, for runs that begin in [since, until);
    :func:`advance` does the work.

    Raises ValueError without a reason, a name or a rule; ValidationError for a rule that is none.
    """
    together = AttributionRules(
        connection=connection,
        name=name.strip(),
        position=position,
        enters_a_day=enters_a_day,
        since=since,
        until=until,
        reason=reason,
        created_by=by,
    )
    check(together, rules)
    with transaction.atomic():
        rework.begin(together)
        AttributionRule.objects.bulk_create(rules)
    return together


def check(together: AttributionRules, rules: Sequence[AttributionRule]) -> None:
    """Put the rules in their order. Raises as :func:`begin` does."""
    if not together.name:
        raise ValueError("Say what the rules are called.")
    if not rules or len(rules) > MOST_RULES:
        raise ValueError(f"There are {len(rules)} rules; write 1 to {MOST_RULES}.")
    if together.since and together.until and together.until <= together.since:
        raise ValueError(
            f"The end, {together.until.isoformat()}, is not after the beginning,"
            f" {together.since.isoformat()}."
        )
    for position, rule in enumerate(rules):
        rule.rules, rule.position = together, position
        rule.clean_fields(exclude=["rules"])
        rule.clean()


def end(together: AttributionRules, moment: datetime | None = None) -> None:
    """Let them hold for runs that begin before ``moment`` (now) only; :func:`undo` takes them back
    for all.

    Raises ValueError where they have ended, or are under way.
    """
    until = moment or timezone.now()
    with transaction.atomic():
        change_repricings()
        holding = AttributionRules.objects.filter(
            pk=together.pk, until=None, state=AttributionRules.State.APPLIED
        )
        has_begun = together.since is None or together.since < until
        changed = holding.update(until=until) if has_begun else 0
    together.refresh_from_db()
    if not changed:
        raise ValueError(f"{together.called} can't be ended: it has ended, or is not applied.")


def advance(
    together: AttributionRules,
    seconds: float | None = None,
    report: Callable[[AttributionRules], None] | None = None,
) -> None:
    """Do the work that is left (:func:`usage.facts.rework.advance`), and enter whom the rules
    enter.
    """
    rework.advance(together, _attribute_next, seconds, report)
    if together.state == together.State.APPLIED:
        attribute_seen(together.connection)


def _attribute_next(together: AttributionRules) -> rework.Batch:
    reached = None
    if together.reached_start is not None and together.reached_trace_id is not None:
        reached = together.reached_start, together.reached_trace_id
    rows = list(
        after(traces_of(together), reached).values_list("pk", "start_time")[: rework.TRACES_A_BATCH]
    )
    assembler, reason = load_assembler(together.connection), rework.reason_of(together)
    applied = reassemble(assembler, [pk.hex for pk, _ in rows], reason)
    if rows:
        together.reached_trace_id, together.reached_start = rows[-1]
    return rework.Batch(len(rows), applied)


def traces_of(together: AttributionRules) -> QuerySet[Trace]:
    """The runs that the rules are about, in their order."""
    found = Trace.objects.filter(connection=together.connection_id)
    if together.since is not None:
        found = found.filter(start_time__gte=together.since)
    if together.until is not None:
        found = found.filter(start_time__lt=together.until)
    return found.order_by("start_time", "pk")
