"""A run of an old hour that is given to another owner, with equal totals, is found; and what
Langfuse says of each tenant's days is kept beside what we have.
"""

import json
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from credits.models import Account
from kluisz_analytics.tenants.models import Tenant, User
from tests.conftest import People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.books import verify_books
from usage.langfuse import client as client_module
from usage.langfuse.budget import LIMITS_OF_PLAN, Kind
from usage.langfuse.client import LangfuseClientService
from usage.models import LangfuseConnection, SyncDrift, TenantDay, Trace
from usage.sync import tenant_days
from usage.sync.reconcile import reconcile_connection
from usage.sync.result import SyncResult
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
OLD = MOMENT.replace(hour=9) - timedelta(days=50)
Owner = Callable[[People], tuple[Tenant | None, User | None]]


def run_of(
    people: People, trace_id: str, tenant: Tenant | None, user: User | None, **fields: Any
) -> list[dict[str, Any]]:
    """A run whose root names its owner; the call says nothing."""
    metadata = {"tenant_id": str(tenant.pk)} if tenant else {}
    root = owned(
        people,
        trace_id=trace_id,
        metadata=metadata,
        userId=str(user.pk) if user else "",
        **fields,
    )
    return [root, {**call("c1", 0.06, trace_id=trace_id, **fields), "totalCost": 0.06}]


def replace(sandbox: RunningSandbox, rows: list[dict[str, Any]]) -> None:
    """Sent again, and merged since: only the new versions are left."""
    sandbox.store.delete_trace(rows[0]["traceId"])
    sandbox.store.add(rows)


def reconciled(connection: LangfuseConnection) -> SyncResult:
    result = reconcile_connection(connection)
    assert result.error == ""
    assert verify_books() == []
    return result


@pytest.fixture
def known(connection: LangfuseConnection, sandbox: RunningSandbox, people: People) -> None:
    """Two old runs, of Ann and of nobody, on a day on which all others used something, too; and
    two reconciliations.
    """
    owners = [
        ("of-ann", people.acme, people.acme_user),
        ("of-nobody", None, None),
        ("other-1", people.acme, people.acme_user),
        ("other-2", people.acme, people.acme_colleague),
        ("other-3", people.globex, people.globex_user),
    ]
    for number, (trace_id, tenant, user) in enumerate(owners):
        start = OLD + timedelta(hours=number)
        sandbox.store.add(run_of(people, trace_id, tenant, user, start=start))
    assert sync_connection(connection).error == ""
    reconciled(connection)
    assert (reconciled(connection).windows_drifted, SyncDrift.objects.count()) == (0, 0)


@pytest.mark.parametrize(
    ("trace_id", "hours", "owner"),
    [
        ("of-ann", 0, lambda people: (people.globex, people.globex_user)),
        ("of-ann", 0, lambda people: (people.acme, people.acme_colleague)),
        ("of-ann", 0, lambda people: (None, None)),
        ("of-nobody", 1, lambda people: (people.acme, people.acme_user)),
        ("of-nobody", 1, lambda people: (None, people.acme_user)),
    ],
    ids=["another tenant's", "a colleague's", "nobody's", "somebody's", "a user's alone"],
)
def test_another_owner_in_an_old_hour_with_equal_totals_is_found(
    known: None,
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    trace_id: str,
    hours: int,
    owner: Owner,
) -> None:
    tenant, user = owner(people)
    start = OLD + timedelta(hours=hours)
    replace(sandbox, run_of(people, trace_id, tenant, user, start=start, received=10**5))
    result = reconciled(connection)
    assert result.windows_drifted > 0
    assert result.observations_stored == 2
    trace = Trace.objects.get(langfuse_trace_id=trace_id)
    assert trace.user_reference == (str(user.pk) if user else "")
    assert trace.tenant_reference == (str(tenant.pk) if tenant else "")
    assert SyncDrift.objects.filter(period="day", observations_stored=2).exists()
    assert reconciled(connection).windows_drifted == 0, "it is known by now"


def test_what_it_burned_is_the_new_owners(
    known: None, connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    before = Account.objects.get(user=people.acme_user).used
    moved = run_of(people, "of-ann", people.acme, people.acme_colleague, start=OLD, received=10**5)
    replace(sandbox, moved)
    reconciled(connection)
    assert Account.objects.get(user=people.acme_user).used == before - Decimal("11.4")
    assert Account.objects.get(user=people.acme_colleague).used == 2 * Decimal("11.4")


def test_langfuses_figures_are_kept_beside_ours(
    known: None, connection: LangfuseConnection, people: People
) -> None:
    rows = TenantDay.objects.filter(connection=connection, day=OLD.date())
    kept = {
        row.tenant.slug if row.tenant else None: (
            (row.langfuse_count, row.observations),
            (round(row.langfuse_cost_usd, 9), row.cost_usd),
            (row.langfuse_users, row.users),
        )
        for row in rows.select_related("tenant")
    }
    # Only the roots name the tenant, so only those are its for Langfuse, and they cost nothing.
    assert kept == {
        None: ((10, 10), (0.3, Decimal("0.30")), (3, 3)),
        "acme": ((3, 6), (0, Decimal("0.18")), (2, 2)),
        "globex": ((1, 2), (0, Decimal("0.06")), (1, 1)),
    }


def test_the_command_prints_them(
    known: None, connection: LangfuseConnection, command: Callable[..., str]
) -> None:
    printed = command("reconcile_usage", "--connection", connection.name)
    assert f"{OLD.date()} acme" in printed
    (run,) = json.loads(command("reconcile_usage", "--json", "--connection", connection.name))[
        "runs"
    ]
    of_all = next(
        one
        for one in run["tenant_days"]
        if (one["day"], one["tenant"]) == (OLD.date().isoformat(), None)
    )
    assert (of_all["langfuse_observations"], of_all["observations"]) == (10, 10)
    assert (of_all["langfuse_users"], of_all["users"]) == (3, 3)


def test_with_more_users_than_a_request_can_name_its_time_is_halved(
    known: None,
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for day in range(4):
        start = OLD + timedelta(days=day + 1)
        for user in (people.acme_user, people.acme_colleague, people.globex_user):
            trace_id = f"d{day}-{user.username}"
            sandbox.store.add(run_of(people, trace_id, user.tenant, user, start=start))
    monkeypatch.setattr(client_module, "MOST_FIGURES", 5)
    monkeypatch.setattr(tenant_days, "MOST_FIGURES", 5)
    days = [OLD.date() + timedelta(days=number) for number in range(5)]
    with LangfuseClientService(sandbox.url, connection.public_key, connection.secret_key) as client:
        found = tenant_days.fetch(connection, client, days)
    assert {day: found.figures.users for day, found in found[None].items()} == dict.fromkeys(
        days, 3
    )
    assert all(day.users_digest for day in found[None].values())
    monkeypatch.setattr(client_module, "MOST_FIGURES", 3)
    monkeypatch.setattr(tenant_days, "MOST_FIGURES", 3)
    with LangfuseClientService(sandbox.url, connection.public_key, connection.secret_key) as client:
        counted = tenant_days.fetch(connection, client, days)
    assert {day: found.figures.users for day, found in counted[None].items()} == dict.fromkeys(
        days, 3
    )
    assert not any(day.users_digest for day in counted[None].values()), "too many to ask for each"


def test_it_keeps_within_the_plans_budget_and_asks_for_the_others_next_time(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The other limits of this plan would be waited for, for minutes.
    of_metrics = {Kind.METRICS: LIMITS_OF_PLAN["hobby"][Kind.METRICS]}
    monkeypatch.setitem(LIMITS_OF_PLAN, "hobby", of_metrics)
    # A name of its own: in Redis a budget outlives the test.
    connection.plan, connection.organization = "hobby", str(uuid4())
    connection.save()
    Tenant.objects.bulk_create(
        Tenant(name=f"Tenant {number}", slug=f"t{number}") for number in range(120)
    )
    asked: list[int] = []
    for _ in range(3):
        reconciled(connection)
        with_limit = LIMITS_OF_PLAN["hobby"][Kind.METRICS].requests
        compared = set(
            tenant_days.TenantComparison.objects.exclude(tenant=None).values_list(
                "tenant", flat=True
            )
        )
        asked.append(len(compared))
        assert len(compared) < with_limit
    assert 40 < asked[0] < asked[1] < asked[2]
