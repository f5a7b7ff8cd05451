"""One bar of filters on every page: in the address, kept by each link, and truthful."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from kluisz_analytics.tenants.models import Flow, Tenant, User
from tests.conftest import People
from usage.models import Trace

pytestmark = pytest.mark.django_db
NOW = datetime(2037, 11, 24, 14, 20, tzinfo=UTC)
DAY = timedelta(days=1)


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
    """Today: ann $1 by gpt-4o in Triage, $2 by gpt-5 that failed; gus $4. A month ago ann $8."""
    flow = str(people.flow.pk)
    use(people.acme_user, "1", NOW - timedelta(hours=1), flow=flow)
    use(people.acme_user, "2", NOW - timedelta(hours=2), model="gpt-5", failed=True)
    use(people.globex_user, "4", NOW - timedelta(hours=3), model="gpt-5")
    use(people.acme_user, "8", NOW - 31 * DAY - timedelta(hours=3))
    Trace.objects.filter(user=people.globex_user).update(environment="prod")


def cost(answer: Any) -> float:
    assert answer.status_code == 200
    return float(answer.context["dashboard"].summary.numbers.total_cost_usd or 0)


def links(answer: Any, text: str) -> list[str]:
    page = answer.content.decode()
    return [
        unescape(one) for one in re.findall(f'<a href="([^"]*)"[^>]*>{re.escape(text)}</a>', page)
    ]


@pytest.mark.usefixtures("usage")
def test_each_filter_narrows_the_page(ask: Callable[..., Any], people: People) -> None:
    flow = people.flow.pk
    for query, expected in (
        ("", 7),
        (f"tenant_id={people.acme.pk}", 3),
        (f"user_id={people.globex_user.pk}", 4),
        (f"flow_id={flow}", 1),
        ("model=gpt-5", 6),
        ("model=gpt-5&model=gpt-4o", 7),
        ("status=failed", 2),
        ("status=success&model=gpt-5", 4),
        ("environment=prod", 4),
        ("environment=none-such", 0),
        ("model=&status=&tz=", 7),
    ):
        assert cost(ask(f"/platform/?days=1&{query}")) == expected, query
    assert cost(ask("/tenants/acme/?days=1&model=gpt-5", people.acme_admin)) == 2
    assert cost(ask(f"/users/{people.acme_user.pk}/?days=1&status=failed", people.acme_user)) == 2
    shown = ask("/platform/?days=1&status=failed").content.decode()
    assert shown.count('<span class="kz-bad">failed</span>') == 1, "the latest runs, too"


@pytest.mark.usefixtures("usage")
def test_what_is_filtered_is_said_by_its_name_and_can_be_taken_off(
    ask: Callable[..., Any], people: People
) -> None:
    answer = ask(f"/platform/?days=1&flow_id={people.flow.pk}&model=gpt-4o&model=gpt-5")
    chips = answer.context["bar"].chips
    assert [(one.label, one.value) for one in chips] == [
        ("Flow", "Triage"),
        ("Model", "gpt-4o"),
        ("Model", "gpt-5"),
    ]
    assert cost(ask(f"/platform/{chips[0].url}")) == 7
    assert chips[1].url == f"?days=1&flow_id={people.flow.pk}&model=gpt-5"


@pytest.mark.usefixtures("usage")
def test_links_keep_the_period_and_the_filters(ask: Callable[..., Any], people: People) -> None:
    kept = "days=7&tz=Asia%2FTokyo&compare=year&status=failed&model=gpt-5"
    answer = ask(f"/platform/?{kept}&tenant_id={people.acme.pk}&users_order=name")
    assert links(answer, "Acme") == [f"/tenants/acme/?{kept}"]
    assert links(answer, "ann") == [f"/users/{people.acme_user.pk}/?{kept}"]
    assert links(answer, "Platform")[0] == f"/platform/?{kept}"
    (run,) = re.findall(r'href="(/traces/[^"]*)"', answer.content.decode())
    back = ask(unescape(run))
    assert links(back, "Acme") == [f"/tenants/acme/?{kept}"]
    whole = sorted([*kept.split("&"), f"tenant_id={people.acme.pk}"])
    tenant = ask(f"/tenants/acme/?{kept}")
    for page, menu in ((back, "Runs"), (answer, "Runs"), (tenant, "What changed")):
        assert sorted(links(page, menu)[0].partition("?")[2].split("&")) == whole
    assert links(ask(f"/tenants/acme/?{kept}"), "Platform")[-1] == f"/platform/?{kept}"


@pytest.mark.usefixtures("usage")
def test_the_presets_are_periods_in_the_pages_zone(ask: Callable[..., Any], people: People) -> None:
    answer = ask("/tenants/acme/?model=gpt-4o")
    presets = {one.label: one for one in answer.context["bar"].presets}
    assert [*presets] == ["Today", "7 days", "30 days", "90 days", "This month", "Last month"]
    assert [one.label for one in presets.values() if one.is_chosen] == ["30 days"]
    for label, total in (
        ("Today", 1),
        ("90 days", 9),
        ("This month", 1),
        ("Last month", 8),
    ):
        chosen = ask(f"/tenants/acme/{presets[label].value}")
        assert cost(chosen) == total, label
        assert [one.label for one in chosen.context["bar"].presets if one.is_chosen] == [label]
    month = ask(f"/tenants/acme/{presets['This month'].value}").content.decode()
    assert "than in October 2037 until 24 Oct, 15:20." in month


@pytest.mark.usefixtures("usage")
def test_a_page_is_compared_with_what_is_asked_and_says_so(
    ask: Callable[..., Any], use: Callable[..., None], people: People
) -> None:
    use(people.acme_user, "6", NOW - 31 * DAY - timedelta(hours=1))
    use(people.acme_user, "5", datetime(2037, 10, 24, 23, tzinfo=UTC))
    use(people.acme_user, "3", datetime(2036, 11, 24, 9, tzinfo=UTC))
    use(people.acme_user, "1", NOW - DAY - timedelta(hours=1))
    for compare, change, words in (
        ("", 2.0, "than yesterday until 15:20."),
        ("before", 2.0, "than yesterday until 15:20."),
        ("month", -0.625, "than a month earlier, from 24 Oct, 00:00 to 24 Oct, 15:20."),
        ("year", 0.0, "than a year earlier, from 24 Nov 2036, 00:00 to 24 Nov 2036, 15:20."),
        ("nothing", None, ""),
    ):
        answer = ask(f"/tenants/acme/?days=1&compare={compare}")
        assert answer.context["dashboard"].summary.change["total_cost_usd"] == change, compare
        page = answer.content.decode()
        assert words in page
        assert ("Arrows" in page) is bool(words), compare


@pytest.mark.parametrize(
    ("path", "role", "status"),
    [
        ("/platform/?compare=moon", "platform_admin", 400),
        ("/platform/?status=odd", "platform_admin", 400),
        ("/platform/?tenant_id=odd", "platform_admin", 400),
        ("/platform/?tz=Mars", "platform_admin", 400),
        ("/tenants/acme/?user_id={globex_user}", "acme_admin", 404),
        ("/users/{acme_user}/?project_id=%00", "acme_user", 400),
        ("/names/?of=user&q=g&tenant_id={globex}", "acme_admin", 404),
        ("/names/?of=moon&q=g", "platform_admin", 400),
        ("/names/?of=user&q=%00", "platform_admin", 400),
        ("/names/?of=user&tenant_id=odd", "platform_admin", 400),
        ("/names/?of=user&q=g", "service", 403),
    ],
)
def test_what_can_not_be_asked_is_refused(
    ask: Callable[..., Any], people: People, path: str, role: str, status: int
) -> None:
    ids = {name: getattr(people, name).pk for name in ("globex_user", "acme_user", "globex")}
    assert ask(path.format(**ids), getattr(people, role)).status_code == status


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200
    return [one["label"] for one in answer.json()["results"]]


@pytest.mark.usefixtures("usage")
def test_names_are_found_by_a_part_of_them_and_only_those_that_one_may_see(
    ask: Callable[..., Any], people: People
) -> None:
    User.objects.filter(pk=people.acme_colleague.pk).update(first_name="Robert", last_name="Bo")
    admin, user = people.acme_admin, people.acme_user
    for of, text, of_platform, of_tenant, of_user in (
        ("tenant", "lob", ["Globex"], [], []),
        ("user", "an", ["ann"], ["ann"], ["ann"]),
        ("user", "rob bo", ["bob"], ["bob"], []),
        ("user", "gus", ["gus"], [], []),
        ("project", "car", ["Care"], ["Care"], ["Care"]),
        ("flow", "RIA", ["Triage"], ["Triage"], ["Triage"]),
        ("model", "gpt", ["gpt-4o", "gpt-5"], ["gpt-4o", "gpt-5"], ["gpt-4o", "gpt-5"]),
        ("environment", "none-such", [], [], []),
    ):
        for viewer, expected in ((None, of_platform), (admin, of_tenant), (user, of_user)):
            found = names(ask(f"/names/?of={of}&q={text}", viewer))
            assert sorted(found) == expected, (of, text, viewer)
    assert names(ask(f"/names/?of=user&q=&tenant_id={people.globex.pk}")) == ["globex-admin", "gus"]


def test_among_many_the_first_twenty_are_shown(ask: Callable[..., Any], people: People) -> None:
    Tenant.objects.bulk_create(
        Tenant(name=f"Tenant {number:04}", slug=f"t{number}") for number in range(1000)
    )
    Flow.objects.bulk_create(
        Flow(name=f"Flow {number}", project=people.project) for number in range(30)
    )
    assert names(ask("/names/?of=tenant&q=tenant+099")) == [f"Tenant 099{one}" for one in range(10)]
    assert len(names(ask("/names/?of=flow&q=flow"))) == 20
