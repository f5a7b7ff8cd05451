"""A worker that loaded the lists before a repricing began stores nothing by the lists of before
it.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

import pytest
from django.db import transaction

from pricing import lists
from pricing.models import ModelPrice
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.facts.apply import Batch, apply_batch, load_assembler, reassemble
from usage.models import LangfuseConnection, Trace
from usage.repricing import repricing as service

pytestmark = pytest.mark.django_db
D = Decimal


def test_a_stale_worker_prices_by_the_repricing_too(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    use(people.acme_user, "0.06")
    stale = load_assembler(bare_connection)
    usage = {"input": 10, "output": 5, "total": 15}
    owner = {"user_reference": str(people.acme_user.pk), "tenant_reference": str(people.acme.pk)}
    late = received(
        "more",
        trace_id="run0",
        model="gpt-4o",
        usage_details=usage,
        cost_usd=D("0.02"),
        received_at=NOON + timedelta(days=1),
    )
    new = received(
        "other", trace_id="new", model="gpt-4o", usage_details=usage, cost_usd=D("0.02"), **owner
    )
    batch = Batch(bare_connection.pk, (late, new))
    batch.prepare(stale)
    lists.enter_price(
        ModelPrice(model="gpt-4o", valid_from=LONG_AGO, input=D(1000), output=D(1000)), None
    )
    repricing = service.begin(
        NOON - timedelta(days=1), NOON + timedelta(days=1), reason="Agreed", by=None
    )
    service.advance(repricing)

    with transaction.atomic():
        apply_batch(bare_connection, batch, stale)
        reassemble(stale, [pk.hex for pk in Trace.objects.values_list("pk", flat=True)])

    assert sorted(Trace.objects.values_list("langfuse_trace_id", "credits")) == [
        ("new", D("2.85")),
        ("run0", D("5.7")),
    ]
    assert verify_books() == []
