"""What grew or shrank most, and how much of the whole change each explains."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from kluisz_analytics.tenants.models import User
from tests.conftest import People
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
NOW = datetime(2037, 11, 24, 14, 20, tzinfo=UTC)
DAY = timedelta(days=1)
EARLY = timedelta(hours=3)


@pytest.fixture(autouse=True)
def _the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.fixture
def ask(people: People) -> Callable[..., Any]:
    def get(path: str, user: User | None = None) -> Any:
        client = Client()
        client.force_login(user or people.platform_admin)
        return client.get(path)

    return get


@pytest.fixture
def usage(people: People, use: Callable[..., None]) -> None:
    """Yesterday until now Acme $4 (ann 3, bob 1), Globex $10; today Acme $10 (ann 2, bob 8), Globex
    $8. What came yesterday after the time that it is now counts in neither.
    """
    flow = str(people.flow.pk)
    for user, before, now in (
        (people.acme_user, "3", "2"),
        (people.acme_colleague, "1", "8"),
        (people.globex_user, "10", "8"),
    ):
        use(user, before, NOW - DAY - EARLY, flow=flow)
        use(user, now, NOW - EARLY, flow=flow, model="gpt-5")
    use(people.globex_user, "500", NOW - DAY + timedelta(hours=2))


def rows(answer: Any) -> list[tuple[str, ...]]:
    assert answer.status_code == 200
    changed = answer.context["changed"]
    return [(one.label, one.before, one.now, one.change) for one in changed.lines]


def shares(answer: Any) -> list[float | None]:
    changed = answer.context["changed"]
    found = [one.share for one in (*changed.lines, *changed.totals)]
    return [one if one is None else round(one, 4) for one in found]


@pytest.mark.usefixtures("usage")
@pytest.mark.parametrize("built", [False, True])
def test_those_that_changed_most_come_first_and_say_how_much_they_explain(
    ask: Callable[..., Any], built: bool
) -> None:
    if built:
        build_rollups(NOW)
    answer = ask("/what-changed/?days=1")
    assert rows(answer) == [
        ("Acme", "$4.00", "$10.00", "+$6.00"),
        ("Globex", "$10.00", "$8.00", "−$2.00"),
    ]
    assert shares(answer) == [1.5, -0.5, 0, 1], "of +$4.00; all others, all"
    assert "Cost: $4.00 more than yesterday until 14:20" in answer.content.decode()
    by_user = ask("/what-changed/?days=1&by=user&measure=credits")
    assert [row[0] for row in rows(by_user)] == ["bob", "gus", "ann"]
    assert rows(by_user)[0] == ("bob", "190", "1,520", "+1,330")
    by_model = ask("/what-changed/?days=1&by=model&measure=traces")
    assert rows(by_model) == [("gpt-4o", "3", "0", "−3"), ("gpt-5", "0", "3", "+3")]
    assert shares(by_model) == [None, None, None, None], "on the whole as many"


@pytest.mark.usefixtures("usage")
def test_a_click_leads_to_what_changed_within_and_each_sees_its_own(
    ask: Callable[..., Any], people: People
) -> None:
    (acme, _) = ask("/what-changed/?days=1&measure=tokens").context["changed"].lines or (None, None)
    assert acme is None, "as many tokens as before"
    acme, _ = ask("/what-changed/?days=1").context["changed"].lines
    assert acme.url == f"?days=1&tenant_id={people.acme.pk}&by=flow"
    within = ask(f"/what-changed/{acme.url}")
    assert rows(within) == [("Triage", "$4.00", "$10.00", "+$6.00")]
    assert shares(within) == [1, 0, 1]
    for viewer, expected in (
        (
            people.acme_admin,
            [("bob", "$1.00", "$8.00", "+$7.00"), ("ann", "$3.00", "$2.00", "−$1.00")],
        ),
        (people.acme_user, [("ann", "$3.00", "$2.00", "−$1.00")]),
    ):
        assert rows(ask("/what-changed/?days=1&by=user", viewer)) == expected
        assert "Globex" not in ask("/what-changed/?days=1&by=tenant", viewer).content.decode()
    assert ask("/what-changed/", people.service).status_code == 403


@pytest.mark.usefixtures("usage")
def test_filters_narrow_it_and_it_is_compared_with_what_is_asked(
    ask: Callable[..., Any], use: Callable[..., None], people: People
) -> None:
    assert rows(ask("/what-changed/?days=1&status=failed")) == []
    assert rows(ask("/what-changed/?days=1&model=gpt-5&status=success")) == [
        ("Acme", "$0.00", "$10.00", "+$10.00"),
        ("Globex", "$0.00", "$8.00", "+$8.00"),
    ]
    nothing = ask("/what-changed/?days=1&compare=nothing").content.decode()
    assert "Nothing to compare" in nothing
    use(people.globex_user, "30", datetime(2037, 10, 24, 9, tzinfo=UTC))
    assert rows(ask("/what-changed/?days=1&compare=month"))[0] == (
        "Globex",
        "$30.00",
        "$8.00",
        "−$22.00",
    )
    for query in ("by=moon", "measure=moon", "compare=moon"):
        assert ask(f"/what-changed/?{query}").status_code == 400


def test_of_many_those_are_chosen_that_changed_most_and_the_others_are_together(
    ask: Callable[..., Any], people: People, use: Callable[..., None]
) -> None:
    """The largest of all stayed as it was."""
    for number in range(22):
        use(people.acme_user, "1", NOW - DAY - EARLY, flow=f"flow-{number:02}")
        use(people.acme_user, str(2 + number), NOW - EARLY, flow=f"flow-{number:02}")
        use(people.acme_user, "900", NOW - number * DAY - EARLY, flow="large")
    for built in (False, True):
        if built:
            build_rollups(NOW)
        answer = ask("/what-changed/?days=1&by=flow")
        assert [row[0] for row in rows(answer)] == [
            f"flow-{number:02}" for number in range(21, 1, -1)
        ]
        others = answer.context["changed"].totals[0]
        assert (others.before, others.now, others.change) == ("$902.00", "$905.00", "+$3.00")


@pytest.mark.usefixtures("usage")
def test_it_takes_a_few_queries_and_pages_lead_there(
    people: People, client: Client, ask: Callable[..., Any], django_assert_max_num_queries: Any
) -> None:
    client.force_login(people.platform_admin)
    for query in ("days=30", "days=30&by=user&status=success&measure=tokens"):
        with django_assert_max_num_queries(15):
            assert client.get(f"/what-changed/?{query}").status_code == 200
    address = ask("/tenants/acme/?days=1").context["dashboard"].what_changed
    assert rows(ask(address)) == [("Acme", "$4.00", "$10.00", "+$6.00")]
