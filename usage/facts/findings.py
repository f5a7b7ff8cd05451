"""What doesn't add up in a trace's usage, and what was ruled on it (domain.md, What doesn't add
up). Pure: what is found is a function of the steps and the price lists, and what is billed one of
these and the rulings that hold.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple

from pricing.units import TokenCounts, count_tokens
from usage.langfuse.wire import StepVersion


class Finding(StrEnum):
    """What doesn't add up."""

    NONE = ""
    SUM = "sum"
    TWICE = "twice"
    ALIKE = "alike"
    COST = "cost"
    FREE = "free"
    UNITS = "units"


class Takes(StrEnum):
    """Which of the two figures is counted."""

    AS_USUAL = ""
    CHILDREN = "children"
    ONCE = "once"
    OTHERS = "others"
    BOTH = "both"
    LANGFUSE = "langfuse"
    PRICE_BOOK = "price_book"
    AS_COUNTED = "as_counted"
    TOTAL = "total"


CHOICES: Mapping[Finding, tuple[Takes, ...]] = {
    Finding.SUM: (Takes.CHILDREN, Takes.BOTH),
    Finding.TWICE: (Takes.ONCE, Takes.BOTH),
    Finding.ALIKE: (Takes.BOTH, Takes.OTHERS),
    Finding.COST: (Takes.LANGFUSE, Takes.PRICE_BOOK),
    Finding.FREE: (Takes.LANGFUSE, Takes.PRICE_BOOK),
    Finding.UNITS: (Takes.AS_COUNTED, Takes.TOTAL),
}
"""What can be ruled; the first of each is counted without a ruling."""
TOKENS_NOT_FREE = 1_000
"""From so many tokens on, a cost of 0 is not believed."""
SMALLEST_DIFFERENCE = 10**6
"""Picousd: of less than a millionth of a dollar nobody asks."""
DEFAULT_RATIO_PERCENT = 150


class Ruling(NamedTuple):
    """A ruling that holds: on one observation, on a model ("" is one, too), or (both None) on all
    of the connection.
    """

    number: int
    finding: str
    takes: str
    model: str | None = None
    step: tuple[str, str] | None = None
    """Its trace's key and its id."""
    source: str | None = None
    """Of a ruling on what an integration records ("" is one, too)."""


class Rulings:
    """The rulings that hold on a connection's usage; ``ratio_percent``: by how much costs may be
    apart.

    On one observation goes before on its model, that before on the connection; of two alike the
    later one holds.
    """

    def __init__(
        self,
        rulings: Iterable[Ruling] = (),
        ratio_percent: int = DEFAULT_RATIO_PERCENT,
        *,
        looks_for_likely: bool = False,
    ) -> None:
        self.all = sorted(rulings)
        self.looks_for_likely = looks_for_likely
        """Whether traces keep what calls that others may have recorded are found by: from the first
        ruling on such calls on.
        """
        self.counted_as_others = frozenset(
            one.source
            for one in self.all
            if one.source is not None and one.takes == Takes.OTHERS.value
        )
        """Integrations whose calls are counted as others record them, where others do."""
        self.steps_counted_as_others = frozenset(
            one.step for one in self.all if one.step is not None and one.takes == Takes.OTHERS.value
        )
        self.ratio_percent = ratio_percent
        self._takes = {
            (one.finding, one.model, one.step): Takes(one.takes)
            for one in self.all
            if one.source is None
        }
        self.take_totals = any(one.takes == Takes.TOTAL for one in self.all)

    def takes(self, finding: Finding, model: str, step: tuple[str, str]) -> Takes:
        """AS_USUAL where nothing was ruled."""
        if not self._takes:
            return Takes.AS_USUAL
        for which in ((None, step), (model, None), (None, None)):
            found = self._takes.get((finding.value, *which))
            if found is not None:
                return found
        return Takes.AS_USUAL


NO_RULINGS = Rulings()
NO_IDS: Mapping[str, str] = {}


def are_close(some_picousd: int, other_picousd: int) -> bool:
    """Whether two costs differ by less than anybody asks about."""
    return -SMALLEST_DIFFERENCE < some_picousd - other_picousd < SMALLEST_DIFFERENCE


def finding_of(
    langfuse_picousd: int, ours_picousd: int | None, total_tokens: int, ratio_percent: int
) -> Finding:
    """Of a call with Langfuse's cost, which ours (None: no list has a price) is compared with."""
    if langfuse_picousd == 0:
        return (
            Finding.FREE
            if total_tokens >= TOKENS_NOT_FREE and ours_picousd != 0
            else (Finding.NONE)
        )
    if ours_picousd is None or are_close(langfuse_picousd, ours_picousd):
        return Finding.NONE
    less, more = sorted((langfuse_picousd, ours_picousd))
    return Finding.COST if more * 100 > less * ratio_percent else Finding.NONE


ALIKE = 10**6
"""Costs are the same that differ by less than this part of them."""


def sums_of_children(
    steps: Sequence[StepVersion], using: Sequence[StepVersion]
) -> Mapping[str, str]:
    """The steps (by id) that carry what the steps inside them used, or what these cost: of each the
    first of those that it repeats and that says anything.

    Inside of a step are those below it that use something themselves, whatever is between. Both
    input and output have to be the same, in the canonical form, and the costs where all of them
    have one: calls that used as much by chance cost otherwise. Of a step that says no tokens,
    Langfuse's cost alone tells.
    """
    if len(using) < 2 or not {step.parent_id for step in steps} - {""}:
        return NO_IDS
    parent_of = {step.observation_id: step.parent_id for step in steps}
    inside = _inside(parent_of, using)
    found = {}
    for step in using:
        children = inside.get(step.observation_id)
        if children and _is_sum(step, children) and not _is_inside_itself(step, parent_of):
            found[step.observation_id] = min(
                filter(_says_anything, children),
                key=lambda one: (one.start_time, one.observation_id),
            ).observation_id
    return found


def _says_anything(step: StepVersion) -> bool:
    return step.cost_usd is not None or any(step.usage_details.values())


def _is_inside_itself(step: StepVersion, parent_of: Mapping[str, str]) -> bool:
    """A client's mistake: in a circle of parents nothing is inside of anything."""
    at, seen = step.parent_id, {step.observation_id}
    while at and at not in seen:
        seen.add(at)
        at = parent_of.get(at, "")
    return at == step.observation_id


def _inside(
    parent_of: Mapping[str, str], using: Sequence[StepVersion]
) -> Mapping[str, list[StepVersion]]:
    """The nearest steps that use something inside of each that does."""
    uses = {step.observation_id for step in using}
    inside: dict[str, list[StepVersion]] = {}
    for step in using:
        around = _nearest(step.parent_id, parent_of, uses)
        if around is not None and around != step.observation_id:
            inside.setdefault(around, []).append(step)
    return inside


def _nearest(at: str, parent_of: Mapping[str, str], uses: Set[str]) -> str | None:
    seen: set[str] = set()
    while at and at not in uses:
        # A client's mistake can make a circle of parents.
        if at in seen:
            return None
        seen.add(at)
        at = parent_of.get(at, "")
    return at or None


def _is_sum(step: StepVersion, children: Collection[StepVersion]) -> bool:
    own = _both(count_tokens(step.usage_details))
    costs = [one.cost_usd for one in children if one.cost_usd is not None]
    has_costs = bool(step.cost_usd) and len(costs) == len(children)
    # Each is a float of the store's, so sums differ in their last digits.
    own_cost = step.cost_usd or Decimal(0)
    costs_as_much = abs(own_cost - sum(costs, Decimal(0))) * ALIKE <= own_cost
    if not any(own):
        return has_costs and costs_as_much
    counts = [_both(count_tokens(one.usage_details)) for one in children]
    uses_as_much = own == tuple(map(sum, zip(*counts, strict=True)))
    return uses_as_much and (costs_as_much or not has_costs)


def _both(tokens: TokenCounts) -> tuple[int, int]:
    return tokens.input, tokens.output
