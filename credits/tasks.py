"""Celery tasks: thin, each calls one service.

All of them may run at any time and any number of times.
"""

from celery import shared_task

from credits.alerts import evaluate_all, evaluate_changed
from credits.deliveries import deliver_due
from credits.grants import catch_up
from credits.holds import expire_all
from credits.top_up import top_up_all


@shared_task
def catch_up_grants() -> None:
    """Post grants that begin or end; beat starts it every minute."""
    catch_up()


@shared_task
def top_up_month() -> None:
    """Give what the tiers give for this month; beat starts it every hour, since months begin at
    different times.
    """
    top_up_all()


@shared_task
def expire_holds() -> None:
    """Free expired holds; beat starts it every five minutes."""
    expire_all()


@shared_task
def tell_alerts() -> None:
    """Find what has just been reached, and deliver what is due; beat starts it every minute."""
    evaluate_changed()
    deliver_due()


@shared_task
def look_at_all_accounts() -> None:
    """Find what time alone has reached, as projections do; beat starts it every hour."""
    evaluate_all()
