"""Fixtures that every test may use: a directory of people and tiers, and a running sandbox."""

import gc
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connection as database
from django.test import TransactionTestCase
from hypothesis import HealthCheck
from hypothesis import settings as examples
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

from kluisz_analytics.tenants.models import Flow, Project, Tenant, User
from pricing.models import PricingTier, TierAssignment, TierRate
from usage.langfuse.sandbox.server import Sandbox, make_sandbox_server
from usage.langfuse.sandbox.store import SandboxStore
from usage.langfuse.tracing_client import TracingClient
from usage.models import LangfuseConnection

pytest_plugins = ["tests.pure"]

# How long an example takes, and how large a random one turns out, says something of the machine and
# of chance, and nothing of the product; and what fails can be run again by what is printed.
examples.register_profile(
    "suite",
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)
examples.load_profile("suite")

ORDERS = 40 if database.vendor == "sqlite" else 20
"""How many random orders of events a test tries: what they are decided by is the same code on both
databases, and PostgreSQL takes longer for each.
"""

RECORDED = Path(__file__).parent / "fixtures" / "langfuse"
PUBLIC_KEY, SECRET_KEY = "pk-lf-test", "sk-lf-test"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)


def pytest_configure() -> None:
    """Tests make thousands of users; a slow password hash would be most of their time."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is loaded by now stays to the end, and needn't be looked through for garbage over and
    over.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def recorded(name: str) -> dict[str, Any]:
    """A real answer of Langfuse 4.16.0: request, status, headers, body."""
    return json.loads((RECORDED / f"{name}.json").read_text())


@pytest.fixture(autouse=True, scope="session")
def _static_files_are_looked_up_once() -> None:
    """Each test client makes the middlewares anew, and WhiteNoise would go through all static files
    for each: that would be most of the time of a short request.
    """
    look_up = WhiteNoiseMiddleware.add_files_from_finders
    found: dict[str, StaticFile] = {}

    def known(self: WhiteNoiseMiddleware) -> None:
        if not found:
            look_up(self)
            found.update(self.files)
        self.files.update(found)

    WhiteNoiseMiddleware.add_files_from_finders = known


@pytest.fixture(autouse=True, scope="session")
def _flush_may_empty_the_ledger() -> None:
    """Between transactional tests the database is emptied with DELETE on SQLite, which the ledger's
    trigger refuses.
    """
    empty = TransactionTestCase._fixture_teardown

    def without_triggers(self: TransactionTestCase) -> None:
        if database.vendor != "sqlite":
            empty(self)
            return
        with database.cursor() as cursor:
            cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
            triggers = cursor.fetchall()
            for name, _ in triggers:
                cursor.execute(f"DROP TRIGGER {name}")
        empty(self)
        with database.cursor() as cursor:
            for _, sql in triggers:
                cursor.execute(sql)

    TransactionTestCase._fixture_teardown = without_triggers  # type: ignore[method-assign]


@dataclass
class People:
    """Two tenants with an admin and a user each, a platform admin and a service account."""

    acme: Tenant
    globex: Tenant
    platform_admin: User
    acme_admin: User
    acme_user: User
    acme_colleague: User
    globex_admin: User
    globex_user: User
    service: User
    project: Project
    flow: Flow


def made_tiers() -> dict[str, PricingTier]:
    """The tiers of domain.md's examples."""
    made = {}
    for name, per_usd, multiplier, credits in (
        ("Starter", "100", "1.00", "1000"),
        ("Professional", "200", "0.95", "10000"),
        ("Enterprise", "500", "0.90", "100000"),
    ):
        tier = PricingTier.objects.create(
            name=name, default_credits=Decimal(credits), default_credits_per_month=Decimal(credits)
        )
        TierRate.objects.create(
            tier=tier,
            valid_from=LONG_AGO,
            credits_per_usd=Decimal(per_usd),
            pricing_multiplier=Decimal(multiplier),
        )
        made[name] = tier
    return made


@pytest.fixture
def tiers(db: None) -> dict[str, PricingTier]:
    return made_tiers()


@pytest.fixture
def people(tiers: dict[str, PricingTier]) -> People:
    return made_people(tiers)


def made_people(tiers: dict[str, PricingTier]) -> People:
    """Two tenants with all sorts of users."""
    acme = Tenant.objects.create(name="Acme", slug="acme", timezone="Europe/Amsterdam")
    globex = Tenant.objects.create(name="Globex", slug="globex", timezone="Asia/Kolkata")

    def user(username: str, tenant: Tenant, **extra: Any) -> User:
        return User.objects.create_user(username, password="right", tenant=tenant, **extra)

    project = Project.objects.create(name="Care", tenant=acme)
    made = People(
        acme=acme,
        globex=globex,
        platform_admin=User.objects.create_superuser("root", password="right"),
        acme_admin=user("acme-admin", acme, is_tenant_admin=True),
        acme_user=user("ann", acme),
        acme_colleague=user("bob", acme),
        globex_admin=user("globex-admin", globex, is_tenant_admin=True),
        globex_user=user("gus", globex),
        service=user("engine", acme, is_service_account=True),
        project=project,
        flow=Flow.objects.create(name="Triage", project=project),
    )
    for one in (made.acme_admin, made.acme_user, made.acme_colleague, made.globex_user):
        TierAssignment.objects.create(user=one, tier=tiers["Professional"], valid_from=LONG_AGO)
    return made


@dataclass
class RunningSandbox:
    """A sandbox that answers on this machine while the test runs."""

    url: str
    store: SandboxStore
    sandbox: Sandbox


@pytest.fixture
def sandbox() -> Iterator[RunningSandbox]:
    store = SandboxStore()
    application = Sandbox(store, PUBLIC_KEY, SECRET_KEY)
    server = make_sandbox_server(application, 0)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield RunningSandbox(f"http://127.0.0.1:{server.port}", store, application)
    server.shutdown()
    thread.join()
    server.server_close()
    store.close()


_clients: list[TracingClient] = []


@pytest.fixture
def tracing(sandbox: RunningSandbox) -> Iterator[TracingClient]:
    """The real SDK, sending to the sandbox.

    The SDK keeps one client a public key and process, so each test has its own key.
    """
    public_key = f"{PUBLIC_KEY}-{len(_clients)}"
    sandbox.sandbox.public_key = public_key
    client = TracingClient(sandbox.url, public_key, SECRET_KEY)
    _clients.append(client)
    yield client
    client.provider.shutdown()


@pytest.fixture
def connection(db: None, sandbox: RunningSandbox) -> LangfuseConnection:
    """The sandbox as a connection to sync."""
    row = LangfuseConnection(name="test", host=sandbox.url, public_key=sandbox.sandbox.public_key)
    row.secret_key = SECRET_KEY
    row.save()
    return row


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a management command and returns what it printed."""

    def run(*args: str) -> str:
        capsys.readouterr()
        call_command(*args)
        return capsys.readouterr().out

    return run
