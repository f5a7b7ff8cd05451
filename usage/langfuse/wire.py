"""Langfuse's rows as they come, and the observations they mean (langfuse.md, v2 observations).

A page is decoded in one go. A page with a row that breaks the contract is decoded again row by row,
so that the bad row is set aside with its reason and the others are kept.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from operator import attrgetter
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

import msgspec

from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.scales import USD_PLACES, round_half_up
from pricing.conditions import context_of
from usage.langfuse.evidence import evidence_of
from usage.langfuse.recorder import OWN_SCOPE, Recorder, by_own_sdk, recorded_by, version_of

TEXT_LENGTH = 200
# So much of a metadata value does Langfuse give.
METADATA_LENGTH = 200
ROW_EXCERPT_LENGTH = 100_000
# Beyond these a row is a mistake, and sums of such rows would overflow: no call uses a thousand
# million tokens or costs 10,000 dollars.
LARGEST_COUNT = 10**9
LARGEST_COST_USD = Decimal(10_000)
MOST_COSTS = 500
# How far costDetails' own total may be from the sum of its parts: the store truncates it.
TOTAL_TOLERANCE_USD = Decimal("1e-9")
Type = Literal[
    "SPAN",
    "GENERATION",
    "EVENT",
    "AGENT",
    "TOOL",
    "CHAIN",
    "RETRIEVER",
    "EVALUATOR",
    "EMBEDDING",
    "GUARDRAIL",
]
Level = Literal["", "DEBUG", "DEFAULT", "WARNING", "ERROR"]
TYPES, LEVELS = frozenset(get_args(Type)), frozenset(get_args(Level))
ShortId = Annotated[str, msgspec.Meta(max_length=TEXT_LENGTH)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_LENGTH)]
Count = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_COUNT)]


class NotAPage(ValueError):
    """The body is not a page of observations."""


class TraceAttributes(NamedTuple):
    """What an observation says of its trace: whose it is, what it is part of and what it is called;
    "" for what it doesn't say. The fields are columns of ``usage_trace``.
    """

    tenant_reference: str = ""
    user_reference: str = ""
    project_id: str = ""
    flow_id: str = ""
    environment: str = ""
    name: str = ""


class StepVersion(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one version of an observation says of itself.

    Absent texts are "", absent numbers None. ``uncosted``: the units that its cost leaves out,
    sorted; ``parent_id``: the step that it is inside of; ``source``: which integration recorded it,
    and ``response_id``: the provider's, of the response that it is of (``recorder``);
    ``evidence``: what else it says that could name whose it is, by path (``evidence``);
    ``source_version``: of that integration; ``context``: how the model was asked, where that
    changes the price (``pricing.conditions``).
    """

    observation_id: str
    type: str
    name: str
    level: str
    is_root: bool
    start_time: datetime
    end_time: datetime | None
    received_at: datetime
    model: str
    usage_details: dict[str, int]
    cost_usd: Decimal | None
    uncosted: tuple[str, ...] = ()
    parent_id: str = ""
    source: str = ""
    response_id: str = ""
    evidence: dict[str, str] = {}
    source_version: str = ""
    context: str = ""


class ReceivedObservation(msgspec.Struct, frozen=True, gc=False):
    """One version of an observation, in the words of domain.md."""

    trace_id: str
    trace_attributes: TraceAttributes
    step: StepVersion


@dataclass(frozen=True, slots=True)
class RejectedRow:
    """A row that breaks the contract, and why."""

    trace_id: str
    observation_id: str
    received_at: str
    reason: str
    row: str


@dataclass(frozen=True, slots=True)
class Page:
    """A page of observations, newest first; ``cursor`` is None on the last one.

    ``is_ordered`` is False where the server promises no order.
    """

    observations: list[ReceivedObservation]
    rejected: list[RejectedRow]
    cursor: str | None
    is_ordered: bool = True

    @property
    def oldest(self) -> datetime | None:
        """How far back the walk has come with it; None where that can't be told."""
        return (
            self.observations[-1].step.start_time if self.observations and self.is_ordered else None
        )

    def since(self, start: datetime) -> "Page":
        """Without what is older than ``start``."""
        return Page(
            [one for one in self.observations if one.step.start_time >= start],
            self.rejected,
            self.cursor,
            self.is_ordered,
        )


class WireMetadata(Recorder, gc=False):
    """The keys of the metadata that are ours, and those of what recorded it; all others are
    skipped.
    """

    tenant_id: Any = None
    kluisz_project_id: Any = None
    kluisz_flow_id: Any = None


class WireParameters(msgspec.Struct, gc=False):
    """Of the model's parameters, those that can change a price (pricing.conditions.TERMS)."""

    processing: Any = None
    service_tier: Any = None
    serviceTier: Any = None
    speed: Any = None
    inference_geo: Any = None
    search_type: Any = None
    route: Any = None


class WireRow(msgspec.Struct, gc=False):
    """A row with the fields that we ask for. Absent comes as null, "", {} or 0 (langfuse.md)."""

    id: str
    traceId: str | None
    startTime: datetime
    type: str
    endTime: datetime | None = None
    parentObservationId: str | None = None
    isRootObservation: bool | None = None
    name: str | None = None
    level: str | None = None
    createdAt: datetime | None = None
    updatedAt: datetime | None = None
    metadata: WireMetadata | None = None
    userId: str | None = None
    traceName: str | None = None
    environment: str | None = None
    model: str | None = None
    providedModelName: str | None = None
    modelParameters: WireParameters | str | list[Any] | None = None
    usageDetails: dict[str, int | None] | None = None
    costDetails: dict[str, Decimal | None] | None = None


class GoodRow(WireRow, gc=False):
    """As WireRow, with all of the contract that the decoder can see to, and ids that need no
    cutting; costs are looked at by :func:`_broken_cost`.
    """

    id: Id
    traceId: Id
    type: Type
    parentObservationId: ShortId | None = None
    level: Level | None = None
    # fewer counts than any
    usageDetails: dict[str, Count | None] | None = None  # type: ignore[assignment]


class ToldRow(msgspec.Struct, gc=False):
    """What of a row is asked for only where it isn't our tracer's: it could name whose it is."""

    metadata: Any = None
    sessionId: Any = None
    tags: Any = None
    release: Any = None
    version: Any = None

    def evidence(self) -> dict[str, str]:
        return evidence_of(self.metadata, self.sessionId, self.tags, self.release, self.version)


class LenientRow(WireRow, gc=False):
    """As WireRow with what ToldRow has, for a row whose metadata is not a map: it is then as good
    as absent.
    """

    metadata: Any = None
    modelParameters: Any = None
    sessionId: Any = None
    tags: Any = None
    release: Any = None
    version: Any = None


class WireMeta(msgspec.Struct):
    cursor: str | None = None


class WirePage(msgspec.Struct):
    data: list[GoodRow]
    meta: WireMeta


class ToldPage(msgspec.Struct):
    data: list[ToldRow]


class RawPage(msgspec.Struct):
    data: list[msgspec.Raw]
    meta: WireMeta


# Each of these is asked of millions of rows: in C, by attrgetter and map, it takes no time.
_costs_of = attrgetter("costDetails")
_whose = attrgetter("metadata.tenant_id", "metadata.kluisz_flow_id")
NUL_IN_JSON = rb"\u0000"
_page_decoder = msgspec.json.Decoder(WirePage)
_told_decoder = msgspec.json.Decoder(ToldPage)
_raw_page_decoder = msgspec.json.Decoder(RawPage)


def decode_page(body: bytes) -> Page:
    """The page in ``body``. Raises NotAPage when it is not one at all."""
    try:
        wire = _page_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_row_by_row(body)
    if NUL_IN_JSON in body or any(map(_broken_cost, filter(None, map(_costs_of, wire.data)))):
        return _decode_row_by_row(body)
    if _are_ours(wire.data):
        return Page([_observation(row) for row in wire.data], [], wire.meta.cursor)
    # Decoded once more, so that pages of our tracer's take no longer than they need.
    try:
        told = _told_decoder.decode(body).data
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _decode_row_by_row(body)
    return Page(
        [_observation(row, more) for row, more in zip(wire.data, told, strict=True)],
        [],
        wire.meta.cursor,
    )


def _decode_row_by_row(body: bytes) -> Page:
    try:
        raw = _raw_page_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotAPage(str(error)) from error
    return Page(*decode_rows(raw.data), raw.meta.cursor)


def decode_rows(
    raw_rows: Iterable[msgspec.Raw],
    kind: "type[LenientRow] | None" = None,
    amend: Callable[[Any], None] | None = None,
) -> tuple[list[ReceivedObservation], list[RejectedRow]]:
    """Rows one by one: those that mean something, and those that break the contract.

    ``kind`` is a LenientRow with more fields, for another form of the API, and ``amend`` puts what
    they say into the usual ones.
    """
    observations, rejected = [], []
    for raw_row in raw_rows:
        try:
            row = msgspec.json.decode(raw_row, type=kind or LenientRow)
            if amend is not None:
                amend(row)
            told = ToldRow(row.metadata, row.sessionId, row.tags, row.release, row.version)
            row.metadata = (
                msgspec.convert(_flat(row.metadata), WireMetadata)
                if isinstance(row.metadata, dict)
                else None
            )
            reason = _broken_rule(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reason = str(error)
        if reason is None:
            row.id, row.traceId = _cut(row.id), _cut(row.traceId or "")
            row.parentObservationId = _cut(row.parentObservationId or "")
            observations.append(_observation(row, told))
        else:
            rejected.append(_rejected(raw_row, reason))
    return observations, rejected


def _flat(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata as v2 has it, where v1 has a map of attributes and one of the scope."""
    nested = [name for name in ("attributes", "scope") if isinstance(metadata.get(name), dict)]
    flat = {f"{name}.{key}": value for name in nested for key, value in metadata[name].items()}
    return {**flat, **metadata} if flat else metadata


def _broken_rule(row: WireRow) -> str | None:
    """Which rule of the contract the row breaks; None for a good row."""
    if not row.id:
        return "The observation has no id."
    if not row.traceId:
        return "The observation has no trace id."
    if row.type not in TYPES:
        return f"Unknown type “{row.type[:50]}”."
    if row.level and row.level not in LEVELS:
        return f"Unknown level “{row.level[:50]}”."
    if row.usageDetails:
        for unit, count in row.usageDetails.items():
            if count is not None and not 0 <= count <= LARGEST_COUNT:
                return f"The count of “{unit[:50]}” is {count}; counts are 0 to {LARGEST_COUNT}."
    return _broken_cost(row.costDetails) if row.costDetails else None


def _broken_cost(details: Mapping[str, Decimal | None]) -> str | None:
    if len(details) > MOST_COSTS:
        return f"There are {len(details)} costs; at most {MOST_COSTS} can be of one call."
    costs: Any = details.values()
    # Nearly always all are known and good; what isn't is looked for one by one.
    with contextlib.suppress(TypeError, InvalidOperation):
        if min(costs) >= 0 and max(costs) <= LARGEST_COST_USD:
            return None
    for unit, cost in details.items():
        if cost is not None and not (cost.is_finite() and 0 <= cost <= LARGEST_COST_USD):
            return f"The cost of “{unit[:50]}” is {cost}; costs are 0 to {LARGEST_COST_USD:f} USD."
    return None


def _are_ours(rows: Sequence[WireRow]) -> bool:
    """Whether our tracer says whose each of these steps is."""
    try:
        return all(map(all, map(_whose, rows)))
    except AttributeError:  # There is one without metadata.
        return False


def _is_ours(metadata: WireMetadata | None) -> bool:
    """Whether our tracer says whose the step is: nothing else is then kept of it."""
    return metadata is not None and bool(metadata.tenant_id and metadata.kluisz_flow_id)


def _observation(row: WireRow, told: ToldRow | None = None) -> ReceivedObservation:
    start_time, end_time = row.startTime, row.endTime
    received_at = row.updatedAt or row.createdAt or start_time
    if (
        start_time.tzinfo is not UTC
        or received_at.tzinfo is not UTC
        or (end_time and end_time.tzinfo is not UTC)
    ):
        start_time, end_time, received_at = (
            _utc(start_time),
            end_time and _utc(end_time),
            _utc(received_at),
        )
    metadata = row.metadata or NO_METADATA
    texts = (
        metadata.tenant_id,
        row.userId,
        metadata.kluisz_project_id,
        metadata.kluisz_flow_id,
        row.environment,
        row.traceName,
    )
    try:
        attributes = _trace_attributes(*texts)
    except TypeError:
        attributes = _trace_attributes(*map(_rememberable, texts))
    # In the order of the fields: by name takes three times as long, and there are millions.
    return ReceivedObservation(
        row.traceId or "",
        attributes,
        StepVersion(
            row.id,
            row.type,
            _text(row.name),
            row.level or "DEFAULT",
            not row.parentObservationId if row.isRootObservation is None else row.isRootObservation,
            start_time,
            end_time,
            received_at,
            _text(row.model or row.providedModelName),
            _counts(row.usageDetails) if row.usageDetails else {},
            _cost_usd(row.costDetails) if row.costDetails else None,
            _uncosted(row.usageDetails, row.costDetails)
            if row.usageDetails and row.costDetails
            else (),
            row.parentObservationId or "",
            *(
                by_own_sdk(row.name, metadata.langchain is not None)
                if metadata.scope == OWN_SCOPE
                else recorded_by(metadata, row.id)
            ),
            NO_EVIDENCE if told is None or _is_ours(row.metadata) else told.evidence(),
            _text(version)
            if (version := metadata.version).__class__ is str
            else version_of(metadata),
            "" if (asked := row.modelParameters) is None or asked == AS_USUAL else _context(asked),
        ),
    )


def _counts(usage: dict[str, int | None]) -> dict[str, int]:
    """The counts that are known."""
    if None in usage.values():
        return {unit: count for unit, count in usage.items() if count is not None}
    return cast("dict[str, int]", usage)


NOTHING = Decimal(0)


def _context(parameters: Any) -> str:
    if isinstance(parameters, WireParameters):
        return context_of(msgspec.structs.asdict(parameters))
    return context_of(parameters)


NO_METADATA = WireMetadata()
AS_USUAL = WireParameters()
NO_EVIDENCE: dict[str, str] = {}


def _cost_usd(details: Mapping[str, Decimal | None]) -> Decimal | None:
    """The sum of the parts where it agrees with ``total``, else ``total``; None where no part is
    known (langfuse.md).
    """
    costs: Any = details.values()
    try:
        together: Decimal = sum(costs, NOTHING)
    except TypeError:
        known = {unit: cost for unit, cost in details.items() if cost is not None}
        return _cost_usd(known) if known else None
    total = details.get("total")
    if total is not None:
        together -= total
        if len(details) == 1 or abs(together - total) > TOTAL_TOLERANCE_USD:
            together = total
    return round_half_up(together, USD_PLACES)


def _uncosted(
    usage: Mapping[str, int | None], costs: Mapping[str, Decimal | None]
) -> tuple[str, ...]:
    """The units that the cost leaves out: Langfuse adds up those that it has a price for. A total
    by itself, or one that its parts do not come to, is somebody's own figure, and of all units.
    """
    # By their types: a decimal takes long to find out that it isn't None.
    if all(map(costs.__contains__, usage)) and NoneType not in map(type, costs.values()):
        return ()
    left_out = [
        unit
        for unit, count in usage.items()
        if count and unit != "total" and costs.get(unit) is None
    ]
    if not left_out:
        return ()
    parts = [cost for unit, cost in costs.items() if unit != "total" and cost is not None]
    total = costs.get("total")
    is_of_parts = total is None or abs(sum(parts, Decimal(0)) - total) <= TOTAL_TOLERANCE_USD
    return tuple(sorted(left_out)) if parts and is_of_parts else ()


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _cut(value: str) -> str:
    # PostgreSQL stores no NUL in a text.
    return (
        value.replace("\x00", "")[:TEXT_LENGTH]
        if len(value) > TEXT_LENGTH or "\x00" in value
        else value
    )


@lru_cache(maxsize=65_536)
def _text(value: str | None) -> str:
    """A text that comes again and again: a name, an environment, a model. "" for an absent one."""
    return _cut(value) if value else ""


def _rememberable(value: Any) -> str | None:
    """A map or a list can't be remembered; it is as good as its text."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


@lru_cache(maxsize=16_384, typed=True)
def _trace_attributes(
    tenant: Any,
    user: str | None,
    project: Any,
    flow: Any,
    environment: str | None,
    name: str | None,
) -> TraceAttributes:
    """The steps of a trace say the same of it, and so do most runs of a flow by a user."""
    return TraceAttributes(
        _metadata_id(tenant),
        _unquoted_id(user or ""),
        _metadata_id(project),
        _metadata_id(flow),
        _text(environment),
        _text(name),
    )


def _metadata_id(value: Any) -> str:
    """The id in a metadata value; "" for an absent one."""
    if value is None:
        return ""
    return _unquoted_id(value if isinstance(value, str) else msgspec.json.encode(value).decode())


def _unquoted_id(value: str) -> str:
    """An id without the quotes of JSON, which come where the server hands on a JSON-encoded string
    as it is; also where it has cut off the closing one with the rest of a long value.
    """
    if len(value) >= 2 and value[0] == '"':
        is_cut_off = value[-1] != '"' and len(value) >= METADATA_LENGTH
        with contextlib.suppress(msgspec.DecodeError):
            value = msgspec.json.decode(value + '"' if is_cut_off else value, type=str)
    return canonical_id(_cut(value))


def _rejected(raw_row: msgspec.Raw, reason: str) -> RejectedRow:
    try:
        row = msgspec.json.decode(raw_row)
    except (msgspec.DecodeError, UnicodeDecodeError):
        row = None
    fields = row if isinstance(row, dict) else {}
    return RejectedRow(
        trace_id=_text(str(fields.get("traceId") or "")),
        observation_id=_text(str(fields.get("id") or "")),
        received_at=str(fields.get("updatedAt") or "")[:40],
        reason=reason[:500],
        row=bytes(raw_row).decode(errors="replace").replace("\x00", "")[:ROW_EXCERPT_LENGTH],
    )


def iso(moment: datetime) -> str:
    """A time as Langfuse's parameters take it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
