"""Calls that two traces record: counted once, whichever comes first, however late, and whoever
turns out to own them; and as before once that is undone.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal as D
from functools import partial
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection as database
from django.db import connections, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, ORDERS, People
from tests.usage.facts.test_decide import received
from tests.usage.sync.test_convergence import comparable
from usage.books import verify_books
from usage.desk import rulings
from usage.facts.apply import apply_received, committed
from usage.facts.attribution import attribute_all
from usage.facts.findings import Finding, Takes
from usage.facts.received import packed_deletions
from usage.facts.ties import MOST_TRACES
from usage.facts.voiding import restore, void
from usage.langfuse.wire import ReceivedObservation
from usage.models import LangfuseConnection, Observation, ReceivedTrace, ResponseTraces, Trace

pytestmark = pytest.mark.django_db
CALL = {
    "type": "GENERATION",
    "model": "gpt-4o",
    "usage_details": {"input": 1200, "output": 300},
    "end_time": NOON + timedelta(seconds=2),
}


@pytest.fixture
def connection(bare_connection: LangfuseConnection) -> LangfuseConnection:
    return bare_connection


def sdk(user: User | None, trace_id: str = "run", **fields: Any) -> ReceivedObservation:
    owner = {} if user is None else {"user_reference": str(user.pk)}
    return received(
        "sdk", trace_id, **{**CALL, **owner, "source": "sdk", "response_id": "r1", **fields}
    )


def gateway(trace_id: str = "proxy", **fields: Any) -> ReceivedObservation:
    usage = {"input": 176, "input_cached_tokens": 1024, "output": 300}
    values = {**CALL, "usage_details": usage, "cost_usd": D("0.0047"), "source": "litellm"}
    return received("gw", trace_id, **{**values, "response_id": "r1", **fields})


def store(connection: LangfuseConnection, *batches: list[ReceivedObservation]) -> None:
    for batch in batches:
        with transaction.atomic():
            apply_received(connection, batch)
        assert verify_books() == []


def counted() -> dict[str, tuple[int, int, D | None]]:
    """Of each trace its input, its cached tokens and its cost."""
    rows = Trace.objects.values_list(
        "langfuse_trace_id", "input_tokens", "cached_tokens", "cost_usd"
    )
    return {name: tuple(figures) for name, *figures in rows}  # type: ignore[misc]


ONCE = {"run": (1200, 1024, D("0.0047")), "proxy": (0, 0, D(0))}


def test_a_call_is_counted_with_its_owner_and_gets_what_the_gateway_says(
    connection: LangfuseConnection, people: People
) -> None:
    store(connection, [sdk(people.acme_user)])
    assert counted() == {"run": (1200, 0, D("0.006"))}
    store(connection, [gateway()])
    assert counted() == ONCE
    (other,) = Observation.objects.exclude(counted_in="")
    run = Trace.objects.get(langfuse_trace_id="run")
    assert (other.counted_in, other.counted_in_trace) == ("sdk", run.pk)
    assert (other.finding, other.other_cost_usd) == ("twice", D("0.0047"))
    assert Trace.objects.get(langfuse_trace_id="proxy").uncharged in ("", "twice")


def test_whichever_comes_first(connection: LangfuseConnection, people: People) -> None:
    root = received("root", "proxy", is_root=True)
    for order in permutations([sdk(people.acme_user), gateway(), root]):
        for cut in range(4):
            with transaction.atomic():
                store(connection, [*order[:cut]], [*order[cut:]])
                assert counted() == ONCE
                transaction.set_rollback(True)


def test_what_one_trace_records_twice_and_another_once_is_counted_once(
    connection: LangfuseConnection, people: People
) -> None:
    inner = received("inner", "run", **{**CALL, "source": "framework", "parent_id": "sdk"})
    for order in permutations([sdk(people.acme_user), inner, gateway()]):
        with transaction.atomic():
            store(connection, *([one] for one in order))
            assert counted() == ONCE
            assert Observation.objects.exclude(counted_in="").count() == 2
            transaction.set_rollback(True)


def test_once_it_says_another_id_it_is_another_call(
    connection: LangfuseConnection, people: People
) -> None:
    later = NOON + timedelta(minutes=1)
    store(connection, [sdk(people.acme_user), gateway()])
    store(connection, [gateway(response_id="r2", received_at=later)])
    assert counted() == {"run": (1200, 0, D("0.006")), "proxy": (1200, 1024, D("0.0047"))}
    store(connection, [gateway(received_at=later + timedelta(minutes=1))])
    assert counted() == ONCE


def test_ids_of_two_connections_are_of_two_projects(
    connection: LangfuseConnection, people: People
) -> None:
    other = LangfuseConnection.objects.create(name="other", host="http://127.0.0.1:9")
    store(connection, [sdk(people.acme_user)])
    store(other, [gateway()])
    assert counted()["proxy"][0] == 1200


def test_what_is_voided_gives_way_and_what_is_restored_is_as_before(
    connection: LangfuseConnection, people: People
) -> None:
    store(
        connection, [sdk(people.acme_user), gateway(user_reference=str(people.acme_colleague.pk))]
    )
    run = Trace.objects.get(langfuse_trace_id="run")
    before = comparable()
    ReceivedTrace.objects.filter(pk=run.pk).update(deleted=packed_deletions({"sdk": NOON}))
    Trace.objects.filter(pk=run.pk).update(deleted_observations=1)
    void([run.pk.hex], "deleted in Langfuse", people.platform_admin)
    assert verify_books() == []
    assert counted()["proxy"] == (1200, 1024, D("0.0047"))
    ReceivedTrace.objects.filter(pk=run.pk).update(deleted="")
    restore([run.pk.hex])
    Trace.objects.filter(pk=run.pk).update(deleted_observations=0)
    assert verify_books() == []
    assert comparable() == before


def test_an_owner_that_becomes_known_takes_the_call(
    connection: LangfuseConnection, people: People
) -> None:
    user_id = uuid4()
    store(connection, [sdk(None, user_reference=str(user_id)), gateway()])
    assert counted()["run"] == (0, 0, D(0)), "the gateway says more"
    User.objects.create_user("late", password="right", tenant=people.acme, pk=user_id)
    attribute_all()
    assert verify_books() == []
    assert counted() == ONCE


def test_both_are_counted_where_that_is_ruled_until_it_is_undone(
    connection: LangfuseConnection, people: People
) -> None:
    store(connection, [sdk(people.acme_user), gateway()])
    before = comparable()
    proxy = Trace.objects.get(langfuse_trace_id="proxy")
    ruling = rulings.begin(
        Finding.TWICE, Takes.BOTH, connection, reason="two calls", by=None, step=(proxy.pk, "gw")
    )
    rulings.advance(ruling)
    assert verify_books() == []
    assert counted() == {"run": (1200, 0, D("0.006")), "proxy": (1200, 1024, D("0.0047"))}
    rulings.undo(ruling)
    rulings.advance(ruling)
    assert verify_books() == []
    assert comparable() == before


def test_an_id_that_all_responses_have_is_none(
    connection: LangfuseConnection, people: People
) -> None:
    calls = [gateway(f"t{at}") for at in range(MOST_TRACES + 1)]
    store(connection, calls[:MOST_TRACES])
    assert sum(used for used, _, _ in counted().values()) == 1200
    store(connection, calls[MOST_TRACES:])
    assert sum(used for used, _, _ in counted().values()) == 1200 * len(calls)


@st.composite
def versions(draw: st.DrawFn, users: list[str]) -> ReceivedObservation:
    source = draw(st.sampled_from(["", "sdk", "litellm"]))
    start = NOON + timedelta(seconds=draw(st.integers(0, 3)))
    return received(
        draw(st.sampled_from(["a", "b", "c"])),
        draw(st.sampled_from(["t1", "t2", "t3"])),
        is_root=draw(st.booleans()),
        type="GENERATION",
        model=draw(st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "nobody-knows"])),
        start_time=start,
        end_time=start + timedelta(seconds=draw(st.integers(0, 4))),
        received_at=NOON + timedelta(days=1, seconds=draw(st.integers(0, 3))),
        user_reference=draw(st.sampled_from(users)),
        usage_details=draw(
            st.sampled_from(
                [
                    {"input": 10, "output": 5},
                    {"input": 6, "input_cached_tokens": 4, "output": 5},
                    {"input": 20, "output": 10},
                    {},
                ]
            )
        ),
        cost_usd=draw(st.none() | st.just(D("0.5"))),
        source=source,
        response_id=draw(st.sampled_from(["", "", "r1", "r2", "r3"])),
        parent_id=draw(st.sampled_from(["", "a", "b"])),
    )


def all_of_it() -> Any:
    rows = ResponseTraces.objects.exclude(traces="").order_by("pk").values_list("pk", "traces")
    return comparable(), list(rows)


@settings(max_examples=ORDERS)
@given(data=st.data())
def test_any_order_of_batches_counts_the_same(
    connection: LangfuseConnection, people: People, data: st.DataObject
) -> None:
    users = ["", str(people.acme_user.pk), str(people.globex_user.pk)]
    history = data.draw(st.lists(versions(users), min_size=2, max_size=9), label="history")
    batches = data.draw(
        st.lists(st.lists(st.sampled_from(history), max_size=5), max_size=4), label="batches"
    )
    last = data.draw(st.permutations(history), label="last batches")
    cut = data.draw(st.integers(0, len(last)), label="cut")
    is_ruled = data.draw(st.booleans(), label="ruled and undone")
    with transaction.atomic():
        for batch in [*batches, last[:cut]]:
            apply_received(connection, batch)
            assert verify_books() == []
        if is_ruled:
            ruling = rulings.begin(Finding.TWICE, Takes.BOTH, connection, reason="so", by=None)
            rulings.advance(ruling)
            assert verify_books() == []
        apply_received(connection, last[cut:])
        if is_ruled:
            assert verify_books() == []
            rulings.undo(ruling)
            rulings.advance(ruling)
        assert verify_books() == []
        stepwise = all_of_it()
        transaction.set_rollback(True)
    with transaction.atomic():
        apply_received(connection, history)
        assert verify_books() == []
        clean = all_of_it()
        transaction.set_rollback(True)
    assert stepwise == clean


@pytest.mark.skipif(
    database.vendor != "postgresql", reason="several workers write at once: PostgreSQL only"
)
@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_two_workers_that_store_the_halves_at_once_see_one_another(
    connection: LangfuseConnection, people: People
) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def store_all(batch: list[ReceivedObservation]) -> None:
        try:
            for number in range(15):
                barrier.wait()
                again = [
                    ReceivedObservation(f"{one.trace_id}{number}", one.trace_attributes, one.step)
                    for one in batch
                ]
                committed(partial(apply_received, connection, again))
        finally:
            connections.close_all()

    halves = [
        [
            step
            for number in range(4)
            for step in (
                sdk(people.acme_user, f"run{number}-", response_id=f"r{number}"),
                gateway(f"proxy{number + 4}-", response_id=f"r{number + 4}"),
            )
        ],
        [
            step
            for number in range(4)
            for step in (
                gateway(f"proxy{number}-", response_id=f"r{number}"),
                sdk(people.acme_user, f"run{number + 4}-", response_id=f"r{number + 4}"),
            )
        ],
    ]
    with ThreadPoolExecutor(2) as workers:
        assert list(workers.map(store_all, halves)) == [None, None]
    assert verify_books() == []
    # The ids are the same in all rounds, so of each there is one call.
    assert sum(used for used, _, _ in counted().values()) == 8 * 1200


def alike(user: User | None, trace_id: str, source: str, at: str, **fields: Any) -> Any:
    """A call without a response id, from when until when (seconds)."""
    start, end = (NOON + timedelta(seconds=float(one)) for one in at.split("-"))
    owner = {} if user is None else {"user_reference": str(user.pk)}
    values = {**CALL, **owner, "source": source, "start_time": start, "end_time": end, **fields}
    return received(source or "own", trace_id, **values)


def rule_on_litellm(connection: LangfuseConnection) -> Any:
    ruling = rulings.begin(
        Finding.ALIKE, Takes.OTHERS, connection, reason="a proxy", by=None, source="litellm"
    )
    rulings.advance(ruling)
    assert verify_books() == []
    return ruling


def test_likely_twins_count_twice_until_that_is_ruled_on_and_after_it_is_undone(
    connection: LangfuseConnection, people: People
) -> None:
    ann = people.acme_user
    store(
        connection,
        [alike(ann, "run", "openai", "0-2"), alike(None, "proxy", "litellm", "0.5-1.5")],
    )
    assert [used for used, _, _ in counted().values()] == [1200, 1200]
    before = comparable()
    ruling = rule_on_litellm(connection)
    assert {name: used for name, (used, _, _) in counted().items()} == {"run": 1200, "proxy": 0}
    # What comes later is decided by it, whichever half comes first.
    store(connection, [alike(None, "proxy2", "litellm", "60.5-61.5")])
    assert counted()["proxy2"][0] == 1200
    store(connection, [alike(ann, "run2", "openai", "59-62")])
    assert (counted()["proxy2"][0], counted()["run2"][0]) == (0, 1200)
    # Of one integration, of another model, of another time: calls of their own.
    others = [
        alike(None, "proxy3", "litellm", "120.5-121.5"),
        alike(None, "proxy4", "litellm", "120.6-121.4"),
        alike(ann, "run3", "openai", "120-122", model="gpt-4o-mini"),
        alike(ann, "run4", "openai", "121-122"),
    ]
    store(connection, others)
    assert {counted()[f"{name}"][0] for name in ("proxy3", "proxy4", "run3", "run4")} == {1200}
    with transaction.atomic():
        rulings.undo(ruling)
        rulings.advance(ruling)
        assert verify_books() == []
        assert sum(used for used, _, _ in counted().values()) == 8 * 1200
        transaction.set_rollback(True)
    Trace.objects.get(langfuse_trace_id="run2")
    assert before


@settings(max_examples=ORDERS)
@given(data=st.data())
def test_with_a_ruling_on_an_integration_any_order_counts_the_same(
    connection: LangfuseConnection, people: People, data: st.DataObject
) -> None:
    users = ["", str(people.acme_user.pk), str(people.globex_user.pk)]
    history = data.draw(st.lists(versions(users), min_size=2, max_size=8), label="history")
    order = data.draw(st.permutations(history), label="order")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(order)), min_size=2, max_size=2)))
    batches = [order[: cuts[0]], order[cuts[0] : cuts[1]], order[cuts[1] :]]
    ruled_before = data.draw(st.integers(0, 3), label="ruled before")
    with transaction.atomic():
        apply_received(connection, history)
        without = comparable()
        transaction.set_rollback(True)
    with transaction.atomic():
        for number, batch in enumerate([*batches, []]):
            if number == ruled_before:
                ruling = rule_on_litellm(connection)
            apply_received(connection, batch)
            assert verify_books() == []
        stepwise = comparable()
        rulings.undo(ruling)
        rulings.advance(ruling)
        assert verify_books() == []
        assert comparable() == without
        transaction.set_rollback(True)
    with transaction.atomic():
        rule_on_litellm(connection)
        apply_received(connection, history)
        assert comparable() == stepwise
        transaction.set_rollback(True)


def test_what_is_counted_elsewhere_names_the_step_that_is_counted(
    connection: LangfuseConnection, people: People
) -> None:
    """An agent that carries its call's sum, a record of the call beside it, a gateway's in a trace
    of its own.
    """
    agent = received(
        "agent",
        "proxy",
        type="AGENT",
        is_root=True,
        source="litellm",
        usage_details={"input": 1200, "output": 300},
    )
    inner = gateway(parent_id="agent")
    beside = received("http", "proxy", **{**CALL, "source": "http", "parent_id": "gw"})
    store(connection, [agent, inner, beside, sdk(people.acme_user)])
    rows = Observation.objects.exclude(counted_in="").order_by("langfuse_observation_id")
    run = Trace.objects.get(langfuse_trace_id="run").pk
    assert list(
        rows.values_list("langfuse_observation_id", "finding", "counted_in", "counted_in_trace")
    ) == [("agent", "sum", "sdk", run), ("gw", "twice", "sdk", run), ("http", "twice", "sdk", run)]
