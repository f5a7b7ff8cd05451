"""Usage without a price, or with one for a part of it, that one has been entered for (domain.md,
Price: priced as soon as a price is entered).
"""

from datetime import datetime
from uuid import UUID

from django.db.models import Max, Min

from pricing.book import prices_entered_since
from pricing.engine import CostSource
from usage.facts import store
from usage.facts.apply import Applied, committed, load_assembler, reassemble
from usage.models import LangfuseConnection, Observation
from usage.models.facts import WITHOUT_WHOLE_COST

TRACES_A_BATCH = 5_000


def price_unpriced(connection: LangfuseConnection, at_most: int | None = None) -> Applied:
    """Price and charge the connection's unpriced and partly priced usage as far as there are prices
    for it now; of at most so many traces.
    """
    applied = Applied()
    assembler = load_assembler(connection)
    unpriced = Observation.objects.filter(
        cost_source__in=WITHOUT_WHOLE_COST, trace__connection=connection
    )
    # What is unmetered waits for no price.
    unpriced = unpriced.exclude(cost_source=CostSource.UNMETERED.value).order_by()
    found: set[UUID] = set()
    for model, tenant_id, since, until in unpriced.values_list("model", "trace__tenant").annotate(
        since=Min("start_time"), until=Max("start_time")
    ):
        if assembler.engine.is_priceable(tenant_id, model, since, until, connection.pk):
            found.update(
                unpriced.filter(model=model, trace__tenant=tenant_id).values_list(
                    "trace_id", flat=True
                )[:at_most]
            )
    for trace_ids in store.chunks(sorted(pk.hex for pk in found)[:at_most], TRACES_A_BATCH):
        applied += committed(lambda ids=trace_ids: reassemble(assembler, ids))  # type: ignore[misc]
    return applied


def price_unpriced_since(connection: LangfuseConnection, moment: datetime | None) -> Applied:
    """The same if prices were entered after ``moment``; with None, whatever the moment."""
    return (
        price_unpriced(connection) if moment is None or prices_entered_since(moment) else Applied()
    )


def price_all_unpriced(at_most: int | None = None) -> Applied:
    """The same for every connection, after a price was entered."""
    applied = Applied()
    for connection in LangfuseConnection.objects.all():
        applied += price_unpriced(connection, at_most)
    return applied
