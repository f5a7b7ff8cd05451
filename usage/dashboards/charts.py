"""The charts, as Plotly figures in JSON; the browser draws them (static/kluisz/charts.js)."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import plotly.graph_objects as go

from kluisz_analytics.periods import Period
from usage.analytics.queries import Ranked
from usage.measures import Numbers

TEAL = "#0d9488"
PALETTE = [
    "#0d9488",
    "#6366f1",
    "#f59e0b",
    "#ec4899",
    "#0ea5e9",
    "#84cc16",
    "#8b5cf6",
    "#f97316",
    "#64748b",
]
INK = "#64748b"
GRID = "rgba(100, 116, 139, 0.18)"
FONT = "Inter, system-ui, sans-serif"
SLICES = 7

Series = Sequence[tuple[datetime, datetime, Numbers]]
MEASURES = (
    ("Credits", "credits_exact", "%{y:,.2f} credits", ""),
    ("Cost", "total_cost_usd", "$%{y:,.4f}", "$"),
    ("Runs", "total_traces", "%{y:,} runs", ""),
    ("Tokens", "total_tokens", "%{y:,} tokens", ""),
)
"""Name, number, what a bar says, and what stands before the axis' figures."""


def usage_over_time(series: Series, period: Period, now: datetime) -> dict[str, Any]:
    """Bars for each period, with buttons that choose the measure. Drawn in the period's zone."""
    figure = go.Figure()
    starts = [
        start.astimezone(period.zone).replace(tzinfo=None).isoformat() for start, _, _ in series
    ]
    for number, (name, field, hover, _) in enumerate(MEASURES):
        values = [_plain(getattr(numbers, field)) for _, _, numbers in series]
        figure.add_bar(
            x=starts,
            y=values,
            name=name,
            visible=number == 0,
            marker={"color": TEAL, "cornerradius": 3},
            hovertemplate=f"{hover}<extra></extra>",
        )
    buttons = [
        {
            "label": name,
            "method": "update",
            "args": [
                {"visible": [place == number for place in range(len(MEASURES))]},
                {"yaxis.tickprefix": prefix},
            ],
        }
        for number, (name, _, _, prefix) in enumerate(MEASURES)
    ]
    menu = {
        "type": "buttons",
        "direction": "right",
        "buttons": buttons,
        "x": 1,
        "xanchor": "right",
        "y": 1.22,
        "yanchor": "top",
        "showactive": True,
        "bgcolor": "rgba(0,0,0,0)",
        "bordercolor": GRID,
        "font": {"size": 11},
        "pad": {"t": 0, "b": 0},
    }
    figure.update_layout(
        **_layout(310), updatemenus=[menu], showlegend=False, bargap=0.25, hovermode="x unified"
    )
    figure.update_xaxes(
        showgrid=False,
        tickformat=_tick_format(series, period, now),
        hoverformat="%a %-d %b %Y %H:%M" if _is_hourly(series) else "%a %-d %b %Y",
    )
    figure.update_yaxes(gridcolor=GRID, zeroline=False, rangemode="tozero", separatethousands=True)
    return _as_dict(figure)


def cost_by_model(rows: Sequence[Ranked]) -> dict[str, Any]:
    """A ring of the cost by model; the small ones together as others."""
    priced = [row for row in rows if row.numbers.total_cost_usd]
    shown, others = priced[:SLICES], priced[SLICES:]
    labels = [row.label for row in shown]
    values = [_plain(row.numbers.total_cost_usd) for row in shown]
    if others:
        labels.append(f"{len(others)} others")
        values.append(sum(_plain(row.numbers.total_cost_usd) or 0 for row in others))
    figure = go.Figure(
        go.Pie(
            labels=labels,
            values=values,
            hole=0.66,
            sort=False,
            direction="clockwise",
            marker={"colors": PALETTE},
            textinfo="none",
            hovertemplate="%{label}<br>$%{value:,.4f} (%{percent})<extra></extra>",
        )
    )
    legend = {"orientation": "h", "y": -0.04, "x": 0.5, "xanchor": "center"}
    figure.update_layout(
        **_layout(310) | {"margin": {"l": 8, "r": 8, "t": 6, "b": 8}}, legend=legend
    )
    return _as_dict(figure)


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 48, "r": 16, "t": 44, "b": 36},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": INK},
        "colorway": PALETTE,
    }


def _as_dict(figure: go.Figure) -> dict[str, Any]:
    # Without the default template, which is larger than any of these charts.
    figure.update_layout(template="none")
    return figure.to_plotly_json()


def _plain(value: Decimal | int | None) -> float | int | None:
    """A number for drawing; money leaves Decimal only here, where it becomes pixels."""
    return float(value) if isinstance(value, Decimal) else value


def _tick_format(series: Series, period: Period, now: datetime) -> str:
    """What the time axis says: the hour where bars are hours, the year where it isn't this one, or
    isn't one. What stands in the second line is drawn where it changes.
    """
    first, last = (
        moment.astimezone(period.zone).year
        for moment in (period.start, period.end - timedelta(microseconds=1))
    )
    is_this_year = first == last == now.astimezone(period.zone).year
    if _is_hourly(series):
        return "%H:%M\n%-d %b" if is_this_year else "%H:%M\n%-d %b %Y"
    return "%-d %b" if is_this_year else "%-d %b\n%Y"


def _is_hourly(series: Series) -> bool:
    return bool(series) and (series[0][1] - series[0][0]).total_seconds() <= 3600
