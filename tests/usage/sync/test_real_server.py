"""What a real Langfuse 4 does at its edges, and what the sync makes of it."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from credits.models import Account
from tests.conftest import People, RunningSandbox
from tests.usage.stored import deleted_steps, stored_steps
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.books import verify_books
from usage.models import LangfuseConnection, SyncWindow, Trace
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
D = Decimal
HOUR = timedelta(hours=1)


def read_again(connection: LangfuseConnection) -> None:
    result = sync_connection(connection, MOMENT - 3 * HOUR)
    assert result.error == ""
    assert verify_books() == []


@pytest.mark.parametrize("is_v1", [False, True])
def test_a_store_that_runs_out_of_time_is_asked_for_less_at_once(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People, is_v1: bool
) -> None:
    sandbox.sandbox.is_v1 = is_v1
    sandbox.sandbox.longest_read = timedelta(hours=4)
    for hour in range(30):
        start = MOMENT - hour * HOUR
        sandbox.store.add(
            [
                owned(people, trace_id=f"t{hour}", start=start),
                call("c1", 0.06, trace_id=f"t{hour}", start=start),
            ]
        )
    result = sync_connection(connection, MOMENT - 40 * HOUR)
    assert (result.error, result.observations_read) == ("", 60)
    assert Trace.objects.count() == 30
    assert not SyncWindow.objects.exclude(state="done").exists()
    assert Account.objects.get().used == 30 * D("11.4")


def test_its_metrics_too(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    sandbox.sandbox.longest_read = timedelta(days=4)
    assert reconcile_connection(connection).error == ""
    sandbox.store.add([call("c2", 0.06)])
    again = reconcile_connection(connection)
    assert (again.error, again.windows_drifted, again.observations_stored) == ("", 1, 1)


def test_a_store_that_has_no_time_even_for_a_minute_says_so(
    connection: LangfuseConnection, sandbox: RunningSandbox
) -> None:
    sandbox.sandbox.longest_read = timedelta(seconds=1)
    result = sync_connection(connection)
    assert "ran out of time or memory" in result.error
    assert "shorter date range" in result.error
    assert not SyncWindow.objects.exclude(state="pending").exists()


def owners(people: People) -> set[tuple[str, Any]]:
    return set(Trace.objects.values_list("langfuse_trace_id", "tenant__slug"))


def of_globex(people: People, **fields: Any) -> dict[str, Any]:
    metadata = {"tenant_id": str(people.globex.pk)}
    return owned(people, userId=str(people.globex_user.pk), metadata=metadata, **fields)


def test_a_step_that_was_sent_again_for_another_tenant_is_the_other_tenants(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), of_globex(people, received=5), call("c1", 0.06)])
    read_again(connection)
    assert owners(people) == {("t1", "globex")}
    assert stored_steps()["t1", "root"].trace_attributes.flow_id == "", (
        "nor is its flow the other version's"
    )


@pytest.mark.parametrize(
    "quoted", [lambda user: f'"{user}"', lambda user: f'"{str(user).upper()}"', str]
)
@pytest.mark.parametrize("is_v1", [False, True])
def test_a_user_that_comes_quoted_is_known(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    quoted: Callable[[Any], str],
    is_v1: bool,
) -> None:
    sandbox.sandbox.is_v1 = is_v1
    metadata = {"tenant_id": quoted(people.acme.pk), "kluisz_flow_id": quoted(people.flow.pk)}
    root = owned(people, userId=quoted(people.acme_user.pk), metadata=metadata)
    sandbox.store.add([root, call("c1", 0.06)])
    read_again(connection)
    trace = Trace.objects.get()
    assert (trace.user, trace.user_reference) == (people.acme_user, str(people.acme_user.pk))
    assert (trace.tenant, trace.flow_id) == (people.acme, str(people.flow.pk))


# --- Versions that Langfuse has merged away


def merge(sandbox: RunningSandbox, *remaining: dict[str, Any]) -> None:
    """What remains of trace t1."""
    sandbox.store.delete_trace("t1")
    sandbox.store.add(remaining)


def test_of_versions_received_at_once_the_one_that_a_merge_leaves_counts(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    cheap, dear = call("c1", 0.02), call("c1", 0.06)
    root = owned(people)
    sandbox.store.add([root, cheap, dear])
    read_again(connection)
    for left in (cheap, dear, cheap):
        merge(sandbox, root, left)
        read_again(connection)
        cost = D(str(left["costDetails"]["total"]))
        assert stored_steps()["t1", "c1"].version.cost_usd == cost
        assert Trace.objects.get().cost_usd == cost
        assert Account.objects.get().used == cost * 190
    assert deleted_steps() == set()


def test_a_version_that_is_shown_no_more_gives_way_to_an_older_one_that_is(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    older, newer = call("c1", 0.02), call("c1", 0.06, start=MOMENT + HOUR, received=9)
    root = owned(people)
    sandbox.store.add([root, older, newer])
    read_again(connection)
    assert Trace.objects.get().cost_usd == D("0.06")
    merge(sandbox, root, older)
    read_again(connection)
    assert (Trace.objects.get().cost_usd, deleted_steps()) == (D("0.02"), set())


def test_it_does_not_give_way_while_its_own_hour_was_not_read_again(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    older, newer = call("c1", 0.02), call("c1", 0.06, start=MOMENT + 2 * HOUR, received=9)
    sandbox.store.add([owned(people), older, newer])
    read_again(connection)
    hour = MOMENT.replace(minute=0)
    assert sync_connection(connection, hour, hour + HOUR).error == ""
    assert (Trace.objects.get().cost_usd, deleted_steps()) == (D("0.06"), set())
    assert verify_books() == []


def test_what_is_gone_gives_way_to_whatever_is_shown(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    newer = call("c1", 0.06, start=MOMENT + 2 * HOUR, received=10**5)
    sandbox.store.add([owned(people), newer])
    read_again(connection)
    hour = newer_hour = (MOMENT + 2 * HOUR).replace(minute=0)
    merge(sandbox, owned(people), call("c1", 0.02))
    assert sync_connection(connection, newer_hour, hour + HOUR).observations_deleted == 1
    read_again(connection)
    assert (Trace.objects.get().cost_usd, deleted_steps()) == (D("0.02"), set())


def test_a_version_that_breaks_the_contract_now_is_still_shown(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    """It was read by the rules of its time; an older version beside it does not take its place."""
    sandbox.store.add([owned(people), call("c1", 0.06, received=9)])
    read_again(connection)
    merge(sandbox, owned(people), call("c1", 0.02), call("c1", -1.0, received=9))
    read_again(connection)
    assert Trace.objects.get().cost_usd == D("0.06")
