"""What has an owner: a run whose tenant and user are both known (docs/domain.md, Unattributed
usage). Pure.

The rule is here in each form that it is asked in, side by side; a test holds them together.
"""

from collections.abc import Mapping
from uuid import UUID


def known_owner(tenant_id: UUID | None, user_id: UUID | None) -> tuple[UUID, UUID] | None:
    """The tenant and the user, where both are known."""
    if tenant_id is None or user_id is None:
        return None
    return tenant_id, user_id


def is_attributed(tenant_id: UUID | None, user_id: UUID | None) -> bool:
    return known_owner(tenant_id, user_id) is not None


def attributed_sql(alias: str) -> str:
    """The condition on a row of ``usage_trace``, which the statement calls so."""
    return f"{alias}.tenant_id IS NOT NULL AND {alias}.user_id IS NOT NULL"


ATTRIBUTED_LOOKUPS: Mapping[str, bool] = {"user__isnull": False, "tenant__isnull": False}
"""The lookups of a trace, all of which hold."""
