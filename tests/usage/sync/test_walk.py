"""The walk: how much it leases at once, and when it stores what it has."""

from datetime import timedelta
from time import sleep
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from tests.conftest import RunningSandbox
from tests.usage.sync.test_sync import row
from usage.langfuse.sandbox.server import Request, Response, Sandbox
from usage.langfuse.wire import Page
from usage.models import LangfuseConnection, Observation, SyncWindow
from usage.sync import walk
from usage.sync.apply import Applied, apply_batch
from usage.sync.reader import Reader, Stretch
from usage.sync.runner import sync_connection
from usage.sync.walk import StepPage, Walk

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
    connection: LangfuseConnection, requests: list[Request], sandbox: RunningSandbox, settings: Settings
) -> None:
    settings.SYNC_FETCHERS = 1
    sandbox.store.add([row("c1", start=NOW - 170 * DAY)])
    result = sync_connection(connection, NOW - 180 * DAY, NOW)
    assert result.is_complete
    assert Observation.objects.count() == 1
    # Of a day each they would be over 180.
    assert len(requests) < 60


def test_nothing_is_left_when_a_fetcher_is_slow_to_be_free(
    connection: LangfuseConnection, sandbox: RunningSandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was leased may have been taken before the one who fetched it says that it has nothing to do."""

    def fetch_and_linger(self: Reader[Any], stretch: Stretch) -> None:
        fetch(self, stretch)
        sleep(0.05)

    fetch = Reader._fetch
    monkeypatch.setattr(Reader, "_fetch", fetch_and_linger)
    settings.SYNC_FETCHERS = 1
    sandbox.store.add([row("c1", start=NOW - 8 * DAY)])
    assert sync_connection(connection, NOW - 9 * DAY, NOW).is_complete
    assert Observation.objects.count() == 1
    assert not SyncWindow.objects.exclude(state=SyncWindow.State.DONE).exists()


def test_what_has_come_is_stored_while_nothing_waits(
    connection: LangfuseConnection, sandbox: RunningSandbox, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.SYNC_FETCHERS, settings.SYNC_BATCH_OBSERVATIONS = 1, 10 * walk.SMALLEST_PART
    sandbox.store.add([row(f"c{day}-{number}", f"t{day}-{number}", NOW - (day + 0.5) * DAY) for day in range(8) for number in range(10)])
    stored, stored_by_page = [0], []

    def come_slowly(self: Walk, page: Page, is_known: object) -> StepPage:
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
