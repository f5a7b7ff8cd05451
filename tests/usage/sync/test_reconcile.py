"""Reconciliation: data that comes, changes or goes after its hour was read is found by a change of
Langfuse's metrics.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits.models import Account
from tests.conftest import People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.books import verify_books
from usage.langfuse.client import Figures, LangfuseClientService
from usage.models import LangfuseConnection, SyncRun, SyncWindow, Trace
from usage.sync.reconcile import reconcile_connection
from usage.sync.result import SyncResult
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
LONG_AGO = MOMENT - timedelta(days=50)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The granularities of the metrics that were asked for, in turn."""
    requests: list[str] = []
    figures = LangfuseClientService.figures

    def counting(
        self: LangfuseClientService, start: Any, end: Any, granularity: Any
    ) -> dict[Any, Figures]:
        requests.append(granularity)
        return figures(self, start, end, granularity)

    monkeypatch.setattr(LangfuseClientService, "figures", counting)
    return requests


@pytest.fixture
def reconciled(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> Callable[[], SyncResult]:
    """A connection with one run of long ago and one of today, synced and reconciled once."""
    sandbox.store.add([owned(people), call("c1", 0.06)])
    sandbox.store.add(
        [
            owned(people, trace_id="old", start=LONG_AGO),
            call("c1", 0.06, trace_id="old", start=LONG_AGO),
        ]
    )
    assert sync_connection(connection).traces_changed == 2

    def run() -> SyncResult:
        result = reconcile_connection(connection)
        assert result.error == ""
        assert verify_books() == []
        return result

    first = run()
    assert (first.windows_drifted, first.observations_stored) == (
        0,
        0,
    ), "nobody had asked before, and nothing had changed"
    return run


def test_when_nothing_changed_one_request_says_so(
    reconciled: Callable[[], SyncResult], asked: list[str]
) -> None:
    result = reconciled()
    assert (result.windows_drifted, result.observations_stored) == (0, 0)
    # The whole days in one request; the first and the last day, of which only some hours are asked
    # for, in one each at most.
    assert asked.count("day") == 1
    assert len(asked) <= 3


def test_what_arrives_weeks_late_is_found_and_charged(
    reconciled: Callable[[], SyncResult], sandbox: RunningSandbox, people: People
) -> None:
    late = {"trace_id": "late", "start": LONG_AGO}
    sandbox.store.add([owned(people, **late), call("c1", 0.06, **late)])
    result = reconciled()
    assert (result.windows_drifted, result.observations_stored, result.traces_changed) == (1, 2, 1)
    assert Account.objects.get().used == Decimal("34.2")
    assert reconciled().windows_drifted == 0


def test_what_is_sent_again_with_another_cost_is_found(
    reconciled: Callable[[], SyncResult], sandbox: RunningSandbox
) -> None:
    sandbox.store.add([call("c1", 0.01, trace_id="old", start=LONG_AGO, received=900)])
    assert reconciled().observations_stored == 1
    assert Trace.objects.get(langfuse_trace_id="old").cost_usd == Decimal("0.01")


def test_what_was_deleted_stays_billed(
    reconciled: Callable[[], SyncResult], sandbox: RunningSandbox
) -> None:
    sandbox.store.delete_trace("old")
    result = reconciled()
    assert (result.windows_drifted, result.traces_changed) == (1, 0)
    assert Account.objects.get().used == Decimal("22.8")


def test_only_the_hours_that_changed_are_read_again(
    reconciled: Callable[[], SyncResult], sandbox: RunningSandbox, people: People
) -> None:
    for hours in (0, 30, 31):
        start = LONG_AGO + timedelta(hours=hours)
        sandbox.store.add(
            [
                owned(people, trace_id=f"n{hours}", start=start),
                call("c1", 0.06, trace_id=f"n{hours}", start=start),
            ]
        )
    result = reconciled()
    assert (result.windows_drifted, result.observations_stored) == (3, 6)


def test_a_run_is_recorded_and_a_failure_leaves_the_windows_due(
    reconciled: Callable[[], SyncResult],
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
) -> None:
    assert SyncRun.objects.filter(kind="reconciliation", outcome="complete").count() == 1
    sandbox.store.add([owned(people, trace_id="late", start=LONG_AGO)])
    sandbox.sandbox.secret_key = "changed"
    result = reconcile_connection(connection)
    assert "refused the keys" in result.error
    assert SyncRun.objects.filter(kind="reconciliation", outcome="failed").count() == 1
    sandbox.sandbox.secret_key = connection.secret_key
    assert reconciled().observations_stored == 1
    assert not SyncWindow.objects.filter(state="leased").exists()


def test_figures_are_those_of_the_recorded_answer(sandbox: RunningSandbox) -> None:
    from datetime import UTC, datetime

    from tests.conftest import PUBLIC_KEY, SECRET_KEY, recorded

    sandbox.store.add(recorded("observations_all_fields")["body"]["data"])
    day = datetime(2026, 11, 23, tzinfo=UTC)
    with LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY) as client:
        hours = client.figures(day, day + timedelta(days=1), "hour")
        days = client.figures(day, day + timedelta(days=1), "day")
    assert len(hours) == 24
    assert not days[day].differ(Figures(33, 5088, 0.012041099998))
    assert not hours[day + timedelta(hours=14)].differ(days[day])
