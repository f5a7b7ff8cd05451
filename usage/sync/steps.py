"""A step (observation) and a trace while they are being decided and priced. Pure: no database in here.

Amounts are integers, as they are stored: a millionth of a millionth of a dollar (``picousd``) and a millionth of a credit
(``microcredits``), so that sums are exact and fast. The engine computes in Decimal.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import msgspec
import xxhash

from kluisz_analytics.fields import USD_PLACES, to_scaled
from pricing.engine import CostSource
from pricing.units import NO_TOKENS, TokenCounts, count_tokens
from usage.langfuse.wire import ReceivedObservation
from usage.sync.identity import observation_key, trace_key


class Step(msgspec.Struct, gc=False):
    """An observation: what Langfuse said of it, then what it costs. ``id`` and ``trace_id`` are keys as 32 hex digits."""

    id: str
    trace_id: str
    received: ReceivedObservation
    content_hash: int
    tokens: TokenCounts
    langfuse_cost_picousd: int | None = None
    cost_picousd: int | None = None
    cost_source: CostSource = CostSource.NO_USAGE
    price_id: int | None = None
    billed_cost_picousd: int | None = None
    microcredits: int | None = None
    gone_since: datetime | None = None

    @property
    def version(self) -> tuple[datetime, int]:
        """Versions of a step are ordered by this; the greatest is the truth, however they arrive."""
        return self.received.received_at, self.content_hash


class TraceFact(msgspec.Struct, gc=False):
    """A trace as decided from its steps. ``id`` is its key as 32 hex digits."""

    id: str
    connection_id: int
    langfuse_trace_id: str
    name: str
    start_time: datetime
    hour: datetime
    latency_ms: int | None
    is_failed: bool
    tenant_id: UUID | None
    user_id: UUID | None
    tenant_reference: str
    user_reference: str
    project_id: str
    flow_id: str
    model: str | None
    observations: int
    gone_observations: int
    priced_observations: int
    unpriced_observations: int
    tokens: TokenCounts
    cost_picousd: int | None
    billed_cost_picousd: int | None
    microcredits: int | None
    rate_id: int | None
    priced_as_of: datetime
    is_voided: bool = False

    @property
    def is_attributed(self) -> bool:
        return self.tenant_id is not None and self.user_id is not None


@dataclass(frozen=True, slots=True)
class Directory:
    """The tenants and users that are known, by id as text; of a user its key and its tenant's."""

    tenants: Mapping[str, UUID] = field(default_factory=dict)
    users: Mapping[str, tuple[UUID, UUID]] = field(default_factory=dict)


def steps_from(connection_id: int, received: Iterable[ReceivedObservation]) -> list[Step]:
    """The steps that received observations mean, not yet priced."""
    buffer = bytearray()
    return [
        Step(
            observation_key(connection_id, one.trace_id, one.observation_id),
            trace_key(connection_id, one.trace_id),
            one,
            content_hash(one, buffer),
            count_tokens(one.usage_details) if one.usage_details else NO_TOKENS,
            None if one.cost_usd is None else to_scaled(one.cost_usd, USD_PLACES),
        )
        for one in received
    ]


_encoder = msgspec.msgpack.Encoder(order="deterministic")


def content_hash(received: ReceivedObservation, buffer: bytearray) -> int:
    """A signed 64-bit digest of everything that Langfuse said. ``buffer`` is written over: one for many is faster than one for each."""
    _encoder.encode_into(received, buffer)
    return xxhash.xxh3_64_intdigest(buffer) - 2**63


def newest_versions(steps: Iterable[Step]) -> dict[str, Step]:
    """The newest version of each step."""
    newest: dict[str, Step] = {}
    for step in steps:
        known = newest.setdefault(step.id, step)
        if known is not step and known.version < step.version:
            newest[step.id] = step
    return newest
