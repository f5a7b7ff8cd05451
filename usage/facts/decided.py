"""A trace and its billed steps (observations) while they are being decided and priced. Pure: no
database in here.

Amounts are integers, as they are stored: a millionth of a millionth of a dollar (``picousd``) and a
millionth of a credit (``microcredits``), so that sums are exact and fast.
"""

from datetime import datetime
from typing import NamedTuple, Protocol
from uuid import UUID

import msgspec

from kluisz_analytics.tenants.attributed import is_owned, known_owner
from pricing.engine import CostSource
from pricing.units import Doubt, TokenCounts
from usage.facts.findings import Finding, Takes
from usage.langfuse.wire import StepVersion, TraceAttributes


class BilledStep(msgspec.Struct, gc=False):
    """A step that used something, with what it costs and its part of what the trace is charged."""

    version: StepVersion
    tokens: TokenCounts
    langfuse_cost_picousd: int | None
    cost_picousd: int | None
    cost_source: CostSource
    price_id: int | None = None
    billed_cost_picousd: int | None = None
    microcredits: int | None = None
    doubt: Doubt = Doubt.NONE
    finding: Finding = Finding.NONE
    other_cost_picousd: int | None = None
    takes: Takes = Takes.AS_USUAL
    counted_in: str = ""
    counted_in_trace: str | None = None

    @property
    def is_undecided(self) -> bool:
        """Whether something doesn't add up that nobody has ruled on; a sum is counted once."""
        if self.takes is not Takes.AS_USUAL:
            return False
        return self.doubt is not Doubt.NONE or self.finding in (Finding.COST, Finding.FREE)


class Before(Protocol):
    """What a trace is decided by beside what its steps say: how it was decided before."""

    @property
    def tenant_id(self) -> UUID | None: ...
    @property
    def user_id(self) -> UUID | None: ...
    @property
    def dispute(self) -> str: ...
    @property
    def priced_as_of(self) -> datetime: ...
    @property
    def unowned_as_of(self) -> datetime | None: ...
    @property
    def is_voided(self) -> bool: ...


class TraceFact(msgspec.Struct, gc=False):
    """A trace as decided from its steps, and what they say of it. ``id`` is its key as 32 hex
    digits.
    """

    id: str
    connection_id: int
    langfuse_trace_id: str
    attributes: TraceAttributes
    start_time: datetime
    hour: datetime
    last_step_hour: datetime | None
    latency_ms: int | None
    is_failed: bool
    tenant_id: UUID | None
    user_id: UUID | None
    model: str | None
    observations: int
    deleted_observations: int
    priced_observations: int
    partly_priced_observations: int
    unpriced_observations: int
    unmetered_observations: int
    doubtful_observations: int
    tokens: TokenCounts
    cost_picousd: int | None
    billed_cost_picousd: int | None
    microcredits: int | None
    rate_id: int | None
    priced_as_of: datetime
    is_voided: bool = False
    set_aside: str = ""
    uncharged: str = ""
    dispute: str = ""
    disputed_tenant_id: UUID | None = None
    disputed_user_id: UUID | None = None
    settled_as: str = ""
    attribution: str = ""
    unowned_as_of: datetime | None = None
    source: str = ""
    source_version: str = ""

    @property
    def is_owned(self) -> bool:
        return is_owned(self.tenant_id, self.user_id)

    @property
    def disputed_claim(self) -> tuple[UUID, UUID] | None:
        """The tenant and the user that a disputed trace names."""
        return known_owner(self.disputed_tenant_id, self.disputed_user_id)


class AssembledTrace(NamedTuple):
    """A trace with its billed steps, and all its steps as text (``usage.facts.received``)."""

    fact: TraceFact
    billed: list[BilledStep]
    received: str
