"""What can be asked of usage: whose, when, which of it, and by what. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from kluisz_analytics.tenants.attributed import Ownership
from usage.analytics.segments import Bucket
from usage.measures import Dimension
from usage.scope import Scope


class Status(StrEnum):
    SUCCESS = "success"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which usage counts: of each dimension any of these values, or all where none is named."""

    values: Mapping[Dimension, Sequence[Any]] = field(default_factory=dict)
    statuses: Sequence[Status] = ()

    def of(self, dimension: Dimension) -> Sequence[Any]:
        return self.values.get(dimension, ())

    def only(self, dimension: Dimension, values: Sequence[Any]) -> "Filters":
        """The same with one dimension narrowed to these values."""
        return replace(self, values={**self.values, dimension: tuple(values)})

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """Those that are filtered by."""
        return frozenset(dimension for dimension, values in self.values.items() if values)

    @property
    def name_owners(self) -> bool:
        return any(dimension.declared.is_owner for dimension in self.dimensions)


NAME, LAST_ACTIVITY = "name", "last_activity"
"""What lists can be ordered by beside sums: what a value is called, and when it last ran."""


@dataclass(frozen=True, slots=True)
class Question:
    """Sums for each bucket (a period) and each value of the dimension, if one is named.

    By tenant, unattributed usage is left out, by user also what has no user: its ``ownership``
    follows from the scope, the filters and the dimension, where it is not ``explicit_ownership``.
    ``only_named`` leaves out usage without the dimension that it is asked by. A ``limit``, which
    goes with ``order_by`` (a sum's name, NAME or LAST_ACTIVITY) and a single bucket, is of the
    greatest, or where it is ``ascending`` of the least. What does not add up (distinct users,
    percentiles, the latest run) is left out without ``wants_details``; the cost and the number of
    all values, also of those beyond the limit, without ``wants_totals``.
    ``by_difference``: the limit is of those whose sums differ most between the first bucket and the
    second, up or down.
    """

    scope: Scope
    buckets: Sequence[Bucket]
    filters: Filters = Filters()
    by: Dimension | None = None
    order_by: str | None = None
    ascending: bool = False
    by_difference: bool = False
    limit: int | None = None
    explicit_ownership: Ownership | None = None
    only_named: bool = False
    wants_details: bool = True
    wants_totals: bool = False

    @property
    def ownership(self) -> Ownership:
        if self.explicit_ownership is not None:
            return self.explicit_ownership
        if self.by is Dimension.USER or self.names_users:
            return Ownership.OWNED
        is_a_tenants = not self.scope.is_platform or self.filters.name_owners
        return (
            Ownership.ATTRIBUTED if is_a_tenants or self.by is Dimension.TENANT else Ownership.ANY
        )

    @property
    def dimensions(self) -> frozenset[Dimension]:
        """All that a source has to tell apart."""
        return (
            self.filters.dimensions
            | self.scope.dimensions
            | (frozenset({self.by}) if self.by else frozenset())
        )

    @property
    def is_of_a_list(self) -> bool:
        """Whether its answers are rows of a list: by a dimension, or what is nobody's of one."""
        return self.by is not None or self.explicit_ownership is not None

    @property
    def names_users(self) -> bool:
        return bool(self.scope.user_id or self.filters.of(Dimension.USER))

    @property
    def counts_traces_together(self) -> bool:
        """Whether a trace that used several of the asked models is one row's, and must count once
        there.
        """
        return len(set(self.filters.of(Dimension.MODEL))) > 1 and self.by is not Dimension.MODEL
