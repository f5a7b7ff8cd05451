"""Invariant 1: every answer equals the same question asked of the stored traces and observations,
in plain Python.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from django.db.models import QuerySet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kluisz_analytics.periods import Period
from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from tests.usage.random_usage import draw_usage, moments_around
from usage.access import was_of
from usage.analytics import queries
from usage.analytics.calendar import buckets
from usage.analytics.queries import execute
from usage.analytics.question import Filters, Status
from usage.measures import Dimension, Metric
from usage.models import LangfuseConnection, Observation, Trace
from usage.periods import Granularity
from usage.rollups.sketches import HALF, latency_of
from usage.scope import Scope

pytestmark = pytest.mark.django_db

moments = moments_around(NOON)
zones = st.sampled_from(
    [
        ZoneInfo("UTC"),
        ZoneInfo("Asia/Kolkata"),
        ZoneInfo("America/New_York"),
        ZoneInfo("Asia/Kathmandu"),
    ]
)


def stored_traces() -> QuerySet[Trace]:
    """All that count."""
    return Trace.objects.filter(is_voided=False).prefetch_related("billed_observations")


def plain(traces: Iterable[Trace], models: Collection[str] | None = None) -> dict[str, Any]:
    """The numbers of the traces, by adding up; of some models where they are named."""
    numbers: dict[str, Any] = dict.fromkeys(
        [
            *("total_traces", "failed_traces", "total_tokens", "unpriced_observations"),
            *("partly_priced_observations", "unmetered_observations", "doubtful_observations"),
        ],
        0,
    )
    cost, credits, latencies, users, priced, rated = Decimal(0), Decimal(0), [], set(), 0, 0
    for trace in traces:
        steps = [
            one
            for one in trace.billed_observations.all()
            if one.cost_source != "no_usage" or (models == {""} and one.credits is not None)
        ]
        if models is not None:
            steps = [one for one in steps if one.model in models]
            if not steps:
                continue
        numbers["total_traces"] += 1
        numbers["failed_traces"] += trace.is_failed
        numbers["total_tokens"] += sum(one.total_tokens for one in steps)
        for source in ("unpriced", "partly_priced", "unmetered"):
            numbers[f"{source}_observations"] += sum(one.cost_source == source for one in steps)
        numbers["doubtful_observations"] += sum(map(is_doubtful, steps))
        priced += sum(one.cost_source not in ("unpriced", "unmetered", "no_usage") for one in steps)
        cost += sum((one.cost_usd or 0 for one in steps), Decimal(0))
        if trace.credits is not None:
            rated += 1
            credits += sum(
                (
                    one.credits or 0
                    for one in trace.billed_observations.all()
                    if models is None or one in steps
                ),
                Decimal(0),
            )
        if trace.latency_ms is not None:
            latencies.append(trace.latency_ms)
        if trace.tenant_id and trace.user_id:
            users.add(trace.user_id)
    numbers["total_cost_usd"] = (
        cost
        if priced or not numbers["unpriced_observations"] + numbers["unmetered_observations"]
        else None
    )
    numbers["credits_exact"] = credits if rated or not numbers["total_traces"] else None
    numbers["active_users_count"] = len(users)
    p95 = sorted(latencies)[ceil(0.95 * len(latencies)) - 1] if latencies else None
    numbers["p95_latency_ms"] = None if p95 is None else latency_of(bucket_of(p95))
    return numbers


def bucket_of(latency_ms: int) -> int:
    """The bucket of a latency, as ``bucket_sql`` has it."""
    shift = max(0, latency_ms.bit_length() - HALF.bit_length())
    return HALF * shift + (latency_ms >> shift)


def is_doubtful(step: Observation) -> bool:
    """Whether nobody has ruled on what doesn't add up in it."""
    return not step.takes and (bool(step.usage_doubt) or step.finding in ("cost", "free"))


def same(found: queries.Numbers, expected: dict[str, Any]) -> bool:
    return {name: getattr(found, name) for name in expected} == expected


def in_scope(scope: Scope, filters: Filters, trace: Trace) -> bool:
    tenants, users = filters.of(Dimension.TENANT), filters.of(Dimension.USER)
    flows, projects = filters.of(Dimension.FLOW), filters.of(Dimension.PROJECT)
    environments = filters.of(Dimension.ENVIRONMENT)
    of_users, of_tenants = scope.user_id or users, scope.tenant_id or tenants
    return all(
        (
            trace.is_owned or not of_users,
            trace.is_attributed or not of_tenants,
            scope.tenant_id in (None, trace.tenant_id),
            scope.user_id in (None, trace.user_id),
            not tenants or trace.tenant_id in tenants,
            not users or trace.user_id in users,
            not flows or trace.flow_id in flows,
            not projects or trace.project_id in projects,
            not environments or trace.environment in environments,
            len(set(filters.statuses)) != 1
            or trace.is_failed == (filters.statuses[0] is Status.FAILED),
        )
    )


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_every_answer_is_what_the_facts_say(
    bare_connection: LangfuseConnection, people: People, data: st.DataObject
) -> None:
    with transaction.atomic():
        draw_usage(data, bare_connection, people)
        start, end = sorted([data.draw(moments), data.draw(moments)])
        if data.draw(st.booleans(), label="on full hours"):
            start, end = start.replace(minute=0), end.replace(minute=0)
        if data.draw(st.booleans(), label="on full days"):
            start, end = (
                start.replace(hour=0, minute=0),
                end.replace(hour=0, minute=0) + timedelta(days=1),
            )
        period = Period(start, end, data.draw(zones))
        scope = data.draw(
            st.sampled_from(
                [Scope(), Scope(tenant_id=people.acme.pk), Scope(user_id=people.acme_user.pk)]
            )
        )
        choices: dict[Dimension, list[Any]] = {
            Dimension.TENANT: [(), (people.acme.pk, people.globex.pk)],
            Dimension.USER: [(), (people.acme_user.pk, people.globex_user.pk)],
            Dimension.FLOW: [(), ("f1",)],
            Dimension.PROJECT: [(), ("p1", "")],
            Dimension.MODEL: [(), (), ("m1",), ("m1", "m2")],
            Dimension.ENVIRONMENT: [(), (), ("production",), ("staging", "")],
        }
        filters = Filters(
            {one: data.draw(st.sampled_from(values)) for one, values in choices.items()},
            statuses=data.draw(
                st.sampled_from(
                    [(), (Status.FAILED,), (Status.SUCCESS,), (Status.FAILED, Status.SUCCESS)]
                )
            ),
        )
        traces = [one for one in stored_traces() if in_scope(scope, filters, one)]
        within = [one for one in traces if period.start <= one.start_time < period.end]

        models = set(filters.of(Dimension.MODEL)) or None
        summary = execute(queries.summary(scope, period, None, filters))
        assert same(summary.numbers, plain(within, models))
        for granularity in (Granularity.HOUR, Granularity.DAY, Granularity.WEEK, Granularity.MONTH):
            series = execute(queries.time_series(scope, period, granularity, filters))
            assert [(one[0], one[1]) for one in series] == buckets(period, granularity)
            for bucket_start, bucket_end, numbers in series:
                assert same(
                    numbers,
                    plain(
                        (one for one in within if bucket_start <= one.start_time < bucket_end),
                        models,
                    ),
                )
        for dimension in Dimension:
            check_breakdown(dimension, scope, period, filters, within)
        of_users = scope.user_id or filters.of(Dimension.USER)
        check_top(
            Dimension.USER,
            lambda trace: trace.user_id if trace.is_owned else NOBODY,
            scope,
            period,
            filters,
            [one for one in within if one.is_attributed and (one.is_owned or not of_users)],
        )
        check_top(
            Dimension.TENANT,
            lambda trace: trace.tenant_id,
            scope,
            period,
            filters,
            [one for one in within if one.is_attributed],
        )
        check_top(
            Dimension.FLOW,
            lambda trace: trace.flow_id,
            scope,
            period,
            filters,
            [one for one in within if one.flow_id],
        )
        everything = [one for one in stored_traces() if start <= one.start_time < end]
        owned = [one for one in everything if one.is_attributed]
        assert execute(queries.active_tenants(period)) == len({one.tenant_id for one in owned})
        assert same(
            execute(queries.unattributed(period)),
            plain(one for one in everything if not one.is_attributed),
        )
        transaction.set_rollback(True)


def check_top(
    dimension: Dimension,
    key: Callable[[Trace], Any],
    scope: Scope,
    period: Period,
    filters: Filters,
    traces: list[Trace],
) -> None:
    """The list is by the metric, in whole, and says when each was last active."""
    models = set(filters.of(Dimension.MODEL)) or None
    groups = {
        one: [trace for trace in traces if key(trace) == one]
        for one in {key(trace) for trace in traces}
    }
    tokens = {
        one: numbers["total_tokens"]
        for one, group in groups.items()
        if (numbers := plain(group, models))["total_traces"]
    }
    rows = execute(queries.top(dimension, scope, period, Metric.TOKENS, 2, filters))
    assert [row.numbers.total_tokens for row in rows] == sorted(tokens.values(), reverse=True)[:2]
    shown: dict[Any, list[tuple[dict[str, Any], datetime]]] = defaultdict(list)
    for one in tokens:
        counted = [trace for trace in groups[one] if plain([trace], models)["total_traces"]]
        latest = max(trace.start_time for trace in counted)
        shown[as_shown(dimension, one, scope)].append((plain(counted, models), latest))
    for row in rows:
        equal = [
            one
            for one in shown[row.key]
            if same(row.numbers, one[0]) and row.last_activity == one[1]
        ]
        assert equal, (dimension, row.key)
        shown[row.key].remove(equal[0])


def as_shown(dimension: Dimension, key: Any, scope: Scope) -> Any:
    """The key as the scope may know it: of another tenant's user, and of another tenant, none."""
    if key is NOBODY:
        return None
    if scope.is_platform or key is None:
        return key
    if dimension is Dimension.TENANT:
        own = scope.tenant_id or User.objects.get(pk=scope.user_id).tenant_id
        return key if key == own else None
    if dimension is Dimension.USER and scope.user_id is None:
        return key if User.objects.filter(was_of(scope.tenant_id), pk=key).exists() else None
    return key


def check_breakdown(
    dimension: Dimension, scope: Scope, period: Period, filters: Filters, within: list[Trace]
) -> None:
    rows = execute(queries.breakdown(dimension, scope, period, filters))
    expected: dict[Any, dict[str, Any]] = {}
    if dimension is Dimension.MODEL:
        models = {
            step.model
            for trace in within
            for step in trace.billed_observations.all()
            if step.cost_source != "no_usage"
        }
        models &= set(filters.of(Dimension.MODEL)) or models
        expected = {model: plain(within, {model}) for model in models}
        without = [
            trace
            for trace in within
            if all(step.cost_source == "no_usage" for step in trace.billed_observations.all())
        ]
        rows = [row for row in rows if row.key != ""] if without and "" not in models else rows
    else:
        for trace in within:
            expected.setdefault(key_of(dimension, trace), []).append(trace)  # type: ignore[arg-type, union-attr]
        wanted = set(filters.of(Dimension.MODEL)) or None
        expected = {key: plain(some, wanted) for key, some in expected.items()}  # type: ignore[arg-type]
        expected = {key: numbers for key, numbers in expected.items() if numbers["total_traces"]}
    shown: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for key, numbers in expected.items():
        shown[as_shown(dimension, key, scope)].append(numbers)
    assert {row.key for row in rows} == shown.keys()
    for row in rows:
        equal = [one for one in shown[row.key] if same(row.numbers, one)]
        assert equal, (dimension, row.key)
        shown[row.key].remove(equal[0])
    assert not any(shown.values())
    shares = [row.share for row in rows]
    if any(row.share for row in rows):
        assert sum(share or 0 for share in shares) == pytest.approx(1, abs=1e-9)


NOBODY = UUID(int=1)
"""In here, the user of usage that has a tenant and no user."""


def key_of(dimension: Dimension, trace: Trace) -> UUID | str | None:
    if dimension is Dimension.USER and trace.is_attributed and not trace.is_owned:
        return NOBODY
    if dimension in (Dimension.TENANT, Dimension.USER) and not trace.is_attributed:
        return None
    return {
        Dimension.TENANT: trace.tenant_id,
        Dimension.USER: trace.user_id,
        Dimension.PROJECT: trace.project_id,
        Dimension.FLOW: trace.flow_id,
        Dimension.ENVIRONMENT: trace.environment,
    }[dimension]


def test_the_stored_observations_sum_to_their_traces(some_usage: None) -> None:
    for trace in Trace.objects.prefetch_related("billed_observations"):
        assert sum(step.cost_usd or 0 for step in trace.billed_observations.all()) == trace.cost_usd
    assert Observation.objects.count() == 6


def test_a_top_list_is_ordered_and_leaves_out_nobody(some_usage: None, people: People) -> None:
    period = Period(NOON - timedelta(days=7), NOON + timedelta(days=7), ZoneInfo("UTC"))

    def top(*asked: Any, **options: Any) -> list[queries.Ranked]:
        return execute(queries.top(*asked, **options))

    assert [row.key for row in top(Dimension.USER, Scope(), period)] == [
        people.globex_user.pk,
        people.acme_user.pk,
        people.acme_colleague.pk,
    ]
    assert [row.key for row in top(Dimension.USER, Scope(), period, limit=1)] == [
        people.globex_user.pk
    ]
    by_traces = top(Dimension.TENANT, Scope(), period, metric=Metric.TRACES)
    assert [(row.label, row.numbers.total_traces) for row in by_traces] == [
        ("Acme", 3),
        ("Globex", 2),
    ]
    assert by_traces[0].last_activity == NOON + timedelta(hours=30)
