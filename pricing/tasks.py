"""Celery tasks: thin, each calls one service."""

from celery import shared_task

from pricing.shipped_update import update_from_authors


@shared_task
def update_shipped_prices() -> None:
    """Fetch the shipped price book anew; beat starts it once a day."""
    update_from_authors()
