"""Query parameters of the analytics API: read, checked, and turned into periods and filters
(api.md, Conventions).
"""

from typing import Any

from rest_framework import serializers
from rest_framework.request import Request

from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.period_parameters import PeriodParameters
from kluisz_analytics.tenants.models import User
from usage.access import check_filters
from usage.analytics.queries import Metric
from usage.analytics.question import Dimension, Filters, Status
from usage.models import Granularity

LARGEST_LIMIT = 1000
DEFAULT_LIMIT = 10


class TextField(serializers.CharField):
    """Text without NUL, at most 200 characters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=200, **kwargs)


class FilterParameters(PeriodParameters):
    """The filters. Repeat one for “any of”."""

    tenant_id = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    user_id = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    project_id = serializers.ListField(child=TextField(), required=False, max_length=100)
    flow_id = serializers.ListField(child=TextField(), required=False, max_length=100)
    model = serializers.ListField(child=TextField(), required=False, max_length=100)
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=[one.value for one in Status]),
        required=False,
        max_length=2,
    )


class SeriesParameters(FilterParameters):
    granularity = serializers.ChoiceField(choices=Granularity.choices, default=Granularity.DAY)


class TopParameters(FilterParameters):
    metric = serializers.ChoiceField(
        choices=[one.value for one in Metric], default=Metric.CREDITS.value
    )
    limit = serializers.IntegerField(min_value=1, max_value=LARGEST_LIMIT, default=DEFAULT_LIMIT)


class BreakdownParameters(FilterParameters):
    group_by = serializers.ChoiceField(
        choices=[one.value for one in Dimension], default=Dimension.MODEL.value
    )
    limit = serializers.IntegerField(min_value=1, max_value=LARGEST_LIMIT, default=LARGEST_LIMIT)


class AnomalyParameters(FilterParameters):
    granularity = serializers.ChoiceField(
        choices=[Granularity.HOUR.value, Granularity.DAY.value], default=Granularity.DAY.value
    )
    group_by = serializers.ChoiceField(
        choices=[
            one.value for one in (Dimension.TENANT, Dimension.USER, Dimension.FLOW, Dimension.MODEL)
        ],
        default=Dimension.FLOW.value,
    )
    metric = serializers.ChoiceField(
        choices=[one.value for one in Metric], default=Metric.COST.value
    )
    limit = serializers.IntegerField(min_value=1, max_value=LARGEST_LIMIT, default=DEFAULT_LIMIT)


def read_parameters(
    request: Request, serializer_class: type[serializers.Serializer[Any]]
) -> dict[str, Any]:
    """The checked parameters. Raises ValidationError naming the parameter and what it takes."""
    serializer = serializer_class(data=request.query_params)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def filters_of(parameters: dict[str, Any], viewer: User) -> Filters:
    """The filters that the parameters ask for, after a check that the viewer may name them."""
    filters = Filters(
        tenant_ids=tuple(parameters.get("tenant_id", ())),
        user_ids=tuple(parameters.get("user_id", ())),
        project_ids=tuple(canonical_id(one) for one in parameters.get("project_id", ())),
        flow_ids=tuple(canonical_id(one) for one in parameters.get("flow_id", ())),
        models=tuple(parameters.get("model", ())),
        statuses=tuple(Status(one) for one in parameters.get("status", ())),
    )
    check_filters(viewer, filters.tenant_ids, filters.user_ids)
    return filters
