"""Invariant 2: the same end, whatever the order, overlap and repetition of the batches that led
there.
"""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from credits.grants import NewGrant, grant
from credits.models import Grant, UsageCharge
from kluisz_analytics.tenants.directory import Move, record_moves
from kluisz_analytics.tenants.models import User
from tests.conftest import ORDERS, People
from tests.usage.facts.test_decide import received
from tests.usage.stored import stored_steps
from tests.usage.sync.test_sync import state
from usage.books import verify_books
from usage.facts.apply import apply_received
from usage.facts.attribution import attribute_all
from usage.facts.disputes import settle
from usage.facts.owner import Outcome
from usage.langfuse.wire import ReceivedObservation
from usage.models import DisputedTrace, LangfuseConnection

pytestmark = pytest.mark.django_db

# Around the end of an hour, a day, a week (a Sunday) and a month.
BORDER = datetime(2026, 11, 30, 23, 59, tzinfo=UTC) - timedelta(days=1)
moments = st.integers(-90, 90).map(lambda minutes: BORDER + timedelta(minutes=minutes)) | st.just(
    BORDER + timedelta(days=1, minutes=2)
)


@st.composite
def versions(draw: st.DrawFn, people: list[str], tenants: list[str]) -> ReceivedObservation:
    has_usage = draw(st.booleans())
    fields: dict[str, Any] = {
        "trace_id": draw(st.sampled_from(["t1", "t2", "t3"])),
        "is_root": draw(st.booleans()),
        "level": draw(st.sampled_from(["DEFAULT", "ERROR"])),
        "start_time": draw(moments),
        "end_time": draw(st.none() | moments),
        "received_at": BORDER + timedelta(days=3, seconds=draw(st.integers(0, 4))),
        "user_reference": draw(st.sampled_from(people)),
        "tenant_reference": draw(st.sampled_from(tenants)),
        "flow_id": draw(st.sampled_from(["", "f1", "f2"])),
        "environment": draw(st.sampled_from(["", "staging", "langfuse-evaluation"])),
        "trace_name": draw(st.sampled_from(["", "n1", "n2"])),
    }
    if has_usage:
        fields["usage_details"] = {"input": draw(st.integers(0, 50)), "output": 3}
        fields["cost_usd"] = draw(st.none() | st.decimals(min_value=0, max_value=3, places=12))
        fields["model"] = draw(st.sampled_from(["m1", "m2", "nobody-knows"]))
    return received(draw(st.sampled_from(["a", "b", "c", "d"])), **fields)


given_credits = st.tuples(
    st.booleans(),
    st.integers(1, 300).map(Decimal),
    st.integers(-100, 100),
    st.none() | st.integers(1, 100),
)


def give(people: People, number: int, one: tuple[bool, Decimal, int, int | None]) -> None:
    """Credits of Ann's or of Gus's from one minute around the border to another."""
    is_anns, amount, begins, lasts = one
    starts_at = BORDER + timedelta(minutes=begins)
    grant(
        NewGrant(
            people.acme_user if is_anns else people.globex_user,
            amount,
            Grant.Source.MANUAL,
            f"given-{number}",
            starts_at=starts_at,
            expires_at=None if lasts is None else starts_at + timedelta(minutes=lasts),
        )
    )


@settings(max_examples=ORDERS)
@given(data=st.data())
def test_any_order_of_batches_ends_as_one_clean_batch(
    connection: LangfuseConnection, people: People, data: st.DataObject
) -> None:
    owners = ["", "unknown", str(people.acme_user.pk), str(people.globex_user.pk)]
    tenants = ["", "unknown", str(people.acme.pk), str(people.globex.pk)]
    history = data.draw(
        st.lists(versions(owners, tenants), min_size=1, max_size=10), label="history"
    )
    batches = data.draw(
        st.lists(st.lists(st.sampled_from(history), max_size=6), max_size=6), label="batches"
    )
    credits = data.draw(st.lists(given_credits, max_size=3), label="credits")
    places = [data.draw(st.integers(0, len(batches) + 1), label="given before") for _ in credits]
    last = data.draw(st.permutations(history), label="last batches")
    cut = data.draw(st.integers(0, len(last)), label="cut")

    with transaction.atomic():
        for place, batch in enumerate([*batches, last[:cut], last[cut:]]):
            for number, one in enumerate(credits):
                if places[number] == place:
                    give(people, number, one)
            apply_received(connection, batch)
            assert verify_books() == []
        stepwise = comparable()
        transaction.set_rollback(True)
    with transaction.atomic():
        for number, one in enumerate(credits):
            give(people, number, one)
        apply_received(connection, history)
        clean = comparable()
        transaction.set_rollback(True)

    assert stepwise == clean


@settings(max_examples=ORDERS)
@given(data=st.data())
def test_moves_and_settlements_at_any_time_end_as_if_they_were_known_before(
    connection: LangfuseConnection, people: People, data: st.DataObject
) -> None:
    owners = ["", str(people.acme_user.pk), str(people.globex_user.pk)]
    tenants = ["", str(people.acme.pk), str(people.globex.pk)]
    history = data.draw(
        st.lists(versions(owners, tenants), min_size=1, max_size=8), label="history"
    )
    cut = data.draw(st.integers(0, len(history)), label="cut")
    moved_at, outcome = data.draw(moments, label="moved"), data.draw(st.sampled_from(Outcome))

    def move() -> None:
        User.objects.filter(pk=people.acme_user.pk).update(tenant=people.globex)
        record_moves([Move(people.acme_user.pk, people.acme.pk, people.globex.pk, moved_at)])

    def settle_open() -> None:
        found = DisputedTrace.objects.filter(settled_as="").order_by("pk")
        settle([one.pk.hex for one in found], outcome, people.platform_admin)

    events = [
        lambda: apply_received(connection, history[:cut]),
        lambda: apply_received(connection, history[cut:]),
        move,
        attribute_all,
        settle_open,
    ]
    with transaction.atomic():
        for event in data.draw(st.permutations(events), label="events"):
            event()
            assert verify_books() == []
        attribute_all()
        settle_open()
        assert verify_books() == []
        stepwise = comparable()
        transaction.set_rollback(True)
    with transaction.atomic():
        move()
        apply_received(connection, history)
        settle_open()
        assert verify_books() == []
        clean = comparable()
        transaction.set_rollback(True)

    assert stepwise == clean


def comparable() -> dict[str, list[Any]]:
    """The state; of the ledger what is posted for each hour and of each grant, not in how many
    steps.
    """
    posted = UsageCharge.objects.exclude(credits=0).values_list("account_id", "hour", "credits")
    burned = Grant.objects.values_list("idempotency_key", "posted", "returned")
    return {
        **state(),
        "UsageCharge": sorted(map(str, posted)),
        "Grant": sorted(map(str, burned)),
    }


def test_odd_texts_are_stored_as_they_came(connection: LangfuseConnection, people: People) -> None:
    """What COPY, JSON and the databases write in their own ways: quotes, backslashes, tabs, NUL in
    the name of a unit.
    """
    odd = 'say "x"\\N\t\\n\nZürich €'
    usage = {"input": 3, 'a\x00b\\"': 2}
    one = received(
        "a\\b",
        trace_id="t\\1",
        is_root=True,
        name=odd,
        trace_name=odd,
        user_reference=odd,
        model=odd,
        usage_details=usage,
    )
    with transaction.atomic():
        assert apply_received(connection, [one]).observations_stored == 1
        assert apply_received(connection, [one]).observations_stored == 0
        assert verify_books() == []
        stored = stored_steps()["t\\1", "a\\b"]
        assert (stored.trace_attributes, stored.version) == (one.trace_attributes, one.step)
