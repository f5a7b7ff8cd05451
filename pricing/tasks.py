"""Celery tasks: thin, each calls one service."""

from celery import shared_task

from kluisz_analytics.queues import HOUSEKEEPING
from kluisz_analytics.repeated import RepeatedTask
from pricing.shipped_update import update_from_authors


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def update_shipped_prices() -> None:
    """Fetch the shipped price book anew; beat starts it once a day."""
    update_from_authors()
