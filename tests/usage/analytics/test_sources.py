"""What arrives by source, at the API's door: before and after it is built, and as facts change."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.db import transaction

from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.facts.apply import apply_received
from usage.facts.voiding import void
from usage.models import LangfuseConnection, ReceivedTrace, SourceUsage, Trace
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PERIOD = {"start_date": "2026-11-10", "end_date": "2026-11-10"}
SDK, PROXY = "langfuse-sdk/openai", "litellm"


@pytest.fixture
def apply(bare_connection: LangfuseConnection) -> Callable[..., None]:
    """Stores one call: ``apply("trace", "step", SDK, "5.0.4", people.acme_user)``."""

    def one(
        trace_id: str,
        step_id: str,
        source: str,
        version: str,
        user: Any = None,
        start: datetime = NOON,
        cost: str | None = "0.06",
        **extra: Any,
    ) -> None:
        owner = {
            "user_reference": str(user.pk) if user else "",
            "tenant_reference": str(user.tenant_id) if user else "",
        }
        fields = {
            "trace_id": trace_id,
            "is_root": True,
            "type": "GENERATION",
            "model": "gpt-4o",
            "usage_details": {"input": 10, "output": 5, "total": 15},
            "cost_usd": None if cost is None else D(cost),
            "source": source,
            "source_version": version,
            "environment": "production",
            "start_time": start,
            "end_time": start + timedelta(seconds=2),
            **owner,
            **extra,
        }
        with transaction.atomic():
            apply_received(bare_connection, [received(step_id, **fields)])

    return one


@pytest.fixture
def ask(people: People, api: Callable[..., Any]) -> Callable[..., Any]:
    """The answer, and its rows by source, version and environment; the books balance."""

    def asked(**query: str) -> tuple[dict[str, Any], dict[tuple[str, str, str], Any]]:
        assert verify_books() == []
        answer = api(people.platform_admin, "sources", **{**PERIOD, **query})
        assert answer.status_code == 200, answer.content
        body = answer.json()
        names = ("source", "source_version", "environment")
        return body, {tuple(row[name] for name in names): row for row in body["results"]}

    return asked


BUILT = pytest.mark.parametrize(
    "built_at", [None, NOON + 3 * HOUR, NOON + DAY], ids=["never", "while the day runs", "after it"]
)


def build(built_at: datetime | None) -> None:
    if built_at is not None:
        build_rollups(built_at)


@BUILT
def test_it_says_what_arrives_and_how_much_is_owned_priced_and_counted_once(
    people: People, apply: Callable[..., None], ask: Callable[..., Any], built_at: datetime | None
) -> None:
    apply("a", "sdk", SDK, "5.0.4", people.acme_user, response_id="one")
    apply("b", "proxy", PROXY, "", response_id="one")
    apply("c", "proxy", PROXY, "", response_id="two", cost=None, model="nobodys")
    apply("d", "call", "", "5.0.4", people.globex_user, environment="staging", start=NOON + HOUR)
    apply("e", "agent", "autogen-core", "", type="AGENT", usage_details={}, cost=None, model="")
    build(built_at)
    body, rows = ask()
    assert list(rows) == [
        (PROXY, "", "production"),
        ("", "5.0.4", "staging"),
        (SDK, "5.0.4", "production"),
        ("autogen-core", "", "production"),
    ]
    proxy, sdk = rows[PROXY, "", "production"], rows[SDK, "5.0.4", "production"]
    assert (
        proxy
        | {
            "total_traces": 2,
            "owned_traces": 0,
            "calls": 1,
            "owned_observations": 0,
            "priced_observations": 0,
            "unpriced_observations": 1,
            "repeated_observations": 1,
            "total_tokens": 15,
            "total_cost_usd": None,
            "share": 0.5,
            "previous_share": None,
            "first_seen": "2026-11-10T12:00:00Z",
        }
        == proxy
    )
    assert (
        sdk
        | {
            "source_name": SDK,
            "total_traces": 1,
            "owned_traces": 1,
            "calls": 1,
            "owned_observations": 1,
            "priced_observations": 1,
            "repeated_observations": 0,
            "total_cost_usd": "0.060000000000",
            "share": 0.25,
        }
        == sdk
    )
    assert rows["", "5.0.4", "staging"]["source_name"] == "Langfuse's own SDK"
    agent = rows["autogen-core", "", "production"]
    assert (agent["total_traces"], agent["calls"], agent["share"]) == (1, 0, 0)
    assert (
        body["totals"]
        | {
            "total_traces": 5,
            "owned_traces": 2,
            "calls": 3,
            "owned_observations": 2,
            "priced_observations": 2,
            "repeated_observations": 1,
            "total_cost_usd": "0.120000000000",
        }
        == body["totals"]
    )


@BUILT
def test_what_changes_late_is_right_at_once(
    people: People, apply: Callable[..., None], ask: Callable[..., Any], built_at: datetime | None
) -> None:
    apply("a", "call", PROXY, "1", response_id="one")
    apply("b", "call", PROXY, "1", people.acme_user, start=NOON + HOUR)
    apply("c", "call", PROXY, "1", people.acme_user)
    build(built_at)
    ask()
    # Another integration's record of the first call; the second again, by another version; and the
    # third was deleted and is voided.
    apply("sdk", "call", SDK, "5.0.4", people.acme_user, response_id="one")
    again = {"start": NOON + HOUR, "received_at": NOON + 9 * HOUR}
    apply("b", "call", PROXY, "2", people.acme_user, **again)
    third = Trace.objects.filter(langfuse_trace_id="c")
    third.update(deleted_observations=1)
    ReceivedTrace.objects.filter(trace__in=third).update(deleted='{"call":"2026-11-20T12:00:00Z"}')
    void([third.get().pk.hex], "a test", people.platform_admin)
    body, rows = ask()
    counted = {
        key[:2]: (row["total_traces"], row["calls"], row["repeated_observations"])
        for key, row in rows.items()
    }
    assert counted == {
        (SDK, "5.0.4"): (1, 1, 0),
        (PROXY, "1"): (1, 0, 1),
        (PROXY, "2"): (1, 1, 0),
    }
    build(built_at)
    assert ask() == (body, rows)


@BUILT
def test_a_source_is_new_for_seven_days(
    apply: Callable[..., None], ask: Callable[..., Any], built_at: datetime | None
) -> None:
    apply("old", "call", PROXY, "1", start=NOON - 8 * DAY)
    apply("a", "call", PROXY, "1")
    apply("b", "call", PROXY, "2")
    build(built_at)
    body, rows = ask()
    assert body["new_since"] == "2026-11-04T00:00:00Z"
    assert {key[1]: (row["is_new"], row["first_seen"][:10]) for key, row in rows.items()} == {
        "1": (False, "2026-11-02"),
        "2": (True, "2026-11-10"),
    }


@BUILT
def test_a_period_may_be_of_any_length(
    apply: Callable[..., None], ask: Callable[..., Any], built_at: datetime | None
) -> None:
    apply("a", "call", PROXY, "1")
    build(built_at)
    body, _ = ask(start_date="2000-01-01", end_date="2099-01-01")
    assert body["totals"]["calls"] == 1


@BUILT
def test_its_share_is_compared_with_the_time_before(
    apply: Callable[..., None], ask: Callable[..., Any], built_at: datetime | None
) -> None:
    for number, source in enumerate((SDK, SDK, SDK, PROXY)):
        apply(f"before{number}", "call", source, "", start=NOON - DAY)
    for number, source in enumerate((SDK, PROXY)):
        apply(f"now{number}", "call", source, "")
    build(built_at)
    _, rows = ask()
    assert {key[0]: (row["share"], row["previous_share"]) for key, row in rows.items()} == {
        SDK: (0.5, 0.75),
        PROXY: (0.5, 0.25),
    }


@pytest.mark.parametrize("number", ["total_traces", "calls"])
@BUILT
def test_a_part_of_an_hour_is_what_began_in_it(
    apply: Callable[..., None],
    ask: Callable[..., Any],
    number: str,
    built_at: datetime | None,
) -> None:
    for minute in (0, 20, 40):
        apply(f"at{minute}", "call", PROXY, "", start=NOON + timedelta(minutes=minute))
    build(built_at)
    asked = {"start_date": "2026-11-10T12:10:00Z", "end_date": "2026-11-10T14:00:00Z"}
    assert ask(**asked)[0]["totals"][number] == 2


def test_the_books_show_a_source_that_is_wrong(people: People, apply: Callable[..., None]) -> None:
    apply("a", "call", PROXY, "", people.acme_user)
    build_rollups(NOON + DAY)
    assert verify_books() == []
    SourceUsage.objects.update(owned_observations=0)
    assert [finding.check for finding in verify_books()] == [
        "invariant 1: source_usage has what the facts do not say",
        "invariant 1: source_usage lacks what the facts say",
    ]
    SourceUsage.objects.all().delete()
    assert [finding.check for finding in verify_books()] == [
        "invariant 1: source_usage lacks what the facts say"
    ]


def test_an_empty_period_has_none(ask: Callable[..., Any]) -> None:
    body, rows = ask()
    assert (body["totals"]["calls"], body["totals"]["total_cost_usd"], rows) == (
        0,
        "0.000000000000",
        {},
    )


def test_a_download_has_the_same_rows(
    people: People, apply: Callable[..., None], api: Callable[..., Any]
) -> None:
    apply("a", "call", PROXY, "1", people.acme_user)
    text = api(people.platform_admin, "sources", **PERIOD, format="csv").content.decode()
    heading, row = text.splitlines()
    assert heading.startswith("source,source_name,source_version,environment,")
    assert row.startswith("litellm,litellm,1,production,")


@pytest.mark.parametrize("limit", ["1", "0"])
def test_the_most_come_first(
    people: People, apply: Callable[..., None], api: Callable[..., Any], limit: str
) -> None:
    apply("a", "call", SDK, "", people.acme_user)
    for number in range(2):
        apply(f"b{number}", "call", PROXY, "", people.acme_user)
    answer = api(people.platform_admin, "sources", **PERIOD, limit=limit)
    if limit == "0":
        assert answer.status_code == 400
    else:
        body = answer.json()
        assert [row["source"] for row in body["results"]] == [PROXY]
        assert body["totals"]["calls"] == 3
