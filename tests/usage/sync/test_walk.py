"""The walk: how much it leases at once, and when it stores what it has."""

from datetime import timedelta
from time import sleep
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from tests.conftest import RunningSandbox
from tests.usage.sync.test_sync import row
from usage.facts.apply import Applied, apply_batch
from usage.langfuse.sandbox.server import Request, Response, Sandbox
from usage.langfuse.wire import Page
from usage.models import LangfuseConnection, SyncWindow, Trace
from usage.sync import walk
from usage.sync.reader import Reader, Stretch
from usage.sync.runner import sync_connection
from usage.sync.walk import CountedPage, Walk

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)
NOW = timezone.now()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the server is asked for observations, as it answers."""
    asked: list[Request] = []

    def answer(sandbox: Sandbox, request: Request) -> Response:
        asked.append(request)
        return whole(sandbox, request)

    whole = Sandbox.answer
    monkeypatch.setattr(Sandbox, "answer", answer)
    return asked


def test_months_without_usage_take_few_requests(
    connection: LangfuseConnection,
    requests: list[Request],
    sandbox: RunningSandbox,
    settings: Settings,
) -> None:
    settings.SYNC_FETCHERS = 1
    sandbox.store.add([row("c1", start=NOW - 170 * DAY)])
    result = sync_connection(connection, NOW - 180 * DAY, NOW)
    assert result.is_complete
    assert Trace.objects.count() == 1
    # Of a day each they would be over 180.
    assert len(requests) < 60


def test_nothing_is_left_when_a_fetcher_is_slow_to_be_free(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that was leased may have been taken before the one who fetched it says that it has
    nothing to do.
    """

    def fetch_and_linger(self: Reader[Any], stretch: Stretch) -> None:
        fetch(self, stretch)
        sleep(0.05)

    fetch = Reader._fetch
    monkeypatch.setattr(Reader, "_fetch", fetch_and_linger)
    settings.SYNC_FETCHERS = 1
    sandbox.store.add([row("c1", start=NOW - 8 * DAY)])
    assert sync_connection(connection, NOW - 9 * DAY, NOW).is_complete
    assert Trace.objects.count() == 1
    assert not SyncWindow.objects.exclude(state=SyncWindow.State.DONE).exists()


@pytest.mark.parametrize(
    "is_silent", [False, True], ids=["while storing", "while waiting for a page"]
)
def test_what_another_worker_has_taken_over_is_left_to_it(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    is_silent: bool,
) -> None:
    """A worker that stood still for longer than its lease goes on with what it still has."""
    settings.SYNC_FETCHERS, settings.SYNC_LEASE_SECONDS = 1, 0.3
    sandbox.store.add([row(f"c{day}", f"t{day}", NOW - (day + 0.5) * DAY) for day in range(3)])
    taken = NOW - 1.5 * DAY

    def take_over(self: Walk, reader: Reader[CountedPage]) -> None:
        leased = SyncWindow.objects.filter(
            start__lte=taken, end__gt=taken, state=SyncWindow.State.LEASED
        )
        leased.update(leased_by="another")
        take(self, reader)

    def come_slowly(self: Walk, page: Page, is_known: object) -> CountedPage:
        sleep(0.2 if is_silent else 0)
        return turned(self, page, is_known)

    take, turned = Walk._take, Walk._turned
    monkeypatch.setattr(Walk, "_take", take_over)
    monkeypatch.setattr(Walk, "_turned", come_slowly)
    result = sync_connection(connection, NOW - 3 * DAY, NOW)
    assert (result.windows_elsewhere, result.error, result.is_complete) == (1, "", False)
    left = SyncWindow.objects.exclude(state=SyncWindow.State.DONE).get()
    assert (left.start <= taken < left.end, left.leased_by) == (True, "another")
    # It is the other's to say what there is, what is gone, and how far it is complete.
    assert set(Trace.objects.values_list("langfuse_trace_id", flat=True)) == {"t0", "t2"}
    assert left.complete_through is None


def test_what_has_come_is_stored_while_nothing_waits(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.SYNC_FETCHERS, settings.SYNC_BATCH_OBSERVATIONS = 1, 10 * walk.SMALLEST_PART
    sandbox.store.add(
        [
            row(f"c{day}-{number}", f"t{day}-{number}", NOW - (day + 0.5) * DAY)
            for day in range(8)
            for number in range(10)
        ]
    )
    stored, stored_by_page = [0], []

    def come_slowly(self: Walk, page: Page, is_known: object) -> CountedPage:
        sleep(0.2)
        stored_by_page.append(sum(stored))
        return turned(self, page, is_known)

    def counted(*arguments: Any) -> Applied:
        applied = apply_batch(*arguments)
        stored.append(applied.observations_stored)
        return applied

    turned = Walk._turned
    monkeypatch.setattr(Walk, "_turned", come_slowly)
    monkeypatch.setattr(walk, "apply_batch", counted)
    result = sync_connection(connection, NOW - 9 * DAY, NOW)
    assert (result.observations_read, sum(stored)) == (80, 80)
    # A batch is 80; the page before the last one may still be on its way to the database.
    assert stored_by_page[-1] >= 50
