"""What verify_books finds that no constraint of the database refuses."""

from collections.abc import Callable
from datetime import timedelta
from uuid import uuid4

import pytest

from tests.conftest import NOON, People
from usage.books import verify_books
from usage.models import FlowUsage, ModelUsage, Observation, ReceivedTrace, Trace
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("column", ["connection_id", "tenant_id", "user_id"])
def test_the_books_show_a_trace_that_names_what_does_not_exist(
    people: People, use: Callable[..., None], column: str
) -> None:
    use(people.acme_user)
    assert verify_books() == []
    Trace.objects.update(**{column: 987_654 if column == "connection_id" else uuid4()})
    assert "facts: what a trace names exists" in [finding.check for finding in verify_books()]


def test_the_books_show_a_trace_that_names_another_model_than_its_usage(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user)
    for model in ("another", None):
        Trace.objects.update(model=model)
        assert [finding.check for finding in verify_books()][:1] == [
            "facts: a trace names the model of its usage"
        ]


@pytest.mark.parametrize("rollup", [FlowUsage, ModelUsage])
def test_the_books_show_an_hour_that_is_wrong_while_its_day_runs(
    people: People, use: Callable[..., None], rollup: type[FlowUsage | ModelUsage]
) -> None:
    use(people.acme_user, flow="f")
    build_rollups(NOON + timedelta(hours=1))
    use(people.acme_user, flow="f", start=NOON + timedelta(hours=1))
    assert verify_books() == []
    rollup.objects.update(total_traces=2)
    checks = {
        f"invariant 1: {rollup._meta.db_table} {what}"
        for what in ("has what the facts do not say", "lacks what the facts say")
    }
    assert {finding.check for finding in verify_books()} >= checks
    rollup.objects.all().delete()
    assert [finding.check for finding in verify_books()] == [
        f"invariant 1: {rollup._meta.db_table} lacks what the facts say"
    ]


RECEIVED = "facts: a trace is what Langfuse says of its steps"


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (lambda: Trace.objects.update(observations=3), RECEIVED),
        (lambda: Trace.objects.update(deleted_observations=1), RECEIVED),
        (lambda: Trace.objects.update(last_step_hour=NOON + timedelta(hours=1)), RECEIVED),
        (
            lambda: ReceivedTrace.objects.update(deleted='{"nobody":"2026-11-20T12:00:00Z"}'),
            RECEIVED,
        ),
        (lambda: Trace.objects.update(start_time=NOON + timedelta(seconds=1)), RECEIVED),
        (lambda: Trace.objects.update(source="litellm"), RECEIVED),
        (lambda: Trace.objects.update(source_version="1"), RECEIVED),
        (lambda: Observation.objects.update(usage_details="", langfuse_cost_usd=None), RECEIVED),
        (
            lambda: Observation.objects.update(cost_usd=7),
            "facts: a trace is the sum of its billed observations",
        ),
        (
            lambda: Trace.objects.update(unpriced_observations=1),
            "facts: a trace is the sum of its billed observations",
        ),
        (
            lambda: ReceivedTrace.objects.all().delete(),
            "facts: every trace has what Langfuse says of it",
        ),
        (
            lambda: ReceivedTrace.objects.update(trace_id=uuid4()),
            "facts: what Langfuse says is of a trace",
        ),
        (
            lambda: Observation.objects.update(trace_id=uuid4()),
            "facts: every observation has its trace",
        ),
    ],
)
def test_the_books_show_facts_that_do_not_agree(
    people: People, use: Callable[..., None], change: Callable[[], object], check: str
) -> None:
    use(people.acme_user)
    assert verify_books() == []
    change()
    assert check in [finding.check for finding in verify_books()]
