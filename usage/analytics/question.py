"""What can be asked of usage: whose, when, which of it, and by what."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any
from uuid import UUID

from usage.access import Scope
from usage.analytics.pieces import Bucket


class Dimension(StrEnum):
    """What answers can be told apart by."""

    TENANT = "tenant"
    USER = "user"
    PROJECT = "project"
    FLOW = "flow"
    MODEL = "model"


class Status(StrEnum):
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which usage counts; an empty filter lets everything through, several values are "any of"."""

    tenant_ids: tuple[UUID, ...] = ()
    user_ids: tuple[UUID, ...] = ()
    project_ids: tuple[str, ...] = ()
    flow_ids: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    statuses: tuple[Status, ...] = ()

    def only(self, dimension: Dimension, values: Sequence[Any]) -> "Filters":
        """The same with one dimension narrowed to these values."""
        return replace(self, **{FILTER_OF[dimension]: tuple(values)})


FILTER_OF = {
    Dimension.TENANT: "tenant_ids",
    Dimension.USER: "user_ids",
    Dimension.PROJECT: "project_ids",
    Dimension.FLOW: "flow_ids",
    Dimension.MODEL: "models",
}


@dataclass(frozen=True, slots=True)
class Question:
    """Sums for each bucket (a period) and each value of the dimension, if one is named.

    By tenant or by user, usage without an owner is left out; ``only_unattributed`` asks for nothing
    else. ``only_named`` leaves out usage without a project, a flow or a model, by which it is
    asked. ``wants_total`` asks for the cost of all rows beside.
    """

    scope: Scope
    buckets: Sequence[Bucket]
    filters: Filters = Filters()
    by: Dimension | None = None
    order_by: str | None = None
    limit: int | None = None
    only_unattributed: bool = False
    only_named: bool = False
    wants_total: bool = False

    @property
    def only_attributed(self) -> bool:
        owned = not self.scope.is_platform or self.filters.tenant_ids or self.filters.user_ids
        return bool(owned) or self.by in (Dimension.TENANT, Dimension.USER)

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """All that a source has to tell apart."""
        named = {dimension for dimension, name in FILTER_OF.items() if getattr(self.filters, name)}
        if self.by:
            named.add(self.by)
        if self.scope.tenant_id:
            named.add(Dimension.TENANT)
        if self.scope.user_id:
            named.add(Dimension.USER)
        return frozenset(named)

    @property
    def names_users(self) -> bool:
        return bool(self.scope.user_id or self.filters.user_ids)

    @property
    def counts_traces_together(self) -> bool:
        """Whether a trace that used several of the asked models is one row's, and must count once
        there.
        """
        return len(set(self.filters.models)) > 1 and self.by is not Dimension.MODEL
