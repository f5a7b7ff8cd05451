"""Deliveries: whatever a receiver does, an attempt ends in time, in a state with a message."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from credits import channels, deliveries
from credits.alerts import evaluate_all
from credits.deliveries import attempt, hand_over, send_test
from credits.models import Alert, Delivery, Webhook
from kluisz_analytics.tenants.models import Tenant
from tests.conftest import People
from tests.credits.test_alerts import NOW, SECRET, Receiver, ann, deliver_due, hook, receiver, use
from tests.workers.servers import floods, hangs, listening, trickles

__all__ = ["ann", "hook", "receiver"]
pytestmark = pytest.mark.django_db
OK, REFUSED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 503 Busy\r\n"


@pytest.fixture(autouse=True)
def _a_short_patience(settings: Settings) -> None:
    settings.DELIVERY_SECONDS = 1


@pytest.fixture
def open_server() -> Iterator[Any]:
    with ExitStack() as servers:
        yield lambda serve: servers.enter_context(listening(serve))


def webhook(url: str) -> Webhook:
    made = Webhook(url=url)
    made.secret = SECRET
    made.save()
    return made


@pytest.mark.parametrize(
    ("serve", "state", "answer"),
    [
        (hangs, "failed", "TimeoutError: no whole answer within 1 s"),
        (trickles(b""), "failed", "TimeoutError: no whole answer within 1 s"),
        (trickles(OK + b"X-Long: "), "failed", "TimeoutError: no whole answer within 1 s"),
        (trickles(REFUSED + b"\r\n"), "failed", "TimeoutError: no whole answer within 1 s"),
        (trickles(OK + b"\r\n"), "sent", "200"),
    ],
    ids=["hangs", "trickles", "trickles headers", "trickles a refusal", "trickles after a success"],
)
def test_a_receiver_that_takes_for_ever_ends_at_the_limit(
    open_server: Any, serve: Any, state: str, answer: str
) -> None:
    delivery = send_test(webhook(f"http://127.0.0.1:{open_server(serve)}/"))
    assert (delivery.state, delivery.answer) == (state, answer)


@pytest.mark.parametrize(("begins", "state"), [(OK, "sent"), (REFUSED, "failed")])
def test_of_an_endless_answer_only_the_beginning_is_read(
    open_server: Any, begins: bytes, state: str
) -> None:
    sent: list[int] = []
    delivery = send_test(webhook(f"http://127.0.0.1:{open_server(floods(begins, sent))}/"))
    assert delivery.state == state
    assert len(delivery.answer) <= 500
    assert sum(sent) < 100_000_000, "what the sockets' buffers take"


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://[::1",
        "ftp://127.0.0.1/x",
        "http://127.0.0.1:70000/",
        "http://127.0.0.1:port/",
        "http://exa\tmple/",
        "https://xn--\u00df\u2024.example/",
    ],
)
def test_what_is_no_address_is_given_up_at_once_in_words(ann: Any, url: str) -> None:
    use(ann, "850")
    bad = webhook(url)
    evaluate_all(NOW)
    deliver_due(NOW)
    states = set(Delivery.objects.filter(webhook=bad).values_list("state", "attempts"))
    assert states == {("failed", 1)}
    assert all(
        "is not an address to post to" in one.answer for one in Delivery.objects.filter(webhook=bad)
    )


def test_a_secret_that_cannot_be_read_fails_its_own_deliveries_and_no_other(
    ann: Any, hook: Webhook, receiver: Receiver, mailoutbox: list[Any]
) -> None:
    unreadable = webhook(hook.url)
    Webhook.objects.filter(pk=unreadable.pk).update(encrypted_secret="of another key")
    use(ann, "850")
    evaluate_all(NOW)
    deliver_due(NOW)
    (failed,) = set(
        Delivery.objects.filter(webhook=unreadable).values_list("state", "answer", "sent_at")
    )
    assert (failed[0], failed[2]) == ("failed", None)
    assert "KLUISZ_ENCRYPTION_KEYS" in failed[1]
    others = Delivery.objects.exclude(webhook=unreadable)
    assert set(others.values_list("state", flat=True)) == {"sent"}
    assert receiver.got
    assert mailoutbox


def test_a_name_of_several_lines_is_one_line_in_a_mails_header(
    ann: Any, people: People, mailoutbox: list[Any]
) -> None:
    Tenant.objects.filter(pk=people.acme.pk).update(name="Acme\r\nBcc: all@example.com")
    use(ann, "1000")
    evaluate_all(NOW)
    deliver_due(NOW)
    mails = Delivery.objects.filter(channel="mail")
    assert set(mails.values_list("state", flat=True)) == {"sent"}
    assert any("Acme Bcc: all@example.com has used" in mail.subject for mail in mailoutbox)
    assert {tuple(mail.bcc) for mail in mailoutbox} == {()}


def test_an_address_that_no_mail_can_go_to_is_given_up_in_words(ann: Any, people: People) -> None:
    people.acme_user.email = "ann@acme.example\nBcc: all@example.com"
    people.acme_user.save()
    use(ann, "850")
    evaluate_all(NOW)
    deliver_due(NOW)
    given_up = Delivery.objects.filter(channel="mail", address__contains="Bcc")
    assert {(one.state, one.answer[:25]) for one in given_up} == {
        ("failed", "No mail can be made of it")
    }


def test_of_two_messages_for_one_attempt_the_second_does_nothing(
    ann: Any, hook: Webhook, receiver: Receiver
) -> None:
    receiver.status = 503
    delivery = Delivery.objects.create(
        webhook=hook, channel="webhook", address=hook.url, next_attempt_at=NOW
    )
    for _ in range(3):
        attempt(delivery.pk, 1, NOW)
    assert len(receiver.got) == 1
    delivery.refresh_from_db()
    assert (delivery.attempts, delivery.state) == (1, "pending")


def test_what_was_handed_over_and_never_heard_of_is_handed_over_again(hook: Webhook) -> None:
    delivery = Delivery.objects.create(
        webhook=hook, channel="webhook", address=hook.url, next_attempt_at=NOW
    )
    handed: list[Any] = []

    def lost(delivery_id: Any, number: int) -> None:
        handed.append((delivery_id, number))

    hand_over(lost, NOW)
    hand_over(lost, NOW + timedelta(minutes=1))
    assert handed == [(delivery.pk, 1)], "it may well be waiting"
    hand_over(lost, NOW + deliveries.HANDED_OVER)
    assert handed == [(delivery.pk, 1)] * 2


def test_what_could_not_be_handed_over_stays_due(hook: Webhook) -> None:
    Delivery.objects.create(webhook=hook, channel="webhook", address=hook.url, next_attempt_at=NOW)

    def refuse(*_: Any) -> None:
        raise ConnectionError("no broker")

    with pytest.raises(ConnectionError):
        hand_over(refuse, NOW)
    handed: list[Any] = []
    hand_over(lambda *one: handed.append(one), NOW)
    assert len(handed) == 1


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_nothing_is_sent_within_a_transaction(hook: Webhook, receiver: Receiver) -> None:
    delivery = Delivery.objects.create(
        webhook=hook, channel="webhook", address=hook.url, next_attempt_at=NOW
    )
    with pytest.raises(RuntimeError, match="durable"), transaction.atomic():
        attempt(delivery.pk, 1)
    assert receiver.got == []
    assert not connection.in_atomic_block
    assert attempt(delivery.pk, 1)


def test_the_signature_has_the_time_of_its_attempt(
    ann: Any, hook: Webhook, receiver: Receiver
) -> None:
    receiver.status = 503
    Delivery.objects.create(webhook=hook, channel="webhook", address=hook.url, next_attempt_at=NOW)
    deliver_due(NOW)
    deliver_due(NOW + timedelta(minutes=10))
    stamps = [int(headers["X-Kluisz-Signature"][2:].split(",")[0]) for headers, _ in receiver.got]
    assert stamps == [int(NOW.timestamp()), int(NOW.timestamp()) + 600]


def test_a_new_channel_is_a_module_and_a_line_in_the_registry(
    ann: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def receivers(alert: Alert) -> list[Delivery]:
        return [Delivery(alert=alert, address="#credits")]

    def send(delivery: Delivery, now: Any) -> str:
        assert delivery.alert is not None
        said.append(delivery.alert.message)
        return "posted"

    pager = SimpleNamespace(receivers=receivers, send=send)
    monkeypatch.setitem(channels.CHANNELS, "pager", pager)  # type: ignore[arg-type]
    use(ann, "850")
    evaluate_all(NOW)
    deliver_due(NOW)
    sent = Delivery.objects.filter(channel="pager")
    assert set(sent.values_list("state", "address", "answer")) == {("sent", "#credits", "posted")}
    assert len(said) == sent.count() == Alert.objects.filter(is_sent=True).count()
    monkeypatch.undo()
    sent.update(state="pending", attempts=0, next_attempt_at=NOW)
    deliver_due(NOW)
    assert set(sent.values_list("state", "answer")) == {
        ("failed", "There is no channel “pager” any more.")
    }


def test_one_tenants_trouble_keeps_no_other_from_being_told(
    ann: Any, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(ann, "850")
    Tenant.objects.filter(pk=people.globex.pk).update(timezone="Nowhere/Land")
    with pytest.raises(ExceptionGroup) as raised:
        evaluate_all(NOW)
    assert Alert.objects.filter(tenant=people.acme).exists()
    (trouble,) = raised.value.exceptions
    assert str(people.globex.pk) in trouble.__notes__[0]
