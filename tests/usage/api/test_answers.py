"""What the endpoints answer, and how they refuse."""

import csv
import io
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone
from rest_framework.test import APIClient

from kluisz_analytics.tenants.models import ApiToken
from tests.conftest import NOON, People
from usage.models import LangfuseConnection, SyncWindow, Trace
from usage.rollups.build import build_rollups

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]
NOVEMBER = {"start_date": "2026-11-01", "end_date": "2026-11-30", "tz": "UTC"}


def test_platform_stats(people: People, api: Callable[..., Any]) -> None:
    body = api(people.platform_admin, "platform/stats", **NOVEMBER).json()
    expected = {
        "period_start": "2026-11-01T00:00:00Z",
        "period_end": "2026-12-01T00:00:00Z",
        "total_traces": 6,
        "successful_traces": 5,
        "failed_traces": 1,
        "input_tokens": 60,
        "output_tokens": 30,
        "total_tokens": 90,
        "total_cost_usd": "1.830600000000",
        "billed_cost_usd": "1.501570000000",
        "total_credits_used": 300,
        "credits_exact": "300.314000",
        "active_users_count": 3,
        "average_latency_ms": 1333.333,
        "p95_latency_ms": 2975,
        "unpriced_observations": 0,
        "partly_priced_observations": 0,
        "unmetered_observations": 0,
        "doubtful_observations": 6,
        "total_tenants": 3,
        "active_tenants": 2,
        "total_users": 7,
    }
    assert {name: body[name] for name in expected} == expected
    assert (body["unattributed"]["total_traces"], body["unattributed"]["total_cost_usd"]) == (
        1,
        "0.250000000000",
    )
    assert body["unattributed"]["credits_exact"] is None
    assert body["previous_period"]["total_traces"] == 0
    assert body["change"]["total_traces"] is None


def test_tenant_stats_and_its_change(people: People, api: Callable[..., Any]) -> None:
    body = api(
        people.acme_admin,
        f"tenant/{people.acme.pk}/stats",
        start_date="2026-11-11",
        end_date="2026-11-11",
        tz="UTC",
    ).json()
    assert (body["tenant_id"], body["name"]) == (str(people.acme.pk), "Acme")
    assert (body["total_traces"], body["previous_period"]["total_traces"]) == (1, 2)
    assert body["change"]["total_traces"] == -0.5


@pytest.fixture
def ten_days_later(monkeypatch: pytest.MonkeyPatch) -> datetime:
    """What time it is to the product. In the zone of Acme the next day has begun."""
    now = NOON + timedelta(days=10, hours=11, minutes=30)
    monkeypatch.setattr(timezone, "now", lambda: now)
    return now


def test_user_stats_have_a_projection(
    people: People, use: Callable[..., None], api: Callable[..., Any], ten_days_later: datetime
) -> None:
    use(people.acme_user, "0.06", start=ten_days_later - timedelta(hours=1))
    body = api(people.acme_user, "user/me/stats").json()
    assert (body["user_id"], body["username"]) == (str(people.acme_user.pk), "ann")
    assert float(body["projection"]["credits_exact"]) >= float(body["credits_exact"]) > 0


def test_a_series_has_its_empty_periods(people: People, api: Callable[..., Any]) -> None:
    body = api(
        people.acme_user, "time-series", start_date="2026-11-09", end_date="2026-11-12", tz="UTC"
    ).json()
    assert body["granularity"] == "day"
    assert [point["total_traces"] for point in body["series"]] == [0, 1, 1, 0]
    assert body["series"][0]["total_cost_usd"] == "0.000000000000"
    assert body["series"][1]["period_start"] == "2026-11-10T00:00:00Z"


def test_days_are_the_tenants_by_default(people: People, api: Callable[..., Any]) -> None:
    body = api(
        people.globex_user, "time-series", start_date="2026-11-10", end_date="2026-11-10"
    ).json()
    assert body["period_start"] == "2026-11-09T18:30:00Z"


def test_top_lists(people: People, api: Callable[..., Any]) -> None:
    users = api(people.platform_admin, "top-users", limit=2, **NOVEMBER).json()["results"]
    assert [(one["username"], one["tenant_id"]) for one in users] == [
        ("gus", str(people.globex.pk)),
        ("ann", str(people.acme.pk)),
    ]
    by_traces = api(people.acme_admin, "top-users", metric="traces", **NOVEMBER).json()["results"]
    assert [(one["username"], one["total_traces"]) for one in by_traces] == [("ann", 2), ("bob", 1)]
    assert by_traces[0]["last_activity"] == "2026-11-11T18:00:00Z"
    flows = api(people.acme_admin, "top-flows", **NOVEMBER).json()["results"]
    assert [(one["flow_name"], one["project_id"]) for one in flows] == [
        ("Triage", str(people.project.pk)),
        ("unknown-flow", None),
    ]


@pytest.mark.parametrize("group_by", ["model", "tenant", "user", "flow", "project"])
def test_shares_of_a_breakdown_sum_to_one(
    people: People, api: Callable[..., Any], group_by: str
) -> None:
    rows = api(people.platform_admin, "cost-breakdown", group_by=group_by, **NOVEMBER).json()[
        "results"
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-12)
    assert sum(row["total_traces"] for row in rows) == 6


def test_filters_combine_and_repeat(people: People, api: Callable[..., Any]) -> None:
    client = APIClient()
    client.force_login(people.platform_admin)
    query = (
        "start_date=2026-11-01&end_date=2026-11-30&model=gpt-5&model=gpt-4o"
        f"&tenant_id={people.acme.pk}&status=success"
    )
    rows = client.get(f"/api/v2/analytics/cost-breakdown?{query}").json()["results"]
    assert [(row["key"], row["total_traces"]) for row in rows] == [("gpt-4o", 1), ("gpt-5", 1)]


@pytest.mark.parametrize(
    ("path", "query", "parameter", "words"),
    [
        ("time-series", {"granularity": "minute"}, "granularity", "minute"),
        (
            "time-series",
            {"granularity": "hour", "start_date": "2026-01-01"},
            "granularity",
            "31 days",
        ),
        ("time-series", {"tz": "Mars/Olympus"}, "tz", "Mars/Olympus"),
        ("time-series", {"start_date": "yesterday"}, "start_date", "yesterday"),
        ("time-series", {"start_date": "2026-11-31"}, "start_date", "2026-11-31"),
        (
            "time-series",
            {"start_date": "2026-11-10", "end_date": "2026-11-09"},
            "end_date",
            "not after",
        ),
        ("time-series", {"end_date": "9999-12-31"}, "end_date", "out of range"),
        ("top-users", {"limit": "0"}, "limit", "1"),
        ("top-users", {"limit": "1001"}, "limit", "1000"),
        ("top-users", {"metric": "beauty"}, "metric", "beauty"),
        ("top-flows", {"tenant_id": "acme"}, "tenant_id.0", "UUID"),
        ("cost-breakdown", {"group_by": "planet"}, "group_by", "planet"),
        ("cost-breakdown", {"status": "odd"}, "status.0", "odd"),
    ],
)
def test_bad_parameters_are_named(
    people: People,
    api: Callable[..., Any],
    path: str,
    query: dict[str, str],
    parameter: str,
    words: str,
) -> None:
    answer = api(people.platform_admin, path, **query)
    assert answer.status_code == 400
    body = answer.json()
    assert body["type"] == "validation_error"
    assert body["errors"][0]["attr"] == parameter
    assert words in body["errors"][0]["detail"]


def test_an_unchanged_answer_is_304(
    people: People, api: Callable[..., Any], use: Callable[..., None]
) -> None:
    client = APIClient()
    client.force_login(people.acme_admin)
    address = "/api/v2/analytics/top-users?start_date=2026-11-01&end_date=2026-11-30"
    etag = client.get(address)["ETag"]
    assert client.get(address, headers={"If-None-Match": etag}).status_code == 304
    use(people.acme_user, "1")
    assert client.get(address, headers={"If-None-Match": etag}).status_code == 200


def test_lists_and_series_can_be_had_as_csv(
    people: People, api: Callable[..., Any], use: Callable[..., None]
) -> None:
    use(people.acme_user, "1", model="=cmd()")
    for path, rows in (
        ("time-series", 30),
        ("top-users", 2),
        ("top-flows", 2),
        ("cost-breakdown", 3),
    ):
        answer = api(people.acme_admin, path, format="csv", **NOVEMBER)
        assert answer["Content-Type"].startswith("text/csv")
        assert f'filename="{path}.csv"' in answer["Content-Disposition"]
        table = list(csv.DictReader(io.StringIO(answer.content.decode())))
        assert len(table) == rows
        assert "total_cost_usd" in table[0]
    assert "'=cmd()" in [row["key"] for row in table]
    assert api(people.acme_admin, "top-users", format="csv", limit="x").status_code == 400


def test_it_says_up_to_when_it_is_complete(
    people: People, api: Callable[..., Any], bare_connection: LangfuseConnection
) -> None:
    assert api(people.acme_admin, "top-users").json()["complete_through"] is None
    for hour, through in ((0, 60), (1, 60), (2, 20), (3, 0)):
        start = NOON + timedelta(hours=hour)
        SyncWindow.objects.create(
            connection=bare_connection,
            start=start,
            end=start + timedelta(hours=1),
            complete_through=start + timedelta(minutes=through) if through else None,
            state="done" if through else "pending",
        )
    assert api(people.acme_admin, "top-users").json()["complete_through"] == "2026-11-10T14:20:00Z"


def test_a_bearer_token_opens_the_api_until_it_expires_or_is_revoked(
    people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("create_token", "ann", "--days", "1")
    token = capsys.readouterr().out.strip()
    client = APIClient(headers={"Authorization": f"Bearer {token}"})
    address = "/api/v2/analytics/user/me/stats"
    assert client.get(address).status_code == 200
    assert token not in str(ApiToken.objects.values())
    ApiToken.objects.update(expiry=timezone.now() - timedelta(seconds=1))
    assert client.get(address).status_code == 401


def test_a_token_of_scope_credits_opens_nothing_else(
    people: People, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("create_token", "ann", "--scope", "credits")
    client = APIClient(headers={"Authorization": f"Bearer {capsys.readouterr().out.strip()}"})
    assert client.get("/api/v2/credits/status").status_code == 200
    assert client.get("/api/v2/analytics/user/me/stats").status_code == 403


def test_credit_status(people: People, api: Callable[..., Any], ten_days_later: datetime) -> None:
    body = api(people.acme_user, "/api/v2/credits/status").json()
    assert body == {
        "user_id": str(people.acme_user.pk),
        "username": "ann",
        "credits_allocated": "0.000000",
        "credits_used": "11.514000",
        "credits_held": "0.000000",
        "credits_remaining": "-11.514000",
        "credits_per_month": "10000.000000",
        "usage_percent": None,
        "license_is_active": True,
        "license_status": "active",
        "tier_name": "Professional",
        "is_low_credits": False,
        "is_out_of_credits": True,
        "can_execute": False,
        "projected_exhaustion_date": "2026-11-21",
    }


QUERY_BUDGET = 20


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "platform/stats",
        "time-series",
        "top-users",
        "top-flows",
        "cost-breakdown",
        "cost-breakdown?group_by=user",
        "top-tenants",
    ]
    + [
        "tenant/{tenant}/stats",
        "user/{user}/stats",
        "traces",
        "anomalies",
        "sync/status",
        "unpriced",
        "expected-usage",
        "doubtful",
        "unmetered?estimate=true",
        "sources",
        "unknown-names",
        "disputes",
        "/api/v2/credits/transactions",
    ],
)
def test_the_number_of_queries_does_not_grow_with_the_data(
    people: People,
    use: Callable[..., None],
    django_assert_max_num_queries: Any,
    path: str,
    built: bool,
) -> None:
    address, _, query = path.format(tenant=people.acme.pk, user=people.acme_user.pk).partition("?")
    address = address if address.startswith("/") else f"/api/v2/analytics/{address}"
    extra = dict([query.split("=")]) if query else {}
    for number in range(8):
        user = [people.acme_user, people.acme_colleague, people.globex_user][number % 3]
        use(
            user,
            None if number % 2 else "0.01",
            model=f"m{number}",
            flow=f"f{number}",
            start=NOON + timedelta(days=number),
        )
    build_rollups(NOON + timedelta(days=40 if built else 2))
    client = APIClient()
    client.force_login(people.platform_admin)
    with django_assert_max_num_queries(QUERY_BUDGET):
        assert client.get(address, {**NOVEMBER, **extra}).status_code == 200


def test_an_explanation_is_exact_text(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.acme_user, None, NOON + timedelta(days=9), model="gpt-4o")
    body = api(
        people.acme_user, f"traces/{Trace.objects.latest('start_time').pk}/explanation"
    ).json()
    assert [item["amount_usd"] for item in body["observations"][0]["line_items"]] == [
        "0.000025",
        "0.00005",
    ]
    assert (body["cost_usd"], body["billed_cost_exact"], body["credits_before_limits"]) == (
        "0.000075000000",
        "0.00007125",
        "0.01425",
    )
    assert (body["credits"], body["ledger"][0]["amount"], body["rate"]["tier"]) == (
        "0.014250",
        "-0.014250",
        "Professional",
    )


def test_unpriced_models_are_listed_with_what_waits(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.acme_user, None, model="acme-7b")
    (row,) = api(people.platform_admin, "unpriced").json()["results"]
    assert (row["model"], row["unpriced_observations"], row["total_tokens"], row["tenants"]) == (
        "acme-7b",
        1,
        15,
        1,
    )
    text = api(people.platform_admin, "unpriced", format="csv").content.decode()
    assert text.splitlines()[1].startswith("acme-7b,,1,15,10,5,1,2026-11-10T12:00:00Z")


@pytest.mark.parametrize("cost", ["52.631579", "9999.123456789012"])
def test_a_large_run_is_explained_like_any_other(
    people: People, use: Callable[..., None], api: Callable[..., Any], cost: str
) -> None:
    """10,000 credits and more have five digits before the point, and up to 24 decimals."""
    use(people.acme_user, cost, NOON + timedelta(days=5))
    trace = Trace.objects.latest("start_time")
    body = api(people.acme_user, f"traces/{trace.pk}/explanation").json()
    assert Decimal(body["billed_cost_exact"]) == Decimal(cost) * Decimal("0.95")
    assert Decimal(body["credits_before_limits"]) == Decimal(cost) * Decimal("190")
