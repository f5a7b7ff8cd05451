"""Whose a run is (docs/domain.md, What is counted). Pure.

Two questions, each answered by one rule:

- *Attributed*: its tenant is known. It counts in the tenant's numbers.
- *Owned*: its tenant and its user are known. It counts in the user's stats too, and is charged to
  the user.

What is attributed and not owned counts under "no user". Each rule is here in each form that it is
asked in, side by side; a test holds them together.
"""

from collections.abc import Mapping
from enum import Enum, auto
from uuid import UUID


class Ownership(Enum):
    """Which usage a query counts, by what is known of its owner."""

    ANY = auto()
    UNATTRIBUTED = auto()
    ATTRIBUTED = auto()
    OWNED = auto()
    WITHOUT_USER = auto()
    """Attributed, and not owned."""


def is_attributed(tenant_id: UUID | None) -> bool:
    return tenant_id is not None


def attributed_sql(alias: str) -> str:
    """The condition on a row of ``usage_trace``, which the statement calls so."""
    return f"{alias}.tenant_id IS NOT NULL"


ATTRIBUTED_LOOKUPS: Mapping[str, bool] = {"tenant__isnull": False}
"""The lookups of a trace, all of which hold."""


def known_owner(tenant_id: UUID | None, user_id: UUID | None) -> tuple[UUID, UUID] | None:
    """The tenant and the user, where both are known."""
    if tenant_id is None or user_id is None:
        return None
    return tenant_id, user_id


def is_owned(tenant_id: UUID | None, user_id: UUID | None) -> bool:
    return known_owner(tenant_id, user_id) is not None


def owned_sql(alias: str) -> str:
    """As :func:`attributed_sql`."""
    return f"{alias}.tenant_id IS NOT NULL AND {alias}.user_id IS NOT NULL"


OWNED_LOOKUPS: Mapping[str, bool] = {"user__isnull": False, "tenant__isnull": False}
"""As ATTRIBUTED_LOOKUPS."""


def without_user_sql(alias: str) -> str:
    """Attributed and not owned; as :func:`attributed_sql`."""
    return f"{alias}.tenant_id IS NOT NULL AND {alias}.user_id IS NULL"


WITHOUT_USER_LOOKUPS: Mapping[str, bool] = {"user__isnull": True, "tenant__isnull": False}
"""As ATTRIBUTED_LOOKUPS."""
