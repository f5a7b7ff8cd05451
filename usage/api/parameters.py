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
from usage.analytics.question import Filters, Status
from usage.measures import DIMENSIONS, Dimension, Metric
from usage.periods import Granularity

LARGEST_LIMIT = 1000
DEFAULT_LIMIT = 10


class TextField(serializers.CharField):
    """Text without NUL, at most 200 characters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=200, **kwargs)


class FilterParameters(PeriodParameters):
    """The filters. Repeat one for “any of”."""

    status = serializers.ListField(
        child=serializers.ChoiceField(choices=[one.value for one in Status]),
        required=False,
        max_length=2,
    )

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {**super().get_fields(), **_dimension_filters()}


def _dimension_filters() -> dict[str, serializers.Field[Any, Any, Any, Any]]:
    """A filter for each dimension."""
    return {
        one.parameter: serializers.ListField(
            child=serializers.UUIDField() if one.is_owner else TextField(),
            required=False,
            max_length=100,
        )
        for one in DIMENSIONS.values()
    }


class SeriesParameters(FilterParameters):
    granularity = serializers.ChoiceField(
        choices=[one.value for one in Granularity], default=Granularity.DAY.value
    )


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


class UnmeteredParameters(serializers.Serializer[Any]):
    estimate = serializers.BooleanField(
        default=False,
        help_text="Whether to say what the calls may have cost, by their flow's history.",
    )


def read_parameters(
    request: Request, serializer_class: type[serializers.Serializer[Any]]
) -> dict[str, Any]:
    """The checked parameters. Raises ValidationError naming the parameter and what it takes."""
    serializer = serializer_class(data=request.query_params)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def filters_of(parameters: dict[str, Any], viewer: User) -> Filters:
    """The filters that the parameters ask for, after a check that the viewer may name them."""
    values: dict[Dimension, list[Any]] = {
        dimension: [
            canonical_id(one) if declared.is_id and declared.key is str else one
            for one in parameters.get(declared.parameter, ())
        ]
        for dimension, declared in DIMENSIONS.items()
    }
    check_filters(viewer, values[Dimension.TENANT], values[Dimension.USER])
    return Filters(values, [Status(one) for one in parameters.get("status", ())])
