"""The numbers and the dimensions of usage, each declared once. Pure.

Whatever keeps, sums, filters, answers or shows usage follows from these declarations: the columns
of facts and rollups, the SQL, the filters and fields of the API, the columns of downloads, the
lists, the browser client's types. ``docs/design.md`` says what has to be done for a new one.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

from kluisz_analytics.scales import (
    CREDIT_PLACES,
    USD_PLACES,
    Credits,
    Usd,
    from_scaled,
    round_half_up,
)


class Unit(StrEnum):
    """What a number counts. Money and credits are stored as scaled integers."""

    COUNT = "count"
    TOKENS = "tokens"
    USD = "usd"
    CREDITS = "credits"
    MILLISECONDS = "ms"


PLACES = {Unit.USD: USD_PLACES, Unit.CREDITS: CREDIT_PLACES}
"""Decimal places of the units that have any."""


# --- Sums: what is kept, and adds up -------------------------------------------------------------


class Reading(NamedTuple):
    """How a sum is read off one row: of a trace, or of one of its billed steps.

    In SQL, and of a trace in Python alike, with ``{}`` for the column's value as it is stored, and
    in SQL ``{row}`` for the row.
    """

    column: str
    sql: str
    python: str = ""

    def in_sql(self, table: str) -> str:
        return self.sql.replace("{}", f"{table}.{self.column}").replace("{row}", table)


def amount(column: str) -> Reading:
    """What the column says; nothing where that is unknown."""
    return Reading(column, "COALESCE({}, 0)", "({} or 0)")


def known(column: str) -> Reading:
    """1 where the column is known."""
    return Reading(column, "CASE WHEN {} IS NULL THEN 0 ELSE 1 END", "int({} is not None)")


def true(column: str) -> Reading:
    """1 where the column is true."""
    return Reading(column, "CASE WHEN {} THEN 1 ELSE 0 END", "int({})")


def equal(column: str, text: str) -> Reading:
    """1 where the column is this text."""
    return Reading(column, f"CASE WHEN {{}} = '{text}' THEN 1 ELSE 0 END", f"int({{}} == {text!r})")


def none_of(column: str, texts: Collection[str]) -> Reading:
    """1 where the column is none of these texts."""
    listed = ", ".join(f"'{text}'" for text in sorted(texts))
    return Reading(
        column,
        f"CASE WHEN {{}} IN ({listed}) THEN 0 ELSE 1 END",
        f"int({{}} not in ({listed}))",
    )


def each(column: str) -> Reading:
    """1 for every row; ``column`` may be any that it has."""
    return Reading(column, "1", "1")


UNDECIDED_STEP = Reading(
    "takes",
    "CASE WHEN {} = '' AND ({row}.usage_doubt <> '' OR {row}.finding IN ('cost', 'free'))"
    " THEN 1 ELSE 0 END",
)
"""1 of a step of which something doesn't add up that nobody has ruled on."""


@dataclass(frozen=True, slots=True)
class Sum:
    """A number that every rollup keeps: a sum over traces, or over their billed steps by model.

    What has no ``step`` is its trace's own, and counts once for each model that the trace used.
    """

    name: str
    unit: Unit
    trace: Reading
    step: Reading | None = None
    help_text: str = ""


TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "audio_tokens",
)
"""Columns of traces and of billed steps alike, in the order of ``pricing.units.TokenCounts``."""

SUMS = (
    *(Sum(name, Unit.TOKENS, amount(name), amount(name)) for name in TOKENS),
    Sum("total_traces", Unit.COUNT, each("id")),
    Sum("failed_traces", Unit.COUNT, true("is_failed")),
    Sum(
        "timed_traces",
        Unit.COUNT,
        known("latency_ms"),
        help_text="Traces whose latency is known.",
    ),
    Sum("latency_ms_sum", Unit.MILLISECONDS, amount("latency_ms")),
    Sum(
        "priced_observations",
        Unit.COUNT,
        amount("priced_observations"),
        none_of("cost_source", ("partly_priced", "unpriced", "unmetered")),
        help_text="Calls with a whole cost.",
    ),
    *(
        Sum(
            f"{source}_observations",
            Unit.COUNT,
            amount(f"{source}_observations"),
            equal("cost_source", source),
            help_text=help_text,
        )
        for source, help_text in (
            ("partly_priced", "Calls of which Langfuse's cost leaves out units without a price."),
            ("unpriced", "Calls without a price."),
            ("unmetered", "Calls that say neither what they used nor what it cost."),
        )
    ),
    Sum(
        "doubtful_observations",
        Unit.COUNT,
        amount("doubtful_observations"),
        UNDECIDED_STEP,
        help_text="Calls of which something doesn't add up, and nobody has ruled on it.",
    ),
    Sum(
        "rated_traces",
        Unit.COUNT,
        known("credits"),
        help_text="Traces with credits: their cost and their tier are known.",
    ),
    Sum("total_cost_usd", Unit.USD, amount("cost_usd"), amount("cost_usd")),
    Sum("billed_cost_usd", Unit.USD, amount("billed_cost_usd"), amount("billed_cost_usd")),
    Sum("credits_exact", Unit.CREDITS, amount("credits"), amount("credits")),
)
SUM_NAMES = tuple(one.name for one in SUMS)

# --- Numbers: what is answered and shown ---------------------------------------------------------


class Counted(NamedTuple):
    """What numbers are made of: the sums, as they are stored, and what does not add up."""

    sums: Mapping[str, int]
    active_users: int = 0
    p95_latency_ms: int | None = None

    @property
    def has_cost(self) -> bool:
        """Unknown is the cost where there were calls and none of them has one."""
        sums = self.sums
        return (
            sums["priced_observations"] + sums["partly_priced_observations"] > 0
            or sums["unpriced_observations"] + sums["unmetered_observations"] == 0
        )

    @property
    def has_credits(self) -> bool:
        """Unknown are credits where no trace has a tier and a cost."""
        return self.sums["rated_traces"] > 0 or self.sums["total_traces"] == 0


class Declared(NamedTuple):
    """What is said of a number, beside its name and its type."""

    label: str
    unit: Unit
    of: Callable[[Counted], Any]
    sum: str | None = None
    """The sum that it is, if it is one; lists can be ordered by these."""


DECLARED = "declared"


def _number(label: str, unit: Unit, of: Callable[[Counted], Any]) -> Any:
    return field(metadata={DECLARED: Declared(label, unit, of)})


def _sum(label: str, name: str, known_if: Callable[[Counted], bool] | None = None) -> Any:
    """A sum as a number: exact decimals of money and credits; None where it is unknown."""
    unit = next(one.unit for one in SUMS if one.name == name)
    places = PLACES.get(unit)

    def of(counted: Counted) -> int | Decimal | None:
        if known_if is not None and not known_if(counted):
            return None
        stored = counted.sums[name]
        return stored if places is None else from_scaled(stored, places)

    return field(metadata={DECLARED: Declared(label, unit, of, name)})


def _succeeded(counted: Counted) -> int:
    return counted.sums["total_traces"] - counted.sums["failed_traces"]


def _metered(counted: Counted) -> int:
    """Model calls that say what they used."""
    sums = counted.sums
    return (
        sums["priced_observations"]
        + sums["partly_priced_observations"]
        + sums["unpriced_observations"]
    )


def _whole_credits(counted: Counted) -> int | None:
    """The exact sum, rounded once, half up (domain.md, Statistics)."""
    if not counted.has_credits:
        return None
    return int(round_half_up(from_scaled(counted.sums["credits_exact"], CREDIT_PLACES), 0))


def _average_latency(counted: Counted) -> float | None:
    timed = counted.sums["timed_traces"]
    return round(counted.sums["latency_ms_sum"] / timed, 3) if timed else None


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a question about usage is answered with. Unknown is None, never 0."""

    total_traces: int = _sum("Runs", "total_traces")
    successful_traces: int = _number("Succeeded", Unit.COUNT, _succeeded)
    failed_traces: int = _sum("Failed", "failed_traces")
    input_tokens: int = _sum("Input tokens", "input_tokens")
    output_tokens: int = _sum("Output tokens", "output_tokens")
    total_tokens: int = _sum("Tokens", "total_tokens")
    cached_tokens: int = _sum("Cached tokens", "cached_tokens")
    cache_write_tokens: int = _sum("Cache write tokens", "cache_write_tokens")
    reasoning_tokens: int = _sum("Reasoning tokens", "reasoning_tokens")
    audio_tokens: int = _sum("Audio tokens", "audio_tokens")
    total_cost_usd: Usd | None = _sum("Cost", "total_cost_usd", lambda one: one.has_cost)
    billed_cost_usd: Usd | None = _sum("Billed", "billed_cost_usd", lambda one: one.has_credits)
    total_credits_used: int | None = _number("Credits", Unit.COUNT, _whole_credits)
    credits_exact: Credits | None = _sum("Credits", "credits_exact", lambda one: one.has_credits)
    active_users_count: int = _number("Active users", Unit.COUNT, lambda one: one.active_users)
    average_latency_ms: float | None = _number(
        "Average latency", Unit.MILLISECONDS, _average_latency
    )
    p95_latency_ms: int | None = _number(
        "95th percentile of latency", Unit.MILLISECONDS, lambda one: one.p95_latency_ms
    )
    metered_calls: int = _number("Metered calls", Unit.COUNT, _metered)
    unpriced_observations: int = _sum("Unpriced calls", "unpriced_observations")
    partly_priced_observations: int = _sum("Partly priced calls", "partly_priced_observations")
    unmetered_observations: int = _sum("Unmetered calls", "unmetered_observations")
    doubtful_observations: int = _sum("Calls that don't add up", "doubtful_observations")

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in DECLARED_NUMBERS}


DECLARED_NUMBERS: Mapping[str, Declared] = {
    one.name: one.metadata[DECLARED] for one in fields(Numbers)
}


def numbers_from(counted: Counted) -> Numbers:
    return Numbers(**{name: one.of(counted) for name, one in DECLARED_NUMBERS.items()})


NO_SUMS: Mapping[str, int] = dict.fromkeys(SUM_NAMES, 0)
NO_NUMBERS = numbers_from(Counted(NO_SUMS))


class Metric(StrEnum):
    """What a list is ordered by, and anomalies are looked for in."""

    CREDITS = "credits"
    COST = "cost"
    TOKENS = "tokens"
    TRACES = "traces"

    @property
    def sum(self) -> str:
        """The sum's name."""
        return SUM_OF[self]

    @property
    def unit(self) -> Unit:
        return next(one.unit for one in SUMS if one.name == self.sum)


SUM_OF = {
    Metric.CREDITS: "credits_exact",
    Metric.COST: "total_cost_usd",
    Metric.TOKENS: "total_tokens",
    Metric.TRACES: "total_traces",
}

# --- Dimensions: what answers are told apart by, and filtered by ---------------------------------


class DimensionDeclaration(NamedTuple):
    """Where a dimension is found, and what it is called."""

    label: str
    nothing: str
    """The label of usage that has none."""
    parameter: str
    """Its filter in addresses."""
    row: str
    """Its column in rows of the facts (``usage.rollups.rows``), and in the rollups that have it."""
    trace: str | None
    """Its column of ``usage_trace``; None of what only a trace's steps have."""
    key: type[UUID] | type[str] = str
    is_id: bool = True
    """Whether a UUID in any form means the same."""

    @property
    def is_owner(self) -> bool:
        """Whether it is whose the usage is (domain.md, What is counted)."""
        return self.key is UUID


class Dimension(StrEnum):
    """What answers can be told apart by."""

    TENANT = "tenant"
    USER = "user"
    PROJECT = "project"
    FLOW = "flow"
    MODEL = "model"
    ENVIRONMENT = "environment"

    @property
    def declared(self) -> DimensionDeclaration:
        return DIMENSIONS[self]


UNATTRIBUTED, NO_USER = "Unattributed", "No user"
DIMENSIONS: Mapping[Dimension, DimensionDeclaration] = {
    Dimension.TENANT: DimensionDeclaration(
        "Tenant", UNATTRIBUTED, "tenant_id", "tenant_key", "tenant_id", UUID
    ),
    Dimension.USER: DimensionDeclaration("User", NO_USER, "user_id", "user_key", "user_id", UUID),
    Dimension.PROJECT: DimensionDeclaration(
        "Project", "No project", "project_id", "project_id", "project_id"
    ),
    Dimension.FLOW: DimensionDeclaration("Flow", "No flow", "flow_id", "flow_id", "flow_id"),
    Dimension.MODEL: DimensionDeclaration("Model", "No model", "model", "model", None, is_id=False),
    Dimension.ENVIRONMENT: DimensionDeclaration(
        "Environment",
        "No environment",
        "environment",
        "environment",
        "environment",
        is_id=False,
    ),
}
