"""A page's questions are answered together: whatever is there, it takes a few queries."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from tests.conftest import People

pytestmark = pytest.mark.django_db
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
MOST = 15


@pytest.mark.parametrize("page", ["platform", "tenant", "user"])
@pytest.mark.parametrize("filters", [{}, {"status": "failed", "model": ["gpt-4o", "gpt-5"]}])
def test_a_page_takes_a_few_queries(
    some_usage: None,
    people: People,
    client: Client,
    django_assert_max_num_queries: Any,
    page: str,
    filters: dict[str, Any],
) -> None:
    address = {
        "platform": reverse("platform-dashboard"),
        "tenant": reverse("tenant-dashboard", args=[people.acme.slug]),
        "user": reverse("user-dashboard", args=[people.acme_user.pk]),
    }[page]
    client.force_login(people.platform_admin)
    with django_assert_max_num_queries(MOST):
        response = client.get(address, {**PERIOD, **filters})
    assert response.status_code == 200
    assert filters or response.context["dashboard"].summary.numbers.total_traces > 0
