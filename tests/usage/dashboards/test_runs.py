"""The list of runs, and a run's page with its steps as a waterfall."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.utils import timezone

from kluisz_analytics.tenants.models import Flow, User
from tests.conftest import People
from tests.usage.facts.test_decide import received
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection, Trace

pytestmark = pytest.mark.django_db
NOW = datetime(2037, 11, 24, 14, 20, tzinfo=UTC)
HOUR = timedelta(hours=1)
COLUMNS = [
    "name",
    "tenant__name",
    "user__username",
    "is_failed",
    "credits",
    "cost_usd",
    "total_tokens",
    "latency_ms",
    "start_time",
]


@pytest.fixture(autouse=True)
def _the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.fixture
def ask(people: People) -> Callable[..., Any]:
    def get(path: str, user: User | None = None) -> Any:
        client = Client()
        client.force_login(user or people.platform_admin)
        return client.get(path)

    return get


@pytest.fixture
def runs(people: People, use: Callable[..., None]) -> None:
    flow = str(people.flow.pk)
    use(people.acme_user, "1", NOW - HOUR, flow=flow, trace_id="a" * 32, seconds=9)
    use(people.acme_colleague, "2", NOW - 2 * HOUR, trace_id="b" * 32, failed=True)
    use(people.globex_user, "3", NOW - 3 * HOUR, trace_id="c" * 32, model="gpt-5", seconds=3)
    use(None, None, NOW - 4 * HOUR, trace_id="d" * 32, model="unheard-of")
    Trace.objects.filter(langfuse_trace_id="b" * 32).update(name="Nightly digest")


def ids(answer: Any) -> str:
    """The first letters of the runs' ids, in their order."""
    assert answer.status_code == 200
    return "".join(run.trace.langfuse_trace_id[0] for run in answer.context["list"].runs)


@pytest.mark.usefixtures("runs")
def test_each_sees_its_own_runs_and_no_others(ask: Callable[..., Any], people: People) -> None:
    for viewer, expected in (
        (people.platform_admin, "abcd"),
        (people.acme_admin, "ab"),
        (people.acme_user, "a"),
        (people.globex_user, "c"),
    ):
        assert ids(ask("/runs/", viewer)) == expected
    assert "gus" not in ask("/runs/", people.acme_admin).content.decode()
    assert ask("/runs/", people.service).status_code == 403
    assert Client().get("/runs/").headers["Location"].startswith("/login/")


@pytest.mark.usefixtures("runs")
def test_runs_are_filtered_and_searched_by_id_and_by_name(
    ask: Callable[..., Any], people: People
) -> None:
    run = Trace.objects.get(langfuse_trace_id="c" * 32)
    for query, expected in (
        (f"tenant_id={people.acme.pk}", "ab"),
        ("status=failed", "b"),
        ("model=gpt-5", "c"),
        (f"user_id={people.acme_user.pk}&status=failed", ""),
        ("search=NIGHTLY", "b"),
        ("search=tria", "a"),
        (f"search={'C' * 32}", "c"),
        (f"search={run.pk}", "c"),
        ("search=none-such", ""),
        ("search=night&status=success", ""),
        ("start_date=2037-11-23&end_date=2037-11-23", ""),
    ):
        assert ids(ask(f"/runs/?{query}")) == expected, query
    assert ids(ask(f"/runs/?search={'c' * 32}", people.acme_admin)) == ""


@pytest.mark.usefixtures("runs")
def test_runs_are_ordered_by_any_column_what_is_unknown_last(ask: Callable[..., Any]) -> None:
    heads = [column.value.lstrip("-") for column in ask("/runs/").context["list"].columns]
    assert heads == COLUMNS
    for order, expected in (
        ("", "abcd"),
        ("start_time", "dcba"),
        ("-cost_usd", "cbad"),
        ("cost_usd", "abcd"),
        ("-credits", "cbad"),
        ("-latency_ms", "acbd"),
        ("-is_failed", "bacd"),
        ("user__username", "abcd"),
        ("-tenant__name", "cabd"),
        ("nonsense", "abcd"),
    ):
        assert ids(ask(f"/runs/?runs_order={order}")) == expected, order
    named = [run.label for run in ask("/runs/?runs_order=name").context["list"].runs]
    assert named == sorted(named, key=str.casefold)
    assert "Triage" in named


def test_a_long_list_goes_on_page_by_page(
    ask: Callable[..., Any], people: People, use: Callable[..., None]
) -> None:
    for number in range(52):
        use(people.acme_user, start=NOW - number * timedelta(minutes=1), trace_id=f"{number:032}")
    first = ask("/runs/?days=7&runs_order=-cost_usd")
    assert len(first.context["list"].runs) == 50
    (following,) = re.findall(r'<a href="([^"]*)" rel="next"', first.content.decode())
    second = ask(f"/runs/{unescape(following)}")
    assert len(second.context["list"].runs) == 2
    shown = {run.trace.pk for one in (first, second) for run in one.context["list"].runs}
    assert len(shown) == 52
    assert 'rel="next"' not in second.content.decode()
    assert "page" not in second.context["bar"].here()
    for page in ("0", "201", "x"):
        assert ask(f"/runs/?page={page}").status_code == 400


@pytest.mark.usefixtures("runs")
def test_what_is_shown_is_what_is_downloaded(ask: Callable[..., Any], people: People) -> None:
    for viewer, query in (
        (people.platform_admin, f"tenant_id={people.acme.pk}&compare=year&days=1"),
        (people.acme_admin, "search=nightly"),
        (people.acme_admin, "start_date=2037-11-24&end_date=2037-11-24"),
    ):
        answer = ask(f"/runs/?{query}", viewer)
        for _, url in answer.context["list"].downloads:
            rows = b"".join(ask(url, viewer).streaming_content).decode()
            found = re.findall(r"([abcd])\1{31}", rows)
            assert "".join(dict.fromkeys(found)) == ids(answer), url


@pytest.mark.usefixtures("runs")
def test_the_list_takes_a_few_queries(
    people: People, client: Client, django_assert_max_num_queries: Any
) -> None:
    client.force_login(people.platform_admin)
    for query in ("", "?search=tria", "?status=failed&model=gpt-5"):
        with django_assert_max_num_queries(15):
            assert client.get(f"/runs/{query}").status_code == 200


@pytest.mark.usefixtures("runs")
def test_pages_lead_to_their_runs_and_a_run_back(ask: Callable[..., Any], people: People) -> None:
    user = people.acme_user.pk
    for path, viewer, expected in (
        ("/platform/?days=7", people.platform_admin, "abcd"),
        ("/tenants/acme/?days=7", people.platform_admin, "ab"),
        (f"/users/{user}/?days=7", people.platform_admin, "a"),
        (f"/users/{user}/?days=7", people.acme_admin, "a"),
        (f"/users/{user}/?days=7&status=failed", people.acme_user, ""),
    ):
        all_runs = ask(path, viewer).context["dashboard"].all_runs
        assert "days=7" in all_runs
        assert ids(ask(all_runs, viewer)) == expected, path


def test_a_runs_steps_are_drawn_as_a_waterfall(
    ask: Callable[..., Any], people: People, bare_connection: LangfuseConnection
) -> None:
    owner = {
        "user_reference": str(people.acme_user.pk),
        "tenant_reference": str(people.acme.pk),
    }

    def step(name: str, start: float, end: float, **fields: Any) -> Any:
        times = {"start_time": NOW + start * HOUR / 3600, "end_time": NOW + end * HOUR / 3600}
        return received(name, "run", **times, **owner, **fields)

    steps = [
        step("root", 0, 10, is_root=True),
        step("call", 2, 7, parent_id="tool", model="gpt-4o", usage_details={"input": 5}),
        step("tool", 1, 8, parent_id="root", level="ERROR"),
        step("late", 9, 10, parent_id="not-there"),
    ]
    with transaction.atomic():
        apply_received(bare_connection, steps)
    answer = ask(f"/traces/{Trace.objects.get().pk}/", people.acme_user)
    bars = {bar.step.langfuse_observation_id: bar for bar in answer.context["waterfall"]}
    drawn = {
        name: (bar.depth, round(bar.start, 6), round(bar.length, 6)) for name, bar in bars.items()
    }
    assert drawn == {
        "root": (0, 0, 1),
        "tool": (1, 0.1, 0.7),
        "call": (2, 0.2, 0.5),
        "late": (0, 0.9, 0.1),
    }
    page = answer.content.decode()
    assert "margin-left:20.00%;width:50.00%" in page
    assert page.count("kz-span-bad") == 1
    assert "In Langfuse" in page


def test_steps_that_are_inside_one_another_in_a_ring_are_drawn_once() -> None:
    from usage.analytics.steps import RunStep
    from usage.dashboards.waterfall import waterfall_of

    def step(name: str, parent: str) -> RunStep:
        return RunStep(name, name, "SPAN", "DEFAULT", False, NOW, NOW, "", parent_id=parent)

    bars = waterfall_of([step("a", "b"), step("b", "a"), step("c", "c")])
    assert sorted(bar.step.name for bar in bars) == ["a", "b", "c"]
    assert [(bar.start, bar.length) for bar in bars] == [(0.0, 1.0)] * 3
    assert waterfall_of([]) == []


@pytest.mark.usefixtures("runs")
def test_a_flow_of_another_tenant_is_not_found_by_its_name(
    ask: Callable[..., Any], people: People
) -> None:
    """Its runs may be one's own; what it is called there isn't."""
    secret = Flow.objects.create(name="Secret plan", project=people.project)
    Trace.objects.filter(user=people.globex_user).update(flow_id=str(secret.pk))
    assert ids(ask("/runs/?search=secret")) == "c"
    assert ids(ask("/runs/?search=secret", people.globex_admin)) == ""
