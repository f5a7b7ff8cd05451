"""A step (observation) and a trace while they are being decided and priced. Pure: no database in here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import msgspec
import xxhash

from pricing.engine import CostSource
from pricing.units import NO_TOKENS, TokenCounts, count_tokens
from usage.langfuse.wire import ReceivedObservation
from usage.sync.identity import canonical_id, observation_key, trace_key


class Step(msgspec.Struct, gc=False):
    """An observation: what Langfuse said of it, then what it costs."""

    id: UUID
    trace_id: UUID
    langfuse_trace_id: str
    langfuse_observation_id: str
    type: str
    name: str
    level: str
    is_root: bool
    start_time: datetime
    end_time: datetime | None
    received_at: datetime
    content_hash: int
    tenant_reference: str
    user_reference: str
    project_id: str
    flow_id: str
    trace_name: str
    model: str
    usage_details: Mapping[str, int]
    langfuse_cost_usd: Decimal | None
    tokens: TokenCounts = NO_TOKENS
    cost_usd: Decimal | None = None
    cost_source: CostSource = CostSource.NO_USAGE
    price_id: int | None = None
    billed_cost_usd: Decimal | None = None
    credits: Decimal | None = None

    @property
    def version(self) -> tuple[datetime, int]:
        """Versions of a step are ordered by this; the greatest is the truth, however they arrive."""
        return self.received_at, self.content_hash

    @property
    def is_billed(self) -> bool:
        return self.cost_source is not CostSource.NO_USAGE


class TraceFact(msgspec.Struct, gc=False):
    """A trace as decided from its steps."""

    id: UUID
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
    observations: int
    priced_observations: int
    unpriced_observations: int
    tokens: TokenCounts
    cost_usd: Decimal | None
    billed_cost_usd: Decimal | None
    credits: Decimal | None
    rate_id: int | None


@dataclass(frozen=True, slots=True)
class Directory:
    """The tenants and users that are known, as far as a batch asks for them."""

    tenants: frozenset[UUID] = frozenset()
    tenant_of_user: Mapping[UUID, UUID] = field(default_factory=dict)


def step_from(connection_id: int, received: ReceivedObservation) -> Step:
    """The step that a received observation means, not yet priced."""
    return Step(
        id=observation_key(connection_id, received.trace_id, received.observation_id),
        trace_id=trace_key(connection_id, received.trace_id),
        langfuse_trace_id=received.trace_id,
        langfuse_observation_id=received.observation_id,
        type=received.type,
        name=received.name,
        level=received.level,
        is_root=received.is_root,
        start_time=received.start_time,
        end_time=received.end_time,
        received_at=received.received_at,
        content_hash=_content_hash(received),
        tenant_reference=canonical_id(received.tenant_reference),
        user_reference=canonical_id(received.user_reference),
        project_id=canonical_id(received.project_id),
        flow_id=canonical_id(received.flow_id),
        trace_name=received.trace_name,
        model=received.model,
        usage_details=received.usage_details,
        langfuse_cost_usd=received.cost_usd,
        tokens=count_tokens(received.usage_details),
    )


_encoder = msgspec.msgpack.Encoder(order="deterministic")


def _content_hash(received: ReceivedObservation) -> int:
    """A signed 64-bit digest of everything that Langfuse said."""
    return xxhash.xxh3_64_intdigest(_encoder.encode(received)) - 2**63


def newest_versions(steps: Iterable[Step]) -> dict[UUID, Step]:
    """The newest version of each step."""
    newest: dict[UUID, Step] = {}
    for step in steps:
        known = newest.get(step.id)
        if known is None or known.version < step.version:
            newest[step.id] = step
    return newest
