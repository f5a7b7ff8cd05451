"""Whose usage a query may read. Pure; ``usage.access`` decides which one a viewer has."""

from dataclasses import dataclass
from uuid import UUID

from usage.measures import Dimension


@dataclass(frozen=True, slots=True)
class Scope:
    """What a query may read: one tenant's usage, one user's, both, or (with neither) the whole
    platform's.
    """

    tenant_id: UUID | None = None
    user_id: UUID | None = None

    @property
    def is_platform(self) -> bool:
        return self.tenant_id is None and self.user_id is None

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """The dimensions that it narrows."""
        narrowed = {Dimension.TENANT: self.tenant_id, Dimension.USER: self.user_id}
        return frozenset(dimension for dimension, value in narrowed.items() if value)
