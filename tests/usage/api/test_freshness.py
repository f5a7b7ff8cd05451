"""Up to when answers are complete: each tenant's, by the connections that it has anything of."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client

from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection, SyncWindow
from usage.sync import windows
from usage.sync.windows import Span

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)
TENANT_ADDRESSES = ["top-users", "time-series", "cost-breakdown", "traces", "tenant/{}/stats"]


@pytest.fixture
def old(people: People, use: Callable[..., None], bare_connection: LangfuseConnection) -> None:
    """Both tenants have something of the connection “bare”, read through 14:00."""
    use(people.acme_user)
    use(people.globex_user)
    read(bare_connection, NOON, NOON + 2 * HOUR)


def another(name: str = "new", **fields: Any) -> LangfuseConnection:
    return LangfuseConnection.objects.create(name=name, host="http://127.0.0.1:9", **fields)


def read(connection: LangfuseConnection, start: datetime, end: datetime) -> None:
    span = Span(start, end)
    windows.open_windows(connection, span)
    for window in SyncWindow.objects.filter(connection=connection, start__gte=start, end__lte=end):
        window.state, window.complete_through = "done", window.end
        window.save()


def opened(connection: LangfuseConnection, start: datetime, end: datetime) -> None:
    windows.open_windows(connection, Span(start, end))


def use_of(connection: LangfuseConnection, user: User) -> None:
    owner = {"user_reference": str(user.pk), "tenant_reference": str(user.tenant_id)}
    with transaction.atomic():
        apply_received(connection, [received("root", "elsewhere", is_root=True, **owner)])


@pytest.fixture
def through(api: Callable[..., Any], people: People) -> Callable[[User], str | None]:
    """What the answers for a user say, the same at every address."""

    def ask(user: User) -> str | None:
        if user.is_superuser:
            addresses = [
                "top-users",
                "platform/stats",
                "sync/status",
                "unpriced",
                "unmetered",
                "sources",
                "unknown-names",
                "disputes",
            ]
        elif user.is_tenant_admin:
            addresses = [address.format(user.tenant_id) for address in TENANT_ADDRESSES]
        else:
            addresses = ["top-flows", "traces", "user/me/stats"]
        (moment,) = {api(user, address).json()["complete_through"] for address in addresses}
        return moment and moment[11:16]

    return ask


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("is_opened", [False, True])
def test_a_connection_of_which_nothing_was_ever_read_holds_nobody_back(
    people: People, through: Callable[[User], str | None], is_opened: bool
) -> None:
    new = another()
    if is_opened:
        opened(new, NOON, NOON + 2 * HOUR)
    for user in (people.acme_admin, people.acme_user, people.globex_admin, people.platform_admin):
        assert through(user) == "14:00"


@pytest.mark.usefixtures("old")
def test_a_connection_that_lags_holds_back_only_the_tenants_that_have_something_of_it(
    people: People, through: Callable[[User], str | None], api: Callable[..., Any]
) -> None:
    lagging = another()
    read(lagging, NOON - 5 * HOUR, NOON - 2 * HOUR)
    opened(lagging, NOON - 2 * HOUR, NOON + 2 * HOUR)
    use_of(lagging, people.globex_user)
    assert through(people.acme_admin) == through(people.acme_user) == "14:00"
    assert through(people.globex_admin) == through(people.globex_user) == "10:00"
    assert through(people.platform_admin) == "10:00"
    asked = api(people.platform_admin, f"tenant/{people.acme.pk}/stats").json()
    assert asked["complete_through"] == "2026-11-10T14:00:00Z", "of that tenant, for whoever asks"


@pytest.mark.usefixtures("old")
def test_the_tenants_that_a_first_reading_has_come_to_wait_for_its_end(
    people: People, through: Callable[[User], str | None]
) -> None:
    """It goes from the newest to the oldest, so nothing of theirs is complete until then."""
    new = another()
    opened(new, NOON, NOON + HOUR)
    read(new, NOON + HOUR, NOON + 2 * HOUR)
    use_of(new, people.globex_user)
    assert (through(people.acme_admin), through(people.globex_admin)) == ("14:00", None)
    read(new, NOON, NOON + HOUR)
    assert through(people.globex_admin) == "14:00"


@pytest.mark.usefixtures("old")
def test_what_was_complete_stays_so_when_older_hours_are_asked_for(
    people: People,
    through: Callable[[User], str | None],
    bare_connection: LangfuseConnection,
) -> None:
    windows.keep_complete_through(bare_connection)
    opened(bare_connection, NOON - 48 * HOUR, NOON)
    assert through(people.acme_admin) == "14:00"


@pytest.mark.usefixtures("old")
def test_a_connection_that_is_fixed_to_a_tenant_concerns_that_tenant_alone(
    people: People, through: Callable[[User], str | None]
) -> None:
    fixed = another(tenant=people.globex)
    read(fixed, NOON - HOUR, NOON)
    opened(fixed, NOON, NOON + HOUR)
    assert (through(people.acme_admin), through(people.globex_admin)) == ("14:00", "12:00")


def test_a_tenant_without_usage_could_have_it_of_any_open_connection(
    people: People, through: Callable[[User], str | None], bare_connection: LangfuseConnection
) -> None:
    assert through(people.acme_admin) is None
    read(bare_connection, NOON, NOON + 2 * HOUR)
    read(another(), NOON, NOON + HOUR)
    read(another("fixed", tenant=people.globex), NOON - 9 * HOUR, NOON - 8 * HOUR)
    assert through(people.acme_admin) == "13:00"


@pytest.mark.usefixtures("old")
def test_a_disabled_connection_holds_nobody_back(
    people: People, through: Callable[[User], str | None]
) -> None:
    disabled = another(is_enabled=False)
    use_of(disabled, people.acme_user)
    assert through(people.acme_admin) == through(people.platform_admin) == "14:00"


@pytest.mark.usefixtures("old")
def test_the_platforms_page_and_answers_name_the_connections_that_lag(
    people: People, api: Callable[..., Any]
) -> None:
    another("unreachable")
    for address in ("platform/stats", "sync/status"):
        assert api(people.platform_admin, address).json()["lagging_connections"] == [
            {"name": "bare", "complete_through": "2026-11-10T14:00:00Z"},
            {"name": "unreachable", "complete_through": None},
        ]
    client = Client()
    client.force_login(people.platform_admin)
    page = client.get("/platform/").content.decode()
    assert "“unreachable” has not been read through yet" in page
    assert "“bare” is behind: it is read through 10 Nov, 14:00.</b>" in page
    assert "Complete through" in page
    client.force_login(people.acme_admin)
    page = client.get("/tenants/acme/").content.decode()
    assert "unreachable" not in page
    assert "Complete through" in page


def page_of(user: User, path: str = "/") -> str:
    client = Client()
    client.force_login(user)
    return client.get(path, follow=True).content.decode()


@pytest.mark.usefixtures("old")
def test_what_was_read_stays_complete_when_its_connection_is_no_longer_read(
    people: People, through: Callable[[User], str | None], bare_connection: LangfuseConnection
) -> None:
    LangfuseConnection.objects.update(is_enabled=False)
    for user in (people.acme_admin, people.acme_user, people.platform_admin):
        assert through(user) == "14:00"
    fixed = another(tenant=people.globex)
    read(fixed, NOON - 9 * HOUR, NOON - 8 * HOUR)
    assert through(people.acme_admin) == "14:00", "it has nothing of Globex' connection"
    assert through(people.globex_admin) == "04:00"
    assert "Not synced yet" not in page_of(people.acme_admin)


@pytest.mark.usefixtures("old")
def test_a_page_says_what_is_complete_while_another_connection_is_read_for_the_first_time(
    people: People,
) -> None:
    """And it compares nothing then: the newest comes first."""
    new = another()
    opened(new, NOON, NOON + HOUR)
    read(new, NOON + HOUR, NOON + 2 * HOUR)
    use_of(new, people.globex_user)
    period = "?start_date=2026-11-10&end_date=2026-11-10"
    shown = page_of(people.globex_admin, f"/tenants/globex/{period}")
    assert "10 Nov, 19:30</time>, but for a connection that is being read for the first" in shown
    assert "Arrows" not in shown
    assert "for the first time" not in page_of(people.acme_admin, f"/tenants/acme/{period}")


@pytest.mark.usefixtures("people")
def test_a_page_says_that_all_is_read_for_the_first_time(
    people: People, bare_connection: LangfuseConnection
) -> None:
    assert "Not synced yet" in page_of(people.platform_admin)
    opened(bare_connection, NOON, NOON + 2 * HOUR)
    read(bare_connection, NOON + HOUR, NOON + 2 * HOUR)
    assert "Being read for the first time" in page_of(people.platform_admin)
