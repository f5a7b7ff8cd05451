"""A Langfuse 3 (v1 reads only) is read with the same results as a Langfuse 4."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from tests.conftest import SECRET_KEY, People, RunningSandbox
from tests.usage.sync.test_sync import MOMENT, call, owned, row, sync
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.sandbox import v1 as sandbox_v1
from usage.langfuse.v1 import V1Reader, V1Row
from usage.langfuse.wire import decode_rows
from usage.models import LangfuseConnection, Trace
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
OF_A_TRACE = (
    *(
        "langfuse_trace_id",
        "name",
        "start_time",
        "latency_ms",
        "is_failed",
        "tenant_id",
        "user_id",
        "project_id",
        "flow_id",
    ),
    *(
        "observations",
        "total_tokens",
        "input_tokens",
        "cost_usd",
        "billed_cost_usd",
        "credits",
        "unpriced_observations",
    ),
)


def facts() -> list[tuple[Any, ...]]:
    return sorted(Trace.objects.values_list(*OF_A_TRACE), key=str)


def test_the_same_results(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox_v1, "LARGEST_LIMIT", 7)
    for number in range(10):
        trace_id = f"t{number}"
        sandbox.store.add(
            [owned(people, trace_id=trace_id, start=MOMENT + timedelta(minutes=number))]
        )
        sandbox.store.add(
            [
                call("c1", 0.01, trace_id=trace_id),
                call("c1", 0.02, trace_id=trace_id, received=9),
                row("s", trace_id),
            ]
        )
    sandbox.store.add(
        [call("lone", None, "nobody-knows", trace_id="unowned", start=MOMENT - timedelta(hours=3))]
    )
    sync(connection)
    v2 = facts()
    sandbox.sandbox.is_v1, sandbox.sandbox.project_id = True, "read by v1"
    other = LangfuseConnection(name="v1", host=sandbox.url, public_key=connection.public_key)
    other.secret_key = connection.secret_key
    other.save()

    sync(other)

    assert other.api == "v1"
    assert sorted(Trace.objects.filter(connection=other).values_list(*OF_A_TRACE), key=str) == v2


def test_of_many_threads_one_finds_out_how_the_server_is_read(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.sandbox.is_v1 = True
    with LangfuseClientService(sandbox.url, sandbox.sandbox.public_key, SECRET_KEY) as client:
        asked, find_out = [], client.find_out
        monkeypatch.setattr(client, "find_out", lambda: asked.append(1) or find_out())
        hour = timedelta(hours=1)
        with ThreadPoolExecutor(4) as pool:
            pages = pool.map(lambda _: list(client.pages(MOMENT, MOMENT + hour)), range(4))
            assert [len(one) for one in pages] == [1, 1, 1, 1]
    assert asked == [1]


def test_a_trace_that_began_long_before_its_observation_is_asked_for(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.sandbox.is_v1 = True
    sandbox.store.add([owned(people, start=MOMENT - timedelta(days=200)), call("c1", 0.06)])
    sync(connection)
    assert (Trace.objects.get().user, Trace.objects.get().observations) == (people.acme_user, 1)


def test_an_owner_that_is_named_later_is_taken_over(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.sandbox.is_v1 = True
    sandbox.store.add([call("c1", 0.06)])
    sync(connection)
    assert Trace.objects.get().user is None
    sandbox.store.add([owned(people, start=MOMENT, received=100)])
    assert sync_connection(connection, MOMENT - timedelta(hours=1)).is_complete
    assert Trace.objects.get().user == people.acme_user


def test_reconciliation_counts_where_there_are_no_metrics(
    connection: LangfuseConnection, sandbox: RunningSandbox, people: People
) -> None:
    sandbox.sandbox.is_v1 = True
    long_ago = MOMENT - timedelta(days=3)
    sandbox.store.add([owned(people, start=long_ago), call("c1", 0.06, start=long_ago)])
    sync(connection)
    assert reconcile_connection(connection).windows_drifted == 0
    sandbox.store.add([call("late", 0.04, start=long_ago)])
    result = reconcile_connection(connection)
    assert (result.observations_stored, result.error) == (1, "")
    assert str(Trace.objects.get().cost_usd) == "0.100000000000"


def test_version_2_counts_in_a_form_of_its_own() -> None:
    raw = {
        "id": "o",
        "traceId": "t",
        "type": "GENERATION",
        "startTime": "2026-11-01T00:00:00.000Z",
        "model": "gpt-4o",
        "usage": {"input": 10, "output": 5, "total": 15, "unit": "TOKENS"},
        "calculatedInputCost": 0.01,
        "calculatedOutputCost": 0.02,
        "calculatedTotalCost": 0.03,
    }
    reader = V1Reader(None, None)  # type: ignore[arg-type]  # decoding asks no server
    (read,), rejected = decode_rows(
        [msgspec.Raw(msgspec.json.encode(raw))], V1Row, reader._complete
    )
    assert not rejected
    assert (read.step.usage_details, str(read.step.cost_usd)) == (
        {"input": 10, "output": 5, "total": 15},
        "0.030000000000",
    )
