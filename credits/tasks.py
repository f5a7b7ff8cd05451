"""Celery tasks: thin, each calls one service.

All of them may run at any time and any number of times.
"""

from uuid import UUID

from celery import shared_task

from credits import deliveries
from credits.alerts import evaluate_all, evaluate_changed
from credits.grants import catch_up
from credits.holds import expire_all
from credits.top_up import top_up_all
from kluisz_analytics.queues import DELIVERIES, MONEY
from kluisz_analytics.repeated import RepeatedTask


@shared_task(base=RepeatedTask, **MONEY.options)
def catch_up_grants() -> None:
    """Post grants that begin or end; beat starts it every minute."""
    catch_up()


@shared_task(base=RepeatedTask, **MONEY.options)
def top_up_month() -> None:
    """Give what the tiers give for this month; beat starts it every hour, since months begin at
    different times.
    """
    top_up_all()


@shared_task(base=RepeatedTask, **MONEY.options)
def expire_holds() -> None:
    """Free expired holds; beat starts it every five minutes."""
    expire_all()


@shared_task(base=RepeatedTask, **MONEY.options)
def evaluate_alerts() -> None:
    """Find what has just been reached; beat starts it every minute."""
    if evaluate_changed():
        send_deliveries.delay()


@shared_task(base=RepeatedTask, **MONEY.options)
def evaluate_all_alerts() -> None:
    """Find what time alone has reached, as projections do; beat starts it every hour."""
    evaluate_all()


@shared_task(base=RepeatedTask, **DELIVERIES.options)
def send_deliveries() -> None:
    """Have every delivery that is due attempted; beat starts it every minute."""
    deliveries.hand_over(lambda delivery_id, number: deliver.delay(str(delivery_id), number))


@shared_task(**DELIVERIES.options)
def deliver(delivery_id: str, number: int) -> None:
    """Make one attempt at one delivery."""
    deliveries.attempt(UUID(delivery_id), number)
