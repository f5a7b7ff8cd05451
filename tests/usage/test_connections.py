"""Which Langfuse is read: the environment's, else the embedded sandbox."""

import os
import subprocess
import sys
from datetime import timedelta
from threading import Thread, current_thread, main_thread
from typing import Any

import pytest
from django.conf import settings as project
from django.core.cache import cache
from django.db import IntegrityError
from django.db import connection as database
from pytest_django import Settings

from tests.conftest import NOON
from usage import connections
from usage.connections import configured_connection, enabled_connections
from usage.langfuse.errors import Unreachable
from usage.langfuse.http import IMPATIENT
from usage.models import LangfuseConnection

pytestmark = pytest.mark.django_db
SHOW = (
    "from django.conf import settings as s; print(s.LANGFUSE_HOST, s.LANGFUSE_PUBLIC_KEY,"
    " s.LANGFUSE_SECRET_KEY, s.USES_SANDBOX)"
)


def settings_with(**environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if "LANGFUSE" not in key}
    return subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        cwd=project.BASE_DIR,
        check=False,
    )


@pytest.mark.parametrize(
    ("environment", "shown"),
    [
        ({}, "https://cloud.langfuse.com   True"),
        (
            {"KLUISZ_LANGFUSE_PUBLIC_KEY": "pk", "KLUISZ_LANGFUSE_SECRET_KEY": "sk"},
            "https://cloud.langfuse.com pk sk False",
        ),
        (
            {
                "LANGFUSE_PUBLIC_KEY": "pk",
                "LANGFUSE_SECRET_KEY": "sk",
                "LANGFUSE_BASE_URL": "http://h",
            },
            "http://h pk sk False",
        ),
        (
            {
                "KLUISZ_LANGFUSE_PUBLIC_KEY": "pk",
                "LANGFUSE_PUBLIC_KEY": "no",
                "LANGFUSE_SECRET_KEY": "sk",
                "KLUISZ_LANGFUSE_HOST": "http://k",
            },
            "http://k pk sk False",
        ),
    ],
)
def test_settings_come_from_the_environment_with_or_without_the_prefix(
    environment: dict[str, str], shown: str
) -> None:
    assert settings_with(**environment).stdout.strip() == shown


def test_one_key_alone_is_refused_in_words() -> None:
    refused = settings_with(KLUISZ_LANGFUSE_PUBLIC_KEY="pk")
    assert refused.returncode == 1
    assert "set KLUISZ_LANGFUSE_SECRET_KEY too" in refused.stderr


def test_without_keys_it_is_the_sandbox_and_with_them_the_environments(settings: Settings) -> None:
    settings.USES_SANDBOX = True
    assert configured_connection().source == "sandbox"
    settings.USES_SANDBOX = False
    settings.LANGFUSE_HOST, settings.LANGFUSE_PUBLIC_KEY, settings.LANGFUSE_SECRET_KEY = (
        "http://h",
        "pk",
        "sk",
    )
    first = configured_connection()
    assert (first.source, first.host, first.secret_key) == ("environment", "http://h", "sk")
    settings.LANGFUSE_SECRET_KEY = "sk-new"
    assert configured_connection().pk == first.pk
    assert LangfuseConnection.objects.get(pk=first.pk).secret_key == "sk-new"
    assert [one.source for one in enabled_connections()] == ["environment"], (
        "the sandbox is no longer read"
    )
    settings.USES_SANDBOX = True
    assert [one.source for one in enabled_connections()] == ["sandbox"]


def test_a_new_secret_key_does_not_lock_out_the_environments_connection(settings: Settings) -> None:
    settings.USES_SANDBOX, settings.ENCRYPTION_KEYS = True, ["old"]
    configured_connection()
    settings.ENCRYPTION_KEYS = ["new, and the old one is lost"]
    assert configured_connection().secret_key == settings.SANDBOX_SECRET_KEY


def test_keys_can_be_rotated(settings: Settings) -> None:
    settings.ENCRYPTION_KEYS = ["old"]
    row = LangfuseConnection(name="x", host="http://h", public_key="pk")
    row.secret_key = "sk-lf-1"
    assert "sk-lf-1" not in row.encrypted_secret_key
    settings.ENCRYPTION_KEYS = ["new", "old"]
    assert row.secret_key == "sk-lf-1"
    settings.ENCRYPTION_KEYS = ["new"]
    with pytest.raises(Exception, match="KLUISZ_ENCRYPTION_KEYS"):
        _ = row.secret_key


def test_there_is_one_connection_of_the_environment(settings: Settings) -> None:
    """A second row of the same keys would be refused at each sync, for ever: their project has a
    connection already.
    """
    use_environment(settings)
    configured_connection()
    with pytest.raises(IntegrityError):
        LangfuseConnection.objects.create(name="another", source="environment", host="http://h")


@pytest.mark.skipif(
    database.vendor != "postgresql", reason="two processes write at once: PostgreSQL only"
)
@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_workers_that_start_at_once_enter_the_environments_connection_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_environment(settings)
    row_of, faster = connections._row_of, list[LangfuseConnection]()

    def another_worker() -> None:
        try:
            faster.append(configured_connection())
        finally:
            database.close()

    def while_another_worker_enters_it(*arguments: Any) -> LangfuseConnection | None:
        found = row_of(*arguments)
        if current_thread() is main_thread() and not faster:
            thread = Thread(target=another_worker)
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(connections, "_row_of", while_another_worker_enters_it)
    slower = configured_connection()
    assert slower.pk == faster[0].pk
    assert [one.name for one in enabled_connections()] == ["environment"]


def use_environment(settings: Settings) -> None:
    settings.USES_SANDBOX = False
    settings.LANGFUSE_HOST, settings.LANGFUSE_PUBLIC_KEY, settings.LANGFUSE_SECRET_KEY = (
        "http://h",
        "pk",
        "sk",
    )


def test_connections_of_one_organization_share_its_limits() -> None:
    """Whichever asks; another organization has its own, and so has a connection of none."""
    cache.clear()
    made = []
    for number, organization in enumerate(["one", "one", "two", "", ""]):
        row = LangfuseConnection(
            name=f"c{number}", host="http://127.0.0.1:9", plan="hobby", organization=organization
        )
        row.secret_key = "sk"
        row.save()
        made.append(connections.client_for(row, IMPATIENT))
    first, second, *others = made
    before = second.metrics_left()
    assert before == 99, "of a hundred the last is refused"
    with pytest.raises(Unreachable):
        first.figures(NOON, NOON + timedelta(days=1), "day")
    left = [one.metrics_left() for one in made]
    assert left[0] == left[1] < before
    assert [one.metrics_left() for one in others] == [before] * 3


@pytest.mark.parametrize(("plan", "found"), [("hobby", "sandbox"), ("self_hosted", "")])
def test_where_there_are_limits_the_organization_is_asked_for(
    connection: LangfuseConnection, plan: str, found: str
) -> None:
    connection.plan = plan
    connection.save()
    with connections.client_for(connection) as client:
        connections.claim_project(connection, client)
    connection.refresh_from_db()
    assert connection.organization == found
    LangfuseConnection.objects.update(organization="entered by hand")
    connection.refresh_from_db()
    with connections.client_for(connection) as client:
        connections.claim_project(connection, client)
    assert connection.organization == "entered by hand"
