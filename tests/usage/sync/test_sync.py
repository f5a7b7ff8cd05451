"""The sync, from a running server to facts, rollups, stats and ledger."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

from credits.models import Account, Transaction, UsageCharge
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier, TierAssignment
from tests.conftest import LONG_AGO, SECRET_KEY, People, RunningSandbox, recorded
from usage.books import verify_books
from usage.facts.attribution import attribute_all
from usage.models import (
    LangfuseConnection,
    NoUserUsage,
    Observation,
    PlatformUsage,
    ReceivedTrace,
    RejectedObservation,
    SourceUsage,
    SyncRun,
    SyncWindow,
    TenantUsageStats,
    Trace,
    UserUsageStats,
)
from usage.rollups.build import build_rollups
from usage.rollups.rules import BUILT
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
D = Decimal
EMPTY_ROW = recorded("observations_all_fields")["body"]["data"][1]
# Well in the past, so that no test depends on the minute in which it runs.
MOMENT = timezone.now().replace(minute=10, second=0, microsecond=0) - timedelta(hours=5)


def row(
    observation_id: str,
    trace_id: str = "t1",
    start: datetime = MOMENT,
    received: int = 0,
    **fields: Any,
) -> dict[str, Any]:
    """A row as Langfuse sends it, received so many seconds after its start."""
    updated = (start + timedelta(seconds=received)).isoformat().replace("+00:00", "Z")
    times = {
        "startTime": iso(start),
        "endTime": iso(start + timedelta(seconds=1)),
        "createdAt": updated,
        "updatedAt": updated,
    }
    return {
        **EMPTY_ROW,
        "id": observation_id,
        "traceId": trace_id,
        "metadata": {},
        "isRootObservation": False,
        **times,
        **fields,
    }


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def call(
    observation_id: str, cost: float | None, model: str = "gpt-4o", **fields: Any
) -> dict[str, Any]:
    """A model call with 15 tokens."""
    usage = {"input": 10, "output": 5, "total": 15}
    costs = {} if cost is None else {"total": cost}
    return row(
        observation_id,
        **{
            "type": "GENERATION",
            "model": model,
            "usageDetails": usage,
            "costDetails": costs,
            "totalUsage": 15,
            **fields,
        },
    )


def owned(people: People, **fields: Any) -> dict[str, Any]:
    """A root that names its owner."""
    metadata = {
        "tenant_id": str(people.acme.pk),
        "kluisz_project_id": str(people.project.pk),
        "kluisz_flow_id": str(people.flow.pk),
    }
    return row(
        "root",
        **{
            "isRootObservation": True,
            "userId": str(people.acme_user.pk),
            "metadata": metadata,
            **fields,
        },
    )


def state() -> dict[str, list[Any]]:
    """Everything that follows from the observations, row for row, once all of it is built.

    Users get their numbers as they come.
    """
    build_rollups(datetime.max.replace(tzinfo=UTC) - timedelta(days=2))
    skipped = {"id", "created_at", "updated_at", "first_seen_at", "priced_as_of", "users"}
    return {
        model.__name__: sorted(
            str(
                {
                    key: value
                    for key, value in one.items()
                    if key not in skipped or (key == "id" and model is Trace)
                }
            )
            for one in model.objects.values()
        )
        for model in (
            Trace,
            ReceivedTrace,
            Observation,
            UserUsageStats,
            UsageCharge,
            *(rule.model for rule in BUILT),
            SourceUsage,
        )
    }


def sync(connection: LangfuseConnection) -> Any:
    result = sync_connection(connection)
    assert result.error == ""
    assert verify_books() == []
    return result


def test_it_works(connection: LangfuseConnection, sandbox: RunningSandbox, people: People) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])

    result = sync(connection)

    assert (result.observations_stored, result.traces_changed, result.transactions_posted) == (
        2,
        1,
        1,
    )
    trace = Trace.objects.get()
    assert (trace.tenant, trace.user, trace.flow_id) == (
        people.acme,
        people.acme_user,
        str(people.flow.pk),
    )
    assert (trace.cost_usd, trace.billed_cost_usd, trace.credits) == (
        D("0.06"),
        D("0.057"),
        D("11.4"),
    )
    assert {stats.granularity for stats in TenantUsageStats.objects.all()} == {
        "hour",
        "day",
        "week",
        "month",
    }
    for stats in TenantUsageStats.objects.all():
        assert (
            stats.tenant,
            stats.total_traces,
            stats.credits_exact,
            stats.total_credits_used,
        ) == (people.acme, 1, D("11.4"), 11)
        assert (stats.total_cost_usd, stats.active_users_count, stats.total_tokens) == (
            D("0.06"),
            1,
            15,
        )
    for stats in UserUsageStats.objects.all():
        assert (stats.user, stats.traces_count, stats.cost_usd, stats.credits_used) == (
            people.acme_user,
            1,
            D("0.06"),
            11,
        )
    assert Account.objects.get().used == D("11.4")
    assert Transaction.objects.get().amount == D("-11.4")


def test_a_second_sync_changes_nothing(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add(
        [
            owned(people, start=timezone.now() - timedelta(minutes=5)),
            call("c1", 0.06, start=timezone.now() - timedelta(minutes=5)),
        ]
    )
    sync(connection)
    before = state()
    again = sync_connection(connection, start=MOMENT - timedelta(days=2))
    assert (
        again.observations_read,
        again.observations_stored,
        again.traces_changed,
        again.transactions_posted,
    ) == (2, 0, 0, 0)
    assert state() == before


def test_a_hundred_traces_of_six_cents_are_1140_credits(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    for number in range(100):
        sandbox.store.add(
            [owned(people, trace_id=f"t{number}"), call("c1", 0.06, trace_id=f"t{number}")]
        )
    sync(connection)
    month = TenantUsageStats.objects.get(granularity="day")
    assert (month.total_traces, month.credits_exact, month.total_credits_used) == (
        100,
        D(1140),
        1140,
    )


def test_any_type_of_observation_is_billed(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add(
        [owned(people), call("c1", 0.5, type="TOOL"), call("c2", 0.25, type="EMBEDDING")]
    )
    sync(connection)
    assert Trace.objects.get().cost_usd == D("0.75")


def test_what_is_sent_again_replaces_what_was(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    sync(connection)
    sandbox.store.add([call("c1", 0.02, received=60, level="ERROR")])
    result = sync_connection(connection, start=MOMENT - timedelta(hours=2))
    assert (result.observations_stored, result.transactions_posted) == (1, 1)
    assert Trace.objects.get().credits == D("3.8")
    assert Account.objects.get().used == D("3.8")
    assert [entry.type for entry in Transaction.objects.order_by("pk")] == ["deduction", "refund"]
    assert verify_books() == []


def test_an_older_version_is_not_believed(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    """The order of the recorded case: the newest version lies in another hour than the older
    one.
    """
    sandbox.store.add(
        [owned(people), call("c1", 0.03, start=MOMENT + timedelta(hours=1), received=600)]
    )
    sync(connection)
    sandbox.store.add([call("c1", 0.02, received=5)])
    result = sync_connection(connection, start=MOMENT - timedelta(hours=1))
    assert (result.observations_read, result.observations_stored) == (3, 0)
    assert Trace.objects.get().cost_usd == D("0.03")


def test_the_recorded_resends_are_counted_once(
    connection: LangfuseConnection, sandbox: RunningSandbox
) -> None:
    from tests.usage.langfuse.test_sandbox_recorded import complete

    rows = [complete(one) for one in recorded("observations_same_id_again")["body"]["data"]]
    sandbox.store.add(rows)
    first = datetime.fromisoformat(rows[-1]["startTime"])
    sync_connection(connection, start=first - timedelta(hours=1), end=first + timedelta(hours=3))
    assert sorted(Observation.objects.values_list("langfuse_observation_id", "cost_usd")) == [
        ("53a2836483dfb309", D("0.03")),
        ("df6b2374ac8b24a8", D("0.5")),
    ]
    assert RejectedObservation.objects.get().langfuse_observation_id == "5c1d368ecb70d670"
    assert Trace.objects.get().cost_usd == D("0.53")


def test_a_trace_that_moves_to_another_hour_and_day_leaves_nothing_behind(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06, start=MOMENT + timedelta(minutes=5))])
    sync(connection)
    sandbox.store.add([row("early", start=MOMENT - timedelta(days=40))])
    sync_connection(connection, start=MOMENT - timedelta(days=41))
    assert verify_books() == []
    assert {
        stats.period_start.date() for stats in TenantUsageStats.objects.filter(granularity="day")
    } == {(MOMENT - timedelta(days=40)).date()}
    assert UserUsageStats.objects.filter(granularity="hour").count() == 1


def test_a_root_that_arrives_later_moves_the_usage_to_its_owner(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([call("c1", 0.06, userId=str(people.globex_user.pk))])
    sync(connection)
    assert Account.objects.get(pk=people.globex_user.pk).used == D("11.4")
    sandbox.store.add([owned(people)])
    sync_connection(connection, start=MOMENT - timedelta(hours=1))
    assert verify_books() == []
    assert Account.objects.get(pk=people.globex_user.pk).used == 0
    assert Account.objects.get(pk=people.acme_user.pk).used == D("11.4")
    assert set(TenantUsageStats.objects.values_list("tenant__slug", flat=True)) == {"acme"}


def test_usage_of_no_known_user_is_its_tenants_until_the_user_appears(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    TierAssignment.objects.create(
        tenant=people.acme, tier=PricingTier.objects.get(name="Starter"), valid_from=LONG_AGO
    )
    newcomer = "0d1f9a52-8a0f-4a55-9d0a-6a1c2f1d7e10"
    sandbox.store.add([owned(people, userId=newcomer), call("c1", 0.06)])
    sync(connection)
    trace = Trace.objects.get()
    assert (trace.tenant_id, trace.user_id) == (people.acme.pk, None)
    assert (trace.cost_usd, trace.credits) == (D("0.06"), D("6"))
    assert TenantUsageStats.objects.get(granularity="hour").credits_exact == D("6")
    assert {*NoUserUsage.objects.values_list("credits_exact", flat=True)} == {D("6")}
    assert (UserUsageStats.objects.count(), Account.objects.count()) == (0, 0)
    assert PlatformUsage.objects.get(granularity="hour").is_attributed is True
    assert verify_books() == []

    user = User.objects.create_user("newcomer", id=newcomer, tenant=people.acme)
    TierAssignment.objects.create(
        user=user, tier_id=people.acme_user.tier_assignments.get().tier_id, valid_from=LONG_AGO
    )
    applied = attribute_all()

    assert (applied.traces_changed, applied.transactions_posted) == (1, 1)
    assert Account.objects.get(user=user).used == D("11.4")
    assert attribute_all().traces_changed == 0
    build_rollups()
    assert TenantUsageStats.objects.get(granularity="hour").credits_exact == D("11.4")
    assert NoUserUsage.objects.count() == 0
    assert verify_books() == []


def test_usage_of_no_known_tenant_is_unattributed_until_it_appears(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    newcomer = "0d1f9a52-8a0f-4a55-9d0a-6a1c2f1d7e10"
    sandbox.store.add([owned(people, metadata={"tenant_id": newcomer}), call("c1", 0.06)])
    sync(connection)
    trace = Trace.objects.get()
    assert (trace.tenant_id, trace.cost_usd, trace.credits) == (None, D("0.06"), None)
    assert (TenantUsageStats.objects.count(), Account.objects.count()) == (0, 0)
    assert PlatformUsage.objects.get(granularity="hour").is_attributed is False

    Tenant.objects.create(id=newcomer, name="New", slug="new")
    assert attribute_all().traces_changed == 1
    assert (Trace.objects.get().dispute, Account.objects.count()) == ("not_a_member", 0)
    assert attribute_all().traces_changed == 0
    assert verify_books() == []


def test_every_sync_looks_for_owners_that_have_appeared(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    newcomer = "0d1f9a52-8a0f-4a55-9d0a-6a1c2f1d7e10"
    sandbox.store.add([owned(people, userId=newcomer), call("c1", 0.06)])
    sync(connection)
    User.objects.create_user("newcomer", id=newcomer, tenant=people.acme)
    assert sync(connection).traces_changed == 1


def test_what_breaks_the_contract_is_set_aside_once(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", -1), call("c2", 0.06)])
    assert sync(connection).observations_rejected == 1
    again = sync_connection(connection, start=MOMENT - timedelta(hours=1))
    assert again.observations_rejected == 0
    assert Trace.objects.get().cost_usd == D("0.06")
    assert "-1" in RejectedObservation.objects.get().reason


def test_unpriced_usage_is_stored_and_unknown(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", None, model="acme-llm-7b")])
    sync(connection)
    trace = Trace.objects.get()
    assert (trace.cost_usd, trace.credits, trace.unpriced_observations) == (None, None, 1)
    assert Transaction.objects.count() == 0


def test_a_model_that_only_the_shipped_book_knows_is_priced_by_it(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", None, model="gpt-4o")])
    sync(connection)
    assert Observation.objects.get(model="gpt-4o").cost_source == "price_book"
    assert Trace.objects.get().cost_usd == D("0.000075")


def test_a_failure_is_said_and_nothing_is_marked_done(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    connection.secret_key = "sk-lf-wrong"
    connection.save()
    result = sync_connection(connection)
    assert "refused the keys" in result.error
    assert not result.is_complete
    run = SyncRun.objects.get()
    assert (run.outcome, run.error) == ("failed", result.error)
    assert not SyncWindow.objects.exclude(state="pending").exists()
    connection.secret_key = SECRET_KEY
    connection.save()
    sandbox.store.add([owned(people), call("c1", 0.06)])
    assert sync(connection).traces_changed == 1


def test_the_command_reports_zero_changes_the_second_time(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    command: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("usage.connections.enabled_connections", lambda: [connection])
    sandbox.store.add([owned(people), call("c1", 0.06)])
    first = json.loads(command("sync_usage", "--json"))
    second = json.loads(command("sync_usage", "--json", "--from", MOMENT.date().isoformat()))
    assert (first["complete"], first["runs"][0]["observations_stored"]) == (True, 2)
    assert (second["complete"], second["runs"][0]["observations_read"]) == (True, 2)
    changes = (
        "observations_stored",
        "observations_rejected",
        "traces_changed",
        "transactions_posted",
    )
    assert [second["runs"][0][name] for name in changes] == [0, 0, 0, 0]


def test_the_command_fails_when_not_all_was_stored(
    connection: LangfuseConnection,
    command: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("usage.connections.enabled_connections", lambda: [connection])
    connection.secret_key = "sk-lf-wrong"
    connection.save()
    with pytest.raises(SystemExit) as caught:
        command("sync_usage")
    assert caught.value.code == 1
    assert "refused the keys" in capsys.readouterr().err
