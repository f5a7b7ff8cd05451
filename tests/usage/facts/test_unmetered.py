"""Calls of models that say no usage are unmetered, not free (domain.md, What is counted)."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from kluisz_analytics.tenants.models import User
from pricing.engine import CostSource
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received, trace_of
from usage.books import verify_books
from usage.facts.unmetered import unmetered_calls
from usage.models import Observation, Trace

D = Decimal
USAGE = {"input": 10, "output": 5, "total": 15}
CALL = {"type": "GENERATION", "model": "gpt-4o"}
CASES: dict[str, tuple[list[dict[str, Any]], set[str]]] = {
    "a generation without usage": ([{"type": "GENERATION"}], {"s0"}),
    "an embedding without usage": ([{"type": "EMBEDDING"}], {"s0"}),
    "anything with a model": ([{"type": "TOOL", "model": "m"}], {"s0"}),
    "usage of 0": ([{**CALL, "usage_details": {"input": 0, "total": 0}}], {"s0"}),
    "a span": ([{"type": "SPAN"}], set()),
    "an agent without a model": ([{"type": "AGENT"}], set()),
    "a call with usage": ([{**CALL, "usage_details": USAGE}], set()),
    "a call with a cost of 0": ([{**CALL, "cost_usd": D(0)}], set()),
    "a call around one with usage (DSPy around LiteLLM)": (
        [CALL, {**CALL, "usage_details": USAGE, "parent_id": "s0"}],
        set(),
    ),
    "a call around a span around one with usage": (
        [CALL, {"parent_id": "s0"}, {**CALL, "usage_details": USAGE, "parent_id": "s1"}],
        set(),
    ),
    "a call around one without usage, too": ([CALL, {**CALL, "parent_id": "s0"}], {"s1"}),
    "a call inside one with usage": (
        [{**CALL, "usage_details": USAGE}, {**CALL, "parent_id": "s0"}],
        set(),
    ),
    "a call inside an agent with its calls' sum": (
        [{"type": "AGENT", "usage_details": USAGE}, {**CALL, "parent_id": "s0"}],
        {"s1"},
    ),
    "a call beside one with usage": (
        [{}, {**CALL, "usage_details": USAGE, "parent_id": "s0"}, {**CALL, "parent_id": "s0"}],
        {"s2"},
    ),
    "what LlamaIndex prepares beside a call": (
        [{**CALL, "name": "OpenAI._prepare_chat_with_tools"}],
        set(),
    ),
    "steps inside one another": (
        [{**CALL, "parent_id": "s1"}, {**CALL, "parent_id": "s0"}],
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_which_calls_are_unmetered(case: str) -> None:
    steps, expected = CASES[case]
    versions = [received(f"s{at}", **step).step for at, step in enumerate(steps)]
    assert unmetered_calls(versions) == expected
    trace, billed = trace_of(*[received(f"s{at}", **step) for at, step in enumerate(steps)])
    assert trace.unmetered_observations == len(expected)
    found = {one.version.observation_id: one for one in billed}
    assert {key for key, one in found.items() if one.cost_source is CostSource.UNMETERED} == (
        expected
    )


def test_a_run_of_unmetered_calls_alone_has_no_known_cost() -> None:
    trace, (step,) = trace_of(received("a", **CALL))
    assert (trace.cost_picousd, trace.microcredits, trace.model) == (None, None, "gpt-4o")
    assert (step.cost_picousd, step.tokens.total) == (None, 0)


def test_beside_a_priced_call_the_known_part_is_the_cost() -> None:
    trace, _ = trace_of(
        received("a", **CALL), received("b", **CALL, usage_details=USAGE, cost_usd=D("0.01"))
    )
    counts = trace.priced_observations, trace.unmetered_observations
    assert (trace.cost_picousd, counts) == (10**10, (1, 1))


@pytest.fixture
def calls(people: People, use: Callable[..., None]) -> None:
    """Metered calls of a flow, and unmetered ones of it and of another."""
    use(people.acme_user, "0.02", flow="f1")
    use(people.acme_user, "0.04", flow="f1", start=NOON + timedelta(hours=1))
    silent = {"type": "GENERATION", "usage_details": {}}
    use(people.acme_user, None, flow="f1", start=NOON + timedelta(hours=2), **silent)
    use(people.acme_user, None, flow="f1", start=NOON + timedelta(hours=3), **silent)
    use(people.acme_user, None, flow="f1", level="ERROR", **silent)
    use(people.globex_user, None, flow="f2", end_time=None, **silent)


def listed(api: Callable[..., Any], user: User, **query: Any) -> list[tuple[Any, ...]]:
    names = ("model", "flow_id", "tenant_name", "reason", "unmetered_observations")
    found = api(user, "unmetered", **query).json()["results"]
    return [(*(row[name] for name in names), row["estimated_cost_usd"]) for row in found]


@pytest.mark.django_db
@pytest.mark.usefixtures("calls")
def test_they_are_listed_with_the_likely_reason_and_estimated_on_request(
    people: People, api: Callable[..., Any]
) -> None:
    assert listed(api, people.platform_admin) == [
        ("gpt-4o", "f1", "Acme", "streamed", 2, None),
        ("gpt-4o", "f1", "Acme", "failed", 1, None),
        ("gpt-4o", "f2", "Globex", "not_ended", 1, None),
    ]
    assert listed(api, people.platform_admin, estimate="true") == [
        ("gpt-4o", "f1", "Acme", "streamed", 2, "0.060000000000"),
        ("gpt-4o", "f1", "Acme", "failed", 1, "0.030000000000"),
        ("gpt-4o", "f2", "Globex", "not_ended", 1, None),
    ]
    answer = api(people.platform_admin, "unmetered", estimate="perhaps")
    assert answer.status_code == 400
    assert verify_books() == []


@pytest.mark.django_db
@pytest.mark.usefixtures("calls")
def test_they_are_counted_in_every_answer_and_are_in_no_cost(
    people: People, api: Callable[..., Any]
) -> None:
    period = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
    body = api(people.platform_admin, "platform/stats", **period).json()
    assert (body["unmetered_observations"], body["metered_calls"]) == (4, 2)
    assert body["total_cost_usd"] == "0.060000000000"
    rows = api(people.platform_admin, "cost-breakdown", group_by="tenant", **period).json()
    by_tenant = {row["label"]: row for row in rows["results"]}
    assert by_tenant["Globex"]["total_cost_usd"] is None, "unknown is not 0"
    assert by_tenant["Globex"]["unmetered_observations"] == 1
    runs = api(people.platform_admin, "traces", **period).json()["results"]
    assert sum(run["unmetered_observations"] for run in runs) == 4
    detail = api(people.platform_admin, f"traces/{_silent().pk}/explanation").json()
    assert "say neither what they used nor what they cost" in detail["why_no_credits"]


def _silent() -> Trace:
    return Trace.objects.filter(unmetered_observations=1).order_by("start_time")[0]


@pytest.mark.django_db
@pytest.mark.usefixtures("calls")
def test_the_page_of_unpriced_usage_lists_them(admin_client: Client) -> None:
    address = reverse("admin:usage_unpricedusage")
    page = admin_client.get(address).content.decode()
    assert "It was streamed without asking for usage" in page
    assert "Estimate what they cost" in page
    page = admin_client.get(address, {"estimate": "yes"}).content.decode()
    assert "from 2 calls" in page
    assert "no history" in page


@pytest.mark.django_db
@pytest.mark.usefixtures("calls")
def test_a_call_that_says_its_usage_later_is_metered(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    observation = Observation.objects.filter(cost_source="unmetered", level="ERROR").get()
    use(
        people.acme_user,
        "0.05",
        flow="f1",
        trace_id=observation.trace.langfuse_trace_id,
        received_at=NOON + timedelta(minutes=5),
    )
    assert [row[3] for row in listed(api, people.platform_admin)] == ["streamed", "not_ended"]
    assert verify_books() == []


@pytest.mark.django_db
@pytest.mark.usefixtures("calls")
def test_the_books_show_a_call_that_is_none_of_the_four() -> None:
    trace = _silent()
    Observation.objects.filter(trace=trace, cost_source="unmetered").delete()
    Trace.objects.filter(pk=trace.pk).update(unmetered_observations=0, model="")
    checks = [finding.check for finding in verify_books()]
    assert (
        "facts: every call is priced, partly priced, unpriced, unmetered or counted elsewhere"
        in checks
    )
