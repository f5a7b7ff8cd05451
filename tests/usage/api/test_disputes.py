"""Disputed runs over HTTP: the list, and settling one."""

from collections.abc import Callable
from typing import Any

import pytest
from rest_framework.test import APIClient

from credits.models import Account
from kluisz_analytics.tenants.models import User
from tests.conftest import People
from usage.models import Trace

pytestmark = pytest.mark.django_db


@pytest.fixture
def disputed(people: People, use: Callable[..., None]) -> Trace:
    use(User(pk=people.globex_user.pk, tenant=people.acme), "0.06")
    return Trace.objects.get()


def post(user: User, trace: Trace, what: str, **body: Any) -> Any:
    client = APIClient()
    client.force_login(user)
    return client.post(f"/api/v2/analytics/disputes/{trace.pk}/{what}", body, format="json")


def test_it_works(people: People, disputed: Trace, api: Callable[..., Any]) -> None:
    (row,) = api(people.platform_admin, "disputes").json()["results"]
    assert (row["dispute"], row["tenant_name"], row["username"], row["users_tenant_name"]) == (
        "not_a_member",
        "Acme",
        "gus",
        "Globex",
    )
    assert (row["cost_usd"], row["settled_as"], row["settled_at"]) == ("0.060000000000", "", None)

    settled = post(people.platform_admin, disputed, "settle", outcome="users_tenant")
    assert (settled.status_code, settled.json()["settled_by"]) == (200, "root")
    assert Account.objects.get(pk=people.globex_user.pk).used > 0
    assert api(people.platform_admin, "disputes").json()["results"] == []
    (row,) = api(people.platform_admin, "disputes", state="settled").json()["results"]
    assert row == settled.json()
    assert post(people.platform_admin, disputed, "settle", outcome="users_tenant").json() == row

    undone = post(people.platform_admin, disputed, "undo")
    assert (undone.status_code, undone.json()["settled_as"]) == (200, "")
    assert Account.objects.get(pk=people.globex_user.pk).used == 0


def test_what_makes_no_sense_is_refused(
    people: People, disputed: Trace, use: Callable[..., None]
) -> None:
    use(people.acme_user)
    own = Trace.objects.get(user=people.acme_user)
    for answer, words in (
        (post(people.platform_admin, disputed, "settle", outcome="mine"), "mine"),
        (post(people.platform_admin, disputed, "settle"), "required"),
        (post(people.platform_admin, own, "settle", outcome="left_out"), "is not disputed"),
        (post(people.platform_admin, disputed, "undo"), "is not settled"),
    ):
        assert answer.status_code == 400
        assert words in answer.content.decode()


def test_it_is_the_platforms(people: People, disputed: Trace, api: Callable[..., Any]) -> None:
    for user in (people.acme_admin, people.globex_user, people.service):
        assert api(user, "disputes").status_code == 403
        assert post(user, disputed, "settle", outcome="left_out").status_code == 403
