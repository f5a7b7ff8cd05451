"""The page of sources: under the dashboards, and in the admin."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.conftest import People

pytestmark = pytest.mark.django_db
PAGES = ["sources-page", "admin:usage_sources"]


@pytest.mark.parametrize("page", PAGES)
def test_it_shows_what_arrives_and_what_is_new(
    people: People, use: Callable[..., None], client: Client, page: str
) -> None:
    now = timezone.now()
    sdk, proxy = {"source_version": "5.0.4"}, {"source": "litellm"}
    for days in (2, 20):
        use(people.acme_user, start=now - timedelta(days=days), environment="staging", **sdk)
    use(None, None, start=now - timedelta(hours=1), model="nobodys", **proxy)
    client.force_login(people.platform_admin)
    text = " ".join(client.get(reverse(page)).content.decode().split())
    for shown in (
        "Langfuse&#x27;s own SDK",
        "New since",
        "staging · 5.0.4",
        '<b>litellm</b> <span class="kz-tag">new</span>',
        "1 unpriced",
        "66.7% owned",
    ):
        assert shown in text, shown
    assert (
        "Nothing arrived"
        in client.get(
            reverse(page), {"start_date": "2020-01-01", "end_date": "2020-01-02"}
        ).content.decode()
    )


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("role", ["acme_admin", "acme_user", "service"])
def test_only_platform_admins_see_it(people: People, client: Client, page: str, role: str) -> None:
    user = getattr(people, role)
    user.is_staff = True
    user.save()
    client.force_login(user)
    assert client.get(reverse(page)).status_code == 403


@pytest.mark.usefixtures("some_usage")
def test_it_takes_a_few_queries(
    people: People, client: Client, django_assert_max_num_queries: Any
) -> None:
    client.force_login(people.platform_admin)
    with django_assert_max_num_queries(8):
        client.get(reverse("sources-page"), {"start_date": "2026-11-01", "end_date": "2026-11-30"})


def test_an_impossible_period_is_refused(people: People, client: Client) -> None:
    client.force_login(people.platform_admin)
    assert client.get(reverse("sources-page"), {"days": "0"}).status_code == 400
