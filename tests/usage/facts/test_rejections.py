"""Rows that break the contract are tried again."""

from datetime import timedelta

import pytest

from tests.conftest import People, RunningSandbox
from tests.usage.stored import deleted_steps
from tests.usage.sync.test_sync import MOMENT, call, owned, sync
from usage.facts.rejections import retry_rejected
from usage.langfuse import wire
from usage.models import LangfuseConnection, RejectedObservation, Trace
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db


@pytest.fixture
def rejected(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> RejectedObservation:
    sandbox.store.add([owned(people), call("bad", -1.0)])
    sync(connection)
    return RejectedObservation.objects.get()


def test_what_is_still_unreadable_stays_set_aside(
    connection: LangfuseConnection, rejected: RejectedObservation
) -> None:
    assert retry_rejected(connection).observations_stored == 0
    again = RejectedObservation.objects.get()
    assert (again.resolution, again.reason, again.tried_at is not None) == (
        "",
        rejected.reason,
        True,
    )


def test_what_a_newer_release_can_read_is_stored(
    connection: LangfuseConnection, rejected: RejectedObservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    RejectedObservation.objects.update(row=rejected.row.replace("-1.0", "0.06"))
    assert retry_rejected(connection).observations_stored == 1
    assert RejectedObservation.objects.get().resolution == "read"
    assert str(Trace.objects.get().credits) == "11.400000"
    assert retry_rejected(connection).observations_stored == 0


def test_a_later_version_settles_it(
    connection: LangfuseConnection, sandbox: RunningSandbox, rejected: RejectedObservation
) -> None:
    sandbox.store.add([call("bad", 0.06, received=5)])
    sync_connection(connection, MOMENT - timedelta(hours=1))
    retry_rejected(connection)
    assert RejectedObservation.objects.get().resolution == "superseded"


def test_a_rejected_row_does_not_make_what_is_stored_of_it_gone(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.store.add([owned(people), call("c", 0.06)])
    sync(connection)
    sandbox.store.delete_trace("t1")
    sandbox.store.add([owned(people), call("c", -5.0, received=9)])
    sync_connection(connection, MOMENT - timedelta(hours=1))
    assert deleted_steps() == set()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"usageDetails": {"input": 2 * 10**9}}, "count of"),
        ({"costDetails": {"total": 20_000}}, "costs are"),
    ],
)
def test_what_would_overflow_sums_is_set_aside(fields: dict[str, object], words: str) -> None:
    import msgspec

    raw = {**call("c", 0.1), **fields}
    good, bad = wire.decode_rows([msgspec.Raw(msgspec.json.encode(raw))])
    assert not good
    assert words in bad[0].reason
