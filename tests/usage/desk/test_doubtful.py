"""What doesn't add up, at its doors: the endpoint, the page, and ruling from there."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal as D
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse

from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from tests.usage.desk.test_rulings import GPT5, OURS, agent, costs, doubled, rule, store
from usage.books import verify_books
from usage.facts.findings import Finding, Takes
from usage.models import LangfuseConnection, Observation, Trace, UsageRuling
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
UNITS = {"input": 4000, "output": 100, "total": 2000}


@pytest.fixture
def doubts(people: People, bare_connection: LangfuseConnection) -> LangfuseConnection:
    """One of each kind."""
    ann = people.acme_user
    doubled(bare_connection, ann, "doubled")
    agent(bare_connection, ann, (0, 1, 2))
    free = {"model": "gpt-5", "usage_details": GPT5, "cost_usd": D(0)}
    store(bare_connection, ann, "free", ("call", free))
    store(bare_connection, ann, "units", ("call", {"model": "own", "usage_details": UNITS}))
    return bare_connection


@pytest.mark.usefixtures("doubts")
def test_each_kind_is_listed_with_both_figures(people: People, api: Callable[..., Any]) -> None:
    body = api(people.platform_admin, "doubtful").json()
    rows = {(row["langfuse_trace_id"], row["finding"]): row for row in body["observations"]}
    assert {
        key: (row["cost_usd"], row["other_cost_usd"], row["at_stake_usd"])
        for key, row in rows.items()
        if key[0] != "units" and key != ("run", "cost")
    } == {
        ("doubled", "cost"): ("0.148789000000", "0.018756750000", "0.130032250000"),
        ("run", "sum"): (None, "0.400000000000", "0.400000000000"),
        ("free", "free"): ("0.000000000000", "0.018756750000", "0.018756750000"),
    }
    assert rows["run", "sum"]["counted_in"] == "a"
    assert rows["units", "units"]["said_tokens"] == 2000
    assert rows["units", "units"]["usage_doubt"]
    stakes = [D(row["at_stake_usd"]) for row in body["observations"]]
    assert stakes == sorted(stakes, reverse=True)
    by_model = {(row["finding"], row["model"]): row for row in body["models"]}
    assert by_model["free", "gpt-5"]["at_stake_usd"] == "0.018756750000"
    assert by_model["sum", ""]["undecided"] == 0
    assert body["undecided"] == sum(row["undecided"] for row in body["models"]) == 5


@pytest.mark.usefixtures("doubts")
@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("doubled", "Langfuse&#x27;s cost is far from the price lists&#x27;"),
        ("free", "Langfuse says that it cost nothing"),
        ("units", "More tokens than its own total says"),
    ],
)
def test_a_runs_page_says_what_does_not_add_up(people: People, run: str, words: str) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    trace = Trace.objects.get(langfuse_trace_id=run)
    assert words in client.get(reverse("trace", args=[trace.pk])).content.decode().replace(
        "&#39;", "&#x27;"
    )


def test_of_units_the_cost_by_their_own_total_is_at_stake_where_there_is_a_price(
    people: People, doubts: LangfuseConnection, api: Callable[..., Any]
) -> None:
    call = {"model": "gpt-5", "usage_details": UNITS}
    store(doubts, people.acme_user, "priced", ("call", call))
    rows = {
        row["langfuse_trace_id"]: row
        for row in api(people.platform_admin, "doubtful").json()["observations"]
    }
    row = rows["priced"]
    assert (row["counted_tokens"], row["said_tokens"]) == (4100, 2000)
    assert (row["cost_usd"], row["other_cost_usd"], row["at_stake_usd"]) == (
        "0.006000000000",
        "0.003375000000",
        "0.002625000000",
    )
    assert rows["units"]["other_cost_usd"] is None
    client = Client()
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_doubtful")).content.decode()
    asked = f"finding=units&amp;takes=total&amp;connection={doubts.pk}&amp;trace="
    assert f"{asked}{row['trace_id']}" in page
    assert f"{asked}{rows['units']['trace_id']}" not in page, "no list has a price"
    asks = {"finding": "units", "takes": "total", "trace": row["trace_id"], "observation": "call"}
    client.post(
        reverse("admin:usage_usageruling_add"), ask(connection=doubts.pk, **asks), follow=True
    )
    assert costs()["priced"] == D("0.003375")
    explained = client.get(reverse("trace", args=[row["trace_id"]])).content.decode()
    assert "1,900" in explained
    assert "Ruled: “Its own total counts" in explained


@pytest.mark.usefixtures("doubts")
def test_a_step_counted_in_another_one_says_in_which(
    people: People, api: Callable[..., Any]
) -> None:
    trace = Trace.objects.get(langfuse_trace_id="run")
    body = api(people.acme_user, f"traces/{trace.pk}/explanation").json()
    (carrier,) = body["counted_elsewhere"]
    assert (carrier["langfuse_observation_id"], carrier["counted_in"]) == ("agent", "a")
    assert carrier["other_cost_usd"] == "0.400000000000"
    assert {one["langfuse_observation_id"] for one in body["observations"]} == {"a", "b"}
    steps = api(people.acme_user, f"traces/{trace.pk}").json()["observations"]
    assert {one["langfuse_observation_id"]: one["counted_in"] for one in steps} == {
        "agent": "a",
        "a": "",
        "b": "",
    }
    client = Client()
    client.force_login(people.acme_user)
    page = client.get(reverse("trace", args=[trace.pk])).content.decode()
    assert 'counted in <a href="#step-a">' in page
    assert page.count('id="step-a"') == 1


BROKEN: list[dict[str, Any]] = [
    {"cost_usd": 1},
    {"billed_cost_usd": 1},
    {"credits": 1},
    {"total_tokens": 1},
    {"cost_source": "langfuse"},
    {"finding": "cost"},
    {"counted_in": "nobody"},
    {"counted_in": "agent"},
]


@pytest.mark.usefixtures("doubts")
@pytest.mark.parametrize("broken", BROKEN, ids=str)
def test_the_books_show_what_is_counted_in_another_step_and_is_not(broken: dict[str, Any]) -> None:
    assert verify_books() == []
    Observation.objects.filter(langfuse_observation_id="agent").update(**broken)
    found = [one.check for one in verify_books()]
    assert (
        "facts: a step that is counted in another one costs nothing, and that one is counted"
        in found
    )


@pytest.mark.usefixtures("doubts")
def test_the_platforms_page_names_what_nobody_has_ruled_on(people: People) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    assert "5 observations do not add up" in client.get("/platform/").content.decode()


@pytest.mark.usefixtures("doubts")
def test_every_answer_counts_what_nobody_has_ruled_on(
    people: People, doubts: LangfuseConnection, api: Callable[..., Any]
) -> None:
    admin, days = people.platform_admin, {"start_date": "2026-11-01", "end_date": "2026-11-30"}

    def counts() -> dict[str, Any]:
        lists = {
            path: api(admin, path, **days).json()["results"]
            for path in ("top-users", "top-tenants", "cost-breakdown")
        }
        series = api(admin, "time-series", **days, granularity="day").json()["series"]
        return {
            **{path: sum(one["doubtful_observations"] for one in lists[path]) for path in lists},
            "series": sum(one["doubtful_observations"] for one in series),
            **{
                path: api(viewer, path, **days).json()["doubtful_observations"]
                for viewer, path in (
                    (admin, "platform/stats"),
                    (people.acme_admin, f"tenant/{people.acme.pk}/stats"),
                    (people.acme_user, f"user/{people.acme_user.pk}/stats"),
                )
            },
        }

    assert set(counts().values()) == {5}
    build_rollups(NOON + timedelta(days=60))
    assert set(counts().values()) == {5}, "from rollups as from facts"
    rule(doubts, Finding.FREE, Takes.LANGFUSE)
    rule(doubts, Finding.UNITS, Takes.AS_COUNTED)
    assert set(counts().values()) == {3}, "what is ruled on adds up"
    assert verify_books() == []
    breakdown = api(admin, "cost-breakdown", **days, format="csv").content.decode()
    assert "doubtful_observations" in breakdown.splitlines()[0]


@pytest.mark.usefixtures("doubts")
def test_pages_of_tenants_and_users_name_what_does_not_add_up(people: People) -> None:
    client = Client()
    period = "?start_date=2026-11-01&end_date=2026-11-30"
    for user, page in (
        (people.acme_admin, "/tenants/acme/"),
        (people.acme_user, f"/users/{people.acme_user.pk}/"),
    ):
        client.force_login(user)
        assert "5 model calls do not add up" in client.get(page + period).content.decode()


def ask(**fields: Any) -> dict[str, Any]:
    return {"finding": "free", "takes": "price_book", "reason": "as agreed", **fields}


def test_ruled_from_the_page_by_post_only_with_who_did_it(
    people: People, doubts: LangfuseConnection
) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    page = client.get(reverse("admin:usage_doubtful")).content.decode()
    assert "0.148789" in page
    assert "0.018756" in page
    address, asked = reverse("admin:usage_usageruling_add"), ask(connection=doubts.pk)
    question = client.get(address, asked).content.decode()
    assert "1 observation now" in question
    assert not UsageRuling.objects.exists(), "nothing is ruled by GET"
    client.post(address, {**asked, "reason": " "})
    assert not UsageRuling.objects.exists(), "nor without a reason"
    client.post(address, asked)
    ruling = UsageRuling.objects.get()
    assert (ruling.created_by, ruling.state, ruling.reason) == (
        people.platform_admin,
        "applied",
        "as agreed",
    )
    assert LogEntry.objects.filter(object_id=str(ruling.pk), user=people.platform_admin).exists()
    assert costs()["free"] == OURS
    undo = reverse("admin:usage_usageruling_undo", args=[ruling.pk])
    client.get(undo)
    assert costs()["free"] == OURS
    client.post(undo, {"confirmed": "yes"})
    assert costs()["free"] == 0


@pytest.mark.parametrize("who", ["acme_admin", "acme_user", "service"])
def test_nobody_else_sees_or_rules(people: People, doubts: LangfuseConnection, who: str) -> None:
    user: User = getattr(people, who)
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client = Client()
    client.force_login(user)
    assert client.get(reverse("admin:usage_doubtful")).status_code == 403
    assert client.get(reverse("admin:usage_expectedusage")).status_code == 403
    answer = client.post(reverse("admin:usage_usageruling_add"), ask(connection=doubts.pk))
    assert answer.status_code == 403
    assert not UsageRuling.objects.exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"takes": "both"}, "is no choice"),
        ({"finding": "nonsense"}, "nonsense"),
        ({"connection": "4711"}, "valid choice"),
        ({"trace": "nonsense", "observation": "x"}, "valid UUID"),
        ({"observation": "call"}, "or neither"),
    ],
)
def test_a_wrong_choice_is_named(
    people: People, doubts: LangfuseConnection, fields: dict[str, str], message: str
) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    asked = ask(connection=doubts.pk) | fields
    page = client.post(reverse("admin:usage_usageruling_add"), asked).content.decode()
    assert message in page
    assert not UsageRuling.objects.exists()


def test_of_one_observation_of_a_model_named_nothing(
    people: People, doubts: LangfuseConnection
) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    address = reverse("admin:usage_usageruling_add")
    trace = Trace.objects.get(langfuse_trace_id="doubled")
    one = {"finding": "cost", "connection": doubts.pk, "trace": trace.pk, "observation": "call"}
    client.post(address, ask(**one))
    assert costs()["doubled"] == OURS
    of_none = {"finding": "sum", "takes": "both", "connection": doubts.pk, "of_model": "on"}
    client.post(address, ask(**of_none, model="gpt-5"))
    assert costs()["run"] == D("0.4"), "the one that carries the sum names no model"
    client.post(address, ask(**of_none, model=""))
    assert costs()["run"] == D("0.8")
