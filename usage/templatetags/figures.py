"""Numbers and moments formatted for people. Unknown is a dash, never 0.

A column of a table has one number of decimals: ``{% decimals rows "numbers.total_cost_usd" "usd" as
places %}``, then ``{{ row.numbers.total_cost_usd|usd:places }}``.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template
from django.http import QueryDict
from django.utils import timezone
from django.utils.dateformat import format as formatted
from django.utils.html import format_html
from django.utils.safestring import SafeString

from kluisz_analytics.figures import (
    UNKNOWN,
    credit_places,
    credits,
    exact,
    exact_places,
    usd,
    usd_places,
)
from usage.dashboards.ordering import Column

register = template.Library()
for figure in (usd, credits, exact):
    register.filter(figure)

PLACES: Mapping[str, Callable[[Iterable[Decimal | None]], int]] = {
    "usd": usd_places,
    "credits": credit_places,
    "exact": exact_places,
}
SCALES = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


@register.simple_tag
def decimals(rows: Iterable[Any], path: str, figure: str) -> int:
    """How many decimals the column has that shows what is at the path of each row, as a figure."""
    return PLACES[figure](map(template.Variable(path).resolve, rows))


@register.filter
def when(moment: datetime | None) -> str:
    """A moment in the page's zone: 24 Nov, 14:20; with its year where that isn't this one."""
    if moment is None:
        return UNKNOWN
    local, now = timezone.localtime(moment), timezone.localtime(timezone.now())
    return formatted(local, "j M, H:i" if local.year == now.year else "j M Y, H:i")


@register.filter(name="with")
def with_order(query: QueryDict, column: Column) -> str:
    """The address' query, ordered as the head of the column orders."""
    changed = query.copy()
    changed.pop("page", None)
    changed[column.parameter] = column.value
    return changed.urlencode()


@register.filter
def count(value: int | None) -> str:
    """1234567 → 1,234,567."""
    return UNKNOWN if value is None else f"{value:,}"


@register.filter
def compact(value: int | None) -> str:
    """1234567 → 1.23M; below ten thousand as it is."""
    if value is None:
        return UNKNOWN
    for scale, letter in SCALES:
        if abs(value) >= scale and abs(value) >= 10_000:
            return (
                f"{float(value) / scale:,.3g}{letter}"
                if abs(value) < 1000 * scale
                else f"{float(value) / scale:,.0f}{letter}"
            )
    return f"{value:,}"


@register.filter
def duration(milliseconds: float | None) -> str:
    """840 → 840 ms; 2163 → 2.2 s; 95000 → 1 min 35 s."""
    if milliseconds is None:
        return UNKNOWN
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


@register.filter
def ago(moment: datetime | None) -> str:
    """How long ago, in the largest unit: 35 min, 2 h, 3 d."""
    if moment is None:
        return UNKNOWN
    minutes = max(0, int((timezone.now() - moment).total_seconds() // 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"


@register.filter
def percent(ratio: float | None) -> str:
    """0.1234 → 12.3%."""
    if ratio is None:
        return UNKNOWN
    if 0 < ratio < 0.0005:
        return "< 0.1%"
    return f"{100 * ratio:.1f}%" if ratio < 0.9995 or ratio == 1 else "> 99.9%"


@register.filter
def signed_percent(ratio: float | None) -> str:
    """0.1234 → +12.3%."""
    if ratio is None:
        return UNKNOWN
    sign = "−" if ratio < 0 else "+" if ratio else ""
    return f"{sign}{abs(100 * ratio):,.1f}%"


@register.filter
def part(ratio: float | None) -> str:
    """Of a change that may also go the other way: 0.348 → 34.8%, −0.5 → −50.0%."""
    return signed_percent(ratio).lstrip("+")


@register.simple_tag
def change(ratio: float | None, than: str, more_is: str = "neutral") -> SafeString | str:
    """How a number changed, as a badge; ``than`` says what it is compared with, ``more_is`` whether
    more of it is good, bad or neutral.
    """
    if ratio is None:
        return ""
    direction = "up" if ratio > 0 else "down" if ratio < 0 else "same"
    mood = "neutral"
    if more_is != "neutral" and ratio:
        mood = "good" if (ratio > 0) == (more_is == "good") else "bad"
    arrow = {"up": "▲", "down": "▼", "same": "■"}[direction]
    shown = f"{abs(ratio):.0%}" if abs(ratio) < 10 else f"{abs(ratio):,.0f}×"
    word = {"up": "more", "down": "less", "same": "no more"}[direction]
    return format_html(
        '<span class="kz-change kz-{}" title="{} {} {}">{} {}</span>',
        mood,
        shown,
        word,
        than,
        arrow,
        shown,
    )


@register.simple_tag
def share_change(points: float | None) -> SafeString | str:
    """How a share changed, in percentage points: 0.032 → ▲ 3.2."""
    if points is None or abs(points) < 0.0005:
        return ""
    arrow = "▲" if points > 0 else "▼"
    return format_html('<small class="kz-neutral">{} {}</small>', arrow, f"{abs(100 * points):.1f}")


@register.filter
def width(part: Any) -> str:
    """A ratio as a CSS width."""
    return f"{100 * min(max(float(part or 0), 0), 1):.2f}%"


@register.filter
def kind(value: str) -> str:
    """cached_input → cached input."""
    return value.replace("_", " ")


@register.filter
def signed_usd(value: Decimal, places: int | None = None) -> str:
    """A difference in dollars, its sign first."""
    return f"{'−' if value < 0 else '+' if value else ''}{usd(abs(value), places)}"


@register.filter
def signed_credits(value: Decimal, places: int | None = None) -> str:
    """A difference in credits, its sign first."""
    return f"{'−' if value < 0 else '+' if value else ''}{credits(abs(value), places)}"


@register.simple_tag
def credits_change(before: Decimal, after: Decimal) -> SafeString | str:
    """How much more or less it would be, as a ratio."""
    return change(float(after / before) - 1, "than was charged") if before else UNKNOWN
