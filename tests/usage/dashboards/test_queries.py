"""A page's questions are answered together: whatever is there, it takes a few queries."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.conftest import People

pytestmark = pytest.mark.django_db
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
MOST = {"platform": 15, "tenant": 15, "user": 18}


@pytest.mark.parametrize("page", MOST)
def test_a_page_takes_a_few_queries(
    some_usage: None,
    people: People,
    client: Client,
    django_assert_max_num_queries: Any,
    page: str,
) -> None:
    address = {
        "platform": reverse("platform-dashboard"),
        "tenant": reverse("tenant-dashboard", args=[people.acme.slug]),
        "user": reverse("user-dashboard", args=[people.acme_user.pk]),
    }[page]
    client.force_login(people.platform_admin)
    with django_assert_max_num_queries(MOST[page]):
        response = client.get(address, PERIOD)
    assert response.status_code == 200
    assert response.context["dashboard"].summary.numbers.total_traces > 0
