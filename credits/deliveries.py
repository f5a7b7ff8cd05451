"""Delivers alerts by their channels, with patience, and keeps what came of each attempt.

The rows are what there is to do; messages of the queue only say when. A delivery that is due is
handed over to a task of its own, and handed over again if nothing was heard of it for a while. A
task makes the attempt that its message names, or none: of two messages for one attempt the second
does nothing, and a task that was killed leaves a row that is due later.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from celery.exceptions import SoftTimeLimitExceeded
from django.db import transaction
from django.utils import timezone

from credits.channels import CHANNELS, webhook
from credits.channels.errors import Undeliverable
from credits.models import Alert, Delivery, Webhook

logger = logging.getLogger(__name__)

BACKOFF = [timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 360, 720, 1440)]
"""How long after each failed attempt the next one is made; after the last, it is given up."""
HANDED_OVER = timedelta(minutes=15)
"""How long a delivery may wait in the queue before it is handed over once more."""
AT_ONCE = 500
LONGEST_ANSWER = 500
NO_RESULT = "No result: the attempt is under way, or its worker was stopped."
State = Delivery.State


def address(alert: Alert, now: datetime) -> None:
    """Store a delivery for each receiver of each channel, due now."""
    deliveries = []
    for name, channel in CHANNELS.items():
        for delivery in channel.receivers(alert):
            delivery.channel, delivery.next_attempt_at = name, now
            deliveries.append(delivery)
    Delivery.objects.bulk_create(deliveries)


def hand_over(to: Callable[[UUID, int], object], now: datetime | None = None) -> int:
    """Hand over what is due: ``to`` is called with each delivery and the number of its attempt.

    Returns how many; beat calls it, and several may at once.
    """
    moment = now or timezone.now()
    due = Delivery.objects.filter(state=State.PENDING, next_attempt_at__lte=moment)
    some = list(
        due.order_by("next_attempt_at", "created_at", "pk").values_list("pk", "attempts")[:AT_ONCE]
    )
    for pk, attempts in some:
        # First, so that what could not be sent stays due.
        to(pk, attempts + 1)
        Delivery.objects.filter(pk=pk, state=State.PENDING, attempts=attempts).update(
            next_attempt_at=moment + HANDED_OVER
        )
    return len(some)


def attempt(delivery_id: UUID, number: int, now: datetime | None = None) -> bool:
    """Make this attempt, unless it was made before, and write down what came of it.

    Whether it was delivered. Never in a transaction: a receiver may take its time.
    """
    moment = now or timezone.now()
    delivery = _claim(delivery_id, number, moment)
    if delivery is None:
        return False
    try:
        delivery.answer = _send(delivery, moment)
        delivery.state, delivery.sent_at = State.SENT, moment
    except Undeliverable as error:
        delivery.answer, delivery.state = str(error), State.FAILED
    except SoftTimeLimitExceeded:
        delivery.answer = "Stopped: it took longer than an attempt may."
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this delivery's alone, and said
        delivery.answer = f"{type(error).__name__}: {error}"
    delivery.answer = delivery.answer[:LONGEST_ANSWER]
    delivery.save(update_fields=["answer", "state", "sent_at"])
    if delivery.state == State.SENT:
        return True
    logger.warning(
        "Delivery %s to %s, attempt %d: %s", delivery.pk, delivery.address, number, delivery.answer
    )
    return False


def _claim(delivery_id: UUID, number: int, now: datetime) -> Delivery | None:
    """The delivery, if this attempt is its next one; written down as it stays if the worker dies:
    to be tried later, or given up.
    """
    is_last = number > len(BACKOFF)
    with transaction.atomic(durable=True):
        claimed = Delivery.objects.filter(
            pk=delivery_id, state=State.PENDING, attempts=number - 1
        ).update(
            attempts=number,
            next_attempt_at=now + BACKOFF[min(number, len(BACKOFF)) - 1],
            state=State.FAILED if is_last else State.PENDING,
            answer=NO_RESULT,
        )
    if not claimed:
        return None
    return Delivery.objects.select_related("alert", "webhook").get(pk=delivery_id)


def _send(delivery: Delivery, now: datetime) -> str:
    channel = CHANNELS.get(delivery.channel)
    if channel is None:
        raise Undeliverable(f"There is no channel “{delivery.channel}” any more.")
    return channel.send(delivery, now)


def send_test(hook: Webhook) -> Delivery:
    """Send a test now, once, to see whether the receiver takes it."""
    delivery = webhook.to(hook)
    # Not due for anyone else meanwhile.
    delivery.next_attempt_at = timezone.now() + HANDED_OVER
    delivery.save()
    if not attempt(delivery.pk, 1):
        Delivery.objects.filter(pk=delivery.pk).update(state=State.FAILED)
    delivery.refresh_from_db()
    return delivery
