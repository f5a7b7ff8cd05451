"""Invariant 2 through the whole sync: random histories, changes of owner and environment,
overlapping windows, crashes between any two statements, merges and deletions.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection as database
from django.db import transaction
from hypothesis import event, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.conftest import ORDERS, People, RunningSandbox
from tests.usage.stored import deleted_steps, stored_steps
from tests.usage.sync.test_convergence import comparable
from tests.usage.sync.test_sync import call, owned
from usage.books import verify_books
from usage.models import LangfuseConnection, ReceivedTrace, Trace
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
# A Sunday's end is a week's end, and the day before ends a month.
BORDERS = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2, tzinfo=UTC))
START, END = BORDERS[0] - timedelta(hours=2), BORDERS[1] + timedelta(hours=2)
moments = st.builds(
    lambda border, minutes: border + timedelta(minutes=minutes),
    st.sampled_from(BORDERS),
    st.integers(-100, 100),
)
traces = st.sampled_from(["t1", "t2", "t3"])
ENVIRONMENTS = ("default", "staging", "langfuse-evaluation")


class Crash(BaseException):
    """The worker dies here."""


@contextmanager
def dying_after(statements: int) -> Iterator[None]:
    """Nothing but a rollback reaches the database any more once so many statements have been
    run.
    """
    left = [statements]

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if left[0] <= 0 and not sql.startswith(("ROLLBACK", "RELEASE")):
            raise Crash
        left[0] -= 1
        return execute(sql, params, many, context)

    with database.execute_wrapper(wrapper):
        yield


@st.composite
def rows(draw: st.DrawFn, people: People, received: int) -> dict[str, Any]:
    """One more version of some observation: another start, cost, model, level or owner."""
    fields = {
        "trace_id": draw(traces),
        "start": draw(moments),
        "received": 10**6 + received,
        "level": draw(st.sampled_from(["DEFAULT", "ERROR"])),
    }
    fields["environment"] = draw(st.sampled_from(ENVIRONMENTS))
    if draw(st.booleans()):
        user = draw(st.sampled_from([people.acme_user, people.acme_colleague, people.globex_user]))
        tenant = draw(st.sampled_from([people.acme.pk, people.globex.pk, user.tenant_id, ""]))
        user_id = draw(st.sampled_from([str(user.pk), f'"{user.pk}"', ""]))
        metadata = {"tenant_id": str(tenant)}
        return owned(people, **fields, userId=user_id, metadata=metadata)
    cost = draw(st.none() | st.integers(1, 99).map(lambda cents: cents / 100))
    return call(
        draw(st.sampled_from(["c1", "c2"])),
        cost,
        draw(st.sampled_from(["gpt-4o", "nobody-knows"])),
        **fields,
    )


def iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@examples(max_examples=ORDERS)
@given(data=st.data())
def test_whatever_happens_the_end_is_as_of_one_clean_sync(
    connection: LangfuseConnection,
    sandbox: RunningSandbox,
    people: People,
    settings: Any,
    data: st.DataObject,
) -> None:
    settings.SYNC_LEASE_SECONDS = 0
    settings.SYNC_BATCH_OBSERVATIONS = 3
    sent: list[dict[str, Any]] = []
    there: list[dict[str, Any]] = []

    def empty() -> None:
        for trace_id in ("t1", "t2", "t3"):
            sandbox.store.delete_trace(trace_id)

    empty()
    with transaction.atomic():
        for _ in range(data.draw(st.integers(2, 5), label="rounds")):
            for _ in range(data.draw(st.integers(1, 4), label="versions")):
                row = data.draw(rows(people, len(sent)))
                sent.append(
                    {**row, "updatedAt": iso(BORDERS[1] + timedelta(days=1, seconds=len(sent)))}
                )
                there.append(sent[-1])
                sandbox.store.add([sent[-1]])
            if data.draw(st.booleans(), label="merged"):
                event("something merged" if sandbox.store.merge() else "nothing to merge")
            if data.draw(st.booleans(), label="deleted"):
                deleted = data.draw(traces)
                sandbox.store.delete_trace(deleted)
                there = [row for row in there if row["traceId"] != deleted]
            first, last = data.draw(
                st.just((START, END)) | st.tuples(moments, moments).map(sorted), label="span"
            )
            try:
                with dying_after(
                    data.draw(st.integers(5, 120) | st.just(10**6), label="statements")
                ):
                    sync_connection(connection, first, last + timedelta(hours=1))
            except Crash:
                event("a crash")
            assert verify_books() == []
        last_sync(connection)
        deleted = deleted_steps()
        assert deleted == stored_steps().keys() - {(row["traceId"], row["id"]) for row in there}
        kept = [row for row in sent if (row["traceId"], row["id"]) in deleted]
        event("something deleted" if kept else "nothing deleted")
        billed = [row for row in kept if is_stored(row)]
        stepwise = without_marks()
        transaction.set_rollback(True)

    sandbox.store.add(billed)
    with transaction.atomic():
        last_sync(connection)
        clean = without_marks()
        transaction.set_rollback(True)

    assert stepwise == clean


def last_sync(connection: LangfuseConnection) -> None:
    result = sync_connection(connection, START, END)
    assert result.is_complete
    assert verify_books() == []


def is_stored(row: dict[str, Any]) -> bool:
    """Whether this version is the one that is stored."""
    stored = stored_steps()[row["traceId"], row["id"]]
    return stored.version.received_at == datetime.fromisoformat(row["updatedAt"])


def without_marks() -> dict[str, list[Any]]:
    """The state without what says that something is deleted: a clean sync of what is billed has
    nothing to miss.
    """
    ReceivedTrace.objects.update(deleted="")
    Trace.objects.update(deleted_observations=0)
    return comparable()
