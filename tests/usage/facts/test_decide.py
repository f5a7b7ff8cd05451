"""What a trace is, decided over all its steps (domain.md, What is counted)."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from pricing.engine import CostSource, PricingEngine
from pricing.price_book import PriceBook
from pricing.prices import Assignment, TierRate
from tests.conftest import LONG_AGO, NOON
from usage.facts.decide import assemble
from usage.facts.decided import BilledStep, TraceFact
from usage.facts.identity import trace_key
from usage.facts.owner import Directory, KnownUser
from usage.facts.received import newest_by_trace
from usage.langfuse.wire import ReceivedObservation, StepVersion, TraceAttributes

ACME, GLOBEX, ANN, GUS = (uuid4() for _ in range(4))
DIRECTORY = Directory(
    {str(one): one for one in (ACME, GLOBEX)},
    {str(ANN): KnownUser(ANN, ACME), str(GUS): KnownUser(GUS, GLOBEX)},
)
BOOK = PriceBook(
    rates={1: [TierRate(1, LONG_AGO, Decimal(200), Decimal("0.95"))]},
    platform_tiers=[Assignment(LONG_AGO, 1)],
)
D = Decimal
KEY = trace_key(1, "t1")


def received(
    observation_id: str = "o1", trace_id: str = "t1", **fields: Any
) -> ReceivedObservation:
    said = TraceAttributes(
        name=fields.pop("trace_name", ""),
        **{
            name: fields.pop(name)
            for name in TraceAttributes._fields
            if name in fields and name != "name"
        },
    )
    values: dict[str, Any] = {
        "observation_id": observation_id,
        "type": "SPAN",
        "name": observation_id,
        "level": "DEFAULT",
        "is_root": False,
        "start_time": NOON,
        "end_time": None,
        "received_at": NOON,
        "model": "",
        "usage_details": {},
        "cost_usd": None,
        **fields,
    }
    return ReceivedObservation(trace_id, said, StepVersion(**values))


def trace_of(
    *observations: ReceivedObservation, book: PriceBook = BOOK, fixed_tenant_id: UUID | None = None
) -> tuple[TraceFact, list[BilledStep]]:
    """The trace and its billed steps."""
    fact, billed, _ = assemble(
        1, KEY, observations, DIRECTORY, PricingEngine(book), fixed_tenant_id
    )
    return fact, billed


@pytest.mark.parametrize(
    ("tenant", "user", "expected"),
    [
        (str(ACME), str(ANN), (ACME, ANN)),
        ("", str(ANN), (ACME, ANN)),
        (str(GLOBEX), str(ANN), (None, None)),
        (str(uuid4()), str(ANN), (None, ANN)),
        ("acme", str(ANN), (None, ANN)),
        (str(ACME), "", (ACME, None)),
        (str(ACME), str(uuid4()), (ACME, None)),
        ("", "", (None, None)),
    ],
)
def test_the_owner_is_who_the_trace_names(
    tenant: str, user: str, expected: tuple[UUID | None, UUID | None]
) -> None:
    trace, _ = trace_of(received(tenant_reference=tenant, user_reference=user))
    assert (trace.tenant_id, trace.user_id) == expected


def test_a_root_is_asked_first_then_the_earliest() -> None:
    early, late = NOON - timedelta(minutes=1), NOON
    child = received(
        "a", start_time=early, user_reference=str(GUS), flow_id="child-flow", project_id="p"
    )
    root = received("b", start_time=late, is_root=True, user_reference=str(ANN))
    trace, _ = trace_of(child, root)
    assert (trace.user_id, trace.attributes.flow_id, trace.attributes.project_id) == (
        ANN,
        "child-flow",
        "p",
    )
    trace, _ = trace_of(
        received("a", start_time=late, flow_id="late"),
        received("b", start_time=early, flow_id="early"),
    )
    assert trace.attributes.flow_id == "early"


def test_the_order_in_which_steps_come_changes_nothing() -> None:
    observations = [
        received("a", user_reference=str(GUS)),
        received("b", is_root=True, user_reference=str(ANN)),
        received("c", is_root=True),
    ]
    engine = PricingEngine(BOOK)
    assert assemble(1, KEY, observations, DIRECTORY, engine) == assemble(
        1, KEY, observations[::-1], DIRECTORY, engine
    )


def test_a_fixed_tenant_owns_all_of_its_connections_usage() -> None:
    trace, _ = trace_of(
        received(tenant_reference=str(ACME), user_reference=str(GUS)), fixed_tenant_id=GLOBEX
    )
    assert (trace.tenant_id, trace.user_id) == (GLOBEX, GUS)


def test_its_time_is_its_earliest_start_and_all_its_usage_counts_there() -> None:
    trace, _ = trace_of(
        received("a", start_time=NOON + timedelta(minutes=70)),
        received("b", start_time=NOON - timedelta(seconds=1)),
    )
    assert trace.start_time == NOON - timedelta(seconds=1)
    assert trace.hour == NOON - timedelta(hours=1)


@pytest.mark.parametrize(
    ("ends", "latency_ms"),
    [
        ([None], None),
        ([NOON + timedelta(seconds=2), None], 2000),
        ([NOON - timedelta(seconds=9)], 0),
    ],
)
def test_its_latency_is_to_the_latest_end(
    ends: list[datetime | None], latency_ms: int | None
) -> None:
    trace, _ = trace_of(*(received(str(number), end_time=end) for number, end in enumerate(ends)))
    assert trace.latency_ms == latency_ms


@pytest.mark.parametrize(
    ("levels", "failed"),
    [
        ([(True, "ERROR"), (False, "DEFAULT")], True),
        ([(True, "DEFAULT"), (False, "ERROR")], False),
        ([(False, "ERROR")], True),
        ([(False, "WARNING")], False),
        ([(True, "DEFAULT"), (True, "ERROR")], True),
    ],
)
def test_it_failed_if_a_root_did_or_without_one_any_step(
    levels: list[tuple[bool, str]], failed: bool
) -> None:
    trace, _ = trace_of(
        *(
            received(str(number), is_root=root, level=level)
            for number, (root, level) in enumerate(levels)
        )
    )
    assert trace.is_failed is failed


def test_six_cents_on_professional_are_11_4_credits() -> None:
    usage = {"input": 10, "output": 5, "total": 15}
    owner = {"tenant_reference": str(ACME), "user_reference": str(ANN)}
    trace, steps = trace_of(
        received("a", is_root=True, **owner),
        received("b", type="TOOL", usage_details=usage, cost_usd=D("0.02"), model="x"),
        received("c", type="GENERATION", usage_details=usage, cost_usd=D("0.04"), model="y"),
    )
    assert (trace.cost_picousd, trace.billed_cost_picousd, trace.microcredits) == (
        60_000_000_000,
        57_000_000_000,
        11_400_000,
    )
    assert (trace.tokens.total, trace.priced_observations, trace.unpriced_observations) == (
        30,
        2,
        0,
    )
    assert [step.microcredits for step in steps] == [3_800_000, 7_600_000]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ([], ""),
        (["m1"], "m1"),
        (["m1", "m1"], "m1"),
        (["m1", "m2"], None),
        (["", ""], ""),
        (["", "m1"], None),
    ],
)
def test_it_names_the_model_of_all_its_usage(models: list[str], expected: str | None) -> None:
    using = [
        received(f"u{number}", usage_details={"input": 5}, model=model)
        for number, model in enumerate(models)
    ]
    trace, _ = trace_of(received("root", is_root=True), received("idle"), *using)
    assert trace.model == expected


def test_what_has_no_price_is_unknown_not_zero() -> None:
    owner = {"tenant_reference": str(ACME), "user_reference": str(ANN)}
    unpriced = received("a", usage_details={"input": 5, "total": 5}, model="nobody-knows", **owner)
    trace, steps = trace_of(unpriced)
    assert (trace.cost_picousd, trace.microcredits, trace.unpriced_observations) == (None, None, 1)
    assert steps[0].cost_source is CostSource.UNPRICED
    trace, _ = trace_of(
        unpriced, received("b", usage_details={"input": 5}, cost_usd=D("0.01"), **owner)
    )
    assert (trace.cost_picousd, trace.unpriced_observations) == (10**10, 1)


@pytest.mark.parametrize(
    "owner",
    [
        {},
        {"tenant_reference": "nobody", "user_reference": str(ANN)},
        {"tenant_reference": str(ACME), "user_reference": str(GUS)},
    ],
)
def test_usage_of_no_known_tenant_has_a_cost_and_is_charged_to_nobody(
    owner: dict[str, str],
) -> None:
    trace, steps = trace_of(received(usage_details={"input": 5}, cost_usd=D(1), **owner))
    assert (trace.cost_picousd, trace.microcredits, steps[0].microcredits) == (10**12, None, None)
    assert trace.tenant_id is None


def test_usage_of_a_tenant_without_a_user_has_the_tenants_price() -> None:
    trace, steps = trace_of(
        received(usage_details={"input": 5}, cost_usd=D(1), tenant_reference=str(ACME))
    )
    assert (trace.tenant_id, trace.user_id) == (ACME, None)
    assert (trace.microcredits, steps[0].microcredits) == (190_000_000, 190_000_000)


def test_without_a_tier_usage_has_a_cost_and_no_credits() -> None:
    owner = {"tenant_reference": str(ACME), "user_reference": str(ANN)}
    trace, _ = trace_of(
        received(usage_details={"input": 5}, cost_usd=D(1), **owner), book=PriceBook()
    )
    assert (trace.cost_picousd, trace.billed_cost_picousd, trace.microcredits, trace.rate_id) == (
        10**12,
        None,
        None,
        None,
    )


def test_the_version_received_last_is_the_truth_whatever_the_order() -> None:
    versions = [
        received("a", received_at=NOON + timedelta(seconds=number), cost_usd=D(number))
        for number in (2, 3, 1)
    ]
    for order in (versions, versions[::-1]):
        assert newest_by_trace(order)["t1"]["a"].step.cost_usd == 3
    twins = [received("a", cost_usd=D(number)) for number in (1, 2)]
    chosen = {newest_by_trace(order)["t1"]["a"].step.cost_usd for order in (twins, twins[::-1])}
    assert len(chosen) == 1, (
        "of two versions of one moment the same one is chosen, whatever the order"
    )
    owners = [received("a", user_reference=str(user)) for user in (ANN, GUS)]
    assert (
        len(
            {newest_by_trace(order)["t1"]["a"].trace_attributes for order in (owners, owners[::-1])}
        )
        == 1
    )


def test_the_same_span_id_in_two_traces_is_two_observations() -> None:
    traces = newest_by_trace([received("a", trace_id="t1"), received("a", trace_id="t2")])
    assert {trace_id: [*steps] for trace_id, steps in traces.items()} == {"t1": ["a"], "t2": ["a"]}
    assert trace_key(1, "t1") != trace_key(2, "t1")


def test_it_says_in_which_hour_its_last_step_began_if_that_is_a_later_one() -> None:
    assert (
        trace_of(received("a"), received("b", start_time=NOON + timedelta(minutes=59)))[
            0
        ].last_step_hour
        is None
    )
    late = received("b", start_time=NOON + timedelta(minutes=150))
    assert trace_of(received("a"), late)[0].last_step_hour == NOON + timedelta(hours=2)
    # Also where the step that decides, the root, is the last one to begin.
    root = received("r", is_root=True, start_time=NOON + timedelta(minutes=60))
    assert trace_of(received("a"), root)[0].last_step_hour == NOON + timedelta(hours=1)


def test_a_trace_without_usage_is_charged_a_tiers_minimum_at_its_first_step() -> None:
    rate = TierRate(1, LONG_AGO, Decimal(200), Decimal("0.95"), minimum_credits=D(2))
    book = PriceBook(rates={1: [rate]}, platform_tiers=[Assignment(LONG_AGO, 1)])
    owner = {"tenant_reference": str(ACME), "user_reference": str(ANN)}
    trace, billed = trace_of(received("child"), received("root", is_root=True, **owner), book=book)
    assert (
        trace.microcredits,
        [(step.version.observation_id, step.microcredits) for step in billed],
    ) == (2_000_000, [("root", 2_000_000)])
    assert (trace.priced_observations, trace.unpriced_observations, trace.tokens.total) == (0, 0, 0)
