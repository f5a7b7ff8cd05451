"""Who may ask what: every endpoint, with every role, own and foreign."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import People
from usage.models import Trace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]

ROLES = [
    "platform_admin",
    "acme_admin",
    "acme_user",
    "globex_admin",
    "globex_user",
    "service",
    None,
]

#                                             platform acme  acme  globex globex service nobody
#                                             admin    admin user  admin  user
EXPECTED = {
    "platform/stats": [200, 403, 403, 403, 403, 403, 401],
    "tenant/{acme}/stats": [200, 200, 403, 404, 404, 403, 401],
    "tenant/{unknown}/stats": [404, 404, 404, 404, 404, 403, 401],
    "user/{acme_user}/stats": [200, 200, 200, 404, 404, 403, 401],
    "user/{acme_colleague}/stats": [200, 200, 403, 404, 404, 403, 401],
    "user/{unknown}/stats": [404, 404, 404, 404, 404, 403, 401],
    "user/me/stats": [200, 200, 200, 200, 200, 403, 401],
    "time-series": [200, 200, 200, 200, 200, 403, 401],
    "top-users": [200, 200, 200, 200, 200, 403, 401],
    "top-flows": [200, 200, 200, 200, 200, 403, 401],
    "cost-breakdown": [200, 200, 200, 200, 200, 403, 401],
    "traces/{acme_trace}/explanation": [200, 200, 200, 404, 404, 403, 401],
    "traces/{colleagues_trace}/explanation": [200, 200, 403, 404, 404, 403, 401],
    "traces/{nobodys_trace}/explanation": [200, 404, 404, 404, 404, 403, 401],
    "traces/{unknown}/explanation": [404, 404, 404, 404, 404, 403, 401],
    "traces/{acme_trace}": [200, 200, 200, 404, 404, 403, 401],
    "traces/{colleagues_trace}": [200, 200, 403, 404, 404, 403, 401],
    "traces": [200, 200, 200, 200, 200, 403, 401],
    "traces?user_id={acme_colleague}": [200, 200, 403, 404, 404, 403, 401],
    "costs": [200, 200, 200, 200, 200, 403, 401],
    "costs?user_id={acme_colleague}": [200, 200, 403, 404, 404, 403, 401],
    "anomalies": [200, 200, 200, 200, 200, 403, 401],
    "top-tenants": [200, 403, 403, 403, 403, 403, 401],
    "sync/status": [200, 403, 403, 403, 403, 403, 401],
    "unpriced": [200, 403, 403, 403, 403, 403, 401],
    "doubtful": [200, 403, 403, 403, 403, 403, 401],
    "expected-usage": [200, 403, 403, 403, 403, 403, 401],
    "unmetered": [200, 403, 403, 403, 403, 403, 401],
    "sources": [200, 403, 403, 403, 403, 403, 401],
    "unknown-names": [200, 403, 403, 403, 403, 403, 401],
    "disputes": [200, 403, 403, 403, 403, 403, 401],
    "time-series?tenant_id={acme}": [200, 200, 200, 404, 404, 403, 401],
    "top-users?user_id={acme_user}": [200, 200, 200, 404, 404, 403, 401],
    "top-users?user_id={acme_colleague}": [200, 200, 403, 404, 404, 403, 401],
    "cost-breakdown?user_id={acme_user}&tenant_id={acme}": [200, 200, 200, 404, 404, 403, 401],
    "/api/v2/credits/budgets": [200, 200, 200, 200, 200, 403, 401],
    "/api/v2/credits/budgets?tenant_id={acme}": [200, 200, 200, 404, 404, 403, 401],
    "/api/v2/credits/budgets?tenant_id={unknown}": [404, 404, 404, 404, 404, 403, 401],
    "/api/v2/credits/budgets?user_id={acme_colleague}": [200, 200, 403, 404, 404, 403, 401],
    "/api/v2/credits/status": [200, 200, 200, 200, 200, 200, 401],
    "/api/v2/credits/{acme_user}/status": [200, 200, 200, 404, 404, 200, 401],
    "/api/v2/credits/{acme_colleague}/status": [200, 200, 403, 404, 404, 200, 401],
}
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}


def filled(path: str, people: People) -> str:
    ids = {name: getattr(people, name).pk for name in ("acme", "acme_user", "acme_colleague")}
    for name, owner in (
        ("acme_trace", people.acme_user),
        ("colleagues_trace", people.acme_colleague),
        ("nobodys_trace", None),
    ):
        ids[name] = Trace.objects.filter(user=owner).earliest("start_time").pk
    return path.format(**ids, unknown="00000000-0000-4000-8000-000000000000")


@pytest.mark.parametrize("path", EXPECTED)
def test_each_role_gets_what_it_may_see(people: People, api: Callable[..., Any], path: str) -> None:
    found = {}
    for role in ROLES:
        address, _, query = filled(path, people).partition("?")
        extra = dict(part.split("=") for part in query.split("&")) if query else {}
        found[role] = api(
            getattr(people, role) if role else None, address, **PERIOD, **extra
        ).status_code
    assert found == dict(zip(ROLES, EXPECTED[path], strict=True))


@pytest.mark.parametrize(
    "path",
    [
        "time-series",
        "top-users",
        "top-flows",
        "cost-breakdown?group_by=user",
        "cost-breakdown?group_by=tenant",
    ],
)
@pytest.mark.parametrize(
    ("role", "cost"),
    [
        ("platform_admin", "1.830600000000"),
        ("acme_admin", "0.080600000000"),
        ("acme_user", "0.060600000000"),
        ("globex_user", "1.500000000000"),
    ],
)
def test_nothing_of_others_leaks_into_sums(
    people: People, api: Callable[..., Any], path: str, role: str, cost: str
) -> None:
    from decimal import Decimal

    address, _, query = path.partition("?")
    extra = dict([query.split("=")]) if query else {}
    body = api(getattr(people, role), address, **PERIOD, **extra).json()
    rows = body.get("results", body.get("series"))
    total = sum(Decimal(row["total_cost_usd"]) for row in rows)
    unowned = Decimal("0.25") if role == "platform_admin" and path == "top-users" else 0
    no_flow = {
        "platform_admin": "1.7506",
        "acme_admin": "0.0006",
        "acme_user": "0.0006",
        "globex_user": "1.5",
    }
    assert total == Decimal(cost) - unowned - (Decimal(no_flow[role]) if path == "top-flows" else 0)


def test_the_name_of_another_tenants_flow_is_not_shown(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.globex_user, "1", flow=str(people.flow.pk))
    names = [
        row["flow_name"]
        for row in api(people.globex_admin, "top-flows", **PERIOD).json()["results"]
    ]
    assert names == [str(people.flow.pk)]
    assert "Triage" in [
        row["flow_name"] for row in api(people.acme_admin, "top-flows", **PERIOD).json()["results"]
    ]


def test_a_tenant_admin_sees_nothing_of_another_tenants_ledger(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    """A run may name one tenant and a user of another: it counts in the first, and its user's
    ledger is the second's.
    """
    from tests.conftest import NOON

    use(people.globex_user, "3", NOON + timedelta(days=3))
    use(people.globex_user, "0.06", NOON + timedelta(days=3), tenant_reference=str(people.acme.pk))
    Trace.objects.filter(cost_usd="0.06", start_time=NOON + timedelta(days=3)).update(
        tenant=people.acme
    )
    trace = Trace.objects.get(tenant=people.acme, user=people.globex_user)
    body = api(people.acme_admin, f"traces/{trace.pk}/explanation").json()
    assert (body["credits"], body["ledger"], body["posted_for_hour"]) == ("11.400000", [], None)
    assert api(people.platform_admin, f"traces/{trace.pk}/explanation").json()["ledger"] != []
