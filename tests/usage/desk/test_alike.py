"""Calls that two runs may record, at their doors: listed with what is at stake, and ruled on one by
one or for all that an integration records.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from tests.conftest import People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.desk.alike import likely_twins
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection, Trace, UsageRuling

pytestmark = pytest.mark.django_db
RECORDS = ("openai-1", "litellm-1"), ("openai-2", "litellm-2")


@pytest.fixture
def twins(people: People, bare_connection: LangfuseConnection) -> LangfuseConnection:
    """Two calls that two integrations recorded, and one that only one of them did."""
    began = timezone.now() - timedelta(hours=2)
    steps = []
    for number, (run, proxy) in enumerate((*RECORDS, ("openai-3", ""))):
        start = began + timedelta(minutes=5 * number)
        for trace_id, source, inside in ((run, "openai", 0), (proxy, "litellm", 1)):
            if trace_id:
                steps.append(
                    received(
                        "call",
                        trace_id,
                        is_root=True,
                        type="GENERATION",
                        model="gpt-4o",
                        source=source,
                        usage_details={"input": 1000, "output": 100},
                        start_time=start + timedelta(seconds=inside),
                        end_time=start + timedelta(seconds=9 - inside),
                        user_reference=str(people.acme_user.pk) if source == "openai" else "",
                    )
                )
    with transaction.atomic():
        apply_received(bare_connection, steps)
    assert verify_books() == []
    return bare_connection


def tokens() -> dict[str, int]:
    return dict(Trace.objects.values_list("langfuse_trace_id", "total_tokens"))


@pytest.mark.usefixtures("twins")
def test_they_are_listed_with_what_is_at_stake(people: People, api: Callable[..., Any]) -> None:
    body = api(people.platform_admin, "doubtful").json()
    (sources,) = body["alike"]
    assert (sources["source"], sources["other_source"]) == ("litellm", "openai")
    assert (sources["calls"], D(sources["at_stake_usd"])) == (2, D("0.007"))
    found = {
        tuple(one["langfuse_trace_id"] for one in call["records"]) for call in body["alike_calls"]
    }
    assert found == {(proxy, run) for run, proxy in RECORDS}


def test_different_response_ids_are_of_two_calls(twins: LangfuseConnection, people: People) -> None:
    later = timezone.now()
    assert len(likely_twins()) == 2
    start = Trace.objects.get(langfuse_trace_id="litellm-1").start_time
    again = {
        "is_root": True,
        "type": "GENERATION",
        "model": "gpt-4o",
        "usage_details": {"input": 1000, "output": 100},
        "received_at": later,
    }
    outer = {"start_time": start - timedelta(seconds=1), "end_time": start + timedelta(seconds=8)}
    inner = {"start_time": start, "end_time": start + timedelta(seconds=7)}
    with transaction.atomic():
        apply_received(
            twins,
            [
                received("call", "openai-1", source="openai", response_id="a1", **again, **outer),
                received("call", "litellm-1", source="litellm", response_id="a2", **again, **inner),
            ],
        )
    assert len(likely_twins()) == 1


@pytest.mark.parametrize("on_one", [False, True])
def test_it_is_ruled_on_from_the_page_and_undone(
    twins: LangfuseConnection, people: People, client: Client, *, on_one: bool
) -> None:
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_doubtful")).content.decode()
    assert "of_source=on&amp;source=litellm" in page
    asked: dict[str, Any] = {"finding": "alike", "takes": "others", "connection": twins.pk}
    if on_one:
        proxy = Trace.objects.get(langfuse_trace_id="litellm-1")
        asked |= {"trace": proxy.pk, "observation": "call"}
    else:
        asked |= {"of_source": "on", "source": "litellm"}
    url = reverse("admin:usage_usageruling_add")
    assert "gives way" not in client.get(url, asked).content.decode()
    client.post(url, {**asked, "reason": "a proxy"})
    ruling = UsageRuling.objects.get()
    assert ruling.state == "applied"
    given_way = [RECORDS[0][1]] if on_one else [proxy for _, proxy in RECORDS]
    assert {name for name, used in tokens().items() if not used} == set(given_way)
    assert verify_books() == []
    assert len(likely_twins()) == 2 - len(given_way)


def test_runs_of_two_tenants_are_not_alike(
    twins: LangfuseConnection, people: People, client: Client
) -> None:
    start = Trace.objects.get(langfuse_trace_id="litellm-1").start_time
    foreign = received(
        "root",
        "litellm-1",
        is_root=True,
        start_time=start,
        user_reference=str(people.globex_user.pk),
    )
    with transaction.atomic():
        apply_received(twins, [foreign])
    (left,) = likely_twins()
    assert {one.langfuse_trace_id for one in left.records} == set(RECORDS[1])
    client.force_login(people.platform_admin)
    asked = {"finding": "alike", "takes": "others", "connection": twins.pk, "of_source": "on"}
    url = reverse("admin:usage_usageruling_add")
    client.post(url, {**asked, "source": "litellm", "reason": "a proxy"})
    assert {name for name, used in tokens().items() if not used} == {RECORDS[1][1]}
    assert verify_books() == []


def test_what_is_ruled_to_be_two_calls_is_listed_no_more(
    twins: LangfuseConnection, people: People, client: Client
) -> None:
    client.force_login(people.platform_admin)
    proxy = Trace.objects.get(langfuse_trace_id="litellm-1")
    asked = {"finding": "alike", "takes": "both", "connection": twins.pk, "reason": "two"}
    client.post(
        reverse("admin:usage_usageruling_add"), {**asked, "trace": proxy.pk, "observation": "call"}
    )
    assert UsageRuling.objects.get().state == "applied"
    (left,) = likely_twins()
    assert {one.langfuse_trace_id for one in left.records} == set(RECORDS[1])
    assert set(tokens().values()) == {1100}


def test_an_integration_or_one_observation_has_to_be_named(
    twins: LangfuseConnection, people: People, client: Client
) -> None:
    client.force_login(people.platform_admin)
    asked = {"finding": "alike", "takes": "others", "connection": twins.pk, "reason": "so"}
    page = client.post(reverse("admin:usage_usageruling_add"), asked)
    assert "Name the integration" in page.content.decode()
    assert not UsageRuling.objects.exists()


def test_runs_of_which_a_framework_hides_calls_are_listed_with_what_to_do(
    people: People,
    bare_connection: LangfuseConnection,
    api: Callable[..., Any],
    client: Client,
) -> None:
    start = timezone.now() - timedelta(hours=1)
    agent = received(
        "agent",
        "hiding",
        is_root=True,
        type="AGENT",
        source="autogen-core",
        start_time=start,
        end_time=start + timedelta(seconds=3),
    )
    with transaction.atomic():
        apply_received(bare_connection, [agent])
    (row,) = api(people.platform_admin, "doubtful").json()["hidden"]
    assert (row["kind"], row["source"], row["runs"]) == ("all_calls", "autogen-core", 1)
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_doubtful")).content.decode()
    assert "openinference-instrumentation-openai" in page
