"""Environments: Langfuse's word for where a run was traced, told apart and filtered by."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection

pytestmark = pytest.mark.django_db
PERIOD = {"start_date": "2026-11-10", "end_date": "2026-11-10"}


@pytest.fixture
def runs(bare_connection: LangfuseConnection, people: People) -> None:
    """Two runs of production, one of staging, and one that names no environment."""
    user = str(people.acme_user.pk)
    for number, environment in enumerate(["production", "production", "staging", ""]):
        step = received(
            "call",
            trace_id=f"run-{number}",
            start_time=NOON,
            model="gpt-4o",
            usage_details={"input": 10, "total": 10},
            user_reference=user,
            environment=environment,
        )
        apply_received(bare_connection, [step])


def test_usage_is_told_apart_by_environment(
    runs: None, people: People, api: Callable[..., Any]
) -> None:
    rows = api(people.acme_admin, "cost-breakdown", group_by="environment", **PERIOD)
    found = {row["label"]: row["total_traces"] for row in rows.json()["results"]}
    assert found == {"production": 2, "staging": 1, "No environment": 1}


def test_every_number_can_be_had_of_one_environment(
    runs: None, people: People, api: Callable[..., Any]
) -> None:
    asked = {**PERIOD, "environment": "staging"}
    (day,) = api(people.acme_admin, "time-series", **asked).json()["series"]
    assert (day["total_traces"], day["total_tokens"]) == (1, 10)
    (run,) = api(people.acme_admin, "traces", **asked).json()["results"]
    assert run["environment"] == "staging"


def test_a_runs_environment_is_that_of_its_root(
    bare_connection: LangfuseConnection, people: People, api: Callable[..., Any]
) -> None:
    said = {"user_reference": str(people.acme_user.pk), "start_time": NOON}
    root = received("root", is_root=True, environment="production", **said)
    apply_received(bare_connection, [received("a", environment="default", **said), root])
    (run,) = api(people.acme_admin, "traces", **PERIOD).json()["results"]
    assert run["environment"] == "production"


def test_no_name_of_an_environment_opens_another_tenants_usage(
    runs: None, people: People, api: Callable[..., Any]
) -> None:
    rows = api(people.globex_admin, "cost-breakdown", group_by="environment", **PERIOD).json()
    assert rows["results"] == []
    for name in ("production", "%", "' OR 1=1 --", "x" * 200):
        answer = api(people.globex_admin, "time-series", **PERIOD, environment=name).json()
        assert [day["total_traces"] for day in answer["series"]] == [0], name


@pytest.mark.parametrize("name", ["x" * 201, "a\0b"])
def test_a_name_that_none_can_have_is_refused(
    people: People, api: Callable[..., Any], name: str
) -> None:
    answer = api(people.acme_admin, "time-series", **PERIOD, environment=name)
    assert (answer.status_code, answer.json()["errors"][0]["attr"]) == (400, "environment.0")
