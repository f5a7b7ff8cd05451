"""Looks at the books while another connection stores runs: ``python -m tests.usage.books_worker``.

Before each query of ``verify_books`` another run is committed, in an hour of its own. Prints how
many, and what was found.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")
django.setup()

from django.core.management import call_command  # noqa: E402
from django.db import connection, connections, transaction  # noqa: E402

from kluisz_analytics.tenants.models import Tenant, User  # noqa: E402
from pricing.models import PricingTier, TierAssignment, TierRate  # noqa: E402
from usage.books import verify_books  # noqa: E402
from usage.facts.apply import apply_received  # noqa: E402
from usage.langfuse.wire import ReceivedObservation, StepVersion, TraceAttributes  # noqa: E402
from usage.models import LangfuseConnection  # noqa: E402
from usage.rollups.build import build_rollups  # noqa: E402

EVER = datetime(2020, 1, 1, tzinfo=UTC)


def setup() -> tuple[LangfuseConnection, User]:
    if connection.vendor == "sqlite":
        call_command("migrate", verbosity=0)
    tenant = Tenant.objects.create(slug="books", name="Books")
    tier = PricingTier.objects.create(name="Books")
    TierRate.objects.create(
        tier=tier, valid_from=EVER, credits_per_usd=Decimal(100), pricing_multiplier=Decimal(1)
    )
    TierAssignment.objects.create(tier=tier, tenant=tenant, valid_from=EVER)
    source = LangfuseConnection.objects.create(name="books", host="http://127.0.0.1:9")
    return source, User.objects.create(username="reader", tenant=tenant)


def store_a_run(source: LangfuseConnection, user: User, number: int) -> None:
    start = datetime(2026, 6, 1, tzinfo=UTC) + number * timedelta(hours=1)
    said = TraceAttributes(tenant_reference=str(user.tenant_id), user_reference=str(user.pk))
    step = StepVersion(
        *("call", "GENERATION", "call", "DEFAULT", True, start, start, start, "gpt-4o"),
        *({"input": 10, "output": 5, "total": 15}, Decimal("0.06")),
    )
    with transaction.atomic():
        apply_received(source, [ReceivedObservation(f"run{number}", said, step)])
    build_rollups()


def main() -> None:
    source, user = setup()
    numbers = count()
    for _ in range(3):
        store_a_run(source, user, next(numbers))

    def with_a_run_before(execute: Callable[..., Any], *arguments: Any) -> Any:
        other.submit(store_a_run, source, user, next(numbers)).result()
        return execute(*arguments)

    with ThreadPoolExecutor(1) as other:
        with connection.execute_wrapper(with_a_run_before):
            found = verify_books()
        other.submit(connections.close_all).result()
    stored = next(numbers)
    after = verify_books()
    print(json.dumps({"runs": stored, "found": [one.check for one in [*found, *after]]}))


if __name__ == "__main__":
    main()
