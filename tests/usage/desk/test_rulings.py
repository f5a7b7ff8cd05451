"""Rulings: what doesn't add up is billed as was ruled, whatever comes when, and undone to the last
place.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.db import transaction

from credits.models import Account
from kluisz_analytics.tenants.models import User
from pricing import lists
from pricing.models import ModelAlias, ModelPrice
from tests.conftest import LONG_AGO, People
from tests.usage.facts.test_decide import received
from usage.analytics.explain import explain
from usage.books import verify_books
from usage.desk import rulings
from usage.facts import rework
from usage.facts.apply import Batch, apply_batch, apply_received, load_assembler
from usage.facts.findings import Finding, Takes
from usage.models import LangfuseConnection, Observation, Trace, UsageRuling
from usage.repricing.preview import preview

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


def test_a_worker_that_loaded_the_rulings_before_stores_by_those_of_now(
    people: People, bare_connection: LangfuseConnection
) -> None:
    ann = people.acme_user
    doubled(bare_connection, ann, "before")
    owner = {"user_reference": str(ann.pk), "tenant_reference": str(ann.tenant_id)}
    call = {"model": "gpt-5", "usage_details": GPT5, "cost_usd": LANGFUSES, "type": "GENERATION"}

    def stored_by_a_stale_worker(trace_id: str, change: Callable[[], object]) -> None:
        stale = load_assembler(bare_connection)
        batch = Batch(bare_connection.pk, [received("call", trace_id, **owner, **call)])
        batch.prepare(stale)
        change()
        with transaction.atomic():
            apply_batch(bare_connection, batch, stale)

    made: list[UsageRuling] = []

    def begin() -> None:
        made.append(rule(bare_connection, Finding.COST, Takes.PRICE_BOOK))

    def undo() -> None:
        rulings.undo(made[0])
        rulings.advance(made[0])

    stored_by_a_stale_worker("while it began", begin)
    assert set(costs().values()) == {OURS}
    stored_by_a_stale_worker("while it was undone", undo)
    assert set(costs().values()) == {LANGFUSES}
    assert verify_books() == []


UNITS = {"input": 4000, "output": 100, "total": 2000}
OF_UNITS = {"model": "gpt-5", "usage_details": UNITS, "type": "GENERATION"}
# Of gpt-5 a million of input are $1.25, of output $10.
AS_COUNTED, BY_TOTAL = D("0.006"), D("0.003375")


@pytest.mark.parametrize("cost", [None, D("0.005")])
def test_of_units_their_own_total_is_the_other_figure(
    people: People, bare_connection: LangfuseConnection, cost: D | None
) -> None:
    ann, counted = people.acme_user, cost or AS_COUNTED
    store(bare_connection, ann, "run", ("call", {**OF_UNITS, "cost_usd": cost}))
    step = Observation.objects.get()
    assert (step.usage_doubt, step.finding, step.cost_usd, step.other_cost_usd) == (
        "more_than_total",
        "",
        counted,
        BY_TOTAL,
    )
    before = everything(ann)
    ruling = rule(bare_connection, Finding.UNITS, Takes.TOTAL, model="gpt-5")
    step = Observation.objects.get()
    assert (step.takes, step.cost_usd, step.other_cost_usd) == ("total", BY_TOTAL, counted)
    assert (step.input_tokens, step.output_tokens, step.total_tokens) == (1900, 100, 2000)
    assert Trace.objects.get().doubtful_observations == 0
    (line, _) = explain(Trace.objects.get(), people.platform_admin).observations[0].line_items
    assert (line.units, line.amount_usd) == (1900, D("0.002375"))
    compared = preview(step.start_time - timedelta(days=1), step.start_time + timedelta(days=1))
    assert (compared.total.observations, compared.total.cost_usd) == (0, 0)
    assert verify_books() == []
    store(bare_connection, ann, "run", ("call", {**OF_UNITS, "cost_usd": cost}))
    store(bare_connection, ann, "later", ("call", {**OF_UNITS, "cost_usd": cost}))
    assert set(costs().values()) == {BY_TOTAL}
    rulings.undo(ruling)
    rulings.advance(ruling)
    assert costs() == {"run": counted, "later": counted}
    assert everything(ann)[1][0] == before[1][0]
    assert verify_books() == []


def test_of_units_without_another_figure_the_total_is_no_choice(
    people: People, bare_connection: LangfuseConnection
) -> None:
    ann = people.acme_user
    alone = {"model": "gpt-5", "usage_details": {"total": 10}}
    store(bare_connection, ann, "alone", ("call", alone))
    store(bare_connection, ann, "unpriced", ("call", {**OF_UNITS, "model": "nobody-knows"}))
    rule(bare_connection, Finding.UNITS, Takes.TOTAL)
    for step in Observation.objects.all():
        assert (step.takes, step.other_cost_usd) == ("", None), step.usage_doubt
    assert [one.doubtful_observations for one in Trace.objects.all()] == [1, 1]
    assert verify_books() == []


def test_a_connections_own_names_of_models_have_their_prices(
    people: People, bare_connection: LangfuseConnection
) -> None:
    lists.enter_alias(
        ModelAlias(
            name="prod-chat", model="gpt-5", connection=bare_connection, valid_from=LONG_AGO
        ),
        people.platform_admin,
    )
    doubled(bare_connection, people.acme_user, "run", "prod-chat")
    step = Observation.objects.get()
    assert (step.finding, step.other_cost_usd) == ("cost", OURS)


def test_nobody_asks_about_langfuses_cost_where_an_own_price_replaces_it(
    people: People, bare_connection: LangfuseConnection
) -> None:
    price = ModelPrice(
        model="gpt-5", tenant=people.acme, valid_from=LONG_AGO, input=D(1), output=D(1)
    )
    lists.enter_price(price, people.platform_admin)
    doubled(bare_connection, people.acme_user, "run")
    step = Observation.objects.get()
    assert (step.cost_source, step.finding) == ("tenant_price", "")


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
