"""One grammar of periods for all that takes one: the whole API, and the pages."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from rest_framework.test import APIClient

from credits import grants
from credits.grants import NewGrant
from credits.models import Account, Grant, Hold, Transaction
from tests.conftest import People
from usage.models import Trace

pytestmark = pytest.mark.django_db
LATE = datetime(2026, 11, 10, 23, 30, tzinfo=UTC)
"""Late on the 10th in UTC, on the 11th in Amsterdam."""


@pytest.fixture
def one_of_each(people: People, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run, an entry of the ledger and a hold of one moment."""
    with monkeypatch.context() as then:
        then.setattr(timezone, "now", lambda: LATE)
        grants.grant(NewGrant(people.acme_user, Decimal(5), Grant.Source.MANUAL, "ann"))
        use(people.acme_user, start=LATE)
    assert Trace.objects.get().start_time == LATE
    assert set(Transaction.objects.values_list("created_at", flat=True)) == {LATE}
    Hold.objects.create(
        account=Account.objects.get(pk=people.acme_user.pk),
        trace_id="0" * 32,
        credits=1,
        state=Hold.State.RELEASED,
        created_at=LATE,
        expires_at=LATE,
    )


def counted(body: dict[str, Any]) -> int:
    """How much there is in the period."""
    rows = body.get("results", body.get("series", [body]))
    return sum(row.get("total_traces", 1) for row in rows)


ENDPOINTS = {
    "analytics/platform/stats": counted,
    "analytics/tenant/{tenant_id}/stats": counted,
    "analytics/user/{user_id}/stats": counted,
    "analytics/user/me/stats": None,
    "analytics/time-series": counted,
    "analytics/top-users": counted,
    "analytics/top-flows": None,
    "analytics/top-tenants": counted,
    "analytics/cost-breakdown": counted,
    "analytics/traces": counted,
    "analytics/costs": None,
    "analytics/anomalies": None,
    "analytics/expected-usage": None,
    "analytics/sources": counted,
    "credits/transactions": counted,
    "credits/holds": counted,
}
"""All that take a period, and how to see what is in it; None where one moment shows nothing."""

# What is asked for, and whether the 10th at 23:30 UTC is in it.
ASKED = [
    ({"start_date": "2026-11-10", "end_date": "2026-11-10", "tz": "UTC"}, True),
    ({"start_date": "2026-11-11", "end_date": "2026-11-11", "tz": "UTC"}, False),
    ({"start_date": "2026-11-09", "end_date": "2026-11-09", "tz": "UTC"}, False),
    ({"start_date": "2026-11-10", "end_date": "2026-11-10", "tz": "Europe/Amsterdam"}, False),
    ({"start_date": "2026-11-11", "end_date": "2026-11-11", "tz": "Europe/Amsterdam"}, True),
    ({"start_date": "2026-11-10", "end_date": "2026-11-10T23:30:00Z", "tz": "UTC"}, False),
    ({"start_date": "2026-11-10", "end_date": "2026-11-10T23:31:00Z", "tz": "UTC"}, True),
    ({"start_date": "2026-11-10T23:30:00Z", "end_date": "2026-11-12", "tz": "UTC"}, True),
    ({"start_date": "2026-11-10T23:31:00Z", "end_date": "2026-11-12", "tz": "UTC"}, False),
    (
        {"start_date": "2026-11-11T00:30:00", "end_date": "2026-11-12", "tz": "Europe/Amsterdam"},
        True,
    ),
    ({"start_date": "2026-11-11T00:30:00+01:00", "end_date": "2026-11-12"}, True),
]
WRONG = [
    ({"start_date": "2026-11-31"}, "start_date"),
    ({"end_date": "yesterday"}, "end_date"),
    ({"start_date": "2026-11-02", "end_date": "2026-11-01"}, "end_date"),
    ({"start_date": "1999-11-02", "end_date": "2026-11-01"}, "start_date"),
    ({"end_date": "9999-12-31T23:00:00-12:00"}, "end_date"),
    ({"tz": "Mars/Olympus"}, "tz"),
    ({"days": "0"}, "days"),
    ({"days": "4000"}, "days"),
    ({"days": "a week"}, "days"),
    ({"days": "7", "start_date": "2026-11-01"}, "days"),
]


def asked_of(people: People, path: str, **query: str) -> Any:
    client = APIClient()
    client.force_login(people.platform_admin)
    ids = {"tenant_id": people.acme.pk, "user_id": people.acme_user.pk}
    return client.get(f"/api/v2/{path.format(**ids)}", query)


def test_every_endpoint_that_takes_a_period_is_here() -> None:
    paths = SchemaGenerator().get_schema(request=None, public=True)["paths"]
    taking = {
        path.removeprefix("/api/v2/")
        for path, methods in paths.items()
        for parameter in methods.get("get", {}).get("parameters", [])
        if parameter["name"] == "start_date"
    }
    assert taking == ENDPOINTS.keys()


@pytest.mark.usefixtures("one_of_each")
@pytest.mark.parametrize("path", [path for path, count in ENDPOINTS.items() if count])
def test_a_day_is_the_whole_day_in_the_zone(people: People, path: str) -> None:
    count = ENDPOINTS[path]
    assert count is not None
    for query, is_in in ASKED:
        answer = asked_of(people, path, **query)
        assert answer.status_code == 200
        assert count(answer.json()) == int(is_in), query


@pytest.mark.usefixtures("one_of_each")
@pytest.mark.parametrize("path", [path for path, count in ENDPOINTS.items() if count])
def test_days_end_with_today(people: People, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    count = ENDPOINTS[path]
    assert count is not None
    monkeypatch.setattr(timezone, "now", lambda: LATE + timedelta(days=6))
    assert [count(asked_of(people, path, days=days).json()) for days in ("6", "7")] == [0, 1]
    in_amsterdam = [
        count(asked_of(people, path, days=days, tz="Europe/Amsterdam").json())
        for days in ("6", "7")
    ]
    assert in_amsterdam == [0, 1]


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_is_no_period_is_refused_by_name(people: People, path: str) -> None:
    for query, attr in WRONG:
        answer = asked_of(people, path, **query)
        assert answer.status_code == 400, query
        assert json.loads(answer.content)["errors"][0]["attr"] == attr


@pytest.mark.parametrize("page", ["/platform/", "/tenants/acme/", "/users/{user_id}/"])
def test_the_pages_take_the_same(people: People, one_of_each: None, page: str) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    address = page.format(user_id=people.acme_user.pk)
    for query, is_in in ASKED:
        answer = client.get(address, query)
        assert answer.context["dashboard"].summary.numbers.total_traces == int(is_in), query
    for query, _ in WRONG:
        assert client.get(address, query).status_code == 400, query


def test_a_ledger_without_a_period_is_whole(people: People, one_of_each: None) -> None:
    Transaction.objects.get()
    for path in ("credits/transactions", "credits/holds"):
        assert len(asked_of(people, path).json()["results"]) == 1
        assert len(asked_of(people, path, start_date="2026-11-10").json()["results"]) == 1
        assert asked_of(people, path, end_date="2026-11-09").json()["results"] == []
