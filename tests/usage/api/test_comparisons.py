"""A running period is compared with the same stretch of the time before: over HTTP, on the pages,
and in anomalies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.conftest import People
from usage.models import LangfuseConnection, SyncWindow
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 24, 14, 20, tzinfo=UTC)
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
DAY = timedelta(days=1)
TODAY = {"start_date": "2026-11-24", "end_date": "2026-11-24", "tz": "UTC"}


@contextmanager
def freeze_time(moment: datetime) -> Iterator[None]:
    """Django's clock stands still."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timezone, "now", lambda: moment)
        yield


@pytest.fixture
def running_day(people: People, use: Callable[..., None]) -> None:
    """Today $5 by 14:10; yesterday $2 by 14:10 and $8 after it."""
    use(people.acme_user, "5", MIDNIGHT + timedelta(hours=14, minutes=10))
    use(people.acme_user, "2", MIDNIGHT - DAY + timedelta(hours=14, minutes=10))
    use(people.acme_user, "8", MIDNIGHT - DAY + timedelta(hours=14, minutes=30))


def complete_through(connection: LangfuseConnection, moment: datetime) -> None:
    SyncWindow.objects.create(
        connection=connection,
        start=moment - timedelta(hours=6),
        end=moment,
        complete_through=moment,
        state=SyncWindow.State.DONE,
    )


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.usefixtures("running_day")
def test_today_is_compared_with_yesterday_until_now(
    people: People, api: Callable[..., Any], built: bool
) -> None:
    if built:
        build_rollups(NOW)
    with freeze_time(NOW):
        for viewer, path in (
            (people.acme_admin, f"tenant/{people.acme.pk}/stats"),
            (people.acme_user, "user/me/stats"),
            (people.platform_admin, "platform/stats"),
        ):
            body = api(viewer, path, **TODAY).json()
            assert body["change"]["total_cost_usd"] == 1.5, "up 150%, and not down a half"
            assert body["compared_until"] == "2026-11-24T14:20:00Z"
            before = body["previous_period"]
            assert (before["period_start"], before["period_end"]) == (
                "2026-11-23T00:00:00Z",
                "2026-11-23T14:20:00Z",
            )
            assert Decimal(before["total_cost_usd"]) == 2


@pytest.mark.usefixtures("running_day")
def test_where_the_sync_is_behind_it_is_compared_up_to_what_is_complete(
    people: People,
    api: Callable[..., Any],
    use: Callable[..., None],
    bare_connection: LangfuseConnection,
) -> None:
    """At noon today's $1 stood against yesterday's $4; what came after it is shown, and is in no
    arrow.
    """
    complete_through(bare_connection, MIDNIGHT + timedelta(hours=12))
    use(people.acme_user, "1", MIDNIGHT + timedelta(hours=1))
    use(people.acme_user, "4", MIDNIGHT - DAY + timedelta(hours=1))
    with freeze_time(NOW):
        body = api(people.acme_user, "user/me/stats", **TODAY).json()
    assert Decimal(body["total_cost_usd"]) == 6
    assert body["complete_through"] == body["compared_until"] == "2026-11-24T12:00:00Z"
    assert body["previous_period"]["period_end"] == "2026-11-23T12:00:00Z"
    assert body["change"]["total_cost_usd"] == -0.75


@pytest.mark.usefixtures("running_day")
def test_where_nothing_of_it_is_known_yet_nothing_is_compared(
    people: People, api: Callable[..., Any], bare_connection: LangfuseConnection
) -> None:
    complete_through(bare_connection, MIDNIGHT - timedelta(hours=1))
    with freeze_time(NOW):
        body = api(people.acme_user, "user/me/stats", **TODAY).json()
        page = page_of(people)
    assert set(body["change"].values()) == {None}
    assert body["previous_period"]["period_start"] == body["previous_period"]["period_end"]
    assert "Arrows" not in page


def page_of(people: People, query: str = "days=1") -> str:
    client = Client()
    client.force_login(people.acme_user)
    return client.get(f"/users/{people.acme_user.pk}/?{query}").content.decode()


@pytest.mark.parametrize(
    ("now", "query", "words"),
    [
        # The pages of an Amsterdam tenant are an hour ahead.
        (NOW, "days=1", "than yesterday until 15:20"),
        (NOW, "days=7", "than in the 7 days before until 17 Nov, 15:20"),
        (NOW.replace(day=7), "days=7", "than in the 7 days before until 31 Oct, 15:20"),
        (NOW, "days=30", "than in the 30 days before until 25 Oct, 15:20"),
        (NOW, "start_date=2026-11-01", "than in October 2026 until 24 Oct, 15:20"),
        (NOW, "start_date=2026-10-01&end_date=2026-10-31", "than in September 2026"),
    ],
)
def test_a_page_says_in_words_what_is_compared(
    people: People, use: Callable[..., None], now: datetime, query: str, words: str
) -> None:
    for day in range(90):
        use(people.acme_user, "1", now - timedelta(minutes=30) - day * DAY)
    with freeze_time(now):
        page = page_of(people, query)
    assert f"Arrows: more (▲) or less (▼) {words}." in page
    assert f"more {words}" in page


def test_a_running_day_is_no_anomaly_for_what_is_yet_to_come(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    """On its weekday $1 is used by 14:20, and $9 after it."""
    for week in range(1, 7):
        use(people.acme_user, "1", MIDNIGHT + timedelta(hours=9) - 7 * week * DAY)
        use(people.acme_user, "9", MIDNIGHT + timedelta(hours=18) - 7 * week * DAY)
    use(people.acme_user, "1", MIDNIGHT + timedelta(hours=9))
    with freeze_time(NOW):
        assert api(people.acme_user, "anomalies", group_by="model", **TODAY).json()["results"] == []
        use(people.acme_user, "4", MIDNIGHT + timedelta(hours=10))
        (found,) = api(people.acme_user, "anomalies", group_by="model", **TODAY).json()["results"]
    assert (Decimal(found["value"]), Decimal(found["usual"])) == (5, 1)
    assert found["period_end"] == "2026-11-24T14:20:00Z"


def test_a_running_hour_is_no_anomaly_either_and_what_is_to_come_is_none(
    people: People, use: Callable[..., None], api: Callable[..., Any]
) -> None:
    for day in range(1, 15):
        use(people.acme_user, "1", NOW - timedelta(minutes=10) - day * DAY)
        use(people.acme_user, "9", NOW + timedelta(minutes=10) - day * DAY)
        use(people.acme_user, "9", NOW + timedelta(hours=3) - day * DAY)
    use(people.acme_user, "1", NOW - timedelta(minutes=10))
    with freeze_time(NOW):
        asked = {"group_by": "model", "granularity": "hour", **TODAY}
        assert api(people.acme_user, "anomalies", **asked).json()["results"] == []
