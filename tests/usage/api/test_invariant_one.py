"""Invariant 1 at the endpoints: what each answers is what a plain SQL question over the facts says,
whoever asks, when and of what.
"""

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kluisz_analytics.tenants.models import Tenant, User
from tests.conftest import NOON, People
from tests.usage.api.plain_sql import (
    ATTRIBUTED,
    OWNED,
    Where,
    answers,
    differences,
    fetched,
    moment,
    nothing,
    text_of,
)
from tests.usage.random_usage import draw_usage, moments_around
from usage.access import was_of
from usage.models import LangfuseConnection

pytestmark = pytest.mark.django_db

Api = Callable[..., Any]
# Around no, and around three changes of the clock: Amsterdam's, New York's, and Lord Howe's of half
# an hour.
CENTRES = [
    NOON,
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
]
ZONES = [
    "UTC",
    "Europe/Amsterdam",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
]
NO_USER = "no user"
METRICS = {
    "credits": "credits_exact",
    "cost": "total_cost_usd",
    "tokens": "total_tokens",
    "traces": "total_traces",
}
GROUPS = {
    "model": "COALESCE(o.model, '')",
    "tenant": f"CASE WHEN {ATTRIBUTED} THEN t.tenant_id END",
    "user": f"CASE WHEN {OWNED} THEN CAST(t.user_id AS text)"
    f" WHEN {ATTRIBUTED} THEN '{NO_USER}' END",
    "flow": "t.flow_id",
    "project": "t.project_id",
    "environment": "t.environment",
}


@dataclass
class Asking:
    """Who asks, when, and with which filters; and the same as conditions over the facts."""

    api: Api
    viewer: User
    start: datetime
    end: datetime
    zone: ZoneInfo
    times: Mapping[str, str]
    filters: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def get(self, path: str, **query: Any) -> Any:
        response = self.api(self.viewer, path, **self.times, **query)
        assert response.status_code == 200, (path, query, response.content)
        body = response.json()
        assert (moment(body["period_start"]), moment(body["period_end"])) == (
            moment(self.start),
            moment(self.end),
        ), path
        return body

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """The rows of a list, which are the same as a download."""
        rows: list[dict[str, Any]] = self.get(path, **self.filters, **query)["results"]
        download = self.api(self.viewer, path, **self.times, **self.filters, **query, format="csv")
        content = download.getvalue() if download.streaming else download.content
        lines = list(csv.DictReader(io.StringIO(content.decode())))
        assert [line["total_tokens"] for line in lines] == [
            str(row["total_tokens"]) for row in rows
        ]
        assert [line["total_traces"] for line in lines if "total_traces" in line] == [
            str(row["total_traces"]) for row in rows if "total_traces" in row
        ]
        return rows

    def scope(self) -> Where:
        where = Where()
        if self.viewer.is_superuser:
            return where
        if self.viewer.is_tenant_admin:
            return where.also("t.tenant_id = %s", self.viewer.tenant_id)
        return where.also(OWNED).also("t.user_id = %s", self.viewer.pk)

    def within(
        self, where: Where, start: datetime | None = None, end: datetime | None = None
    ) -> Where:
        return where.also(
            "t.start_time >= %s AND t.start_time < %s", start or self.start, end or self.end
        )

    def filtered(self) -> Where:
        """The scope, the period and the filters."""
        where, filters = self.within(self.scope()), self.filters
        if filters.get("user_id"):
            where = where.also(OWNED)
        where = where.among("t.tenant_id", filters.get("tenant_id", ())).among(
            "t.user_id", filters.get("user_id", ())
        )
        where = where.among("t.flow_id", filters.get("flow_id", ())).among(
            "t.project_id", filters.get("project_id", ())
        )
        where = where.among("t.environment", filters.get("environment", ()))
        where = where.among("o.model", filters.get("model", ()))
        statuses = set(filters.get("status", ()))
        if len(statuses) == 1:
            where = where.also("t.is_failed" if statuses == {"failed"} else "NOT t.is_failed")
        return where


def draw_times(
    data: st.DataObject, zone: ZoneInfo, centre: datetime
) -> tuple[datetime, datetime, dict[str, str]]:
    """A period, as dates of the zone or as moments, and how to ask for it."""
    first, last = sorted([data.draw(moments_around(centre)), data.draw(moments_around(centre))])
    if data.draw(st.booleans(), label="by dates"):
        days = first.astimezone(zone).date(), last.astimezone(zone).date()
        start, end = midnight(days[0], zone), midnight(days[1] + timedelta(days=1), zone)
        return start, end, {"start_date": days[0].isoformat(), "end_date": days[1].isoformat()}
    if data.draw(st.booleans(), label="on full hours"):
        first, last = first.replace(minute=0), last.replace(minute=0)
    last = max(last, first + timedelta(minutes=1))
    return (
        first,
        last,
        {
            "start_date": first.isoformat().replace("+00:00", "Z"),
            "end_date": last.astimezone(zone).isoformat(),
        },
    )


def midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(0), tzinfo=zone).astimezone(UTC)


def draw_filters(data: st.DataObject, viewer: User, people: People) -> dict[str, Sequence[Any]]:
    """Filters that the viewer may name."""
    tenants, users = (
        [people.acme, people.globex],
        [people.acme_user, people.acme_colleague, people.globex_user],
    )
    if not viewer.is_superuser:
        tenants = [one for one in tenants if one.pk == viewer.tenant_id]
        users = [
            one
            for one in users
            if one.tenant_id == viewer.tenant_id and (viewer.is_tenant_admin or one == viewer)
        ]
    choices: dict[str, list[Any]] = {
        "tenant_id": [one.pk for one in tenants],
        "user_id": [one.pk for one in users],
        "flow_id": ["f1", "f2"],
        "environment": ["production", "staging"],
        "project_id": ["p1", "p2"],
        "model": ["m1", "m2"],
        "status": ["success", "failed"],
    }
    named = data.draw(
        st.lists(st.sampled_from(sorted(choices)), unique=True, max_size=3), label="filters"
    )
    return {
        name: data.draw(st.lists(st.sampled_from(choices[name]), unique=True, min_size=1))
        for name in named
    }


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_each_endpoint_answers_what_a_plain_question_over_the_facts_does(
    bare_connection: LangfuseConnection, people: People, api: Api, data: st.DataObject
) -> None:
    with transaction.atomic():
        centre = data.draw(st.sampled_from(CENTRES), label="centre")
        draw_usage(data, bare_connection, people, centre)
        viewers = [people.platform_admin, people.acme_admin, people.acme_user, people.globex_user]
        viewer = data.draw(st.sampled_from(viewers), label="viewer")
        # Who names no zone means the tenant's own; a platform admin UTC.
        name = data.draw(st.none() | st.sampled_from(ZONES), label="zone")
        zone = ZoneInfo(name or ("UTC" if viewer.is_superuser else viewer.tenant.timezone))
        start, end, times = draw_times(data, zone, centre)
        times = {**times, "tz": name} if name else times
        asking = Asking(api, viewer, start, end, zone, times, draw_filters(data, viewer, people))

        check_stats(asking, people)
        check_series(
            asking,
            data.draw(st.sampled_from(["hour", "day", "week", "month"]), label="granularity"),
        )
        metric, limit = (
            data.draw(st.sampled_from(sorted(METRICS)), label="metric"),
            data.draw(st.sampled_from([1, 2, 1000])),
        )
        check_top(asking, "top-users", "user_id", GROUPS["user"], metric, limit)
        check_top(asking, "top-flows", "flow_id", GROUPS["flow"], metric, limit)
        if viewer.is_superuser:
            check_top(asking, "top-tenants", "tenant_id", GROUPS["tenant"], metric, limit)
            check_unpriced(asking)
        for group_by in GROUPS:
            check_breakdown(asking, group_by, limit)
        check_runs(asking)
        check_costs(asking)
        transaction.set_rollback(True)


def check_stats(asking: Asking, people: People) -> None:
    """The summaries that the viewer may see, of the period and of the one before; filters have no
    part in them.
    """
    viewer, everywhere = asking.viewer, Where()
    if viewer.is_superuser:
        body = asking.get("platform/stats")
        check_summary(asking, body, everywhere)
        assert body["total_tenants"] == Tenant.objects.filter(is_active=True).count()
        assert body["total_users"] == User.objects.filter(is_active=True).count()
        assert body["active_tenants"] == len(
            answers(asking.within(everywhere.also(ATTRIBUTED)), "t.tenant_id")
        )
        expected = answers(asking.within(everywhere.also(f"NOT ({ATTRIBUTED})"))).get("", nothing())
        assert differences(body["unattributed"], expected) == {}
    owned = everywhere.also(OWNED)
    if viewer.is_superuser or viewer.is_tenant_admin:
        # The zone is by default the tenant's whose numbers they are.
        zone = people.acme.timezone if viewer.is_superuser else viewer.tenant.timezone
        if "tz" in asking.times or ZoneInfo(zone) == asking.zone:
            body = asking.get(f"tenant/{people.acme.pk}/stats")
            check_summary(asking, body, everywhere.also("t.tenant_id = %s", people.acme.pk))
            body = asking.get(f"user/{people.acme_user.pk}/stats")
            mine = owned.also("t.user_id = %s", people.acme_user.pk)
            check_summary(
                asking,
                body,
                mine if viewer.is_superuser else mine.also("t.tenant_id = %s", people.acme.pk),
            )
    else:
        check_summary(asking, asking.get("user/me/stats"), asking.scope())


def check_summary(asking: Asking, body: Mapping[str, Any], where: Where) -> None:
    now = answers(asking.within(where)).get("", nothing())
    stretch = (
        datetime.fromisoformat(body["previous_period"][name])
        for name in ("period_start", "period_end")
    )
    before = answers(asking.within(where, *stretch)).get("", nothing())
    until = datetime.fromisoformat(body["compared_until"])
    known = answers(asking.within(where, asking.start, until)).get("", nothing())
    assert differences(body, now) == {}
    assert differences(body["previous_period"], before) == {}
    for name, change in body["change"].items():
        if name == "p95_latency_ms":
            continue  # which is not exact
        new, old = known[name], before[name]
        if new is None or old is None or not Decimal(str(old)):
            assert change is None, name
        else:
            assert change == pytest.approx(
                float((Decimal(str(new)) - Decimal(str(old))) / Decimal(str(old))), abs=1e-6
            ), name


def check_series(asking: Asking, granularity: str) -> None:
    """Each point's numbers; and the points follow each other, cut at the zone's hours, days, weeks
    or months.
    """
    series = asking.get("time-series", granularity=granularity, **asking.filters)["series"]
    edges = [moment(point["period_start"]) for point in series] + [moment(series[-1]["period_end"])]
    assert edges[1:] == [moment(point["period_end"]) for point in series]
    assert (edges[0], edges[-1]) == (moment(asking.start), moment(asking.end))
    inner = [edge.replace(tzinfo=UTC).astimezone(asking.zone) for edge in edges[1:-1]]
    for edge in inner:
        assert edge.minute == 0 or granularity == "hour", edge
        assert granularity == "hour" or edge.hour == 0, edge
        assert granularity != "week" or edge.weekday() == 0, edge
        assert granularity != "month" or edge.day == 1, edge
    shortest, longest = {
        "hour": (0, 2),
        "day": (0, 26),
        "week": (0, 7 * 24 + 1),
        "month": (0, 31 * 24 + 1),
    }[granularity]
    for earlier, later in pairwise(edges):
        assert timedelta(hours=shortest) < later - earlier <= timedelta(hours=longest)
    whens = " ".join(f"WHEN t.start_time < %s THEN {number}" for number in range(len(series)))
    expected = answers(
        asking.filtered(), f"CASE {whens} END", [edge.replace(tzinfo=UTC) for edge in edges[1:]]
    )
    for number, point in enumerate(series):
        assert differences(point, expected.get(number, nothing())) == {}, point["period_start"]


def as_shown(asking: Asking, dimension: str, key: str | None) -> str | None:
    """A key as the viewer may know it: of another tenant's user, and of another tenant, none."""
    viewer = asking.viewer
    if key == NO_USER:
        return None
    if viewer.is_superuser or key is None:
        return key
    if dimension == "tenant":
        return key if key == str(viewer.tenant_id) else None
    if dimension == "user":
        return key if User.objects.filter(was_of(viewer.tenant_id), pk=key).exists() else None
    return key


def take_equal(row: Mapping[str, Any], candidates: list[Any]) -> None:
    """One of the candidates has the row's numbers; it is taken away."""
    equal = next((one for one in candidates if differences(row, one) == {}), None)
    assert equal is not None, (row, candidates)
    candidates.remove(equal)


def check_top(asking: Asking, path: str, name: str, key: str, metric: str, limit: int) -> None:
    """The greatest, in order; each with its numbers and when it was last active."""
    found = asking.rows(path, metric=metric, limit=limit)
    where = asking.filtered().also("t.flow_id <> ''" if name == "flow_id" else ATTRIBUTED)
    expected = {text_of(key): numbers for key, numbers in answers(where, key).items()}
    amounts = sorted(
        (Decimal(one[METRICS[metric]] or 0) for one in expected.values()), reverse=True
    )
    assert [Decimal(row[METRICS[metric]] or 0) for row in found] == amounts[:limit]
    shown = defaultdict[str | None, list[Any]](list)
    for key_of_row, numbers in expected.items():
        shown[as_shown(asking, name.removesuffix("_id"), key_of_row)].append(numbers)
    for row in found:
        take_equal(row, shown[row[name]])
        if row[name] is None:
            assert row["username"] in ("A user of another tenant", "No user")
            continue
        if name == "user_id":
            user = User.objects.get(pk=row[name])
            is_platforms = asking.viewer.is_superuser
            tenant_id = user.tenant_id if is_platforms else asking.viewer.tenant_id
            assert (row["username"], row["tenant_id"]) == (user.username, str(tenant_id))
        if name == "tenant_id":
            tenant = Tenant.objects.get(pk=row[name])
            assert (row["name"], row["slug"]) == (tenant.name, tenant.slug)
            assert row["users_count"] == User.objects.filter(tenant=tenant, is_active=True).count()


def check_breakdown(asking: Asking, group_by: str, limit: int) -> None:
    """All usage, the costliest first; shares are of all the cost and sum to 1."""
    found = asking.rows("cost-breakdown", group_by=group_by, limit=limit)
    expected = {
        text_of(key): numbers
        for key, numbers in answers(asking.filtered(), GROUPS[group_by]).items()
    }
    costs = sorted((Decimal(one["total_cost_usd"] or 0) for one in expected.values()), reverse=True)
    assert [Decimal(row["total_cost_usd"] or 0) for row in found] == costs[:limit]
    shown = defaultdict[str | None, list[Any]](list)
    for key, numbers in expected.items():
        shown[as_shown(asking, group_by, key)].append(numbers)
    for row in found:
        take_equal(row, shown[row["key"]])
        if sum(costs):
            assert row["share"] == pytest.approx(
                float(Decimal(row["total_cost_usd"] or 0) / sum(costs)), abs=2e-6
            )
        else:
            assert row["share"] is None
    if len(found) == len(expected) and sum(costs):
        assert sum(row["share"] for row in found) == pytest.approx(1, abs=1e-9)


RUNS = """
SELECT t.id, t.start_time, t.latency_ms, t.is_failed, t.total_tokens, t.cost_usd, t.credits,
    t.tenant_id, t.user_id
FROM usage_trace t WHERE {where} ORDER BY t.start_time DESC, t.id DESC"""


def check_runs(asking: Asking) -> None:
    """The runs, newest first, and one by its id."""
    where = asking.filtered()
    if models := asking.filters.get("model"):
        # Of models, a run has any; its own numbers are of all its steps.
        where = Asking(**{**vars(asking), "filters": {**asking.filters, "model": ()}}).filtered()
        used = "o.trace_id = t.id AND o.cost_source <> 'no_usage'"
        listed = ", ".join(["%s"] * len(models))
        where = where.also(
            f"EXISTS (SELECT 1 FROM usage_observation o WHERE {used} AND o.model IN ({listed}))",
            *models,
        )
    expected = fetched(RUNS.format(where=where.text), where.parameters)
    rows = asking.rows("traces")
    assert [row["trace_id"] for row in rows] == [text_of(run[0]) for run in expected]
    for row, (_, start, latency, failed, tokens, cost, credits, tenant, user) in zip(
        rows, expected, strict=True
    ):
        assert (moment(row["start_time"]), row["latency_ms"], row["total_tokens"]) == (
            moment(start),
            latency,
            tokens,
        )
        assert row["status"] == ("failed" if failed else "success")
        assert scaled(row["cost_usd"], 12) == cost
        assert scaled(row["credits"], 6) == credits
        assert row["tenant_id"] == as_shown(asking, "tenant", text_of(tenant))
        assert row["user_id"] == as_shown(asking, "user", text_of(user))
    if rows:
        one = asking.api(asking.viewer, f"traces/{rows[0]['trace_id']}").json()
        assert {name: one[name] for name in rows[0]} == rows[0]
        assert sum(step["total_tokens"] for step in one["observations"]) == one["total_tokens"]


COSTS = """
SELECT o.langfuse_observation_id, o.cost_usd, o.billed_cost_usd, o.credits, o.total_tokens
FROM usage_trace t JOIN usage_observation o ON o.trace_id = t.id WHERE o.cost_source <> 'no_usage'
    AND {where}"""


def check_costs(asking: Asking) -> None:
    """Each call with usage, with what it cost."""
    response = asking.api(asking.viewer, "costs", **asking.times, **asking.filters)
    found = csv.DictReader(io.StringIO(response.getvalue().decode()))
    names = [("ListCost", 12), ("BilledCost", 12), ("x_Credits", 6), ("ConsumedQuantity", 0)]
    rows = Counter(
        (row["x_ObservationId"], *(scaled(row[name] or None, places) for name, places in names))
        for row in found
    )
    where = asking.filtered()
    assert rows == Counter(fetched(COSTS.format(where=where.text), where.parameters))


UNPRICED = """
SELECT o.model, SUM(CASE WHEN o.cost_source = 'unpriced' THEN 1 ELSE 0 END),
    SUM(CASE WHEN o.cost_source = 'partly_priced' THEN 1 ELSE 0 END), SUM(o.total_tokens),
    COUNT(DISTINCT t.tenant_id) FROM usage_trace t
    JOIN usage_observation o ON o.trace_id = t.id
WHERE o.cost_source IN ('unpriced', 'partly_priced') AND NOT t.is_voided
GROUP BY o.model ORDER BY COUNT(*) DESC, o.model"""


UNMETERED = """
SELECT o.model, t.flow_id, t.tenant_id, CASE WHEN o.level = 'ERROR' THEN 1
    WHEN o.end_time IS NULL THEN 2 WHEN o.usage_details <> '' THEN 3 ELSE 4 END AS reason, COUNT(*)
FROM usage_trace t JOIN usage_observation o ON o.trace_id = t.id
WHERE o.cost_source = 'unmetered' AND NOT t.is_voided GROUP BY 1, 2, 3, 4"""


def check_unpriced(asking: Asking) -> None:
    rows = asking.api(asking.viewer, "unpriced").json()["results"]
    found = [
        (
            *(row["model"], row["unpriced_observations"], row["partly_priced_observations"]),
            *(row["total_tokens"], row["tenants"]),
        )
        for row in rows
    ]
    assert found == [(model, *map(int, counts)) for model, *counts in fetched(UNPRICED)]
    unmetered = asking.api(asking.viewer, "unmetered").json()["results"]
    found_unmetered = [
        (row["model"], row["flow_id"], row["tenant_id"], row["unmetered_observations"])
        for row in unmetered
    ]
    assert Counter(found_unmetered) == Counter(
        (model, flow, tenant and str(UUID(str(tenant))), count)
        for model, flow, tenant, _, count in fetched(UNMETERED)
    )


def scaled(text: str | None, places: int) -> int | None:
    return None if text is None else int(Decimal(text).scaleb(places))
