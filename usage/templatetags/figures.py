"""Numbers formatted for people. Unknown is a dash, never 0."""

from datetime import datetime
from decimal import Decimal
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from kluisz_analytics.figures import UNKNOWN, credits, exact, usd

register = template.Library()
for figure in (usd, credits, exact):
    register.filter(figure)

SCALES = ((10**9, "B"), (10**6, "M"), (10**3, "k"))


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
    return f"{100 * ratio:.1f}%" if ratio < 0.9995 or ratio == 1 else "> 99.9%"


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
def signed_usd(value: Decimal) -> str:
    """A difference in dollars, its sign first."""
    return f"{'−' if value < 0 else '+' if value else ''}{usd(abs(value))}"


@register.filter
def signed_credits(value: Decimal) -> str:
    """A difference in credits, its sign first."""
    return f"{'−' if value < 0 else '+' if value else ''}{credits(abs(value))}"


@register.simple_tag
def credits_change(before: Decimal, after: Decimal) -> SafeString | str:
    """How much more or less it would be, as a ratio."""
    return change(float(after / before) - 1, "than was charged") if before else UNKNOWN
