"""The period as query parameters, read alike by all endpoints and pages (docs/api.md, Periods)."""

from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ValidationError

from kluisz_analytics.periods import (
    MOST_DAYS,
    Period,
    PeriodError,
    requested_ends,
    requested_period,
)
from kluisz_analytics.zones import unknown_zone


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


class PeriodParameters(serializers.Serializer[Any]):
    """The period.

    A date means that whole day in ``tz``; a datetime is exclusive at the end; the default is the
    last 30 days, and of the lists of transactions and holds all time.
    """

    start_date = DateOrDateTimeField(required=False, help_text="First day, or first moment.")
    end_date = DateOrDateTimeField(
        required=False, help_text="Last day (included), or the moment before which it ends."
    )
    days = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=MOST_DAYS,
        help_text="Instead of both: so many days, of which today is the last.",
    )
    tz = serializers.CharField(
        required=False,
        validators=[validate_zone],
        help_text="IANA time zone; default the tenant's, else UTC.",
    )


def period_of(parameters: dict[str, Any], default_zone: ZoneInfo) -> Period:
    """The period that the checked parameters ask for. Raises ValidationError."""
    try:
        return requested_period(*_requested(parameters, default_zone))
    except PeriodError as error:
        raise as_validation_error(error) from error


def ends_of(
    parameters: dict[str, Any], default_zone: ZoneInfo
) -> tuple[datetime | None, datetime | None]:
    """The same where an end may be left open: None for one that was. Raises ValidationError."""
    try:
        return requested_ends(*_requested(parameters, default_zone))
    except PeriodError as error:
        raise as_validation_error(error) from error


def _requested(
    parameters: dict[str, Any], default_zone: ZoneInfo
) -> tuple[date | None, date | None, ZoneInfo, datetime, int | None]:
    zone = ZoneInfo(parameters["tz"]) if "tz" in parameters else default_zone
    start, end = parameters.get("start_date"), parameters.get("end_date")
    return start, end, zone, timezone.now(), parameters.get("days")


def as_validation_error(error: PeriodError) -> ValidationError:
    return ValidationError({error.parameter: [str(error)]})
