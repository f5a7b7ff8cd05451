"""What runs of a flow cost, from its own last month: kept by flow, so that the gate need not read
the facts.
"""

from datetime import datetime, timedelta
from decimal import Decimal

from django.db import connection, transaction
from django.utils import timezone

from credits.estimate import Estimate
from usage.models import FlowEstimate

HISTORY = timedelta(days=30)
# Nearest rank: the smallest value that at least half, and nine tenths, of the runs do not exceed.
# Zero-credit runs count.
REFRESH = """
    INSERT INTO flow_estimate (flow_id, median, p90, runs, computed_at)
    SELECT flow_id, MIN(CASE WHEN 2 * place >= runs THEN credits END),
        MIN(CASE WHEN 10 * place >= 9 * runs THEN credits END), MAX(runs), %s
    FROM (
        SELECT flow_id, credits, ROW_NUMBER() OVER (PARTITION BY flow_id ORDER BY credits) AS place,
            COUNT(*) OVER (PARTITION BY flow_id) AS runs
        FROM usage_trace
        WHERE start_time >= %s AND credits IS NOT NULL AND NOT is_voided AND flow_id <> ''
    ) ranked
    GROUP BY flow_id
"""


def refresh_estimates(now: datetime | None = None) -> int:
    """Compute all of them anew, in one statement. Returns how many flows have a history."""
    moment = now or timezone.now()
    since = moment - HISTORY
    with transaction.atomic(), connection.cursor() as cursor:
        FlowEstimate.objects.all().delete()
        cursor.execute(
            REFRESH, [connection.ops.adapt_datetimefield_value(one) for one in (moment, since)]
        )
        return cursor.rowcount


def estimate_of_flow(flow_id: str) -> Estimate:
    """The flow's estimate; the default for one without a history."""
    known = FlowEstimate.objects.filter(pk=flow_id).first()
    return (
        Estimate()
        if known is None
        else Estimate(Decimal(known.median), Decimal(known.p90), known.runs)
    )
