"""Makes a ruling hold, and undoes it: a rework of the traces that it is about."""

from collections.abc import Callable
from uuid import UUID

from django.db.models import Q, QuerySet

from kluisz_analytics.tenants.models import User
from usage.facts import rework
from usage.facts.apply import load_assembler, reassemble
from usage.facts.findings import CHOICES, Finding, Takes
from usage.facts.likely import LONGEST_CALL
from usage.models import LangfuseConnection, Observation, UsageRuling

stop, resume, undo = rework.stop, rework.resume, rework.undo


def begin(
    finding: Finding,
    takes: Takes,
    connection: LangfuseConnection,
    *,
    reason: str,
    by: User | None,
    model: str | None = None,
    step: tuple[UUID, str] | None = None,
    source: str | None = None,
) -> UsageRuling:
    """A ruling on one observation (``step``: its trace's key and its id), on a model of the
    connection, on what an integration (``source``) records, or on all of it; :func:`advance` does
    the work.

    Raises ValueError without a reason, for a choice that isn't one of the finding's, and where it
    has to be of an integration and is not.
    """
    if takes not in CHOICES[finding]:
        choices = ", ".join(one.value for one in CHOICES[finding])
        raise ValueError(f"“{takes.value}” is no choice for “{finding.value}”: write {choices}.")
    if takes is Takes.OTHERS and (source is None) == (step is None):
        raise ValueError("Say which integration, or which one observation, gives way to others.")
    return rework.begin(
        UsageRuling(
            finding=finding.value,
            takes=takes.value,
            connection=connection,
            model=None if step else model,
            source=source,
            trace_key=step[0] if step else None,
            langfuse_observation_id=step[1] if step else "",
            reason=reason,
            created_by=by,
        )
    )


def advance(
    ruling: UsageRuling,
    seconds: float | None = None,
    report: Callable[[UsageRuling], None] | None = None,
) -> None:
    """Do the work that is left (:func:`usage.facts.rework.advance`)."""
    rework.advance(ruling, _rule_next, seconds, report)


def _rule_next(ruling: UsageRuling) -> rework.Batch:
    keys = list(_traces_after(ruling)[: rework.TRACES_A_BATCH])
    assembler, reason = load_assembler(ruling.connection), rework.reason_of(ruling)
    applied = reassemble(assembler, [key.hex for key in keys], reason)
    if keys:
        ruling.reached_trace_id = keys[-1]
    return rework.Batch(len(keys), applied)


def _traces_after(ruling: UsageRuling) -> QuerySet[Observation, UUID]:
    """The keys of the traces that it is about, after the one that was reached, in their order.

    Other records of the same calls are in other traces.
    """
    if ruling.takes == Takes.OTHERS:
        return _after(ruling, _where_twins_may_be(ruling))
    found = observations_of(ruling.finding).filter(trace__connection=ruling.connection_id)
    if ruling.trace_key is not None:
        found = found.filter(
            trace=ruling.trace_key, langfuse_observation_id=ruling.langfuse_observation_id
        )
    elif ruling.model is not None:
        found = found.filter(model=ruling.model)
    return _after(ruling, found)


def _after(ruling: UsageRuling, found: QuerySet[Observation]) -> QuerySet[Observation, UUID]:
    if ruling.reached_trace_id is not None:
        found = found.filter(trace_id__gt=ruling.reached_trace_id)
    return found.order_by("trace_id").values_list("trace_id", flat=True).distinct()


def _where_twins_may_be(ruling: UsageRuling) -> QuerySet[Observation]:
    """Of an integration's calls anywhere in the connection, of one call at its time."""
    found = Observation.objects.filter(trace__connection=ruling.connection_id)
    if ruling.trace_key is None:
        return found
    ruled = Observation.objects.filter(
        trace=ruling.trace_key, langfuse_observation_id=ruling.langfuse_observation_id
    )
    spans = [
        Q(
            start_time__gte=one.start_time - LONGEST_CALL,
            start_time__lte=(one.end_time or one.start_time) + LONGEST_CALL,
        )
        for one in ruled
    ]
    return found.filter(*spans) if spans else found.none()


def observations_of(finding: str) -> QuerySet[Observation]:
    """The observations with the finding, by an index of these alone."""
    if finding == Finding.UNITS:
        return Observation.objects.exclude(usage_doubt="")
    # Both conditions: the first is that of the index.
    return Observation.objects.exclude(finding="").filter(finding=finding)
