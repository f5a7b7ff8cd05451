"""What the lists of a page are ordered by, as its address says: ``users_order=-total_cost_usd``,
with a minus for the greatest first.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from usage.analytics.queries import Order
from usage.analytics.question import LAST_ACTIVITY, NAME

Orders = Mapping[str, Order]
"""By the name of the list."""
LIST_COLUMNS = {
    NAME: "",
    "credits_exact": "Credits",
    "total_cost_usd": "Cost",
    "total_traces": "Runs",
    LAST_ACTIVITY: "Last run",
}
"""What a list can be ordered by, and the heads of its columns; the first is headed by what it is a
list of.
"""
MODEL_COLUMNS = {
    NAME: "",
    "total_cost_usd": "Cost",
    "total_tokens": "Tokens",
    "total_traces": "Runs",
    LAST_ACTIVITY: "Last run",
}
RUN_COLUMNS = {
    NAME: "",
    "tenant__name": "Tenant",
    "user__username": "User",
    "is_failed": "Outcome",
    "credits": "Credits",
    "cost_usd": "Cost",
    "total_tokens": "Tokens",
    "latency_ms": "Took",
    "start_time": "Started",
}
TEXTS = {NAME, "tenant__name", "user__username", "is_failed"}
DEFAULTS = {
    "tenants": "-credits_exact",
    "users": "-credits_exact",
    "flows": "-credits_exact",
    "models": "-total_cost_usd",
    "runs": "-start_time",
}
OTHER_COLUMNS = {"models": MODEL_COLUMNS, "runs": RUN_COLUMNS}


@dataclass(frozen=True, slots=True)
class Column:
    """A head of a list: what it is called, the address' parameter that orders by it, its value that
    does (the other way round where it is ordered by it already), and how it is ordered now
    (``ascending``, ``descending`` or "").
    """

    label: str
    parameter: str
    value: str
    state: str
    is_number: bool


def orders_in(query: Mapping[str, str]) -> Orders:
    """The order of each list; what is none of its columns is its default."""
    return {name: _order(name, query.get(f"{name}_order", "")) for name in DEFAULTS}


def _order(name: str, asked: str) -> Order:
    columns = OTHER_COLUMNS.get(name, LIST_COLUMNS)
    value = asked if asked.removeprefix("-") in columns else DEFAULTS[name]
    return Order(value.removeprefix("-"), not value.startswith("-"))


def columns_of(name: str, columns: Mapping[str, str], orders: Orders) -> list[Column]:
    """The heads of the list's columns. Numbers begin with the greatest, names with A."""
    order = orders[name]
    return [_column(name, key, label, order) for key, label in columns.items()]


def _column(name: str, key: str, label: str, order: Order) -> Column:
    is_ordered = key == order.by
    is_text = key in TEXTS
    would_ascend = not order.ascending if is_ordered else is_text
    state = ("ascending" if order.ascending else "descending") if is_ordered else ""
    value = key if would_ascend else f"-{key}"
    return Column(label or name.capitalize(), f"{name}_order", value, state, not is_text)
