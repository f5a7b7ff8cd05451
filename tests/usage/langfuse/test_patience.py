"""A server that is restarted is waited for; one that hangs is told of soon, and while it does."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project
from django.utils import timezone

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox
from tests.usage.langfuse.test_client import client_of
from usage.langfuse import http
from usage.langfuse.budget import RequestBudget
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import ServerTrouble, Unreachable
from usage.langfuse.http import Patience
from usage.models import LangfuseConnection, SyncRun
from usage.sync.runner import SignOfLife, sync_connection
from usage.sync.status import sync_status

pytestmark = pytest.mark.both_databases
SCALED = Patience(away=30, read=0.2, request=0.6, silent=1.5)
"""A hundred times faster, but for a process that has to start."""


def server_process(port: int, database: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "manage.py", "langfuse_sandbox", "--port", str(port)),
            *("--database", str(database)),
        ],
        cwd=project.BASE_DIR,
        stdout=subprocess.PIPE,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_server_that_goes_away_and_comes_back_is_waited_for(tmp_path: Path) -> None:
    port, told = free_port(), list[str]()
    client = LangfuseClientService(
        f"http://127.0.0.1:{port}",
        project.SANDBOX_PUBLIC_KEY,
        project.SANDBOX_SECRET_KEY,
        patience=Patience(away=60),
    )
    client.report_trouble_to(told.append)
    with client:
        for _ in range(2):
            # Asked while there is nobody yet, as in the middle of a restart.
            process = server_process(port, tmp_path / "s.sqlite3")
            try:
                assert client.project().id == "sandbox"
            finally:
                process.terminate()
                process.wait()
            assert "NewConnectionError" in told[0]
            assert told[-1] == "", "it answers again"
            told.clear()


@pytest.fixture
def hanging() -> Iterator[tuple[str, list[str]]]:
    """A server that takes requests and says nothing, or only a byte now and then."""
    over, asked = threading.Event(), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            if "trickle" in self.path:
                self.send_response(200)
                self.send_header("Content-Length", "1000000")
                self.end_headers()
                with suppress(OSError):
                    while not over.wait(0.05):
                        self.wfile.write(b" ")
            over.wait()
            self.close_connection = True

        def log_message(self, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    over.set()
    server.shutdown()
    server.server_close()


def seconds(began: float) -> float:
    return time.monotonic() - began


def test_a_server_that_hangs_is_given_up_after_the_read_time_out(
    hanging: tuple[str, list[str]],
) -> None:
    host, asked = hanging
    began = time.monotonic()
    with (
        LangfuseClientService(
            host, PUBLIC_KEY, SECRET_KEY, patience=replace(SCALED, silent=60)
        ) as client,
        pytest.raises(ServerTrouble, match="nothing of it for"),
    ):
        client.health()
    assert len(asked) == http.ATTEMPTS_AT_A_TIME_OUT
    assert seconds(began) < 20


def test_a_body_that_trickles_is_given_up_at_the_requests_deadline(
    hanging: tuple[str, list[str]],
) -> None:
    host, asked = hanging
    began = time.monotonic()
    patience = replace(SCALED, silent=60)
    langfuse = http.LangfuseHttp(host, "pk", "sk", RequestBudget("trickle"), patience=patience)
    with pytest.raises(ServerTrouble, match="No whole answer"):
        langfuse.get("/trickle")
    langfuse.close()
    assert len(asked) == http.ATTEMPTS_AT_A_TIME_OUT
    assert 2 * SCALED.request <= seconds(began) < 20


@pytest.mark.django_db
def test_a_sync_of_a_server_that_hangs_ends_soon_however_often_its_time_is_halved(
    hanging: tuple[str, list[str]],
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The project is known and all else hangs: ninety days could be halved seventeen times."""
    monkeypatch.setattr(http, "PATIENCE", SCALED)
    host, asked = hanging
    LangfuseConnection.objects.filter(pk=connection.pk).update(api="v2", write_mode="events_only")
    connection.refresh_from_db()
    known = LangfuseClientService.project
    monkeypatch.setattr(
        LangfuseClientService,
        "project",
        lambda self: known(LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY)),
    )
    connection.host = host
    began = time.monotonic()
    result = sync_connection(connection)
    assert "no whole answer for" in result.error
    assert seconds(began) < 40
    assert asked


@pytest.mark.django_db
def test_its_trouble_is_on_the_running_run_and_the_connection_while_it_goes_on(
    hanging: tuple[str, list[str]],
    connection: LangfuseConnection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "PATIENCE", SCALED)
    connection.host, _ = hanging
    seen = []

    def waiting(self: http.LangfuseHttp, waits: float) -> None:
        seen.append((SyncRun.objects.get(), sync_status(timezone.now())[0]))

    monkeypatch.setattr(http.LangfuseHttp, "_sleep", waiting)
    assert "No whole answer" in sync_connection(connection).error
    run, status = seen[0]
    assert (run.outcome, status.last_run_outcome) == ("running", "running")
    assert "trying again" in run.error
    assert status.last_error == run.error


@pytest.mark.django_db
def test_trouble_of_a_fetcher_is_written_with_the_next_sign_of_life(
    connection: LangfuseConnection,
) -> None:
    run = SyncRun.objects.create(connection=connection, started_at=timezone.now())
    life = SignOfLife(run)
    fetcher = threading.Thread(target=life.trouble, args=["answered 502"])
    fetcher.start()
    fetcher.join()
    run.refresh_from_db()
    assert run.error == "", "a fetcher must not touch the database"
    life()
    run.refresh_from_db()
    assert run.error == "answered 502"
    life.trouble("")
    run.refresh_from_db()
    assert run.error == "", "it answers again"


@pytest.mark.parametrize("status", [502, 503])
def test_what_stands_before_a_server_that_is_away_is_asked_more_often_than_a_server_in_trouble(
    serve: Any, status: int
) -> None:
    away = [(status, {}, b"")] * 12
    waits: list[float] = []
    host = serve([*away, (200, {}, b'{"status": "OK", "version": "4.16.0"}')])
    with client_of(host, waits=waits) as client:
        assert client.health().status == "OK"
    assert len(waits) == 12


def test_one_that_stays_away_is_told_of(serve: Any) -> None:
    waits: list[float] = []
    with (
        client_of(serve([(502, {}, b"")]), waits=waits) as client,
        pytest.raises(ServerTrouble, match="answered 502"),
    ):
        client.health()
    assert 120 <= sum(waits) <= 130


def test_one_that_refuses_connections_is_told_of() -> None:
    waits: list[float] = []
    with (
        client_of("http://127.0.0.1:9", waits=waits) as client,
        pytest.raises(Unreachable, match="Check the host's address"),
    ):
        client.health()
    assert 120 <= sum(waits) <= 130
