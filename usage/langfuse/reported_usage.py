"""Usage and costs as a flow engine passes them, in the form that Langfuse takes: unit → whole count
and unit → USD.

Providers' own objects come in many forms: floats and Decimals, text, None for what was not counted,
details in a map of their own. What can't be a count is left out and named in the log; nothing in
here raises.
"""

import logging
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_UP, Decimal, DecimalException
from numbers import Number
from typing import Any

from usage.langfuse.wire import LARGEST_COST_USD, LARGEST_COUNT

logger = logging.getLogger(__name__)

# The map of details, the unit that it is inside of, and how Langfuse names its parts.
INSIDE = {
    "prompt_tokens_details": ("prompt_tokens", "input"),
    "input_tokens_details": ("input_tokens", "input"),
    "input_token_details": ("input_tokens", "input"),
    "completion_tokens_details": ("completion_tokens", "output"),
    "output_tokens_details": ("output_tokens", "output"),
    "output_token_details": ("output_tokens", "output"),
}


def counts_of(usage: object) -> dict[str, int]:
    """The units that were counted, each once: details that are inside another unit are taken out of
    it.
    """
    given = _as_map(usage)
    counts = dict(_counted((name, value) for name, value in given.items() if not _is_map(value)))
    for name, value in given.items():
        if not _is_map(value):
            continue
        whole, prefix = INSIDE.get(str(name), (None, str(name)))
        if f"{name}_input_tokens" in counts:
            continue  # Anthropic's sum of the same parts
        for part, count in _counted(_as_map(value).items()):
            counts[f"{prefix}_{part}"] = count
            if whole in counts:
                counts[whole] = max(0, counts[whole] - count)
    return counts


def costs_of(costs: object) -> dict[str, float]:
    """The costs that are known, as JSON's numbers."""
    found = {}
    for unit, given in _as_map(costs).items():
        if given is None:
            continue
        cost = _number(given)
        if cost is None or not 0 <= cost <= LARGEST_COST_USD:
            _left_out("cost", unit, given)
            continue
        found[str(unit)] = float(cost)
    return found


def _counted(items: Any) -> Iterator[tuple[str, int]]:
    for unit, given in items:
        if given is None:
            continue
        count = _number(given)
        if count is None or not 0 <= count <= LARGEST_COUNT:
            _left_out("count", unit, given)
            continue
        yield str(unit), int(count.to_integral_value(ROUND_HALF_UP))


def _number(given: object) -> Decimal | None:
    """A finite number; None of anything else."""
    if isinstance(given, bool) or not isinstance(given, str | Number):
        return None
    try:
        number = Decimal(str(given))
    except DecimalException:
        return None
    return number if number.is_finite() else None


def _as_map(given: object) -> Mapping[Any, Any]:
    """A map, or the fields of a provider's object; empty of anything else."""
    if isinstance(given, Mapping):
        return given
    if given is None:
        return {}
    fields = getattr(given, "__dict__", None)
    if not isinstance(fields, dict):
        _left_out("usage", "all of it", given)
        return {}
    return {name: value for name, value in fields.items() if not name.startswith("_")}


def _is_map(value: object) -> bool:
    return isinstance(value, Mapping) or isinstance(getattr(value, "__dict__", None), dict)


def _left_out(kind: str, unit: object, given: object) -> None:
    """Named by unit and type: values may be content of the flow."""
    logger.warning("The %s of “%s” is %s and is left out.", kind, unit, type(given).__name__)
