"""A call that two runs record, as each of the two is shown: which is counted, and nobody's run to
whom it is none of his business.
"""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from kluisz_analytics.tenants.models import User
from tests.conftest import People
from tests.usage.facts.test_ties import counted, gateway, sdk, store
from usage.models import LangfuseConnection, Trace

pytestmark = pytest.mark.django_db


@pytest.fixture
def two_runs(bare_connection: LangfuseConnection, people: People) -> tuple[Trace, Trace]:
    """The run that counts, a user's, and a colleague's, of which all is counted there."""
    colleague = str(people.acme_colleague.pk)
    whole = {"input": 176, "input_cached_tokens": 1024, "output": 300}
    store(
        bare_connection,
        [sdk(people.acme_user, usage_details=whole), gateway(user_reference=colleague)],
    )
    first, second = (Trace.objects.get(langfuse_trace_id=one) for one in ("run", "proxy"))
    return (first, second) if first.total_tokens else (second, first)


def shown(user: User, trace: Trace) -> str:
    client = Client()
    client.force_login(user)
    answer = client.get(reverse("trace", args=[trace.pk]))
    assert answer.status_code == 200
    return answer.content.decode()


def test_it_says_that_another_run_counts_it_and_which_to_those_who_see_that(
    two_runs: tuple[Trace, Trace], people: People, api: Callable[..., Any]
) -> None:
    counting, other = two_runs
    for user, sees_it in (
        (people.platform_admin, True),
        (people.acme_admin, True),
        (other.user, False),
    ):
        assert user is not None
        answer = api(user, f"traces/{other.pk}/explanation")
        assert answer.status_code == 200, answer.json()
        (step,) = answer.json()["counted_elsewhere"]
        expected = (str(counting.pk), True) if sees_it else (None, True)
        assert (step["counted_in_trace"], step["is_in_another_run"]) == expected
        assert bool(step["counted_in"]) is sees_it
        (row,) = api(user, f"traces/{other.pk}").json()["observations"]
        assert (row["counted_in"], row["is_counted_in_another_run"]) == ("", True)
        page = shown(user, other)
        assert "another run" in page
        assert (str(counting.pk) in page) is sees_it


def test_a_call_of_two_tenants_is_not_one_call(
    bare_connection: LangfuseConnection, people: People
) -> None:
    """Whoever writes a foreign response's id into its own run moves no usage between tenants."""
    globex = str(people.globex_user.pk)
    store(bare_connection, [sdk(people.acme_user)], [gateway(user_reference=globex)])
    assert {name: used for name, (used, _, _) in counted().items()} == {"run": 1200, "proxy": 1200}
    store(bare_connection, [gateway("nobodys")])
    assert sum(used for used, _, _ in counted().values()) == 2400
