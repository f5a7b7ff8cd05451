"""What the pages say at a glance: the order of lists, axes, decimals, zones and changes."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from tests.conftest import People
from usage.models import Trace
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
NOW = datetime(2037, 11, 24, 14, 20, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def _the_clock_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.fixture
def page(people: People) -> Callable[..., str]:
    def ask(path: str, user: Any = None) -> str:
        client = Client()
        client.force_login(user or people.platform_admin)
        answer = client.get(path)
        assert answer.status_code == 200
        return answer.content.decode()

    return ask


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of a list's rows, as text."""
    _, _, after = page.partition(f"<h2>{title}")
    body, _, _ = after.partition("</table>")
    return [
        [
            " ".join(unescape(re.sub("<[^>]+>", " ", cell)).split())
            for cell in re.findall("<td.*?</td>", row)
        ]
        for row in re.findall("<tr>(.*?)</tr>", body.partition("<tbody>")[2], re.DOTALL)
    ]


def figure_of(page: str, name: str) -> dict[str, Any]:
    (text,) = re.findall(f'<script id="{name}" type="application/json">(.*?)</script>', page)
    return json.loads(text)


@pytest.fixture
def uneven(people: People, use: Callable[..., None]) -> None:
    """By cost Globex, by runs and by its name Acme is first; Globex ran last."""
    for hours in (3, 4, 5):
        use(people.acme_user, "0.0006", NOW - timedelta(hours=hours), model="gpt-5")
    use(people.acme_colleague, "0.5", NOW - timedelta(hours=6))
    for hours in (1, 7):
        use(people.globex_user, "12.5", NOW - timedelta(hours=hours), model="claude")


ORDERS = [
    ("tenants", "", ["Globex", "Acme"]),
    ("tenants", "name", ["Acme", "Globex"]),
    ("tenants", "-name", ["Globex", "Acme"]),
    ("tenants", "total_cost_usd", ["Acme", "Globex"]),
    ("tenants", "-total_traces", ["Acme", "Globex"]),
    ("tenants", "-last_activity", ["Globex", "Acme"]),
    ("tenants", "nonsense", ["Globex", "Acme"]),
    ("users", "name", ["ann", "bob", "gus"]),
    ("users", "-total_traces", ["ann", "gus", "bob"]),
    ("users", "-last_activity", ["gus", "ann", "bob"]),
    ("users", "last_activity", ["bob", "ann", "gus"]),
    ("users", "-total_cost_usd", ["gus", "bob", "ann"]),
    ("models", "", ["claude", "gpt-4o", "gpt-5"]),
    ("models", "name", ["claude", "gpt-4o", "gpt-5"]),
    ("models", "-total_traces", ["gpt-5", "claude", "gpt-4o"]),
    ("models", "-last_activity", ["claude", "gpt-5", "gpt-4o"]),
]


@pytest.mark.usefixtures("uneven")
@pytest.mark.parametrize("built", [False, True])
def test_a_list_is_ordered_by_any_of_its_columns(page: Callable[..., str], built: bool) -> None:
    if built:
        build_rollups(NOW + DAY)
    for name, order, expected in ORDERS:
        shown = page(f"/platform/?days=1&{name}_order={order}")
        found = [row[0].split()[0] for row in rows_of(shown, name.capitalize())]
        assert found == expected, (name, order)


@pytest.mark.usefixtures("uneven")
def test_what_is_first_is_chosen_among_all_and_not_among_the_greatest(
    page: Callable[..., str], people: People, use: Callable[..., None]
) -> None:
    """By its id a flow has no name; it is ordered by what it is shown as."""
    flow = str(people.flow.pk)
    use(people.acme_user, "0.0001", NOW - timedelta(hours=2), flow=flow)
    for number in range(9):
        use(people.globex_user, "1", NOW - timedelta(hours=3), flow=f"a-flow-{number}")
    for order, first in (("-name", "Triage"), ("credits_exact", "Triage"), ("name", "a-flow-0")):
        shown = rows_of(page(f"/platform/?days=1&flows_order={order}"), "Flows")
        assert (shown[0][0].split()[0], len(shown)) == (first, 8)
    shown = page("/tenants/acme/?days=1&users_order=name&flows_order=name", people.acme_admin)
    assert [row[0] for row in rows_of(shown, "Users")] == ["ann", "bob"]


@pytest.mark.usefixtures("uneven")
def test_the_head_of_a_column_orders_by_it_and_keeps_the_rest_of_the_address(
    page: Callable[..., str],
) -> None:
    shown = page("/platform/?days=1&users_order=name")
    assert 'aria-sort="ascending"><a href="?days=1&amp;users_order=-name">Users' in shown
    assert '<a href="?days=1&amp;users_order=name&amp;tenants_order=-total_traces">Runs' in shown


@pytest.mark.usefixtures("uneven")
def test_a_column_has_one_number_of_decimals(page: Callable[..., str], people: People) -> None:
    shown = page("/platform/?days=1")
    for title, cost in (("Tenants", 2), ("Users", 2), ("Models", 1), ("Latest runs", 3)):
        figures = [row[cost] for row in rows_of(shown, title)]
        assert figures[0].startswith("$"), title
        assert {len(one.partition(".")[2]) for one in figures} == {2}, (title, figures)
    assert [row[3] for row in rows_of(shown, "Latest runs")][:2] == ["$12.50", "< $0.01"]
    small = page("/tenants/acme/?days=1", people.acme_admin)
    assert [row[2] for row in rows_of(small, "Users")] == ["$0.500", "$0.002"]
    assert [row[1] for row in rows_of(small, "Users")] == ["95.00", "0.34"]


@pytest.mark.parametrize(
    ("query", "ticks"),
    [
        ("days=1", "%H:%M\n%-d %b"),
        ("days=30", "%-d %b"),
        ("start_date=2036-11-01&end_date=2036-11-30", "%-d %b\n%Y"),
        ("start_date=2036-12-01&end_date=2037-02-01", "%-d %b\n%Y"),
        ("start_date=2036-12-31&end_date=2037-01-01", "%H:%M\n%-d %b %Y"),
    ],
)
def test_the_time_axis_says_the_hour_and_the_year_where_they_matter(
    page: Callable[..., str], people: People, use: Callable[..., None], query: str, ticks: str
) -> None:
    for moment in (NOW, NOW - 365 * DAY, datetime(2036, 12, 31, 12, tzinfo=UTC)):
        use(people.acme_user, start=moment)
    layout = figure_of(page(f"/platform/?{query}"), "over-time")["layout"]
    assert layout["xaxis"]["tickformat"] == ticks
    cost = layout["updatemenus"][0]["buttons"][1]
    assert cost["args"][1] == {"yaxis.tickprefix": "$"}


def test_other_years_are_named_in_what_is_compared(
    page: Callable[..., str], people: People, use: Callable[..., None]
) -> None:
    for day in (10, 9):
        use(people.acme_user, start=datetime(2036, 11, day, 12, tzinfo=UTC))
    assert "than 9 Nov 2036." in page("/platform/?start_date=2036-11-10&end_date=2036-11-10")


@pytest.mark.usefixtures("uneven")
def test_a_page_has_one_zone_and_names_it_once(people: People, page: Callable[..., str]) -> None:
    zones = r"UTC|Europe/Amsterdam|Asia/Kolkata"
    run = Trace.objects.get(user=people.acme_colleague)
    for path, zone in (
        ("/platform/", "UTC"),
        ("/tenants/acme/", "Europe/Amsterdam"),
        (f"/users/{people.globex_user.pk}/", "Asia/Kolkata"),
        (f"/traces/{run.pk}/", "Europe/Amsterdam"),
        ("/admin/", "UTC"),
        (f"/admin/usage/trace/{run.pk}/change/", "UTC"),
        ("/admin/usage/trace/", "UTC"),
        ("/admin/usage/usageruling/expected/", "UTC"),
    ):
        others = r"<option[^>]*(?<!selected)>[^<]*</option>|<script.*?</script>|<[^>]+>"
        text = re.sub(others, " ", page(path), flags=re.DOTALL)
        assert re.findall(zones, text) == [zone], path
    assert "24 Nov 2037, 09:20:00" in page(f"/traces/{run.pk}/"), "an hour ahead of UTC"
    chosen = page(f"/traces/{run.pk}/?tz=Asia/Tokyo")
    assert "24 Nov 2037, 17:20:00 · times in Asia/Tokyo" in chosen
    assert "24 Nov 2037, 09:20:00" in page(f"/traces/{run.pk}/?tz=Mars")
    assert "24 Nov 2037, 08:20:00" in page(f"/admin/usage/trace/{run.pk}/change/")


def test_nothing_is_said_of_arrows_where_there_is_none(
    page: Callable[..., str], people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, start=NOW)
    assert "Arrows" not in page("/platform/?days=7")
