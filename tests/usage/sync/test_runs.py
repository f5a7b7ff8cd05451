"""What a run says of itself: complete, shared with other workers, failed and why, interrupted."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from pytest_django import Settings

from tests.conftest import People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.models import LangfuseConnection, SyncRun, SyncWindow
from usage.sync import windows
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import recorded_run, sync_connection
from usage.sync.windows import Span

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def last_run() -> tuple[str, str, int]:
    run = SyncRun.objects.latest()
    assert run.finished_at is not None
    return run.outcome, run.error, run.windows_elsewhere


def test_a_run_that_did_everything_is_complete(connection: LangfuseConnection) -> None:
    sync_connection(connection)
    assert last_run() == ("complete", "", 0)


@pytest.mark.parametrize("run", [sync_connection, reconcile_connection])
def test_what_other_workers_read_is_shared_and_no_failure(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    command: Callable[..., str],
    run: Callable[..., Any],
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    hour = MOMENT.replace(minute=0)
    windows.open_windows(connection, Span(hour - 3 * HOUR, hour + HOUR))
    (window,) = SyncWindow.objects.filter(start=hour)
    # What a reconciliation has found and what another worker has taken since.
    taken = {"state": "leased", "leased_by": "another", "leased_until": timezone.now() + HOUR}
    if run is reconcile_connection:
        lease = windows.lease

        def after_another(*arguments: Any) -> windows.Lease:
            SyncWindow.objects.filter(pk=window.pk).update(**taken)
            return lease(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(windows, "lease", after_another)
            result = run(connection, hour - 3 * HOUR)
    else:
        SyncWindow.objects.filter(pk=window.pk).update(**taken)
        result = run(connection, hour - 3 * HOUR)
    assert not result.is_complete, "so that the command says to run it again"
    assert last_run() == ("shared", "", 1)


def test_a_failed_run_always_says_why(connection: LangfuseConnection) -> None:
    with pytest.raises(RuntimeError), recorded_run(connection, SyncRun.Kind.SYNC):
        raise RuntimeError
    assert last_run() == ("failed", "RuntimeError", 0)
    connection.secret_key = "sk-lf-wrong"
    assert sync_connection(connection).error == last_run()[1] != ""
    assert last_run()[0] == "failed"
    with pytest.raises(IntegrityError), transaction.atomic():
        SyncRun.objects.create(connection=connection, started_at=MOMENT, outcome="failed")


def test_a_run_that_is_stopped_is_interrupted(connection: LangfuseConnection) -> None:
    with pytest.raises(KeyboardInterrupt), recorded_run(connection, SyncRun.Kind.SYNC):
        raise KeyboardInterrupt
    assert last_run() == ("interrupted", "KeyboardInterrupt", 0)


@pytest.fixture
def killed(connection: LangfuseConnection, settings: Settings) -> SyncRun:
    """A run whose worker gave its last sign of life longer ago than a lease lasts."""
    silence = timedelta(seconds=settings.SYNC_LEASE_SECONDS + 1)
    return SyncRun.objects.create(
        connection=connection,
        started_at=timezone.now() - 2 * silence,
        last_seen_at=timezone.now() - silence,
    )


def test_a_killed_run_is_closed_by_the_next_one(
    connection: LangfuseConnection, killed: SyncRun
) -> None:
    going_on = SyncRun.objects.create(connection=connection, started_at=killed.started_at)
    sync_connection(connection)
    last_seen_at = killed.last_seen_at
    killed.refresh_from_db()
    assert (killed.outcome, killed.finished_at) == ("interrupted", last_seen_at)
    assert "no more sign of life" in killed.error
    going_on.refresh_from_db()
    assert going_on.outcome == "running"


def test_the_status_calls_it_interrupted_at_once(
    people: People, api: Callable[..., Any], killed: SyncRun
) -> None:
    (found,) = api(people.platform_admin, "sync/status").json()["connections"]
    assert found["last_run_outcome"] == "interrupted"


def test_a_run_that_was_thought_dead_says_in_the_end_what_became_of_it(
    connection: LangfuseConnection,
) -> None:
    with recorded_run(connection, SyncRun.Kind.SYNC):
        SyncRun.objects.update(last_seen_at=MOMENT)
        sync_connection(connection)
        assert SyncRun.objects.filter(outcome="interrupted").count() == 1
    assert set(SyncRun.objects.values_list("outcome", "error")) == {("complete", "")}


def test_a_long_run_gives_signs_of_life(connection: LangfuseConnection, settings: Settings) -> None:
    settings.SYNC_LEASE_SECONDS = 0
    with recorded_run(connection, SyncRun.Kind.SYNC) as (_, sign_of_life):
        SyncRun.objects.update(last_seen_at=MOMENT)
        sign_of_life()
        assert SyncRun.objects.get().last_seen_at > MOMENT
