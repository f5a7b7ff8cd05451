"""The period picker of the pages."""

from collections.abc import Mapping
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from kluisz_analytics.period_parameters import PeriodParameters, period_of
from kluisz_analytics.periods import DEFAULT_DAYS, Period

PRESETS = {1: "Today", 7: "7 days", 30: "30 days", 90: "90 days"}


@dataclass(frozen=True, slots=True)
class PeriodPicker:
    """What was picked: a number of days up to today (one of the presets, or another), or two dates,
    in the page's zone.
    """

    period: Period
    days: int | None

    @classmethod
    def of(cls, query: Mapping[str, str], zone: ZoneInfo) -> "PeriodPicker":
        """The picked period, by the grammar of the API. Raises its ValidationError."""
        # A form sends a date that was emptied as empty text.
        given = PeriodParameters(data={name: value for name, value in query.items() if value})
        given.is_valid(raise_exception=True)
        asked = dict(given.validated_data)
        has_dates = "start_date" in asked or "end_date" in asked
        days = asked.get("days", None if has_dates else DEFAULT_DAYS)
        return cls(period_of(asked, zone), days)

    @property
    def presets(self) -> list[tuple[int, str, bool]]:
        """Value, label and whether it is the chosen one."""
        return [(value, label, value == self.days) for value, label in PRESETS.items()]
