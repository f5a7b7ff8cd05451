"""Rulings: what doesn't add up is billed as was ruled, whatever comes when, and undone to the last
place.
"""

from collections.abc import Sequence
from decimal import Decimal as D
from typing import Any

import pytest
from django.db import transaction

from credits.models import Account
from kluisz_analytics.tenants.models import User
from tests.conftest import People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.desk import rulings
from usage.facts import rework
from usage.facts.apply import apply_received
from usage.facts.findings import Finding, Takes
from usage.models import LangfuseConnection, Observation, Trace, UsageRuling

pytestmark = pytest.mark.django_db
GPT5 = {"input": 117231, "cache_read_input_tokens": 115584, "output": 225, "total": 117456}
LANGFUSES, OURS = D("0.148789"), D("0.018756750000")


def store(connection: LangfuseConnection, user: User, trace_id: str, *steps: Any) -> None:
    owner = {"user_reference": str(user.pk), "tenant_reference": str(user.tenant_id)}
    with transaction.atomic():
        apply_received(
            connection, [received(name, trace_id, **owner, **fields) for name, fields in steps]
        )


def doubled(
    connection: LangfuseConnection, user: User, trace_id: str, model: str = "gpt-5"
) -> None:
    """A call whose cost Langfuse counts twice."""
    call = {"model": model, "usage_details": GPT5, "cost_usd": LANGFUSES, "type": "GENERATION"}
    store(connection, user, trace_id, ("call", call))


def costs() -> dict[str, D]:
    return dict(Trace.objects.order_by("pk").values_list("langfuse_trace_id", "cost_usd"))


def everything(user: User) -> tuple[Any, ...]:
    """Facts and balance, to the last place."""
    columns = (
        "langfuse_observation_id",
        "cost_usd",
        "credits",
        "finding",
        "other_cost_usd",
        "takes",
        "counted_in",
        "input_tokens",
        "cost_source",
    )
    return (
        list(
            Trace.objects.order_by("pk").values(
                "pk",
                "cost_usd",
                "billed_cost_usd",
                "credits",
                "total_tokens",
                "priced_observations",
            )
        ),
        list(Observation.objects.order_by("trace", "langfuse_observation_id").values(*columns)),
        Account.objects.get(pk=user.pk).balance,
    )


def rule(connection: LangfuseConnection, finding: Finding, takes: Takes, **of: Any) -> UsageRuling:
    ruling = rulings.begin(finding, takes, connection, reason="as agreed", by=None, **of)
    rulings.advance(ruling)
    assert ruling.state == "applied"
    return ruling


def test_of_a_model_and_undone_to_the_last_place(
    people: People, bare_connection: LangfuseConnection
) -> None:
    ann = people.acme_user
    for name in ("one", "two"):
        doubled(bare_connection, ann, name)
    doubled(bare_connection, ann, "other", "gpt-5-2025-08-07")
    (first, *_) = Observation.objects.all()
    assert (first.finding, first.cost_usd, first.other_cost_usd) == ("cost", LANGFUSES, OURS)
    before = everything(ann)
    ruling = rule(bare_connection, Finding.COST, Takes.PRICE_BOOK, model="gpt-5")
    assert costs() == {"one": OURS, "two": OURS, "other": LANGFUSES}
    assert (ruling.traces_done, ruling.traces_changed) == (2, 2)
    assert ruling.cost_usd_difference == 2 * (OURS - LANGFUSES)
    ruled = Observation.objects.get(trace__langfuse_trace_id="one")
    assert (ruled.finding, ruled.takes, ruled.other_cost_usd) == ("cost", "price_book", LANGFUSES)
    assert verify_books() == []
    rulings.undo(ruling)
    rulings.advance(ruling)
    assert ruling.state == "undone"
    assert everything(ann) == before
    assert verify_books() == []


@pytest.mark.parametrize("of", ["connection", "model", "observation"])
def test_what_comes_before_and_after_is_the_same(
    people: People, bare_connection: LangfuseConnection, of: str
) -> None:
    ann = people.acme_user
    doubled(bare_connection, ann, "before")
    trace = Trace.objects.get()
    which: dict[str, Any] = {
        "connection": {},
        "model": {"model": "gpt-5"},
        "observation": {"step": (trace.pk, "call")},
    }[of]
    rule(bare_connection, Finding.COST, Takes.PRICE_BOOK, **which)
    for _ in range(2):
        doubled(bare_connection, ann, "after")
        doubled(bare_connection, ann, "before")
    assert costs() == {"before": OURS, "after": LANGFUSES if of == "observation" else OURS}
    assert verify_books() == []


def agent(connection: LangfuseConnection, user: User, order: Sequence[int]) -> None:
    steps: list[tuple[str, dict[str, Any]]] = [
        (
            "agent",
            {"is_root": True, "usage_details": {"input": 30, "output": 12}, "cost_usd": D("0.4")},
        ),
        (
            "a",
            {
                "parent_id": "agent",
                "model": "gpt-5",
                "cost_usd": D("0.1"),
                "usage_details": {"input": 10, "output": 5},
            },
        ),
        (
            "b",
            {
                "parent_id": "agent",
                "model": "gpt-5",
                "cost_usd": D("0.3"),
                "usage_details": {"input": 20, "output": 7},
            },
        ),
    ]
    for at in order:
        store(connection, user, "run", steps[at])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2, 1, 0), (1, 2, 0)])
def test_a_sum_is_counted_once_in_whatever_order_it_comes(
    people: People, bare_connection: LangfuseConnection, order: Sequence[int]
) -> None:
    ann = people.acme_user
    agent(bare_connection, ann, order)
    assert costs() == {"run": D("0.4")}
    before = everything(ann)
    carrier = Observation.objects.get(langfuse_observation_id="agent")
    assert (carrier.counted_in, carrier.finding, carrier.other_cost_usd) == ("a", "sum", D("0.4"))
    assert carrier.cost_usd is None
    assert verify_books() == []
    ruling = rule(bare_connection, Finding.SUM, Takes.BOTH)
    assert costs() == {"run": D("0.8")}
    carrier = Observation.objects.get(langfuse_observation_id="agent")
    assert (carrier.finding, carrier.takes, carrier.other_cost_usd) == ("sum", "both", 0)
    assert verify_books() == []
    rulings.undo(ruling)
    rulings.advance(ruling)
    assert everything(ann) == before


def test_a_cost_of_0_with_thousands_of_tokens(
    people: People, bare_connection: LangfuseConnection
) -> None:
    call = {"model": "gpt-5", "usage_details": GPT5, "cost_usd": D(0)}
    store(bare_connection, people.acme_user, "run", ("call", call))
    step = Observation.objects.get()
    assert (step.finding, step.cost_usd, step.other_cost_usd) == ("free", 0, OURS)
    rule(bare_connection, Finding.FREE, Takes.PRICE_BOOK)
    assert costs() == {"run": OURS}
    rule(bare_connection, Finding.FREE, Takes.LANGFUSE)
    assert costs() == {"run": 0}, "the later of two alike holds"
    assert verify_books() == []


def test_it_is_stopped_and_goes_on_where_it_was(
    people: People, bare_connection: LangfuseConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        doubled(bare_connection, people.acme_user, f"run{number}")
    monkeypatch.setattr(rework, "TRACES_A_BATCH", 2)
    ruling = rulings.begin(
        Finding.COST, Takes.PRICE_BOOK, bare_connection, reason="as agreed", by=None
    )
    rulings.advance(ruling, report=rulings.stop)
    assert (ruling.state, ruling.traces_done) == ("stopped", 2)
    assert sorted(costs().values()) == [OURS] * 2 + [LANGFUSES] * 3
    with pytest.raises(ValueError, match="can't be stopped"):
        rulings.stop(ruling)
    rulings.resume(ruling)
    rulings.advance(ruling)
    assert set(costs().values()) == {OURS}
    assert (ruling.state, ruling.traces_done, ruling.traces_changed) == ("applied", 5, 5)


@pytest.mark.parametrize(
    ("finding", "takes", "reason", "message"),
    [
        (Finding.COST, Takes.PRICE_BOOK, " ", "Say why"),
        (Finding.COST, Takes.BOTH, "x", "write langfuse, price_book"),
        (Finding.UNITS, Takes.BOTH, "x", "write as_counted"),
    ],
)
def test_what_can_not_be_ruled(
    bare_connection: LangfuseConnection, finding: Finding, takes: Takes, reason: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        rulings.begin(finding, takes, bare_connection, reason=reason, by=None)
    assert not UsageRuling.objects.exists()
