"""What was deleted in Langfuse stays billed and is marked, unless an operator voids it."""

from datetime import timedelta
from decimal import Decimal

import pytest

from credits.models import Account, Transaction
from tests.conftest import People, RunningSandbox
from tests.usage.stored import deleted_steps
from tests.usage.sync.test_sync import MOMENT, call, owned, state
from usage.books import verify_books
from usage.facts.voiding import NotDeleted, restore, void
from usage.models import LangfuseConnection, TenantUsageStats, Trace, TraceVoid
from usage.rollups.build import build_rollups
from usage.sync.runner import SyncResult, sync_connection

pytestmark = pytest.mark.django_db
D = Decimal


def sync(connection: LangfuseConnection) -> SyncResult:
    result = sync_connection(connection, MOMENT - timedelta(hours=3))
    assert result.error == ""
    assert verify_books() == []
    return result


@pytest.fixture
def deleted(connection: LangfuseConnection, sandbox: RunningSandbox, people: People) -> Trace:
    """A trace of $0.06 that was read and is deleted since, beside one that is still there."""
    for trace_id in ("t1", "t2"):
        sandbox.store.add([owned(people, trace_id=trace_id), call("c1", 0.06, trace_id=trace_id)])
    sync(connection)
    sandbox.store.delete_trace("t1")
    assert sync(connection).observations_deleted == 2
    return Trace.objects.get(langfuse_trace_id="t1")


def test_it_is_marked_and_stays_billed(deleted: Trace) -> None:
    assert (deleted.deleted_observations, deleted.credits) == (2, D("11.4"))
    assert deleted_steps() == {("t1", "root"), ("t1", "c1")}
    assert Account.objects.get().used == D("22.8")


def test_it_is_found_once(connection: LangfuseConnection, deleted: Trace) -> None:
    assert sync(connection).observations_deleted == 0


def test_what_comes_again_is_there_again(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People, deleted: Trace
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    assert sync(connection).observations_deleted == 0
    assert (Trace.objects.get(pk=deleted.pk).deleted_observations, deleted_steps()) == (0, set())


def test_what_moved_to_another_hour_is_not_gone(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    sync(connection)
    sandbox.store.delete_trace("t1")
    later = MOMENT + timedelta(hours=2)
    sandbox.store.add(
        [owned(people, start=later, received=9), call("c1", 0.06, start=later, received=9)]
    )
    assert sync(connection).observations_deleted == 0


def test_voiding_refunds_it_and_takes_it_out_of_all_numbers(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People, deleted: Trace
) -> None:
    assert void([deleted.pk.hex], "A test run", people.platform_admin) == 1
    assert verify_books() == []
    assert Account.objects.get().used == D("11.4")
    assert Transaction.objects.order_by("-id")[0].type == Transaction.Type.REFUND
    build_rollups()
    assert {stats.total_traces for stats in TenantUsageStats.objects.all()} == {1}
    assert (TraceVoid.objects.get().reason, TraceVoid.objects.get().created_by) == (
        "A test run",
        people.platform_admin,
    )
    assert void([deleted.pk.hex], "Again", people.platform_admin) == 0
    sync(connection)
    assert Account.objects.get().used == D("11.4")


def test_restoring_undoes_it(people: People, deleted: Trace) -> None:
    before = state()
    void([deleted.pk.hex], "A mistake", people.platform_admin)
    assert restore([deleted.pk.hex]) == 1
    assert verify_books() == []
    after = state()
    assert {name: rows for name, rows in after.items() if name != "UsageCharge"} == {
        name: rows for name, rows in before.items() if name != "UsageCharge"
    }
    assert (Account.objects.get().used, TraceVoid.objects.count()) == (D("22.8"), 0)


def test_what_is_still_there_cannot_be_voided(people: People, deleted: Trace) -> None:
    there = Trace.objects.get(langfuse_trace_id="t2")
    with pytest.raises(NotDeleted, match="t2"):
        void([deleted.pk.hex, there.pk.hex], "Both", people.platform_admin)
    assert (Account.objects.get().used, TraceVoid.objects.count()) == (D("22.8"), 0)


def test_a_reason_is_needed(people: People, deleted: Trace) -> None:
    with pytest.raises(ValueError, match="Say why"):
        void([deleted.pk.hex], " ", people.platform_admin)


HOUR = timedelta(hours=1)


def test_a_step_in_a_later_hour_than_its_trace_is_missed_when_that_hour_is_read(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    rows = [owned(people, start=MOMENT - 2 * HOUR), call("c1", 0.06), call("c2", 0.02)]
    sandbox.store.add(rows)
    sync(connection)
    assert Trace.objects.get().last_step_hour == MOMENT.replace(minute=0)
    sandbox.store.delete_trace("t1")
    sandbox.store.add(rows[:2])
    # Only the hour of the calls is read again: of the root, which lies in an earlier one, nothing
    # can be said.
    result = sync_connection(connection, MOMENT.replace(minute=0), MOMENT.replace(minute=0) + HOUR)
    assert (result.observations_read, result.observations_deleted) == (1, 1)
    assert deleted_steps() == {("t1", "c2")}
    assert verify_books() == []


def test_what_lies_in_an_hour_that_was_not_read_again_is_not_gone(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06, start=MOMENT + 2 * HOUR)])
    sync(connection)
    sandbox.store.delete_trace("t1")
    result = sync_connection(connection, MOMENT.replace(minute=0), MOMENT.replace(minute=0) + HOUR)
    assert (result.observations_deleted, deleted_steps()) == (1, {("t1", "root")})
    assert verify_books() == []


def test_a_row_that_breaks_the_contract_does_not_hide_that_another_is_gone(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c1", 0.06)])
    sync(connection)
    sandbox.store.delete_trace("t1")
    # As many rows of the trace come as are stored of it; one of them was never stored.
    sandbox.store.add([owned(people), call("bad", -1.0)])
    assert sync(connection).observations_deleted == 1
    assert deleted_steps() == {("t1", "c1")}


def test_a_call_that_another_trace_records_is_counted_there_once_it_is_deleted(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    said = {"scope.name": "sdk", "attributes.gen_ai.response.id": "msg_e59239009b6a"}
    sandbox.store.add([owned(people), call("c1", 0.06, metadata=said)])
    proxy = {**said, "scope.name": "litellm"}
    sandbox.store.add([call("gw", 0.06, trace_id="proxy", metadata=proxy)])
    sync(connection)
    costs = Trace.objects.order_by("langfuse_trace_id").values_list("cost_usd", flat=True)
    assert list(costs.all()) == [D(0), D("0.06")]
    assert Account.objects.get().used == D("11.4")

    sandbox.store.delete_trace("t1")
    assert sync(connection).observations_deleted == 2
    assert list(costs.all()) == [D("0.06"), D(0)]
    assert Account.objects.get().used == 0

    sandbox.store.add([owned(people), call("c1", 0.06, metadata=said)])
    sync(connection)
    assert list(costs.all()) == [D(0), D("0.06")]
    assert Account.objects.get().used == D("11.4")
