"""Why a run is whose it is, where attribution rules say so, in words."""

from collections.abc import Iterable

from usage.facts.rules import OUR_TRACER, Given
from usage.models import AttributionRule

OURS = "our tracer's keys"


def in_words(given: Iterable[Given], rules: dict[int, AttributionRule] | None = None) -> str:
    """What rules gave, and whether it found somebody. ``rules``: those that are stored, by their
    numbers.
    """
    return " ".join(_in_words(one, (rules or {}).get(one.number)) for one in given)


def _in_words(one: Given, rule: AttributionRule | None) -> str:
    if one.number == OUR_TRACER:
        by = OURS
    elif rule is None:
        by = "a rule"
    else:
        by = f"rule {rule.position + 1} of “{rule.rules.name}” ({rule.get_source_display()}"
        by += f" {rule.path})" if rule.path else ")"
    if not one.text:
        return (
            f"The {one.gives} may be in what {by} reads, but Langfuse cut that metadata off before"
            " it: have it sent as a tag, or as metadata of its own."
        )
    found = "" if one.is_found else ", which names nobody known"
    return f"The {one.gives} is by {by}: “{one.text}”{found}."


def why_owned(given: Iterable[Given]) -> str:
    """The same of a stored run; one query where rules gave something."""
    told = list(given)
    if not told:
        return ""
    numbers = {one.number for one in told}
    rules = AttributionRule.objects.select_related("rules").in_bulk(numbers)
    return in_words(told, rules)
