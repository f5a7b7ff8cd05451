"""The forms of the answers, as the OpenAPI schema describes them."""

from types import NoneType
from typing import Any, get_args, get_type_hints
from uuid import UUID

from rest_framework import serializers

from credits.api.answers import CreditsField
from kluisz_analytics.scales import USD_PLACES
from pricing.engine import CostSource
from pricing.units import UnitKind
from usage.analytics.names import Name, owner_of
from usage.measures import DECLARED_NUMBERS, Numbers, Unit
from usage.models import Trace


class UsdField(serializers.DecimalField):
    """USD as a decimal string with twelve places."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=USD_PLACES, **kwargs)


class ExactField(serializers.DecimalField):
    """A product that is not rounded, with all the decimals that say something.

    ``max_digits`` is what DRF counts with: of 24 decimals, Python's own 28 digits leave four before
    the point, and a run of 10,000 credits would be an error.
    """

    def __init__(self, decimal_places: int, **kwargs: Any) -> None:
        super().__init__(
            max_digits=60, decimal_places=decimal_places, normalize_output=True, **kwargs
        )


class NumbersAnswer(serializers.Serializer[Any]):
    """The numbers of usage (usage.measures), each a field."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {**super().get_fields(), **_number_fields()}


def _number_fields() -> dict[str, serializers.Field[Any, Any, Any, Any]]:
    return {
        name: _number_field(declared.unit, get_type_hints(Numbers)[name])
        for name, declared in DECLARED_NUMBERS.items()
    }


def _number_field(unit: Unit, kind: Any) -> serializers.Field[Any, Any, Any, Any]:
    may_be_unknown = NoneType in get_args(kind)
    if unit in DECIMAL_FIELDS:
        return DECIMAL_FIELDS[unit](allow_null=may_be_unknown)
    if float in get_args(kind):
        return serializers.FloatField(allow_null=may_be_unknown)
    return serializers.IntegerField(allow_null=may_be_unknown)


DECIMAL_FIELDS = {Unit.USD: UsdField, Unit.CREDITS: CreditsField}


class ChangeAnswer(serializers.Serializer[Any]):
    """How each number changed since the same stretch of the time before, as a ratio; null where
    that is 0 or unknown.
    """

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {name: serializers.FloatField(allow_null=True) for name in DECLARED_NUMBERS}


class PeriodAnswer(serializers.Serializer[Any]):
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    complete_through = serializers.DateTimeField(allow_null=True)


class PreviousPeriodAnswer(NumbersAnswer):
    """The stretch that the period is compared with: the time before it, as far as the period itself
    is known.
    """

    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()


class SummaryAnswer(PeriodAnswer, NumbersAnswer):
    """``change`` compares the period up to ``compared_until`` with ``previous_period``."""

    compared_until = serializers.DateTimeField()
    previous_period = PreviousPeriodAnswer()
    change = ChangeAnswer()


class LaggingAnswer(serializers.Serializer[Any]):
    """An enabled connection that is over an hour behind; null where its first reading isn't done,
    so that ``complete_through`` does not speak of it.
    """

    name = serializers.CharField()
    complete_through = serializers.DateTimeField(allow_null=True)


class PlatformAnswer(SummaryAnswer):
    total_tenants = serializers.IntegerField()
    active_tenants = serializers.IntegerField()
    total_users = serializers.IntegerField()
    unattributed = NumbersAnswer()
    lagging_connections = LaggingAnswer(many=True)


class TenantAnswer(SummaryAnswer):
    tenant_id = serializers.UUIDField()
    name = serializers.CharField()


class ProjectionAnswer(serializers.Serializer[Any]):
    month_end = serializers.DateTimeField()
    credits_exact = CreditsField()
    credits_low = CreditsField()
    credits_high = CreditsField()
    total_cost_usd = UsdField()
    exhaustion_date = serializers.DateField(allow_null=True)


class UserAnswer(SummaryAnswer):
    user_id = serializers.UUIDField()
    username = serializers.CharField()
    projection = ProjectionAnswer()


class SeriesPointAnswer(NumbersAnswer):
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()


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


class PriceSourceAnswer(serializers.Serializer[Any]):
    """Where a cost came from, and since when that held and was known."""

    # an answer's field
    source = serializers.ChoiceField(choices=[one.value for one in CostSource])  # type: ignore[assignment]
    label = serializers.CharField()  # type: ignore[assignment]
    price_id = serializers.IntegerField(allow_null=True)
    model = serializers.CharField()
    valid_from = serializers.DateTimeField(allow_null=True)
    valid_until = serializers.DateTimeField(allow_null=True)
    recorded_at = serializers.DateTimeField(allow_null=True)
    recorded_by = serializers.CharField()


class PriceLineAnswer(serializers.Serializer[Any]):
    """Units of one kind times their price; the amount is not rounded."""

    kind = serializers.ChoiceField(choices=[one.value for one in UnitKind])
    units = serializers.IntegerField()
    usd_per_million = UsdField()
    amount_usd = ExactField(2 * USD_PLACES)


class ObservationExplainedAnswer(serializers.Serializer[Any]):
    langfuse_observation_id = serializers.CharField()
    name = serializers.CharField()
    type = serializers.CharField()
    model = serializers.CharField()
    start_time = serializers.DateTimeField()
    usage_details = serializers.DictField(child=serializers.IntegerField())
    price = PriceSourceAnswer()
    lines = PriceLineAnswer(many=True)
    cost_usd = UsdField(allow_null=True)
    credits = CreditsField(allow_null=True)


class RateAnswer(serializers.Serializer[Any]):
    tier = serializers.CharField()
    valid_from = serializers.DateTimeField()
    recorded_at = serializers.DateTimeField()
    recorded_by = serializers.CharField()
    credits_per_usd = CreditsField()
    pricing_multiplier = CreditsField()
    minimum_credits = CreditsField(allow_null=True)
    maximum_credits = CreditsField(allow_null=True)


class LedgerEntryAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    type = serializers.CharField()
    amount = CreditsField()
    created_at = serializers.DateTimeField()
    reason = serializers.CharField()


class RepricingAnswer(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    as_of = serializers.DateTimeField()
    reason = serializers.CharField()


class ExplanationAnswer(serializers.Serializer[Any]):
    """Why a trace was charged what it was: units × prices = cost; × multiplier = billed; × credits
    a dollar, then limits, rounded once.
    """

    trace_id = serializers.UUIDField(source="trace.pk")
    langfuse_trace_id = serializers.CharField(source="trace.langfuse_trace_id")
    start_time = serializers.DateTimeField(source="trace.start_time")
    priced_as_of = serializers.DateTimeField(source="trace.priced_as_of")
    repricing = RepricingAnswer(allow_null=True)
    observations = ObservationExplainedAnswer(many=True)
    unbilled_observations = serializers.IntegerField()
    cost_usd = UsdField(source="trace.cost_usd", allow_null=True)
    rate = RateAnswer(allow_null=True)
    billed_cost_exact = ExactField(18, allow_null=True)
    billed_cost_usd = UsdField(source="trace.billed_cost_usd", allow_null=True)
    credits_before_limits = ExactField(24, allow_null=True)
    limit = serializers.ChoiceField(choices=["", "minimum", "maximum"])
    credits = CreditsField(source="trace.credits", allow_null=True)
    why_no_credits = serializers.CharField()
    ledger = LedgerEntryAnswer(many=True)
    posted_for_hour = CreditsField(allow_null=True)


class UnpricedModelAnswer(serializers.Serializer[Any]):
    model = serializers.CharField()
    unpriced_observations = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    tenants = serializers.IntegerField()
    first_seen = serializers.DateTimeField()
    last_seen = serializers.DateTimeField()


class UnpricedAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    results = UnpricedModelAnswer(many=True)


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
    """A run. ``trace_id`` is its id here, ``langfuse_trace_id`` as it was traced.

    A user or a tenant that is none of the caller's business has no id.
    """

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

    def get_status(self, trace: Trace) -> str:
        return "failed" if trace.is_failed else "success"

    def get_tenant_id(self, trace: Trace) -> UUID | None:
        return self._owner(trace)[0].key

    def get_user_id(self, trace: Trace) -> UUID | None:
        return self._owner(trace)[1].key

    def get_username(self, trace: Trace) -> str | None:
        return self._owner(trace)[1].label or None

    def _owner(self, trace: Trace) -> tuple[Name, Name]:
        """As far as they are the caller's business: of its ``scope``, in the context."""
        return owner_of(trace, self.context["scope"])


class TracesAnswer(PeriodAnswer):
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = TraceAnswer(many=True)


class StepAnswer(serializers.Serializer[Any]):
    langfuse_observation_id = serializers.CharField()
    name = serializers.CharField()
    type = serializers.CharField()
    level = serializers.CharField()
    is_root = serializers.BooleanField()
    start_time = serializers.DateTimeField()
    end_time = serializers.DateTimeField(allow_null=True)
    model = serializers.CharField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    cost_usd = UsdField(allow_null=True)
    cost_source = serializers.ChoiceField(choices=[one.value for one in CostSource])
    credits = CreditsField(allow_null=True)


class TraceDetailAnswer(TraceAnswer):
    langfuse_url = serializers.URLField()
    observations = StepAnswer(many=True)


class SyncConnectionAnswer(serializers.Serializer[Any]):
    name = serializers.CharField()
    host = serializers.CharField()
    is_enabled = serializers.BooleanField()
    complete_through = serializers.DateTimeField(allow_null=True)
    lag_seconds = serializers.IntegerField(allow_null=True)
    windows_done = serializers.IntegerField()
    windows_pending = serializers.IntegerField()
    windows_leased = serializers.IntegerField()
    last_run_at = serializers.DateTimeField(allow_null=True)
    last_run_outcome = serializers.CharField(allow_null=True)
    last_error = serializers.CharField(allow_null=True)
    drifted_hours = serializers.IntegerField()
    repaired_hours = serializers.IntegerField()
    rejected_observations = serializers.IntegerField()


class SyncStatusAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    lagging_connections = LaggingAnswer(many=True)
    connections = SyncConnectionAnswer(many=True)


class AnomalyAnswer(serializers.Serializer[Any]):
    """A day or an hour that stands out: ``value`` was used, ``usual`` is usual, and ``score`` says
    how far apart they are.
    """

    key = serializers.CharField(allow_null=True)
    # an answer's field, not the serializer's label
    label = serializers.CharField()  # type: ignore[assignment]
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    value = serializers.CharField()
    usual = serializers.CharField()
    score = serializers.FloatField()


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
