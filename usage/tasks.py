"""Celery tasks: thin, each calls one service."""

from celery import shared_task
from celery.utils.log import get_task_logger

from usage.analytics.estimates import refresh_estimates
from usage.connections import enabled_connections
from usage.repricing.repricing import advance_all
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection

REPRICING_SECONDS = 50
logger = get_task_logger(__name__)


@shared_task
def estimate_flows() -> None:
    """Learn anew what runs of each flow cost; beat starts it once an hour."""
    refresh_estimates()


@shared_task
def reconcile_usage() -> None:
    """Compare every enabled connection with Langfuse's metrics; beat starts it once a day."""
    for connection in enabled_connections():
        result = reconcile_connection(connection)
        logger.info("Reconciled %s: %s", connection.name, result.as_json())


@shared_task
def continue_repricings() -> None:
    """Go on with repricings that an operator has begun; beat starts it every minute."""
    advance_all(REPRICING_SECONDS)


@shared_task
def sync_usage() -> None:
    """Sync every enabled connection; beat starts it every few minutes."""
    for connection in enabled_connections():
        result = sync_connection(connection)
        logger.info("Synced %s: %s", connection.name, result.as_json())
