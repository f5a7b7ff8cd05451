"""The forms of the answers, as the OpenAPI schema describes them."""

from typing import Any, ClassVar
from uuid import UUID

from rest_framework import serializers

from kluisz_analytics.answers import Answer, CreditsField, UsdField
from pricing.prices import LineItem
from usage.analytics.anomalies import Anomaly
from usage.analytics.disputes import DisputedRun
from usage.analytics.explain import (
    CountedElsewhere,
    Explanation,
    LedgerEntry,
    ObservationExplained,
    PriceSource,
    RateExplained,
)
from usage.analytics.names import Name, owner_of
from usage.analytics.projection import Projection
from usage.analytics.queries import PlatformTotals
from usage.analytics.sources import Source, SourceNumbers
from usage.analytics.steps import RunStep
from usage.analytics.unmetered import UnmeteredCalls
from usage.analytics.unpriced import UnpricedModel
from usage.facts.owner import Outcome
from usage.measures import DECLARED_NUMBERS, Numbers
from usage.models import Trace
from usage.sync.freshness import Lagging
from usage.sync.status import ConnectionStatus


class NumbersAnswer(Answer):
    """The numbers of usage (usage.measures), each a field."""

    shows: ClassVar[type] = Numbers


class ChangeAnswer(serializers.Serializer[Any]):
    """How each number changed since the same stretch of the time before, as a ratio; null where
    that is 0 or unknown.
    """

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {name: serializers.FloatField(allow_null=True) for name in DECLARED_NUMBERS}


class StretchAnswer(serializers.Serializer[Any]):
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()


class PeriodAnswer(StretchAnswer):
    complete_through = serializers.DateTimeField(allow_null=True)


class PreviousPeriodAnswer(StretchAnswer, NumbersAnswer):
    """The stretch that the period is compared with: the time before it, as far as the period itself
    is known.
    """


class SummaryAnswer(PeriodAnswer, NumbersAnswer):
    """``change`` compares the period up to ``compared_until`` with ``previous_period``."""

    compared_until = serializers.DateTimeField()
    previous_period = PreviousPeriodAnswer()
    change = ChangeAnswer()


class LaggingAnswer(Answer):
    """An enabled connection that is over an hour behind; null where its first reading isn't done,
    so that ``complete_through`` does not speak of it.
    """

    shows = Lagging


class PlatformAnswer(SummaryAnswer):
    """The platform's summary, and how many tenants and users it has, whatever the period.

    ``change`` compares the period up to ``compared_until`` with ``previous_period``.
    """

    shows = PlatformTotals
    active_tenants = serializers.IntegerField()
    unattributed = NumbersAnswer()
    lagging_connections = LaggingAnswer(many=True)


class TenantAnswer(SummaryAnswer):
    tenant_id = serializers.UUIDField()
    name = serializers.CharField()


class ProjectionAnswer(Answer):
    shows = Projection
    exhaustion_date = serializers.DateField(allow_null=True)


class UserAnswer(SummaryAnswer):
    user_id = serializers.UUIDField()
    username = serializers.CharField()
    projection = ProjectionAnswer()


class SeriesPointAnswer(StretchAnswer, NumbersAnswer):
    """The numbers of one hour, day, week or month."""


class SeriesAnswer(PeriodAnswer):
    granularity = serializers.CharField()
    series = SeriesPointAnswer(many=True)


class TopUserAnswer(NumbersAnswer):
    """A user; of one that is none of the caller's business there is no ``user_id``."""

    user_id = serializers.UUIDField(allow_null=True)
    username = serializers.CharField()
    tenant_id = serializers.UUIDField(allow_null=True)
    last_activity = serializers.DateTimeField(allow_null=True)


class TopUsersAnswer(PeriodAnswer):
    results = TopUserAnswer(many=True)


class TopFlowAnswer(NumbersAnswer):
    flow_id = serializers.CharField()
    flow_name = serializers.CharField()
    project_id = serializers.CharField(allow_null=True)
    last_activity = serializers.DateTimeField(allow_null=True)


class TopFlowsAnswer(PeriodAnswer):
    results = TopFlowAnswer(many=True)


class PriceSourceAnswer(Answer):
    """Where a cost came from, and since when that held and was known."""

    shows = PriceSource
    leaves_out = ["url_name"]


class LineItemAnswer(Answer):
    """Units of one kind times their price; the amount is not rounded."""

    shows = LineItem


class ObservationExplainedAnswer(Answer):
    shows = ObservationExplained


class RateAnswer(Answer):
    shows = RateExplained


class LedgerEntryAnswer(Answer):
    shows = LedgerEntry


class RepricingAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    as_of = serializers.DateTimeField()
    reason = serializers.CharField()


class CountedElsewhereAnswer(Answer):
    shows = CountedElsewhere


class ExplanationAnswer(Answer):
    """Why a trace was charged what it was: units × prices = cost; × multiplier = billed; × credits
    a dollar, then limits, rounded once.
    """

    shows = Explanation
    leaves_out = ["trace", "steps"]
    trace_id = serializers.UUIDField(source="trace.pk")
    langfuse_trace_id = serializers.CharField(source="trace.langfuse_trace_id")
    start_time = serializers.DateTimeField(source="trace.start_time")
    priced_as_of = serializers.DateTimeField(source="trace.priced_as_of")
    unbilled_observations = serializers.IntegerField()
    cost_usd = UsdField(source="trace.cost_usd", allow_null=True)
    billed_cost_usd = UsdField(source="trace.billed_cost_usd", allow_null=True)
    credits = CreditsField(source="trace.credits", allow_null=True)
    repricing = RepricingAnswer(allow_null=True)


class UnpricedModelAnswer(Answer):
    shows = UnpricedModel


class UnmeteredCallsAnswer(Answer):
    shows = UnmeteredCalls


class UnmeteredAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    results = UnmeteredCallsAnswer(many=True)


class UnpricedAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    results = UnpricedModelAnswer(many=True)


class DisputedRunAnswer(Answer):
    shows = DisputedRun


class DisputesAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    results = DisputedRunAnswer(many=True)


class SettleDisputeRequest(serializers.Serializer[Any]):
    """``named_tenant``: the tenant's, without a user; ``users_tenant``: the user's, in the tenant
    that it was of; ``left_out``: nobody's.
    """

    outcome = serializers.ChoiceField(choices=[one.value for one in Outcome])


class SourceNumbersAnswer(Answer):
    shows: ClassVar[type] = SourceNumbers


class SourceAnswer(SourceNumbersAnswer):
    shows = Source
    leaves_out = ["numbers"]


class SourcesAnswer(PeriodAnswer):
    """What arrives by source. Shares are compared with the stretch from ``previous_start`` to
    ``previous_end``; what was first seen since ``new_since`` is new.
    """

    previous_start = serializers.DateTimeField()
    previous_end = serializers.DateTimeField()
    new_since = serializers.DateTimeField()
    totals = SourceNumbersAnswer()
    results = SourceAnswer(many=True)


class TopTenantAnswer(NumbersAnswer):
    tenant_id = serializers.UUIDField()
    name = serializers.CharField()
    slug = serializers.CharField()
    tier = serializers.CharField(allow_null=True)
    users_count = serializers.IntegerField()
    credits_remaining = CreditsField()
    last_activity = serializers.DateTimeField(allow_null=True)


class TopTenantsAnswer(PeriodAnswer):
    results = TopTenantAnswer(many=True)


class TraceAnswer(serializers.Serializer[Any]):
    """A run. ``trace_id`` is its id here, ``langfuse_trace_id`` as it was traced."""

    trace_id = serializers.UUIDField(source="pk")
    langfuse_trace_id = serializers.CharField()
    name = serializers.CharField()
    status = serializers.SerializerMethodField()
    start_time = serializers.DateTimeField()
    latency_ms = serializers.IntegerField(allow_null=True)
    tenant_id = serializers.SerializerMethodField()
    user_id = serializers.SerializerMethodField()
    username = serializers.SerializerMethodField()
    project_id = serializers.CharField()
    flow_id = serializers.CharField()
    environment = serializers.CharField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    cost_usd = UsdField(allow_null=True)
    billed_cost_usd = UsdField(allow_null=True)
    credits = CreditsField(allow_null=True)
    unpriced_observations = serializers.IntegerField()
    partly_priced_observations = serializers.IntegerField()
    unmetered_observations = serializers.IntegerField()

    def get_status(self, trace: Trace) -> str:
        return "failed" if trace.is_failed else "success"

    def get_tenant_id(self, trace: Trace) -> UUID | None:
        return self._owner(trace)[0].key

    def get_user_id(self, trace: Trace) -> UUID | None:
        return self._owner(trace)[1].key

    def get_username(self, trace: Trace) -> str | None:
        return self._owner(trace)[1].label or None

    def _owner(self, trace: Trace) -> tuple[Name, Name]:
        return owner_of(trace)


class TracesAnswer(PeriodAnswer):
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = TraceAnswer(many=True)


class StepAnswer(Answer):
    """A step of the run. Its tokens are 0 and its cost is null where it used nothing, and where
    what it used is counted in the step ``counted_in``, or in another run.
    """

    shows = RunStep
    leaves_out = ["deleted_since"]


class TraceDetailAnswer(TraceAnswer):
    langfuse_url = serializers.URLField()
    observations = StepAnswer(many=True)


class SyncConnectionAnswer(Answer):
    shows = ConnectionStatus


class SyncStatusAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    lagging_connections = LaggingAnswer(many=True)
    connections = SyncConnectionAnswer(many=True)


class AnomalyAnswer(Answer):
    """A day or an hour that stands out: ``value`` was used, ``usual`` is usual, and ``score`` says
    how far apart they are.
    """

    shows = Anomaly
    key = serializers.CharField(allow_null=True)
    value = serializers.CharField()
    usual = serializers.CharField()


class AnomaliesAnswer(PeriodAnswer):
    granularity = serializers.CharField()
    group_by = serializers.CharField()
    metric = serializers.CharField()
    results = AnomalyAnswer(many=True)


class ShareAnswer(NumbersAnswer):
    key = serializers.CharField(allow_null=True)
    # an answer's field, not the serializer's label
    label = serializers.CharField()  # type: ignore[assignment]
    share = serializers.FloatField(allow_null=True)


class BreakdownAnswer(PeriodAnswer):
    group_by = serializers.CharField()
    results = ShareAnswer(many=True)
