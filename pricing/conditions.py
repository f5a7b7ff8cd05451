"""How a call was asked, and of which calls a price is (docs/pricing.md, Conditions). Pure.

A *context* is what a call's parameters say that changes its price, as one text: ``processing=batch
service_tier=flex``; "" for nearly all. *Conditions* are what a price asks of the context, of the
region in the model's name, of the time of day and of the input's length.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from functools import lru_cache
from typing import Any

TERMS = {
    "processing": "processing",
    "service_tier": "service_tier",
    "serviceTier": "service_tier",
    "speed": "speed",
    "inference_geo": "inference_geo",
    "search_type": "search_type",
    "route": "route",
}
"""A model's parameters that change its price, by what they are called."""
AS_USUAL = frozenset(
    "auto default standard standard_only on_demand on-demand sync global none null false".split()
)
"""Values that say of a call that it is like any other."""
OF_KEYS = re.compile(r"(?:input|output)_(flex|priority)(?:_|$)")
"""LangChain names a call's units by its service tier."""
VALUE = re.compile(r"[a-z0-9][a-z0-9_./:-]{0,39}$")
LONGEST = 100
TIMES = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d-(?:[01]\d|2[0-3]):[0-5]\d$")


def context_of(parameters: Any) -> str:
    """The context of a call with these parameters."""
    if not isinstance(parameters, Mapping):
        return ""
    found: dict[str, str] = {}
    for name, term in TERMS.items():
        value = parameters.get(name)
        if isinstance(value, str) and VALUE.match(text := value.lower()) and text not in AS_USUAL:
            found[term] = text
    if found.get("service_tier") == "batch":
        # Anthropic's answers say so.
        found["processing"] = found.pop("service_tier")
    text = _text(found)
    return text if len(text) <= LONGEST else ""


@lru_cache(maxsize=4096)
def terms_of(context: str, usage_keys: tuple[str, ...] = ()) -> Mapping[str, str]:
    """The terms of a call's context, with what the names of its units say."""
    terms = dict(term.split("=", 1) for term in context.split())
    tiers = sorted({found[1] for key in usage_keys if (found := OF_KEYS.match(key))})
    if tiers:
        terms.setdefault("service_tier", tiers[0])
    return terms


def whole_context(context: str, usage_keys: tuple[str, ...]) -> str:
    """The context with what the names of the call's units say."""
    return _text(terms_of(context, usage_keys))


def _text(terms: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(terms.items()))


@dataclass(frozen=True)
class Conditions:
    """Of which calls a price is. ``terms``: of the context, and ``region``; ``between``: from when
    until when of each day (UTC), past midnight where the second is not after the first;
    ``above_input_tokens``: -1 for any length.
    """

    terms: tuple[tuple[str, str], ...] = ()
    between: tuple[time, time] | None = None
    above_input_tokens: int = -1

    @classmethod
    def parsed(cls, text: str) -> "Conditions":
        """The conditions of ``service_tier=flex region=eu time=00:30-16:30 input>200000``, each at
        most once. Raises ValueError, saying which is none.
        """
        terms: dict[str, str] = {}
        between, above = None, -1
        names = []
        for one in text.lower().replace(",", " ").split():
            name, sign, value = one.partition(">") if one.startswith("input>") else _split(one)
            names.append(name)
            if sign == ">" and value.isdecimal() and len(value) <= 9:
                above = int(value)
            elif name == "time" and TIMES.match(value):
                start, end = value.split("-")
                between = time.fromisoformat(start), time.fromisoformat(end)
            elif name in CONDITIONS and VALUE.match(value) and value not in AS_USUAL:
                terms[name] = value
            else:
                raise ValueError(
                    f"“{one}” is no condition; write for example {EXAMPLES}. The names are"
                    f" {', '.join(sorted(CONDITIONS))}, time and input."
                )
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"“{twice[0]}” stands in it twice; a price can ask for one only.")
        return cls(tuple(sorted(terms.items())), between, above)

    def __str__(self) -> str:
        parts = [f"{name}={value}" for name, value in self.terms]
        if self.between:
            parts.append("time={:%H:%M}-{:%H:%M}".format(*self.between))
        if self.above_input_tokens >= 0:
            parts.append(f"input>{self.above_input_tokens}")
        return " ".join(parts)

    @property
    def closeness(self) -> tuple[int, int]:
        """Of several that hold, the greatest is the closest."""
        asked = len(self.terms) + (self.between is not None) + (self.above_input_tokens >= 0)
        return asked, self.above_input_tokens

    def fit(self, terms: Mapping[str, str], region: str) -> bool:
        """Whether they can hold for calls of this context, of a model in this region."""
        return all(
            (region if name == "region" else terms.get(name)) == value for name, value in self.terms
        )

    def hold_at(self, moment: datetime) -> bool:
        """Whether it is the time of day."""
        if self.between is None:
            return True
        start, end = self.between
        at = moment.astimezone(UTC).time()
        return start <= at < end if start < end else at >= start or at < end


def _split(one: str) -> tuple[str, str, str]:
    return one.partition("=")


CONDITIONS = frozenset(TERMS.values()) | {"region"}
EXAMPLES = "service_tier=flex, processing=batch, region=eu, time=00:30-16:30, input>200000"
UNCONDITIONAL = Conditions()


def unanswered(terms: Mapping[str, str], answered: Iterable[str]) -> frozenset[str]:
    """The terms that change any model's price, and that a price list says nothing of."""
    return CHANGING.intersection(terms).difference(answered)


CHANGING = frozenset({"processing", "service_tier", "speed"})
"""A list that has no price for such a call has none at all: what it has is the usual call's."""
