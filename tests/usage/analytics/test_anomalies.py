"""What stands out of a pattern, and what doesn't."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.conftest import NOON, People

pytestmark = pytest.mark.django_db
# NOON is a Tuesday.
WEEK = timedelta(days=7)


def weeks_of(use: Callable[..., None], user: Any, *costs: str, **fields: Any) -> None:
    """One run a week, the last one on the day of NOON."""
    for number, cost in enumerate(reversed(costs)):
        use(user, cost, NOON - number * WEEK, **fields)


def ask(api: Callable[..., Any], user: Any, **query: str) -> list[dict[str, Any]]:
    answer = api(
        user,
        "anomalies",
        **{
            "start_date": str(NOON.date()),
            "end_date": str(NOON.date()),
            "group_by": "model",
            **query,
        },
    )
    assert answer.status_code == 200, answer.content
    return list(answer.json()["results"])


def test_a_day_far_from_its_weekday_is_found_and_an_ordinary_one_is_not(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    weeks_of(use, people.acme_user, "1", "1.1", "0.9", "1", "1", "1", "5", model="odd")
    weeks_of(use, people.acme_user, "1", "1.1", "0.9", "1", "1", "1", "1.2", model="even")
    (found,) = ask(api, people.acme_user)
    assert (found["key"], found["value"], found["usual"]) == (
        "odd",
        "5.000000000000",
        "1.000000000000",
    )
    assert found["score"] == 40
    assert found["period_start"] == "2026-11-09T23:00:00Z", "the day of Amsterdam"


def test_a_day_without_the_usual_usage_is_found_too(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    weeks_of(use, people.acme_user, "1", "1", "1", "1", "1", "1", model="gone")
    assert ask(api, people.acme_user) == []
    day = str((NOON + WEEK).date())
    assert [
        (one["value"], one["score"])
        for one in ask(api, people.acme_user, start_date=day, end_date=day)
    ] == [("0.000000000000", -10)]


def test_one_odd_day_does_not_hide_the_next(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    weeks_of(use, people.acme_user, "1", "1", "1", "1", "1", "50", "50", model="odd")
    assert [one["usual"] for one in ask(api, people.acme_user)] == ["1.000000000000"]


def test_without_a_pattern_nothing_stands_out(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    weeks_of(use, people.acme_user, "1", "1", "1", "90", model="new")
    assert ask(api, people.acme_user) == []


def test_hours_are_compared_with_the_same_hour(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    for number in range(1, 10):
        use(people.acme_user, "1", NOON - timedelta(days=number), model="m")
        use(people.acme_user, "9", NOON - timedelta(days=number, hours=3), model="m")
    use(people.acme_user, "9", NOON, model="m")
    use(people.acme_user, "9", NOON - timedelta(hours=3), model="m")
    found = ask(api, people.acme_user, granularity="hour")
    assert [one["period_start"] for one in found] == [f"{NOON:%Y-%m-%dT%H}:00:00Z"]


def test_it_says_what_it_takes(people: People, api: Callable[..., Any]) -> None:
    answer = api(
        people.acme_user,
        "anomalies",
        granularity="hour",
        start_date="2026-10-01",
        end_date="2026-11-01",
    )
    assert answer.status_code == 400
    assert "at most 7 days" in answer.json()["errors"][0]["detail"]
