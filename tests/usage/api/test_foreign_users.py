"""A run may name one tenant and a user of another: it is disputed, and in neither's numbers.

Both that tenant's admin and the user see nothing of it by any door, until it is settled; and
settled as the named tenant's, that admin sees the run and nothing of its user.
"""

import json
import re
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client

from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import TierRate
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.api.urls import urlpatterns
from usage.facts.apply import apply_received
from usage.facts.disputes import settle, undo
from usage.facts.owner import Outcome
from usage.models import LangfuseConnection, Trace

pytestmark = pytest.mark.django_db
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
FORMATS = ("json", "csv", "jsonl")
GROUPS = ("tenant", "user", "project", "flow", "model")
DOORS = [
    "tenant/{acme}/stats",
    "user/me/stats",
    "time-series",
    *(f"top-users?metric={metric}" for metric in ("credits", "cost", "tokens", "traces")),
    "top-flows",
    *(f"cost-breakdown?group_by={group}" for group in GROUPS),
    *(f"anomalies?group_by={group}" for group in ("tenant", "user", "flow", "model")),
    "traces",
    "traces/{trace}",
    "traces/{trace}/explanation",
    "costs",
]
FOREIGN_TENANTS_ADMIN_DOORS = [
    "platform/stats",
    "top-tenants",
    "sync/status",
    "unpriced",
    "expected-usage",
    "doubtful",
    "unmetered",
    "sources",
    "unknown-names",
    "disputes",
]
POSTED = {"disputes/{trace}/settle", "disputes/{trace}/undo"}
PAGES = [
    "/tenants/acme/",
    "/tenants/acme/?days=90&users_order=name",
    "/traces/{trace}/",
    "/runs/?days=90&runs_order=user__username",
    *(f"/what-changed/?days=90&by={one}" for one in ("user", "tenant", "flow")),
    *(f"/names/?of={one}&q=" for one in ("tenant", "user", "project", "flow", "model")),
]


@pytest.fixture
def foreign(people: People, use: Callable[..., None], bare_connection: LangfuseConnection) -> Trace:
    """A run of Globex's user that names Acme, on top of a pattern of such runs, all settled as
    Acme's; and one of Acme's own user.
    """
    User.objects.filter(pk=people.globex_user.pk).update(
        username="gustav-of-globex", email="gustav@globex.test", first_name="Gustav"
    )
    people.globex_user.refresh_from_db()
    for week in range(6):
        run = received(
            "call",
            trace_id=f"foreign{week}",
            start_time=NOON - timedelta(days=7 * week),
            end_time=NOON - timedelta(days=7 * week),
            is_root=True,
            model="gpt-4o",
            usage_details={"input": 10, "output": 5, "total": 15},
            cost_usd=Decimal("0.06" if week else "60"),
            user_reference=str(people.globex_user.pk),
            tenant_reference=str(people.acme.pk),
        )
        with transaction.atomic():
            apply_received(bare_connection, [run])
    use(people.acme_user, "0.02", NOON)
    traces = Trace.objects.filter(disputed_user=people.globex_user).order_by("-start_time")
    settle([one.pk.hex for one in traces], Outcome.NAMED_TENANT, people.platform_admin)
    return traces[0]


def written(answer: Any) -> str:
    text = (answer.getvalue() if answer.streaming else answer.content).decode()
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", text)


def secrets_of(user: User, tenant: Tenant) -> list[str]:
    return [
        user.username,
        user.email,
        user.first_name,
        str(user.pk),
        user.pk.hex,
        tenant.name,
        tenant.slug,
        str(tenant.pk),
    ]


def test_the_doors_are_all_there_are() -> None:
    """So that a new endpoint is among them."""
    doors = {door.split("?")[0] for door in (*DOORS, *FOREIGN_TENANTS_ADMIN_DOORS)}
    named = {
        str(one.pattern).replace("<uuid:tenant_id>", "{acme}").replace("<uuid:trace_id>", "{trace}")
        for one in urlpatterns
    }
    assert named - {"user/<uuid:user_id>/stats"} - POSTED == doors


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("door", DOORS)
def test_no_answer_names_a_foreign_user(
    people: People, foreign: Trace, api: Callable[..., Any], door: str, format: str
) -> None:
    address, _, query = door.format(acme=people.acme.pk, trace=foreign.pk).partition("?")
    asked = dict([query.split("=")]) if query else {}
    answer = api(people.acme_admin, address, **PERIOD, **asked, format=format)
    if answer.status_code == 404 and format != "json":
        return  # not a list
    if (answer.status_code, door, format) == (404, "costs", "json"):
        return  # a download alone
    assert answer.status_code == 200
    text = written(answer)
    for secret in secrets_of(people.globex_user, people.globex):
        assert secret not in text, secret


@pytest.mark.parametrize("door", FOREIGN_TENANTS_ADMIN_DOORS)
def test_what_is_of_the_platform_is_refused(
    people: People, foreign: Trace, api: Callable[..., Any], door: str
) -> None:
    assert api(people.acme_admin, door, **PERIOD).status_code == 403


@pytest.mark.parametrize("path", PAGES)
def test_no_page_names_a_foreign_user(people: People, foreign: Trace, path: str) -> None:
    client = Client()
    client.force_login(people.acme_admin)
    answer = client.get(path.format(trace=foreign.pk))
    assert answer.status_code == 200
    text = written(answer)
    for secret in secrets_of(people.globex_user, people.globex):
        assert secret not in text, secret


@pytest.mark.parametrize(
    "path",
    [
        "/admin/usage/trace/",
        "/admin/usage/trace/{trace}/change/",
        "/admin/tenants/user/",
        "/admin/tenants/user/{user}/change/",
        "/admin/usage/userusagestats/",
    ],
)
def test_the_admin_is_the_platforms(people: People, foreign: Trace, path: str) -> None:
    client = Client()
    client.force_login(people.acme_admin)
    answer = client.get(path.format(trace=foreign.pk, user=people.globex_user.pk))
    assert answer.status_code in (302, 403)
    assert people.globex_user.username not in written(answer)


def test_settled_as_the_tenants_it_counts_under_no_user(
    people: People, foreign: Trace, api: Callable[..., Any]
) -> None:
    first, second = api(people.acme_admin, "top-users", metric="cost", **PERIOD).json()["results"]
    assert (first["user_id"], first["username"], first["tenant_id"]) == (None, "No user", None)
    assert (second["user_id"], second["username"]) == (str(people.acme_user.pk), "ann")
    shares = api(people.acme_admin, "cost-breakdown", group_by="user", **PERIOD).json()["results"]
    assert [(one["key"], one["label"]) for one in shares] == [
        (None, "No user"),
        (str(people.acme_user.pk), "ann"),
    ]
    assert sum(Decimal(str(one["share"])) for one in shares) == 1
    run = api(people.acme_admin, f"traces/{foreign.pk}").json()
    assert (run["user_id"], run["username"], run["tenant_id"]) == (
        None,
        None,
        str(people.acme.pk),
    )
    rows = [
        json.loads(line)
        for line in written(api(people.acme_admin, "costs", **PERIOD, format="jsonl")).splitlines()
    ]
    assert (None, None) in {(row["x_UserId"], row["x_UserName"]) for row in rows}
    assert {row["SubAccountName"] for row in rows} == {"Acme"}


@pytest.mark.parametrize("door", [*DOORS, "user/{gus}/stats"])
@pytest.mark.parametrize("role", ["acme_admin", "globex_user", "globex_admin"])
def test_disputed_it_is_nobodys_to_see(
    people: People, foreign: Trace, api: Callable[..., Any], door: str, role: str
) -> None:
    traces = Trace.objects.exclude(dispute="").order_by("langfuse_trace_id")
    undo([one.pk.hex for one in traces], people.platform_admin)
    address, _, query = door.format(
        acme=people.acme.pk, trace=foreign.pk, gus=people.globex_user.pk
    ).partition("?")
    asked = dict([query.split("=")]) if query else {}
    answer = api(getattr(people, role), address, **PERIOD, **asked)
    assert answer.status_code in (200, 404)
    if "{trace}" in door:
        assert answer.status_code == 404
    text = written(answer)
    for secret in ("foreign", foreign.pk.hex, str(foreign.pk), "60.00"):
        assert secret not in text.replace(f"There is no trace {foreign.pk}.", ""), secret


def test_the_platform_sees_whom_it_named(
    people: People, foreign: Trace, api: Callable[..., Any]
) -> None:
    rows = api(people.platform_admin, "disputes", state="settled").json()["results"]
    assert len(rows) == 6
    assert (rows[0]["trace_id"], rows[0]["tenant_name"], rows[0]["username"]) == (
        str(foreign.pk),
        "Acme",
        "gustav-of-globex",
    )


def test_one_who_has_moved_is_named_where_it_was_and_nowhere_else(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    use(people.acme_user, "0.02", NOON)
    people.acme_user.tenant = people.globex
    people.acme_user.save()
    (row,) = api(people.acme_admin, "top-users", **PERIOD).json()["results"]
    assert (row["user_id"], row["username"]) == (str(people.acme_user.pk), "ann")
    assert api(people.globex_admin, "top-users", **PERIOD).json()["results"] == []
    (row,) = api(people.platform_admin, "top-users", **PERIOD).json()["results"]
    assert (row["user_id"], row["username"]) == (str(people.acme_user.pk), "ann")
    own = api(people.acme_user, "user/me/stats", **PERIOD).json()
    assert own["total_cost_usd"] == "0.020000000000"
    seen = api(people.globex_admin, f"user/{people.acme_user.pk}/stats", **PERIOD).json()
    assert seen["total_traces"] == 0
    # Its credits are its new tenant's business alone.
    assert api(people.acme_admin, f"user/{people.acme_user.pk}/stats", **PERIOD).status_code == 404


ASKED_FOR_BY_ID = [
    "/api/v2/analytics/user/{user}/stats",
    "/users/{user}/",
    "/runs/?user_id={user}",
    "/what-changed/?user_id={user}",
    *(
        f"/api/v2/analytics/{path}?user_id={{user}}"
        for path in ("time-series", "top-users", "top-flows", "cost-breakdown", "traces")
    ),
    "/api/v2/analytics/costs?user_id={user}",
    "/api/v2/analytics/anomalies?user_id={user}",
    "/api/v2/analytics/top-users?user_id={own}&user_id={user}",
]


@pytest.mark.parametrize("path", ASKED_FOR_BY_ID)
@pytest.mark.parametrize("role", ["acme_admin", "acme_user"])
def test_asking_for_it_by_its_id_does_not_say_that_it_exists(
    people: People, foreign: Trace, role: str, path: str
) -> None:
    client, unknown = Client(), uuid4()
    viewer = getattr(people, role)
    client.force_login(viewer)
    found, nobody = (
        client.get(path.format(user=pk, own=viewer.pk)) for pk in (people.globex_user.pk, unknown)
    )
    assert found.status_code == nobody.status_code == 404
    assert written(found).replace(str(people.globex_user.pk), "") == written(nobody).replace(
        str(unknown), ""
    )


def test_who_entered_a_price_is_told_to_those_who_may_see_them(
    people: People, foreign: Trace, api: Callable[..., Any]
) -> None:
    TierRate.objects.update(recorded_by=people.platform_admin)
    own = Trace.objects.get(user=people.acme_user)
    told = {
        role: api(getattr(people, role), f"traces/{own.pk}/explanation").json()["rate"][
            "recorded_by"
        ]
        for role in ("platform_admin", "acme_admin", "acme_user")
    }
    assert told == {"platform_admin": "root", "acme_admin": "", "acme_user": ""}
