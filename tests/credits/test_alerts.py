"""Alerts: once for each subject, threshold and period, by signed webhook and e-mail, with patience
and a log.
"""

import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from credits import enforcement, gate, grants, ledger
from credits.alerts import evaluate_all, evaluate_changed
from credits.budgets import UsageQuery, Used
from credits.deliveries import BACKOFF, attempt, hand_over
from credits.grants import NewGrant
from credits.models import Alert, Delivery, Grant, TenantBudget, Webhook
from kluisz_analytics.tenants.models import User
from tests.conftest import People

pytestmark = pytest.mark.django_db
D = Decimal
NOW = datetime(2026, 6, 10, 12, 30, tzinfo=UTC)
SECRET = "a signing secret of the receiver"


def eight_dollars(queries: Sequence[UsageQuery]) -> list[Used]:
    """What was used, where no usage is known."""
    return [Used(D(1), D(8)) for _ in queries]


def much(queries: Sequence[UsageQuery]) -> list[Used]:
    return [Used(D("410000000.123456")) for _ in queries]


class Receiver(HTTPServer):
    """Takes what is posted, and answers as it is told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((dict(self.headers), body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        return


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def hook(receiver: Receiver, people: People) -> Webhook:
    hook = Webhook(url=f"http://127.0.0.1:{receiver.server_port}/alerts", tenant=people.acme)
    hook.secret = SECRET
    hook.save()
    return hook


@pytest.fixture
def ann(people: People) -> User:
    User.objects.filter(pk=people.acme_user.pk).update(email="ann@acme.example")
    User.objects.filter(pk=people.acme_admin.pk).update(email="admin@acme.example")
    grants.grant(
        NewGrant(
            people.acme_user,
            D(1000),
            Grant.Source.MANUAL,
            "ann",
            starts_at=NOW - timedelta(days=40),
        )
    )
    return people.acme_user


def deliver_due(now: datetime) -> int:
    """What the beat and the tasks do at that time. Returns how many were delivered."""
    sent: list[bool] = []
    hand_over(lambda pk, number: sent.append(attempt(pk, number, now)), now)
    return sum(sent)


def use(user: User, credits: str, at: datetime = NOW - timedelta(hours=1)) -> None:
    ledger.post_usage({(user.pk, at.replace(minute=0)): D(credits)}, NOW)


def alerts(**fields: Any) -> list[tuple[str, int, bool, bool]]:
    found = Alert.objects.filter(**fields).order_by("user", "kind", "threshold")
    return [(one.kind, one.threshold, one.user is None, one.is_sent) for one in found]


def test_each_threshold_is_told_once_in_a_period(ann: User) -> None:
    use(ann, "799")
    evaluate_all(NOW)
    assert alerts(kind="credits") == []
    use(ann, "800")
    assert evaluate_all(NOW) > 0
    assert alerts(kind="credits", user=ann) == [("credits", 80, False, True)]
    assert evaluate_all(NOW + timedelta(days=3)) == 0
    use(ann, "960")
    evaluate_all(NOW)
    assert [threshold for _, threshold, _, _ in alerts(kind="credits", user=ann)] == [80, 95]
    next_month = datetime(2026, 7, 2, tzinfo=UTC)
    evaluate_all(next_month)
    assert Alert.objects.filter(user=ann, kind="credits", period_start__gte=NOW).count() == 2


def test_from_minute_to_minute_only_what_changed_is_looked_at(ann: User, people: People) -> None:
    use(ann, "850")
    assert evaluate_changed(NOW + timedelta(hours=1)) == 0
    assert evaluate_changed(NOW) > 0
    assert set(Alert.objects.values_list("tenant", flat=True)) == {people.acme.pk}


def test_of_several_at_once_the_highest_is_told(ann: User) -> None:
    use(ann, "1000")
    evaluate_all(NOW)
    assert alerts(kind="credits", user=ann) == [
        ("credits", 80, False, False),
        ("credits", 95, False, False),
        ("credits", 100, False, True),
    ]
    assert (
        "has used 100% of 1,000 credits"
        in Alert.objects.get(user=ann, threshold=100, kind="credits").message
    )


def test_the_tenant_is_told_of_all_its_users_together(ann: User, people: People) -> None:
    use(ann, "900")
    evaluate_all(NOW)
    assert ("credits", 80, True, True) in alerts(tenant=people.acme, user=None)


def test_a_projection_before_the_months_end_is_told(ann: User) -> None:
    use(ann, "700", NOW - timedelta(days=10))
    evaluate_all(NOW)
    (told,) = Alert.objects.filter(user=ann)
    assert (told.kind, told.threshold) == ("projection", 100)
    assert "remaining 300.00 credits run out before the month's end" in told.message


def test_at_a_slower_pace_nothing_is_told(ann: User) -> None:
    use(ann, "200", NOW - timedelta(days=10))
    assert evaluate_all(NOW) == 0


def test_it_goes_to_the_user_its_admin_and_the_webhooks(
    ann: User, hook: Webhook, receiver: Receiver, mailoutbox: list[Any], people: People
) -> None:
    platform, elsewhere = (
        Webhook(url=hook.url + "/platform"),
        Webhook(url=hook.url + "/globex", tenant=people.globex),
    )
    for other in (platform, elsewhere):
        other.secret = SECRET
        other.save()
    use(ann, "850")
    evaluate_all(NOW)
    of_ann = Delivery.objects.filter(alert__user=ann, alert__kind="credits")
    assert {one.address for one in of_ann} == {
        "ann@acme.example", "admin@acme.example", hook.url, platform.url,
    }  # fmt: skip
    total = Delivery.objects.count()
    assert deliver_due(NOW) == total
    assert deliver_due(NOW) == 0
    assert "ann has used 85% of 1,000 credits" in mailoutbox[0].subject
    headers, body = receiver.got[0]
    stamp, sent = (part.split("=", 1)[1] for part in headers["X-Kluisz-Signature"].split(","))
    assert (
        sent == hmac.new(SECRET.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    )
    assert json.loads(body)["event"].startswith("alert.")


def test_a_receiver_that_fails_is_tried_again_ever_later_and_then_given_up(
    ann: User, hook: Webhook, receiver: Receiver
) -> None:
    receiver.status = 503
    use(ann, "850")
    evaluate_all(NOW)
    Delivery.objects.exclude(alert__kind="credits", alert__user=ann, webhook=hook).delete()
    moment = NOW
    bodies = []
    for wait in [*BACKOFF, BACKOFF[-1]]:
        assert deliver_due(moment) == 0
        bodies.append(receiver.got[-1][1])
        assert deliver_due(moment + wait / 2) == 0
        moment += wait
    delivery = Delivery.objects.get()
    assert (delivery.state, delivery.attempts, len(receiver.got)) == (
        "failed",
        len(BACKOFF) + 1,
        len(BACKOFF) + 1,
    )
    assert "503" in delivery.answer
    assert len(set(bodies)) == 1, "a repeated delivery is the same, so that the receiver knows it"
    assert deliver_due(moment + timedelta(days=30)) == 0


def test_one_that_recovers_gets_it(ann: User, hook: Webhook, receiver: Receiver) -> None:
    receiver.status = 500
    use(ann, "850")
    evaluate_all(NOW)
    deliver_due(NOW)
    receiver.status = 204
    deliver_due(NOW + BACKOFF[0])
    assert set(Delivery.objects.filter(webhook=hook).values_list("state", "answer")) == {
        ("sent", "204")
    }


def test_of_what_is_due_at_one_moment_the_first_goes_first(
    people: People, mailoutbox: list[Any]
) -> None:
    alert = Alert.objects.create(
        kind="credits", tenant=people.acme, threshold=80, period_start=NOW, message="80%"
    )
    addresses = [f"user-{number}@acme.example" for number in range(5)]
    made = [
        Delivery.objects.create(alert=alert, channel="mail", address=address, next_attempt_at=NOW)
        for address in addresses
    ]
    # Put off and back again: PostgreSQL has the row behind the others now, in table and index.
    for moment in (NOW + timedelta(hours=1), NOW):
        Delivery.objects.filter(pk=made[0].pk).update(next_attempt_at=moment)
    assert deliver_due(NOW) == 5
    assert [mail.to for mail in mailoutbox] == [[address] for address in addresses]


@pytest.mark.parametrize(
    ("status", "message"), [(200, "answered: 200"), (404, "answered: HTTPStatusError: 404")]
)
def test_a_webhook_is_tried_out_by_a_button(
    people: People, hook: Webhook, receiver: Receiver, status: int, message: str
) -> None:
    receiver.status = status
    client = Client()
    client.force_login(people.platform_admin)
    answer = client.post(
        f"/admin/credits/webhook/{hook.pk}/test/", {"confirmed": "yes"}, follow=True
    )
    assert message in answer.content.decode()
    assert json.loads(receiver.got[0][1])["event"] == "test"
    assert Delivery.objects.get().state == ("sent" if status == 200 else "failed")
    assert (
        SECRET
        not in client.get(reverse("admin:credits_webhook_change", args=[hook.pk])).content.decode()
    )


class TestBudgets:
    @pytest.fixture
    def used(self, use: Callable[..., None]) -> Callable[..., None]:
        """Usage of so many credits: Ann's tier gives 190 of them for a dollar."""

        def run(
            user: User, credits: str, at: datetime = NOW - timedelta(hours=1), **more: Any
        ) -> None:
            use(user, str(round(D(credits) / 190, 12)), at, **more)

        return run

    def test_a_soft_one_tells_and_a_hard_one_refuses_too(
        self, ann: User, people: People, used: Callable[..., None]
    ) -> None:
        budget = TenantBudget.objects.create(tenant=people.acme, unit="credits", amount=D(500))
        used(ann, "510")
        evaluate_all(NOW)
        assert [
            one.threshold for one in Alert.objects.filter(kind="budget_credits", is_sent=True)
        ] == [100]
        told = Alert.objects.get(kind="budget_credits", threshold=100).message
        assert told == "Acme has used 102% of this month's 500.00 credits; runs go on."
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("django.utils.timezone.now", lambda: NOW)
            assert enforcement.check(ann, credits=D(1))
            TenantBudget.objects.filter(pk=budget.pk).update(is_hard=True)
            with pytest.raises(
                gate.BudgetExhausted, match="new runs are refused until the month's end"
            ):
                enforcement.check(ann, credits=D(1))
            patch.setattr("django.utils.timezone.now", lambda: NOW + timedelta(days=30))
            assert enforcement.check(ann, credits=D(1))

    def test_only_this_months_usage_counts_by_the_tenants_calendar(
        self, ann: User, people: People, used: Callable[..., None]
    ) -> None:
        budget = TenantBudget.objects.create(tenant=people.acme, unit="credits", amount=D(500))
        # In Amsterdam, June begins at 22:00 on 31 May, UTC.
        used(ann, "300", datetime(2026, 5, 31, 21, tzinfo=UTC))
        used(ann, "40", datetime(2026, 5, 31, 22, tzinfo=UTC))
        evaluate_all(NOW)
        budget.refresh_from_db()
        assert budget.used == 40

    def test_one_in_usd_counts_what_the_providers_charge(
        self, people: People, ann: User, request: pytest.FixtureRequest
    ) -> None:
        request.getfixturevalue("use")(people.acme_user, "12.5", NOW - timedelta(hours=2))
        budget = TenantBudget.objects.create(tenant=people.acme, unit="usd", amount=D(13))
        evaluate_all(NOW)
        budget.refresh_from_db()
        assert budget.used == D("12.5")
        assert Alert.objects.get(kind="budget_usd", is_sent=True).threshold == 95
        told = Alert.objects.get(kind="budget_usd", is_sent=True).message
        assert told == "Acme has used 96% of this month's $13.00; runs go on."
        budget.amount = D("1234567.5")
        assert str(budget) == "$1,234,567.50 a month for Acme"

    def test_a_setting_names_who_knows_what_was_used(self, people: People, settings: Any) -> None:
        settings.CREDITS_USED = f"{__name__}.eight_dollars"
        budget = TenantBudget.objects.create(tenant=people.acme, unit="usd", amount=D(10))
        evaluate_all(NOW)
        budget.refresh_from_db()
        assert budget.used == 8

    def test_one_in_credits_has_room_for_what_a_large_tenant_uses(
        self, people: People, ann: User, settings: Any
    ) -> None:
        budget = TenantBudget.objects.create(
            tenant=people.acme, unit="credits", amount=D(500_000_000)
        )
        settings.CREDITS_USED = f"{__name__}.much"
        assert evaluate_all(NOW)
        budget.refresh_from_db()
        assert budget.used == D("410000000.123456")
        told = Alert.objects.get(kind="budget_credits", is_sent=True).message
        assert told == "Acme has used 82% of this month's 500,000,000 credits; runs go on."
