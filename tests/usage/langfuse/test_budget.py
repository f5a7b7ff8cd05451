"""The budget of requests: one for all workers, as large as the plan allows."""

from collections.abc import Iterator

import pytest
from django.core.cache import cache

from usage.langfuse.budget import LIMITS_OF_PLAN, Kind, Limit, RequestBudget
from usage.models import LangfuseConnection

pytestmark = pytest.mark.both_databases


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def worker(
    now: list[float], kind: Kind = Kind.OBSERVATIONS, limit: Limit | None = None
) -> RequestBudget:
    return RequestBudget("one", {kind: limit} if limit else {}, clock=lambda: now[0])


def test_without_a_limit_nobody_waits() -> None:
    assert {worker([0.0]).seconds_to_wait(Kind.OBSERVATIONS) for _ in range(100)} == {0}


def test_two_workers_share_one_budget() -> None:
    now, limit = [5.0], Limit(4, 60)
    first, second = worker(now, limit=limit), worker(now, limit=limit)
    assert [one.seconds_to_wait(Kind.OBSERVATIONS) for one in (first, second, first)] == [0, 0, 0]
    assert [one.seconds_to_wait(Kind.OBSERVATIONS) for one in (first, second)] == [55, 55]
    now[0] = 61
    assert second.seconds_to_wait(Kind.OBSERVATIONS) == 0


def test_each_kind_of_request_has_its_own() -> None:
    budget = worker([0.0], Kind.METRICS, Limit(2, 3600))
    assert [budget.seconds_to_wait(Kind.METRICS) for _ in range(2)] == [0, 3600]
    assert budget.seconds_to_wait(Kind.OBSERVATIONS) == 0


def test_when_the_server_stops_one_worker_all_of_them_wait() -> None:
    now = [100.0]
    worker(now).pause(Kind.METRICS, 30)
    assert worker(now).seconds_to_wait(Kind.METRICS) == 30
    assert worker(now).seconds_to_wait(Kind.OBSERVATIONS) == 0, "only with that kind of request"
    now[0] = 130
    assert worker(now).seconds_to_wait(Kind.METRICS) == 0


def test_the_last_request_of_a_limit_is_not_made_since_langfuse_refuses_it() -> None:
    budget = worker([0.0], limit=Limit(30, 60))
    waits = [budget.seconds_to_wait(Kind.OBSERVATIONS) for _ in range(30)]
    assert waits == [0] * 29 + [60]


def test_it_says_how_many_are_left() -> None:
    now = [0.0]
    budget = worker(now, Kind.METRICS, Limit(5, 60))
    assert (budget.left(Kind.METRICS), budget.left(Kind.OBSERVATIONS)) == (4, None)
    for _ in range(6):
        budget.seconds_to_wait(Kind.METRICS)
    assert budget.left(Kind.METRICS) == 0
    now[0] = 60
    assert budget.left(Kind.METRICS) == 4


def test_another_connection_has_a_budget_of_its_own() -> None:
    now, limit = [0.0], {Kind.OBSERVATIONS: Limit(1, 60)}
    budgets = [RequestBudget(name, limit, clock=lambda: now[0]) for name in ("one", "two")]
    assert [budget.seconds_to_wait(Kind.OBSERVATIONS) for budget in budgets] == [0, 0]


@pytest.mark.parametrize(
    ("plan", "kind", "limit"),
    [
        ("hobby", Kind.OBSERVATIONS, Limit(30, 60)),
        ("hobby", Kind.METRICS, Limit(100, 86_400)),
        ("hobby", Kind.LEGACY, Limit(15, 60)),
        ("core", Kind.OBSERVATIONS, Limit(1000, 60)),
        ("core", Kind.METRICS, Limit(100, 3600)),
        ("core", Kind.LEGACY, Limit(30, 60)),
        ("pro", Kind.OBSERVATIONS, Limit(1000, 60)),
        ("pro", Kind.METRICS, Limit(500, 3600)),
        ("pro", Kind.LEGACY, Limit(100, 60)),
        ("self_hosted", Kind.OBSERVATIONS, None),
    ],
)
def test_a_plan_allows_what_langfuse_says(plan: str, kind: Kind, limit: Limit | None) -> None:
    assert LIMITS_OF_PLAN[plan].get(kind) == limit


def test_every_plan_that_a_connection_can_have_has_limits() -> None:
    assert LIMITS_OF_PLAN.keys() == set(LangfuseConnection.Plan.values)
