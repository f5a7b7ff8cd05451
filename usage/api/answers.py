"""The forms of the answers, as the OpenAPI schema describes them."""

from typing import Any

from rest_framework import serializers

from credits.api.views import CreditsField
from kluisz_analytics.fields import USD_PLACES


class UsdField(serializers.DecimalField):
    """USD as a decimal string with twelve places."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_digits=None, decimal_places=USD_PLACES, **kwargs)


class NumbersAnswer(serializers.Serializer[Any]):
    total_traces = serializers.IntegerField()
    successful_traces = serializers.IntegerField()
    failed_traces = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    total_tokens = serializers.IntegerField()
    cached_tokens = serializers.IntegerField()
    cache_write_tokens = serializers.IntegerField()
    reasoning_tokens = serializers.IntegerField()
    audio_tokens = serializers.IntegerField()
    total_cost_usd = UsdField(allow_null=True)
    billed_cost_usd = UsdField(allow_null=True)
    total_credits_used = serializers.IntegerField(allow_null=True)
    credits_exact = CreditsField(allow_null=True)
    active_users_count = serializers.IntegerField()
    average_latency_ms = serializers.FloatField(allow_null=True)
    p95_latency_ms = serializers.IntegerField(allow_null=True)
    unpriced_observations = serializers.IntegerField()


class ChangeAnswer(serializers.Serializer[Any]):
    """How each number changed since the period before, as a ratio; null where that is 0 or unknown."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {name: serializers.FloatField(allow_null=True) for name in NumbersAnswer().get_fields()}


class PeriodAnswer(serializers.Serializer[Any]):
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()
    complete_through = serializers.DateTimeField(allow_null=True)


class SummaryAnswer(PeriodAnswer, NumbersAnswer):
    previous_period = NumbersAnswer()
    change = ChangeAnswer()


class PlatformAnswer(SummaryAnswer):
    total_tenants = serializers.IntegerField()
    active_tenants = serializers.IntegerField()
    total_users = serializers.IntegerField()
    unattributed = NumbersAnswer()


class TenantAnswer(SummaryAnswer):
    tenant_id = serializers.UUIDField()
    name = serializers.CharField()


class ProjectionAnswer(serializers.Serializer[Any]):
    month_end = serializers.DateTimeField()
    credits_exact = CreditsField()
    total_cost_usd = UsdField()


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
    user_id = serializers.UUIDField()
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


class ShareAnswer(NumbersAnswer):
    key = serializers.CharField(allow_null=True)
    label = serializers.CharField()  # type: ignore[assignment]  # an answer's field, not the serializer's label
    share = serializers.FloatField(allow_null=True)


class BreakdownAnswer(PeriodAnswer):
    group_by = serializers.CharField()
    results = ShareAnswer(many=True)
