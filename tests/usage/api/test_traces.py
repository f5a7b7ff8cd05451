"""Runs over HTTP, the tenants' top list, and how the sync is doing."""

from base64 import b64encode
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from tests.conftest import NOON, People
from usage.models import LangfuseConnection, SyncDrift, SyncRun, SyncWindow, Trace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}


@pytest.mark.parametrize(
    ("role", "count"),
    [
        ("platform_admin", 6),
        ("acme_admin", 3),
        ("acme_user", 2),
        ("globex_user", 2),
        ("globex_admin", 2),
    ],
)
def test_each_role_sees_its_own_runs(
    people: People, api: Callable[..., Any], role: str, count: int
) -> None:
    assert len(api(getattr(people, role), "traces", **PERIOD).json()["results"]) == count


@pytest.mark.parametrize(
    ("query", "costs"),
    [
        ({"status": "failed"}, ["0.000600000000"]),
        ({"model": "gpt-5"}, ["0.000600000000", "0.020000000000"]),
        ({"flow_id": "unknown-flow"}, ["0.020000000000"]),
        ({"end_date": "2026-11-10"}, ["0.020000000000", "0.060000000000"]),
        ({"model": ["gpt-5", "gpt-4o"], "status": "success"}, ["0.020000000000", "0.060000000000"]),
        ({"model": "none"}, []),
    ],
)
def test_runs_are_filtered_newest_first(
    people: People, api: Callable[..., Any], query: dict[str, Any], costs: list[str]
) -> None:
    body = api(people.acme_admin, "traces", **{**PERIOD, **query}).json()
    assert [row["cost_usd"] for row in body["results"]] == costs


@pytest.mark.parametrize(("path", "count"), [("traces", 4), ("costs", 4)])
def test_a_run_of_a_tenant_but_of_no_known_user_is_the_tenants(
    people: People, api: Callable[..., Any], path: str, count: int
) -> None:
    nobodys = Trace.objects.get(user=None)
    Trace.objects.filter(pk=nobodys.pk).update(tenant=people.acme)
    answer = api(people.platform_admin, path, tenant_id=str(people.acme.pk), format="csv", **PERIOD)
    assert len(b"".join(answer.streaming_content).decode().splitlines()) == 1 + count


def test_a_user_opens_each_run_of_its_list_also_one_of_another_tenant(
    people: People, api: Callable[..., Any]
) -> None:
    trace = Trace.objects.filter(user=people.acme_user).earliest("start_time")
    Trace.objects.filter(pk=trace.pk).update(tenant=people.globex)
    assert str(trace.pk) in [
        row["trace_id"] for row in api(people.acme_user, "traces", **PERIOD).json()["results"]
    ]
    answers = {
        role: api(getattr(people, role), f"traces/{trace.pk}").status_code
        for role in ("acme_user", "globex_admin", "globex_user")
    }
    assert answers == {"acme_user": 200, "globex_admin": 200, "globex_user": 403}
    assert api(people.acme_admin, f"traces/{trace.pk}").status_code == 404


def test_pages_follow_each_other_without_gap_or_overlap(
    people: People, api: Callable[..., Any]
) -> None:
    client = APIClient()
    client.force_login(people.platform_admin)
    seen, address = [], "/api/v2/analytics/traces?start_date=2026-11-01&end_date=2026-11-30&limit=2"
    while address:
        body = client.get(address).json()
        seen += [row["trace_id"] for row in body["results"]]
        address = body["next"]
    assert seen == [
        str(pk) for pk in Trace.objects.order_by("-start_time", "-pk").values_list("pk", flat=True)
    ]


def test_runs_are_had_as_csv(people: People, api: Callable[..., Any]) -> None:
    answer = api(people.acme_admin, "traces", format="csv", **PERIOD)
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert lines[0].startswith("trace_id,langfuse_trace_id,name,status")
    assert len(lines) == 4


def test_a_run_has_its_steps_and_a_link_into_langfuse(
    people: People, api: Callable[..., Any], bare_connection: LangfuseConnection
) -> None:
    trace = Trace.objects.filter(user=people.acme_user).earliest("start_time")
    body = api(people.acme_user, f"traces/{trace.pk}").json()
    assert (body["status"], body["cost_usd"], body["credits"], body["username"]) == (
        "success",
        "0.060000000000",
        "11.400000",
        "ann",
    )
    assert [(step["name"], step["cost_source"]) for step in body["observations"]] == [
        ("call", "langfuse"),
        ("root", "no_usage"),
    ]
    assert body["langfuse_url"] == f"{bare_connection.host}/trace/{trace.langfuse_trace_id}"


@pytest.mark.parametrize(
    "query", [{"cursor": "nonsense"}, {"limit": "0"}, {"status": "broken"}, {"user_id": "x"}]
)
def test_a_wrong_parameter_is_refused(
    people: People, api: Callable[..., Any], query: dict[str, str]
) -> None:
    assert api(people.acme_user, "traces", **PERIOD, **query).status_code in (400, 404)


@pytest.mark.parametrize(
    "place",
    [
        *("abc", "", "NaN", "1", "%00", "2026-13-45T00:00:00Z"),
        *("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00", "9" * 30),
    ],
)
@pytest.mark.parametrize("address", ["/api/v2/analytics/traces", "/api/v2/credits/transactions"])
def test_a_cursor_that_somebody_made_up_is_refused_or_a_place(
    people: People, api: Callable[..., Any], address: str, place: str
) -> None:
    cursor = b64encode(f"p={place}".encode()).decode()
    answer = api(people.platform_admin, address, cursor=cursor, **PERIOD)
    assert answer.status_code == (200 if place.isdigit() and "credits" in address else 404)


def test_a_cursors_time_has_any_offset(people: People, api: Callable[..., Any]) -> None:
    # PostgreSQL itself knows no such offset.
    cursor = b64encode(b"p=2026-11-10 12:00:00-17:21").decode()
    rows = api(people.platform_admin, "traces", cursor=cursor, **PERIOD).json()["results"]
    assert len(rows) == 5


def test_the_top_tenants_say_what_is_left(
    people: People, django_assert_max_num_queries: Any
) -> None:
    client = APIClient()
    client.force_login(people.platform_admin)
    with django_assert_max_num_queries(17):
        rows = client.get("/api/v2/analytics/top-tenants", PERIOD).json()["results"]
    assert [
        (row["slug"], row["users_count"], row["total_traces"], row["tier"]) for row in rows
    ] == [
        ("globex", 2, 2, None),
        ("acme", 4, 3, None),
    ]
    assert rows[0]["credits_remaining"] == "-285.000000"


def test_the_sync_says_how_it_is_doing(
    people: People, api: Callable[..., Any], bare_connection: LangfuseConnection
) -> None:
    now = timezone.now()
    SyncWindow.objects.create(
        connection=bare_connection,
        start=NOON,
        end=NOON + timedelta(hours=1),
        state="done",
        complete_through=NOON + timedelta(hours=1),
    )
    SyncWindow.objects.create(
        connection=bare_connection, start=NOON + timedelta(hours=1), end=NOON + timedelta(hours=2)
    )
    run = SyncRun.objects.create(
        connection=bare_connection, started_at=now, outcome="failed", error="refused the keys"
    )
    numbers = {
        "count_before": 1,
        "count_now": 2,
        "tokens_before": 1,
        "tokens_now": 2,
        "cost_usd_before": 1,
        "cost_usd_now": 2,
    }
    SyncDrift.objects.create(run=run, start=NOON, observations_stored=1, **numbers)
    (found,) = api(people.platform_admin, "sync/status").json()["connections"]
    assert (found["name"], found["windows_done"], found["windows_pending"]) == ("bare", 1, 1)
    assert (
        found["last_run_outcome"],
        found["last_error"],
        found["drifted_hours"],
        found["repaired_hours"],
    ) == (
        "failed",
        "refused the keys",
        1,
        1,
    )
    assert found["complete_through"] == "2026-11-10T13:00:00Z"
    assert found["lag_seconds"] > 0
