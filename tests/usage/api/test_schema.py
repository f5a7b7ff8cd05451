"""The OpenAPI schema: valid, and true of every answer."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator

from tests.conftest import People
from usage.models import Trace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]

ADDRESSES = {
    "/api/v2/analytics/platform/stats": {},
    "/api/v2/analytics/tenant/{tenant_id}/stats": {"tenant_id": "acme"},
    "/api/v2/analytics/user/{user_id}/stats": {"user_id": "acme_user"},
    "/api/v2/analytics/user/me/stats": {},
    "/api/v2/analytics/time-series": {},
    "/api/v2/analytics/top-users": {},
    "/api/v2/analytics/top-flows": {},
    "/api/v2/analytics/cost-breakdown": {},
    "/api/v2/analytics/traces/{trace_id}/explanation": {"trace_id": "acme_trace"},
    "/api/v2/analytics/traces/{trace_id}": {"trace_id": "acme_trace"},
    "/api/v2/analytics/traces": {},
    "/api/v2/analytics/top-tenants": {},
    "/api/v2/analytics/anomalies": {},
    "/api/v2/analytics/sync/status": {},
    "/api/v2/analytics/unpriced": {},
    "/api/v2/analytics/unmetered": {},
    "/api/v2/analytics/sources": {},
    "/api/v2/analytics/unknown-names": {},
    "/api/v2/analytics/disputes": {},
    "/api/v2/credits/status": {},
    "/api/v2/credits/{user_id}/status": {"user_id": "acme_user"},
    "/api/v2/credits/estimate": {},
    "/api/v2/credits/transactions": {},
    "/api/v2/credits/holds": {},
    "/api/v2/credits/budgets": {},
}
POSTED = {
    f"/api/v2/credits/{name}"
    for name in (
        "check",
        "holds",
        "holds/{hold_id}",
        "holds/{hold_id}/settle",
        "holds/{hold_id}/release",
        "grants",
        "refunds",
    )
} | {f"/api/v2/analytics/disputes/{{trace_id}}/{name}" for name in ("settle", "undo")}
"""Tested in tests/credits/test_api.py and test_holds.py, and tests/usage/api/test_disputes.py."""
STREAMED = {"/api/v2/analytics/costs"}
"""Tested in tests/usage/api/test_downloads.py."""
DESK = {"/api/v2/analytics/doubtful", "/api/v2/analytics/expected-usage"}
"""Tested in tests/usage/desk/."""


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


def test_it_is_a_valid_schema(schema: dict[str, Any]) -> None:
    validate_schema(schema)


def test_every_analytics_address_is_tested_here(schema: dict[str, Any]) -> None:
    assert schema["paths"].keys() == ADDRESSES.keys() | POSTED | STREAMED | DESK


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("role", ["platform_admin", "acme_user", "globex_admin"])
def test_every_answer_validates(
    people: People, api: Callable[..., Any], schema: dict[str, Any], address: str, role: str
) -> None:
    trace = Trace.objects.filter(user=people.acme_user).earliest("start_time")
    ids = {
        name: str(trace.pk if of == "acme_trace" else getattr(people, of).pk)
        for name, of in ADDRESSES[address].items()
    }
    answer = api(
        getattr(people, role), address.format(**ids), start_date="2026-11-01", end_date="2026-11-30"
    )
    described = schema["paths"][address]["get"]["responses"][str(answer.status_code)]["content"][
        "application/json"
    ]["schema"]
    Draft202012Validator({**described, "components": schema["components"]}).validate(answer.json())


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("time-series", {"granularity": "x"}),
        ("top-users", {"tenant_id": "x"}),
        ("top-flows", {"limit": "x"}),
    ],
)
def test_every_refusal_validates(
    people: People,
    api: Callable[..., Any],
    schema: dict[str, Any],
    path: str,
    query: dict[str, str],
) -> None:
    for user, status in ((people.acme_user, "400"), (None, "401"), (people.service, "403")):
        answer = api(user, path, **query)
        assert answer.status_code == int(status) or user is people.service
        described = schema["paths"][f"/api/v2/analytics/{path}"]["get"]["responses"][
            str(answer.status_code)
        ]
        body = described["content"]["application/json"]["schema"]
        Draft202012Validator({**body, "components": schema["components"]}).validate(answer.json())


def test_the_docs_page_and_the_schema_are_served(
    api: Callable[..., Any], people: People, schema: dict[str, Any]
) -> None:
    for user in (people.acme_user, people.platform_admin, None, None):
        assert api(user, "/api/v2/schema/", format="json").json() == schema
    as_text = api(people.acme_user, "/api/v2/schema/")
    assert as_text["Content-Type"] == "application/vnd.oai.openapi; charset=utf-8"
    assert yaml.safe_load(as_text.content) == schema
    assert b"swagger" in api(people.acme_user, "/api/v2/docs/").content
