"""A Langfuse project is read by one connection, and a connection reads one project."""

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.test import Client
from pytest_django import Settings

from credits.models import Account
from tests.conftest import PUBLIC_KEY, SECRET_KEY, People, RunningSandbox
from tests.usage.stored import deleted_steps
from tests.usage.sync.test_sync import MOMENT, call, owned, state
from usage.books import verify_books
from usage.connections import configured_connection, enabled_connections
from usage.langfuse.sandbox.server import Sandbox, make_sandbox_server
from usage.langfuse.sandbox.store import SandboxStore
from usage.models import LangfuseConnection, SyncRun, SyncWindow, Trace
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
ADD = "/admin/usage/langfuseconnection/add/"


def entered(name: str, url: str, **fields: Any) -> LangfuseConnection:
    row = LangfuseConnection(name=name, host=url, public_key=PUBLIC_KEY, **fields)
    row.secret_key = SECRET_KEY
    row.save()
    return row


def sync(connection: LangfuseConnection) -> str:
    error = sync_connection(connection, MOMENT - timedelta(hours=3)).error
    assert verify_books() == []
    return error


@pytest.fixture
def read(connection: LangfuseConnection, sandbox: RunningSandbox, people: People) -> None:
    """A run of $0.06, read by the connection “test”."""
    sandbox.store.add([owned(people), call("c1", 0.06)])
    assert sync(connection) == ""


@pytest.fixture
def other_project(people: People) -> Iterator[RunningSandbox]:
    """Another server, with another project, for which the same keys are good."""
    store = SandboxStore()
    store.add([owned(people, trace_id="elsewhere")])
    application = Sandbox(store, PUBLIC_KEY, SECRET_KEY, project_id="elsewhere")
    server = make_sandbox_server(application, 0)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield RunningSandbox(f"http://127.0.0.1:{server.port}", store, application)
    server.shutdown()
    thread.join()
    server.server_close()
    store.close()


@pytest.mark.usefixtures("read")
def test_the_first_sync_finds_out_which_project_it_is(connection: LangfuseConnection) -> None:
    connection.refresh_from_db()
    assert connection.project_id == "sandbox"


@pytest.mark.usefixtures("read")
@pytest.mark.parametrize("run", [sync_connection, reconcile_connection])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_second_connection_to_the_same_project_reads_nothing(
    sandbox: RunningSandbox, run: Callable[..., Any], host: str
) -> None:
    second = entered("second", sandbox.url.replace("127.0.0.1", host))
    result = run(second)
    assert "“sandbox”, which is that of the connection “test”" in result.error
    assert "billed twice" in result.error
    assert SyncRun.objects.get(connection=second).outcome == "failed"
    assert not SyncWindow.objects.filter(connection=second).exists()
    assert (Trace.objects.count(), Account.objects.get().used) == (1, Decimal("11.4"))


@pytest.mark.usefixtures("read")
@pytest.mark.parametrize("run", [sync_connection, reconcile_connection])
def test_keys_of_another_project_read_nothing_and_nothing_is_gone(
    connection: LangfuseConnection, other_project: RunningSandbox, run: Callable[..., Any]
) -> None:
    before = state()
    connection.host = other_project.url
    connection.save()
    result = run(connection, MOMENT - timedelta(hours=3))
    assert "are for the project “elsewhere”" in result.error
    assert "has read the project “sandbox”" in result.error
    assert (result.observations_read, result.observations_deleted, deleted_steps()) == (0, 0, set())
    assert state() == before


@pytest.mark.usefixtures("read")
def test_another_servers_project_of_the_same_id_is_told_apart_by_a_name(
    sandbox: RunningSandbox, other_project: RunningSandbox
) -> None:
    other_project.sandbox.project_id = "sandbox"
    assert "enter a name of that server" in sync(entered("second", other_project.url))
    assert sync(entered("third", other_project.url, server="staging")) == ""
    assert Trace.objects.count() == 2


@pytest.mark.usefixtures("read")
def test_the_database_knows_no_two_connections_of_a_project(sandbox: RunningSandbox) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        entered("second", sandbox.url, project_id="sandbox")
    assert entered("third", sandbox.url).project_id == ""
    assert entered("fourth", sandbox.url).project_id == "", "not known yet is no project"


def test_a_connection_that_was_loaded_before_its_project_was_known_knows_it(
    connection: LangfuseConnection, other_project: RunningSandbox, people: People
) -> None:
    stale = LangfuseConnection.objects.get(pk=connection.pk)
    assert sync(connection) == ""
    stale.host = other_project.url
    assert "has read the project “sandbox”" in sync(stale)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (404, {"message": "Not Found"}, "does not say which project"),
        (403, {"message": "Access denied"}, "refused the keys"),
        (200, {"data": []}, "for 0 projects"),
        (200, {"data": [{"id": "a", "name": "a"}, {"id": "b", "name": "b"}]}, "for 2 projects"),
        (200, ["hello"], "not as Langfuse does"),
    ],
)
def test_where_the_project_cannot_be_told_nothing_is_read(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    status: int,
    body: Any,
    words: str,
) -> None:
    sandbox.store.add([owned(people)])
    sandbox.sandbox.projects_answer = status, body
    assert words in sync(connection)
    assert (Trace.objects.count(), SyncWindow.objects.count()) == (0, 0)


# --- From the environment to a row, and back


@pytest.fixture
def from_environment(settings: Settings, sandbox: RunningSandbox) -> Callable[[bool], None]:
    """Puts the sandbox's keys into the environment, or takes them out of it."""

    def put(is_there: bool) -> None:
        settings.USES_SANDBOX = not is_there
        settings.LANGFUSE_HOST = sandbox.url
        settings.LANGFUSE_PUBLIC_KEY, settings.LANGFUSE_SECRET_KEY = PUBLIC_KEY, SECRET_KEY

    return put


@pytest.fixture
def admin(people: People) -> Client:
    client = Client()
    client.force_login(people.platform_admin)
    return client


def form_of(name: str, host: str, **fields: str) -> dict[str, str]:
    return {
        "name": name,
        "host": host,
        "public_key": PUBLIC_KEY,
        "new_secret_key": SECRET_KEY,
        "plan": "self_hosted",
        "is_enabled": "on",
        **fields,
    }


def test_moving_from_the_environments_keys_to_a_row_and_back_keeps_what_was_read(
    sandbox: RunningSandbox,
    people: People,
    admin: Client,
    from_environment: Callable[[bool], None],
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    from_environment(True)
    assert sync(configured_connection()) == ""
    first = Trace.objects.get()

    refused = admin.post(ADD, form_of("ours", sandbox.url))
    assert "take its keys out of the environment first" in refused.content.decode()

    from_environment(False)
    configured_connection()
    assert admin.post(ADD, form_of("ours", sandbox.url)).status_code == 302
    (row,) = LangfuseConnection.objects.filter(project_id="sandbox")
    assert (row.name, row.source, row.is_enabled) == ("ours", "row", True)
    assert sync(row) == ""
    assert Trace.objects.get().pk == first.pk

    from_environment(True)
    (enabled,) = enabled_connections()
    assert (enabled.pk, enabled.source) == (row.pk, "environment")
    assert sync(enabled) == ""
    assert (Trace.objects.get().pk, Account.objects.get().used) == (first.pk, Decimal("11.4"))


def test_the_environments_keys_of_another_project_read_nothing(
    sandbox: RunningSandbox,
    other_project: RunningSandbox,
    people: People,
    settings: Settings,
    from_environment: Callable[[bool], None],
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    from_environment(True)
    assert sync(configured_connection()) == ""
    settings.LANGFUSE_HOST = other_project.url
    for _ in range(2):
        (connection,) = enabled_connections()
        assert "The keys of KLUISZ_LANGFUSE_… are for the project “elsewhere”" in sync(connection)
    assert (Trace.objects.count(), deleted_steps()) == (1, set())


# --- In the admin


@pytest.mark.usefixtures("read")
def test_the_admin_refuses_a_second_connection_to_a_project(
    admin: Client, sandbox: RunningSandbox
) -> None:
    page = admin.post(ADD, form_of("second", sandbox.url)).content.decode()
    assert "which is that of the connection “test”" in page
    assert LangfuseConnection.objects.count() == 1


@pytest.mark.usefixtures("read")
def test_the_admin_refuses_keys_of_another_project_and_takes_new_ones_of_the_same(
    admin: Client, connection: LangfuseConnection, other_project: RunningSandbox
) -> None:
    change = f"/admin/usage/langfuseconnection/{connection.pk}/change/"
    page = admin.post(change, form_of("test", other_project.url)).content.decode()
    assert "so far this connection has read the project “sandbox”" in page
    connection.refresh_from_db()
    same = form_of("test", connection.host.replace("127.0.0.1", "localhost"))
    assert admin.post(change, same).status_code == 302
    connection.refresh_from_db()
    assert "localhost" in connection.host


def test_the_admin_saves_a_project_with_its_connection(
    admin: Client, sandbox: RunningSandbox
) -> None:
    assert admin.post(ADD, form_of("new", sandbox.url)).status_code == 302
    assert LangfuseConnection.objects.get().project_id == "sandbox"


def test_a_server_that_cannot_be_asked_is_saved_and_said_so(admin: Client) -> None:
    page = admin.post(ADD, form_of("new", "http://127.0.0.1:9"), follow=True).content.decode()
    assert "which project its keys are for isn&#x27;t known yet" in page
    assert LangfuseConnection.objects.get().project_id == ""
