"""Downloads: CSV and JSON Lines of the same rows, streamed."""

import csv
import io
import json
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from kluisz_analytics.downloads import json_lines
from kluisz_analytics.periods import Period
from tests.conftest import NOON, People
from usage.analytics.focus import focus_rows
from usage.analytics.question import Filters
from usage.models import Observation, Trace
from usage.scope import Scope

pytestmark = pytest.mark.django_db
PERIOD = {"start_date": "2026-11-01", "end_date": "2026-11-30"}
LISTS = (
    "time-series top-users top-flows top-tenants cost-breakdown traces anomalies unpriced unmetered"
    " sources unknown-names /api/v2/credits/transactions".split()
)


def text_of(answer: Any) -> str:
    assert answer.status_code == 200, answer.content
    return b"".join(answer.streaming_content if answer.streaming else [answer.content]).decode()


@pytest.mark.usefixtures("some_usage")
@pytest.mark.parametrize("path", LISTS)
def test_each_form_has_the_same_rows(people: People, api: Callable[..., Any], path: str) -> None:
    body = api(people.platform_admin, path, **PERIOD, limit="10").json()
    expected = body.get("results", body.get("series"))
    answer = api(people.platform_admin, path, **PERIOD, format="jsonl")
    assert answer.headers["Content-Disposition"].endswith('.jsonl"')
    lines = [json.loads(line) for line in text_of(answer).splitlines()]
    assert lines[: len(expected)] == expected
    table = list(
        csv.DictReader(
            io.StringIO(text_of(api(people.platform_admin, path, **PERIOD, format="csv")))
        )
    )
    assert [list(row) for row in table] == [list(row) for row in lines]


@pytest.mark.usefixtures("some_usage")
def test_costs_are_in_the_columns_of_focus(people: People, api: Callable[..., Any]) -> None:
    lines = [
        json.loads(line)
        for line in text_of(
            api(people.platform_admin, "costs", **PERIOD, format="jsonl")
        ).splitlines()
    ]
    assert len(lines) == Observation.objects.exclude(cost_source="no_usage").count()
    assert [line["ChargePeriodStart"] for line in lines] == sorted(
        line["ChargePeriodStart"] for line in lines
    )
    (nobody,) = [line for line in lines if line["SubAccountId"] is None]
    assert (nobody["ListCost"], nobody["BilledCost"], nobody["x_UserId"]) == (
        "0.250000000000",
        None,
        None,
    )
    (first,) = [line for line in lines if line["ListCost"] == "0.060000000000"]
    assert (
        first["BilledCost"],
        first["x_Credits"],
        first["SubAccountName"],
        first["x_UserName"],
    ) == (
        "0.057000000000",
        "11.400000",
        "Acme",
        "ann",
    )
    assert (first["ServiceName"], first["ConsumedQuantity"], first["ConsumedUnit"]) == (
        "gpt-4o",
        15,
        "Tokens",
    )
    assert (first["BillingPeriodStart"], first["BillingPeriodEnd"]) == (
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    )
    own = text_of(api(people.acme_user, "costs", **PERIOD))
    assert "Globex" not in own
    assert own.count("\n") == 3


def test_memory_does_not_grow_with_the_rows(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user)
    template = Observation.objects.get(name="call")

    def peak(rows: int) -> int:
        Observation.objects.exclude(pk=template.pk).filter(name="copy").delete()
        fields = {name: value for name, value in template.__dict__.items() if name != "_state"}
        Observation.objects.bulk_create(
            (Observation(**{**fields, "id": None, "name": "copy"}) for number in range(rows)),
            batch_size=500,
        )
        period = Period(NOON - timedelta(days=1), NOON + timedelta(days=1), ZoneInfo("UTC"))
        tracemalloc.start()
        count = sum(1 for _ in json_lines(focus_rows(Scope(), period, Filters())))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows + 1
        return found

    small = peak(4_000)
    assert peak(16_000) < 1.3 * small
    assert Trace.objects.count() == 1
