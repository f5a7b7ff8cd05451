"""What should have come and has not, through the doors: endpoint, page and command."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from credits.ledger import lock
from credits.models import Hold
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from usage.models import LangfuseConnection, SyncWindow
from usage.sync import windows
from usage.sync.windows import Span

pytestmark = pytest.mark.django_db
HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
DAY = {"start_date": "2026-11-10", "end_date": "2026-11-10"}
Use = Callable[..., None]


def hold(
    user: User, state: str, settled: str | None = None, at: datetime = NOON, run: str = ""
) -> Hold:
    return Hold.objects.create(
        account=lock([user.pk])[user.pk],
        trace_id=as_trace_id(run or uuid4()),
        credits=Decimal(10),
        settled_credits=None if settled is None else Decimal(settled),
        state=state,
        created_at=at,
        expires_at=at + HOUR,
    )


@pytest.fixture
def report(people: People, api: Callable[..., Any]) -> Callable[..., Any]:
    def ask(**query: str) -> Any:
        answer = api(people.platform_admin, "expected-usage", **(query or DAY))
        assert answer.status_code == 200, answer.content
        return answer.json()

    return ask


@pytest.mark.parametrize(
    "run",
    [
        "order-4711",
        "Z" * 32,
        "abc",
        "{0F8F2B0C-1E5A-3D4C-779B-1E0D7A4E6F9C}",
        "É" + "a" * 31,
        "a" * 33,
    ],
)
def test_a_trace_is_found_by_an_id_of_any_form(
    people: People, use: Use, report: Callable[..., Any], run: str
) -> None:
    ann = people.acme_user
    use(ann, "0.06", trace_id=run)
    one = hold(ann, "charged", "11.4", run=run)
    assert report()["holds"] == [], "charged as it said"
    Hold.objects.filter(pk=one.pk).update(settled_credits=2)
    (row,) = report()["holds"]
    assert (row["fault"], row["charged_credits"]) == ("other_amount", "11.400000")
    Hold.objects.filter(pk=one.pk).update(trace_id=as_trace_id("another"), state="expired")
    assert [row["fault"] for row in report()["holds"]] == ["never_traced"]


def test_holds_without_a_trace_and_with_another_amount(
    people: People, use: Use, report: Callable[..., Any], admin_client: Client
) -> None:
    ann = people.acme_user
    expired = hold(ann, "expired")
    uncharged = hold(ann, "uncharged", "7.5")
    other = hold(ann, "charged", "2")
    use(ann, "0.06", trace_id=other.trace_id)
    rightly = hold(ann, "charged")
    use(ann, "0.06", trace_id=rightly.trace_id)
    late = hold(ann, "expired", at=NOON + HOUR)
    use(ann, None, model="nobody-knows", trace_id=str(late.trace_id).upper())
    hold(ann, "released", "3")
    hold(ann, "expired", at=NOON - timedelta(days=3))
    found = report()
    assert found["holds_by_fault"] == {"never_traced": 2, "not_charged": 1, "other_amount": 1}
    rows = {
        row["hold_id"]: (row["fault"], row["settled_credits"], row["charged_credits"])
        for row in found["holds"]
    }
    (trace_charged,) = [rows[str(other.pk)][2]]
    assert rows == {
        str(expired.pk): ("never_traced", None, None),
        str(uncharged.pk): ("never_traced", "7.500000", None),
        str(other.pk): ("other_amount", "2.000000", trace_charged),
        str(late.pk): ("not_charged", None, None),
    }
    assert Decimal(trace_charged) > 2
    assert found["holds"][-1]["hold_id"] != str(expired.pk), "the most at stake first"
    page = admin_client.get(reverse("admin:usage_expectedusage"), DAY).content.decode()
    assert "2 never traced, 1 not charged, 1 another amount" in page
    assert uncharged.trace_id[:12] in page


def test_an_open_hold_is_waited_for_until_it_expires(
    people: People, report: Callable[..., Any]
) -> None:
    Hold.objects.filter(pk=hold(people.acme_user, "settled", "4").pk).update(
        expires_at=datetime(2099, 1, 1, tzinfo=NOON.tzinfo)
    )
    assert report()["holds"] == []
    Hold.objects.update(expires_at=NOON + 2 * HOUR)
    assert [row["fault"] for row in report()["holds"]] == ["never_traced"]


def test_runs_without_a_call_where_the_flow_always_has_one(
    people: People, use: Use, report: Callable[..., Any]
) -> None:
    ann, nothing = people.acme_user, {"usage_details": {}, "cost": None, "model": ""}
    for number in range(20):
        use(ann, flow="steady", start=NOON - timedelta(days=2, minutes=number))
        kind: dict[str, Any] = nothing if number % 2 else {}
        use(ann, flow="sometimes", start=NOON - timedelta(days=2, minutes=number), **kind)
    use(ann, flow="steady", start=NOON)
    use(ann, flow="steady", start=NOON, trace_id="empty", **nothing)
    use(ann, flow="steady", start=NOON, failed=True, **nothing)
    use(ann, flow="sometimes", start=NOON, **nothing)
    use(ann, flow="new", start=NOON, **nothing)
    assert report()["flows"] == [
        {
            "flow_id": "steady",
            "flow": "steady",
            "runs": 2,
            "runs_without_calls": 1,
            "runs_before": 20,
            "runs_before_without_calls": 0,
            "example_langfuse_trace_id": "empty",
        }
    ]


def read_through(connection: LangfuseConnection, end: datetime) -> None:
    windows.open_windows(connection, Span(end - HOUR, end))
    for window in SyncWindow.objects.filter(connection=connection):
        window.state, window.complete_through = "done", window.end
        window.save()


def test_hours_in_which_a_tenant_that_always_has_traffic_has_none(
    people: People, use: Use, bare_connection: LangfuseConnection, report: Callable[..., Any]
) -> None:
    for weeks in range(1, 5):
        use(people.acme_user, start=NOON - weeks * WEEK)
        use(people.acme_user, start=NOON - weeks * WEEK + HOUR)
        use(people.globex_user, start=NOON - weeks * WEEK)
        use(people.acme_user, start=NOON - weeks * WEEK + 5 * HOUR)
    use(people.globex_user)
    assert report()["gaps"] == [], "nothing is missing that is not read yet"
    read_through(bare_connection, NOON + 4 * HOUR)
    gap = {
        "tenant_id": str(people.acme.pk),
        "tenant": people.acme.name,
        "start": "2026-11-10T12:00:00Z",
        "end": "2026-11-10T14:00:00Z",
        "hours": 2,
        "usual_runs": 2.0,
    }
    assert report()["gaps"] == [gap]
    assert report(start_date="2026-11-01", end_date="2026-11-12")["gaps"] == [gap]
    use(people.acme_user, start=NOON + HOUR)
    (shorter,) = report()["gaps"]
    assert shorter["hours"] == 1


def test_the_command_says_the_same_and_fails_where_there_is_any(
    people: People, report: Callable[..., Any]
) -> None:
    period = ["--from", "2026-11-10", "--to", "2026-11-11"]
    out = StringIO()
    call_command("expected_usage", *period, stdout=out)
    assert out.getvalue().strip() == "All that was expected has come."
    lost = hold(people.acme_user, "uncharged", "7.5")
    for form in ([], ["--json"]):
        out = StringIO()
        with pytest.raises(SystemExit) as failed:
            call_command("expected_usage", *period, *form, stdout=out)
        assert failed.value.code == 1
        assert lost.trace_id in out.getvalue()
        assert "settled 7.500000, charged nothing" in out.getvalue() or form
    body = json.loads(out.getvalue())
    assert body["holds"] == report()["holds"]
    assert body["holds_by_fault"] == report()["holds_by_fault"]
