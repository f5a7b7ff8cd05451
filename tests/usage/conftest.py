"""Usage made without a server: observations applied as the sync applies them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import transaction
from rest_framework.test import APIClient

from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection


@pytest.fixture
def bare_connection(db: None) -> LangfuseConnection:
    return made_bare_connection()


def made_bare_connection() -> LangfuseConnection:
    """A connection that no server is behind."""
    row = LangfuseConnection(name="bare", host="http://127.0.0.1:9", public_key="pk")
    row.secret_key = "sk"
    row.save()
    return row


@pytest.fixture
def use(bare_connection: LangfuseConnection) -> Callable[..., None]:
    return usage_of(bare_connection)


def usage_of(bare_connection: LangfuseConnection) -> Callable[..., None]:
    """Stores one run of a user: ``use(user, cost="0.06", start=…, model=…, failed=…)``."""
    number = iter(range(10**6))

    def run(
        user: User | None,
        cost: str | None = "0.06",
        start: datetime = NOON,
        model: str = "gpt-4o",
        failed: bool = False,
        flow: str = "",
        project: str = "",
        seconds: float = 1,
        trace_id: str = "",
        **extra: Any,
    ) -> None:
        trace_id = trace_id or f"run{next(number)}"
        owner = (
            {"user_reference": str(user.pk), "tenant_reference": str(user.tenant_id)}
            if user
            else {}
        )
        common = {
            "trace_id": trace_id,
            "start_time": start,
            "end_time": start + timedelta(seconds=seconds),
            "flow_id": flow,
            "project_id": project,
        }
        root = received(
            "root", is_root=True, level="ERROR" if failed else "DEFAULT", **common, **owner
        )
        call = received(
            "call",
            **{
                "model": model,
                "usage_details": {"input": 10, "output": 5, "total": 15},
                "cost_usd": None if cost is None else Decimal(cost),
                **common,
                **extra,
            },
        )
        with transaction.atomic():
            apply_received(bare_connection, [root, call])

    return run


@pytest.fixture
def api() -> Callable[..., Any]:
    """Asks the API as somebody: ``api(user, "time-series", granularity="day")``."""

    def get(user: User | None, path: str, **query: Any) -> Any:
        client = APIClient()
        if user is not None:
            client.force_login(user)
        prefix = "" if path.startswith("/") else "/api/v2/analytics/"
        return client.get(prefix + path, query)

    return get


@pytest.fixture
def some_usage(people: People, use: Callable[..., None]) -> None:
    """Three runs of Acme (one failed), two of Globex, one of nobody."""
    use(people.acme_user, "0.06", flow=str(people.flow.pk), project=str(people.project.pk))
    use(
        people.acme_user,
        "0.0006",
        NOON + timedelta(hours=30),
        model="gpt-5",
        failed=True,
        seconds=3,
    )
    use(
        people.acme_colleague,
        "0.02",
        NOON + timedelta(minutes=50),
        model="gpt-5",
        flow="unknown-flow",
    )
    use(people.globex_user, "1", NOON - timedelta(days=1))
    use(people.globex_user, "0.5", NOON)
    use(None, "0.25", NOON)
