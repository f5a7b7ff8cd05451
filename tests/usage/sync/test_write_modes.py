"""A self-hosted Langfuse 4 in each of its write modes, with what today's and older SDKs send."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.conftest import SECRET_KEY, People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.books import verify_books
from usage.models import LangfuseConnection, SyncWindow, Trace
from usage.sync import windows
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection
from usage.sync.status import sync_status

pytestmark = pytest.mark.django_db


def old_sdk_sends(sandbox: RunningSandbox, people: People, trace_id: str) -> httpx.Response:
    """A trace with a call, as an SDK of version 2 sends it."""
    start = datetime.now(UTC) - timedelta(hours=1)
    batch = [
        {
            "id": "e1",
            "type": "trace-create",
            "body": {
                "id": trace_id,
                "name": "chat",
                "userId": str(people.acme_user.pk),
                "metadata": {"tenant_id": str(people.acme.pk)},
                "timestamp": start.isoformat(),
            },
        },
        {
            "id": "e2",
            "type": "generation-create",
            "body": {
                "id": f"{trace_id}-call",
                "traceId": trace_id,
                "startTime": start.isoformat(),
                "model": "some-model",
                "usage": {"input": 10, "output": 5, "unit": "TOKENS"},
            },
        },
        {
            "id": "e3",
            "type": "generation-update",
            "body": {
                "id": f"{trace_id}-call",
                "traceId": trace_id,
                "endTime": (start + timedelta(seconds=1)).isoformat(),
                "costDetails": {"input": 0.02, "output": 0.04},
            },
        },
        {"id": "e4", "type": "score-create", "body": {"traceId": trace_id, "value": 1}},
    ]
    return httpx.post(
        f"{sandbox.url}/api/public/ingestion",
        json={"batch": batch},
        auth=(sandbox.sandbox.public_key, SECRET_KEY),
    )


def synced(connection: LangfuseConnection) -> None:
    result = sync_connection(connection, MOMENT - timedelta(hours=3))
    assert result.error == ""
    assert verify_books() == []


def test_events_only_refuses_older_sdks_and_the_connection_says_so(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    answer = old_sdk_sends(sandbox, people, "old")
    assert answer.status_code == 207
    assert [one["status"] for one in answer.json()["successes"]] == [201]
    refused = answer.json()["errors"]
    assert [(one["id"], one["status"]) for one in refused] == [
        ("e1", 400),
        ("e2", 400),
        ("e3", 400),
    ]
    assert "events_only" in refused[0]["error"]
    sandbox.store.add([owned(people), call("c1", 0.06)])
    synced(connection)
    assert (connection.api, connection.write_mode) == ("v2", "events_only")
    assert "older SDKs" in connection.notice
    assert list(Trace.objects.values_list("langfuse_trace_id", flat=True)) == ["t1"]


def test_of_langfuse_cloud_there_is_nothing_to_say(connection: LangfuseConnection) -> None:
    connection.plan = "pro"
    synced(connection)
    assert (connection.write_mode, connection.notice) == ("events_only", "")


def test_legacy_answers_v2_without_the_data_and_is_read_by_v1(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.sandbox.write_mode = "legacy"
    assert old_sdk_sends(sandbox, people, "old").json()["errors"] == []
    sandbox.store.add([owned(people), call("c1", 0.06)])
    auth = (sandbox.sandbox.public_key, SECRET_KEY)
    v2 = httpx.get(f"{sandbox.url}/api/public/v2/observations", auth=auth)
    assert (v2.status_code, v2.json()) == (200, {"data": [], "meta": {}})
    metrics = httpx.get(f"{sandbox.url}/api/public/v2/metrics", auth=auth)
    assert metrics.status_code == 404
    synced(connection)
    assert (connection.api, connection.write_mode) == ("v1", "legacy")
    assert "read by v1" in connection.notice
    costs = dict(Trace.objects.values_list("langfuse_trace_id", "cost_usd"))
    assert costs == {"t1": Decimal("0.06"), "old": Decimal("0.06")}
    assert set(Trace.objects.values_list("user", flat=True)) == {people.acme_user.pk}
    assert reconcile_connection(connection).error == ""


def test_dual_shows_what_older_sdks_send_later_and_is_waited_for(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.sandbox.write_mode = "dual"
    sandbox.store.add([owned(people), call("c1", 0.06)])
    old_sdk_sends(sandbox, people, "old")
    synced(connection)
    assert (connection.api, connection.write_mode) == ("v2", "dual")
    assert "batch job" in connection.notice
    assert Trace.objects.count() == 1, "it is not there yet"
    just_over = SyncWindow.objects.filter(end__lte=timezone.now()).latest("start")
    assert just_over.complete_through <= timezone.now() - windows.SETTLING_OF_DUAL, (
        "so its hour is not complete yet"
    )
    sandbox.store.move_pending((timezone.now() + timedelta(minutes=11)).timestamp())
    assert sync_connection(connection).error == "", "the next one, as ever"
    assert dict(Trace.objects.values_list("langfuse_trace_id", "cost_usd"))["old"] == Decimal(
        "0.06"
    )


@pytest.mark.parametrize(("first", "then"), [("events_only", "legacy"), ("legacy", "events_only")])
def test_another_mode_is_noticed(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    first: str,
    then: str,
) -> None:
    sandbox.sandbox.write_mode = first
    sandbox.store.add([owned(people), call("c1", 0.06)])
    synced(connection)
    sandbox.sandbox.write_mode = then
    assert reconcile_connection(connection).error == ""
    assert connection.write_mode == then
    assert Trace.objects.get().deleted_observations == 0, "nothing seems to be gone"


@pytest.fixture
def root(people: People) -> Iterator[Client]:
    client = Client()
    client.force_login(people.platform_admin)
    return client


@pytest.mark.parametrize("mode", ["events_only", "dual", "legacy"])
def test_it_is_on_the_connections_page_and_in_the_status(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    root: Client,
    mode: str,
) -> None:
    sandbox.sandbox.write_mode = mode
    synced(connection)
    page = root.get(reverse("admin:usage_langfuseconnection_change", args=[connection.pk]))
    assert connection.get_write_mode_display() in page.content.decode()
    assert connection.notice.split(":")[0][:60] in page.content.decode()
    (status,) = sync_status(timezone.now())
    assert (status.write_mode, status.notice) == (mode, connection.notice)


def test_the_sandbox_command_takes_the_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, command: Callable[..., str]
) -> None:
    from usage.management.commands import langfuse_sandbox

    made: list[Any] = []

    class Server:
        port = 1

        def serve_forever(self) -> None:
            return None

    monkeypatch.setattr(
        langfuse_sandbox,
        "make_sandbox_server",
        lambda sandbox, port: made.append(sandbox) or Server(),
    )
    monkeypatch.setattr(langfuse_sandbox.signal, "signal", lambda *_: None)
    command("langfuse_sandbox", "--write-mode", "dual", "--database", str(tmp_path / "s.sqlite3"))
    assert made[0].write_mode == "dual"
