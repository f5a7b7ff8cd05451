"""Query parameters of the analytics API: read, checked, and turned into periods and filters
(api.md, Conventions).
"""

from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from kluisz_analytics.tenants.models import User
from kluisz_analytics.zones import unknown_zone
from usage.access import check_filters
from usage.analytics.calendar import Period, PeriodError, asked_period
from usage.analytics.question import Filters, Status
from usage.identifiers import canonical_id
from usage.measures import DIMENSIONS, Dimension, Metric
from usage.periods import Granularity

LARGEST_LIMIT = 1000
DEFAULT_LIMIT = 10


@extend_schema_field(
    {"oneOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}
)
class DateOrDateTimeField(serializers.Field):
    """An ISO date or datetime."""

    default_error_messages = {
        "invalid": (
            "“{value}” is not an ISO date or datetime; write for example 2026-11-30 or"
            " 2026-11-30T12:00:00Z."
        )
    }

    def to_internal_value(self, data: Any) -> date | datetime:
        text = str(data)
        try:
            # A "+" of an offset comes as a space when the caller did not escape it.
            parsed = parse_date(text) or parse_datetime(
                text.replace(" ", "+") if "T" in text else text
            )
        except ValueError:
            parsed = None
        if parsed is None:
            self.fail("invalid", value=text)
        return parsed

    def to_representation(self, value: Any) -> str:
        return str(value.isoformat())


def validate_zone(name: str) -> None:
    if problem := unknown_zone(name):
        raise serializers.ValidationError(problem)


class TextField(serializers.CharField):
    """Text without NUL, at most 200 characters."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=200, **kwargs)


class PeriodParameters(serializers.Serializer[Any]):
    """The period.

    A date means that whole day in ``tz``; a datetime is exclusive at the end; the default is the
    last 30 days.
    """

    start_date = DateOrDateTimeField(required=False, help_text="First day, or first moment.")
    end_date = DateOrDateTimeField(
        required=False, help_text="Last day (included), or the moment before which it ends."
    )
    tz = serializers.CharField(
        required=False,
        validators=[validate_zone],
        help_text="IANA time zone; default the tenant's, else UTC.",
    )


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


def read_parameters(
    request: Request, serializer_class: type[serializers.Serializer[Any]]
) -> dict[str, Any]:
    """The checked parameters. Raises ValidationError naming the parameter and what it takes."""
    serializer = serializer_class(data=request.query_params)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


def period_of(parameters: dict[str, Any], default_zone: ZoneInfo) -> Period:
    """The period that the parameters ask for. Raises ValidationError."""
    zone = ZoneInfo(parameters["tz"]) if "tz" in parameters else default_zone
    try:
        return asked_period(
            parameters.get("start_date"), parameters.get("end_date"), zone, timezone.now()
        )
    except PeriodError as error:
        raise as_validation_error(error) from error


def as_validation_error(error: PeriodError) -> ValidationError:
    return ValidationError({error.parameter: [str(error)]})


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
