"""Celery tasks: thin, each calls one service.

What concerns one connection, or one repricing, is a task of its own: its trouble stops no other.
"""

from celery import shared_task
from celery.utils.log import get_task_logger

from kluisz_analytics.queues import HOUSEKEEPING, MONEY, SYNC
from kluisz_analytics.repeated import RepeatedTask
from usage.analytics.estimates import refresh_estimates
from usage.connections import enabled_connections
from usage.desk import attribution, rulings
from usage.desk.untraced import charge_untraced
from usage.models import AttributionRules, LangfuseConnection, Repricing, SyncRun, UsageRuling
from usage.repricing.repricing import advance
from usage.sync.reconcile import reconcile_connection
from usage.sync.runner import sync_connection
from usage.sync.turns import turn

REPRICING_SECONDS = 50
logger = get_task_logger(__name__)


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def estimate_flows() -> None:
    """Learn anew what runs of each flow cost; beat starts it once an hour."""
    refresh_estimates()


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_repricings() -> None:
    """Go on with repricings that an operator has begun; beat starts it every minute."""
    for repricing in Repricing.objects.filter(state__in=Repricing.UNDER_WAY).order_by("created_at"):
        continue_repricing.delay(repricing.pk)


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_repricing(repricing_id: int) -> None:
    """Go on with one."""
    advance(Repricing.objects.get(pk=repricing_id), REPRICING_SECONDS)


@shared_task(base=RepeatedTask, **MONEY.options)
def charge_untraced_runs() -> None:
    """Charge what runs said whose traces never came, if the platform does; beat starts it every
    five minutes.
    """
    charge_untraced()


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_rulings() -> None:
    """Go on with rulings that an operator has made; beat starts it every minute."""
    for ruling in UsageRuling.objects.filter(state__in=UsageRuling.UNDER_WAY).order_by(
        "created_at"
    ):
        continue_ruling.delay(ruling.pk)


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_ruling(ruling_id: int) -> None:
    """Go on with one."""
    rulings.advance(UsageRuling.objects.get(pk=ruling_id), REPRICING_SECONDS)


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_attributions() -> None:
    """Go on with attribution rules that an operator has made; beat starts it every minute."""
    for rules in AttributionRules.objects.filter(state__in=AttributionRules.UNDER_WAY).order_by(
        "created_at"
    ):
        continue_attribution.delay(rules.pk)


@shared_task(base=RepeatedTask, **HOUSEKEEPING.options)
def continue_attribution(rules_id: int) -> None:
    """Go on with one."""
    attribution.advance(AttributionRules.objects.get(pk=rules_id), REPRICING_SECONDS)


@shared_task(base=RepeatedTask, **SYNC.options)
def sync_usage() -> None:
    """Have every enabled connection synced; beat starts it every few minutes."""
    for connection in enabled_connections():
        sync_one.delay(connection.pk)


@shared_task(**SYNC.options)
def sync_one(connection_id: int) -> None:
    """Sync one connection, unless a worker is at it."""
    connection = _enabled(connection_id)
    if connection is None:
        return
    with turn(connection, SyncRun.Kind.SYNC) as is_ours:
        if not is_ours:
            logger.info("%s is being synced already", connection.name)
            return
        result = sync_connection(connection)
    logger.info("Synced %s: %s", connection.name, result.as_json())


@shared_task(base=RepeatedTask, **SYNC.options)
def reconcile_usage() -> None:
    """Have every enabled connection compared with Langfuse's metrics; beat starts it once a day."""
    for connection in enabled_connections():
        reconcile_one.delay(connection.pk)


@shared_task(**SYNC.options)
def reconcile_one(connection_id: int) -> None:
    """Compare one connection, unless a worker is at it."""
    connection = _enabled(connection_id)
    if connection is None:
        return
    with turn(connection, SyncRun.Kind.RECONCILIATION) as is_ours:
        if not is_ours:
            logger.info("%s is being reconciled already", connection.name)
            return
        result = reconcile_connection(connection)
    logger.info("Reconciled %s: %s", connection.name, result.as_json())


def _enabled(connection_id: int) -> LangfuseConnection | None:
    """The connection, unless it was disabled or deleted since the message was sent."""
    return LangfuseConnection.objects.filter(pk=connection_id, is_enabled=True).first()
