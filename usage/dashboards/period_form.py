"""The period picker of the pages."""

from dataclasses import replace
from datetime import timedelta
from typing import Any, Self
from zoneinfo import ZoneInfo

from django import forms
from django.http import HttpRequest
from django.utils import timezone

from usage.analytics.calendar import Period, PeriodError, asked_period

PRESETS = {"1": "Today", "7": "7 days", "30": "30 days", "90": "90 days"}
DEFAULT_PRESET = "30"


class PeriodForm(forms.Form):
    """A number of days up to today, or two dates (both included), in the page's zone."""

    days = forms.ChoiceField(choices=list(PRESETS.items()), required=False)
    start_date = forms.DateField(
        required=False, widget=forms.DateInput(attrs={"type": "date", "aria-label": "First day"})
    )
    end_date = forms.DateField(
        required=False, widget=forms.DateInput(attrs={"type": "date", "aria-label": "Last day"})
    )

    def __init__(self, *args: Any, zone: ZoneInfo, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.zone = zone
        self.period: Period

    @classmethod
    def of(cls, request: HttpRequest, zone: ZoneInfo) -> Self:
        return cls(request.GET, zone=zone)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        start, end = cleaned.get("start_date"), cleaned.get("end_date")
        now = timezone.now()
        is_last_days = not start and not end
        if is_last_days:
            days = int(cleaned.get("days") or DEFAULT_PRESET)
            start = now.astimezone(self.zone).date() - timedelta(days=days - 1)
        try:
            asked = asked_period(start, end, self.zone, now)
        except PeriodError as error:
            raise forms.ValidationError(str(error)) from error
        self.period = replace(asked, is_last_days=asked.is_last_days or is_last_days)
        return cleaned

    @property
    def presets(self) -> list[tuple[str, str, bool]]:
        """Value, label and whether it is the chosen one."""
        has_dates = bool(self.data.get("start_date") or self.data.get("end_date"))
        chosen = "" if has_dates else self.data.get("days") or DEFAULT_PRESET
        return [(value, label, value == chosen) for value, label in PRESETS.items()]
