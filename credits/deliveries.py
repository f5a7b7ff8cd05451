"""Delivers alerts by signed webhook and by e-mail, with patience, and keeps what came of it.

The signature is the HMAC-SHA256 of ``timestamp.body`` with the webhook's secret, in the header
``X-Kluisz-Signature: t=<timestamp>,v1=<hex>``; a receiver computes it anew and refuses old
timestamps. The delivery's id comes along, so that a repeated one is known.
"""

import hashlib
import hmac
import json
from datetime import datetime, timedelta
from smtplib import SMTPException

import httpx
from django.conf import settings
from django.core.mail import send_mail
from django.db import connection, transaction
from django.utils import timezone

from credits.models import Delivery, Webhook

BACKOFF = [timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 360, 720, 1440)]
"""How long after each failed attempt the next one is made; after the last, it is given up."""
TIMEOUT_SECONDS = 10
LONGEST_ANSWER = 500


def deliver_due(now: datetime | None = None, at_most: int = 500) -> int:
    """Try everything that is due.

    Returns how many were delivered; beat calls it, and several may at once.
    """
    moment = now or timezone.now()
    sent = 0
    for _ in range(at_most):
        delivery = _claim(moment)
        if delivery is None:
            break
        sent += attempt(delivery, moment)
    return sent


def _claim(now: datetime) -> Delivery | None:
    """The next that is due, put off so that nobody else takes it while it is tried."""
    with transaction.atomic():
        due = Delivery.objects.filter(
            state=Delivery.State.PENDING, next_attempt_at__lte=now
        ).order_by("next_attempt_at", "created_at", "pk")
        delivery = due.select_for_update(
            skip_locked=connection.features.has_select_for_update_skip_locked
        ).first()
        if delivery is not None:
            delivery.attempts += 1
            delivery.next_attempt_at = now + BACKOFF[min(delivery.attempts, len(BACKOFF)) - 1]
            delivery.save(update_fields=["attempts", "next_attempt_at"])
        return delivery


def attempt(delivery: Delivery, now: datetime) -> bool:
    """Try once, and write down what came of it. Whether it was delivered."""
    try:
        answer = _post(delivery, delivery.webhook, now) if delivery.webhook else _mail(delivery)
    except (httpx.HTTPError, SMTPException, OSError) as error:
        delivery.answer = f"{type(error).__name__}: {error}"[:LONGEST_ANSWER]
        if delivery.attempts > len(BACKOFF):
            delivery.state = Delivery.State.FAILED
        delivery.save(update_fields=["answer", "state"])
        return False
    delivery.answer, delivery.state, delivery.sent_at = (
        answer[:LONGEST_ANSWER],
        Delivery.State.SENT,
        now,
    )
    delivery.save(update_fields=["answer", "state", "sent_at"])
    return True


def send_test(webhook: Webhook) -> Delivery:
    """Send a test now, to see whether the receiver takes it."""
    now = timezone.now()
    delivery = Delivery.objects.create(webhook=webhook, attempts=1, next_attempt_at=now)
    if not attempt(delivery, now):
        delivery.state = Delivery.State.FAILED
        delivery.save(update_fields=["state"])
    return delivery


def body_of(delivery: Delivery) -> bytes:
    """What is posted: JSON, the same at every attempt."""
    alert = delivery.alert
    content: dict[str, object] = {"id": str(delivery.pk), "event": "test"}
    if alert is not None:
        content |= {
            "event": f"alert.{alert.kind}",
            "tenant_id": str(alert.tenant_id),
            "user_id": str(alert.user_id) if alert.user_id else None,
            "threshold_percent": alert.threshold,
            "period_start": alert.period_start.isoformat(),
            "message": alert.message,
        }
    return json.dumps(content).encode()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The header's value."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


def _post(delivery: Delivery, webhook: Webhook, now: datetime) -> str:
    body = body_of(delivery)
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "Kluisz-Analytics",
        "X-Kluisz-Signature": signature(webhook.secret, int(now.timestamp()), body),
    }
    answer = httpx.post(
        webhook.url, content=body, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False
    )
    if not answer.is_success:
        raise httpx.HTTPStatusError(
            f"{answer.status_code} {answer.text[:200]}", request=answer.request, response=answer
        )
    return f"{answer.status_code}"


def _mail(delivery: Delivery) -> str:
    message = delivery.alert.message if delivery.alert else "A test."
    send_mail(
        f"Kluisz Analytics: {message}",
        f"{message}\n",
        settings.DEFAULT_FROM_EMAIL,
        [delivery.email],
    )
    return "handed to the mail server"
