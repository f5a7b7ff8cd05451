"""What an observation used, in one form: tokens and units, each counted once (domain.md, What is
counted; docs/pricing.md, Units). Pure.

What a key counts, its term says (``pricing.vocabulary``); how the keys of a map lie to one another,
its reading (``pricing.readings``). The keys of most maps are separate, as their own ``total`` says:
these are counted as they stand. Where something does not add up, or can't be known from what is
stored, the count carries a *doubt*.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import compress
from operator import itemgetter, mul
from typing import NamedTuple

from pricing.readings import (
    COUNTED_UNDER_ONE_NAME,
    PLAIN,
    PLAIN_OF,
    Reading,
    Readings,
    readings_of,
)
from pricing.vocabulary import Place, Role, Term, UnitKind, term_of

PLAIN_KIND = {
    UnitKind.CACHED_INPUT: UnitKind.INPUT,
    UnitKind.CACHE_WRITE: UnitKind.INPUT,
    UnitKind.CACHE_WRITE_1H: UnitKind.CACHE_WRITE,
    UnitKind.INPUT_AUDIO: UnitKind.INPUT,
    UnitKind.INPUT_IMAGE: UnitKind.INPUT,
    UnitKind.REASONING: UnitKind.OUTPUT,
    UnitKind.OUTPUT_AUDIO: UnitKind.OUTPUT,
    UnitKind.OUTPUT_IMAGE: UnitKind.OUTPUT,
}
"""What a kind is charged as where it has no price of its own."""

FREE_WITHOUT_PRICE = frozenset({UnitKind.REQUEST, UnitKind.OTHER})
SEARCHES = frozenset({UnitKind.WEB_SEARCH, UnitKind.STORAGE_SEARCH})
"""What a price for a request includes, where there is one and none for these."""
BESIDE_TOKENS = frozenset(
    {UnitKind.SECONDS, UnitKind.CHARACTERS, UnitKind.PAGES, UnitKind.SEARCH_UNITS}
)
"""What says once more how much a call's tokens are of, where it has tokens and no price for
these.
"""

INPUT_DETAILS = (
    UnitKind.CACHED_INPUT,
    UnitKind.CACHE_WRITE,
    UnitKind.CACHE_WRITE_1H,
    UnitKind.INPUT_AUDIO,
    UnitKind.INPUT_IMAGE,
)
OUTPUT_DETAILS = (UnitKind.REASONING, UnitKind.OUTPUT_AUDIO, UnitKind.OUTPUT_IMAGE)
INPUT_KINDS = frozenset({UnitKind.INPUT, *INPUT_DETAILS})


class Doubt(StrEnum):
    """What is doubtful about a count of units."""

    NONE = ""
    MORE_THAN_TOTAL = "more_than_total"
    """More tokens are counted than the producer's own total says."""
    LESS_THAN_TOTAL = "less_than_total"
    BELOW_ZERO = "below_zero"
    """Langfuse took more out of the plain count than there was: what was left of it is lost."""
    DETAILS_DROPPED = "details_dropped"
    """A form that Langfuse does not know: it stored the sums, and dropped maps of details."""
    TOTAL_ALONE = "total_alone"
    """No tokens of a side, but a total, as of embeddings: it is counted as input."""
    OVERLAP = "overlap"
    """Cached tokens are audio or images, too, and how many is not said: they count as those."""


class TokenCounts(NamedTuple):
    """Tokens of one observation: ``input``, ``output`` and ``total``, and the kinds apart (parts of
    the first two).

    ``total`` is the producer's own where it says one, else the sum of the first two and of tokens
    whose name says no side.
    """

    input: int = 0
    output: int = 0
    total: int = 0
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    audio: int = 0

    @property
    def beyond_total(self) -> int:
        """How many tokens more are counted than the producer's total says; less: negative."""
        return self.input + self.output - self.total


NO_TOKENS = TokenCounts()
COUNTED_AS = {
    UnitKind.INPUT: ("input",),
    UnitKind.CACHED_INPUT: ("input", "cached"),
    UnitKind.CACHE_WRITE: ("input", "cache_write"),
    UnitKind.CACHE_WRITE_1H: ("input", "cache_write"),
    UnitKind.INPUT_AUDIO: ("input", "audio"),
    UnitKind.INPUT_IMAGE: ("input",),
    UnitKind.OUTPUT: ("output",),
    UnitKind.REASONING: ("output", "reasoning"),
    UnitKind.OUTPUT_AUDIO: ("output", "audio"),
    UnitKind.OUTPUT_IMAGE: ("output",),
}
"""Which counts the tokens of a kind are part of; images, requests, searches are no tokens."""
COUNTED_AT = {
    kind: tuple(map(TokenCounts._fields.index, names)) for kind, names in COUNTED_AS.items()
}
TOTAL_AT = TokenCounts._fields.index("total")
RAW_OF_OPENAI = (
    frozenset({"prompt_tokens", "completion_tokens", "total_tokens"}),
    frozenset({"input_tokens", "output_tokens", "total_tokens"}),
)
"""Sums in OpenAI's form beside a ``total`` of Langfuse's: something in the form was unknown to
Langfuse, or it would have taken it apart.
"""


class Shape(NamedTuple):
    """What the keys of a usage map say by themselves.

    ``kinds``: the kind of each key, where all are separate; ``tokens_at``: what the counts of the
    keys, with a 0 after them, come to then in the fields of TokenCounts but the total;
    ``is_plain``: that they do wherever they sum to the map's ``total``; ``has_total``: whether
    there is such a key; ``has_parts``: whether there is anything that could be inside;
    ``may_be_below_0``: plain counts that Langfuse takes parts out of.
    """

    kinds: tuple[UnitKind | None, ...]
    tokens_at: Callable[[Sequence[int]], Sequence[int]]
    is_plain: bool
    has_total: bool
    has_parts: bool
    may_be_below_0: tuple[str, ...]


@lru_cache(maxsize=4096)
def shape_of(usage_keys: tuple[str, ...]) -> Shape:
    """The shape of a usage map with these keys."""
    terms = [term_of(key) for key in usage_keys]
    reading = readings_of(usage_keys, usage_keys).likeliest
    kinds = tuple(
        term.kind if place is Place.SEPARATE or term.role is Role.OTHER else None
        for term, place in zip(terms, reading.places, strict=True)
    )
    is_plain = all(
        key == "total"
        or (place is Place.SEPARATE and term.role is not Role.UNKNOWN)
        or term.kind is UnitKind.REQUEST
        for key, term, place in zip(usage_keys, terms, reading.places, strict=True)
    )
    parts = [term for term in terms if term.role not in (Role.WHOLE, Role.TOTAL)]
    return Shape(
        kinds,
        _tokens_at(kinds),
        is_plain,
        "total" in usage_keys,
        bool(parts),
        tuple(
            name for name in ("input", "output") if name in usage_keys and _has_parts(name, parts)
        ),
    )


def _tokens_at(
    kinds: Sequence[UnitKind | None],
) -> Callable[[Sequence[int]], Sequence[int]]:
    fields: list[list[int]] = [[] for _ in TokenCounts._fields]
    for at, kind in enumerate(kinds):
        for place in COUNTED_AT.get(kind, ()) if kind else ():
            fields[place].append(at)
    if all(len(keys) <= 1 for keys in fields):
        # As of nearly all: the one key that counts in a field, or the 0 at the end.
        return itemgetter(*[keys[0] if keys else -1 for keys in fields])
    return lambda counts: [sum(counts[at] for at in keys) for keys in fields]


def _has_parts(name: str, parts: list[Term]) -> bool:
    return any(one.kind is not None and PLAIN_OF.get(one.kind) == name for one in parts)


def stands_as_it_is(shape: Shape, usage_details: Mapping[str, int]) -> bool:
    """Whether the keys are separate, and their total is their sum."""
    return (
        shape.is_plain
        and (not shape.has_total or sum(usage_details.values()) == 2 * usage_details["total"])
        and (not shape.may_be_below_0 or all(map(usage_details.get, shape.may_be_below_0)))
    )


class Resolved(NamedTuple):
    """A usage map in its canonical form.

    ``units`` without kinds of 0; ``keys``, ``counts``: what the reading was of.
    """

    units: dict[UnitKind, int]
    tokens: TokenCounts
    doubt: Doubt
    keys: tuple[str, ...]
    counts: tuple[int, ...]
    reading: Reading


def resolved(usage_details: Mapping[str, int]) -> Resolved:
    """The canonical form, whatever the shape."""
    return _resolved(tuple(usage_details), tuple(usage_details.values()))


NO_READING = Reading((), (), (), ())


# A step is counted and then priced.
@lru_cache(maxsize=256, typed=True)
def _resolved(keys: tuple[str, ...], values: tuple[int, ...]) -> Resolved:
    form = _form(keys, tuple(map(bool, values)))
    counts = tuple(compress(values, form.is_used))
    total = None if form.total_at is None else values[form.total_at]
    if total is not None and form.may_be_langfuses and 2 * total == sum(values):
        total = None
    if total and form.is_total_alone:
        units = {UnitKind.INPUT: total}
        return Resolved(units, _tokens(units, total), Doubt.TOTAL_ALONE, (), (), NO_READING)
    reading, missing = _reading(form, counts, total)
    units = {}
    for kind, row in reading.units:
        if found := sum(map(mul, row, counts)):
            units[kind] = found
    if missing:
        units[_lost(form, reading, counts)[0]] = missing
    tokens = _tokens(units, total)
    if total is None and form.has_unknown:
        tokens = tokens._replace(total=tokens.total + sum(compress(values, form.is_unknown)))
    return Resolved(units, tokens, _doubt(form, units, tokens, total), form.used, counts, reading)


class Form(NamedTuple):
    """What is known of a usage map whose keys are known, and which of them are not 0.

    ``used``: the keys that count something; ``is_unknown``: which are tokens of no side that we
    know; ``is_total_alone``: that no key but a total counts tokens of a side; ``total_at``: of the
    total, which may be Langfuse's own sum; ``emptied``: the plain counts of which Langfuse has left
    nothing, though there are details of them; ``is_raw``: sums in OpenAI's form, and a total that
    Langfuse added to them.
    """

    used: tuple[str, ...]
    is_used: tuple[bool, ...]
    is_unknown: tuple[bool, ...]
    has_unknown: bool
    is_total_alone: bool
    readings: Readings
    total_at: int | None
    may_be_langfuses: bool
    emptied: tuple[UnitKind, ...]
    is_raw: bool
    has_cached: bool


@lru_cache(maxsize=4096)
def _form(keys: tuple[str, ...], is_counted: tuple[bool, ...]) -> Form:
    terms = [term_of(key) for key in keys]
    is_total = [term.role is Role.TOTAL for term in terms]
    is_used = tuple(
        counted and not total for counted, total in zip(is_counted, is_total, strict=True)
    )
    used = tuple(compress(keys, is_used))
    is_unknown = tuple(
        counted and term.role is Role.UNKNOWN for counted, term in zip(is_used, terms, strict=True)
    )
    has_unknown = any(is_unknown)
    has_a_side = any(term.kind in PLAIN_OF for term in compress(terms, is_used))
    totals = [at for at, total in enumerate(is_total) if total and is_counted[at]]
    totals.sort(key=lambda at: keys[at] == "total")
    parts = {term.kind for term in compress(terms, is_used) if term.role is not Role.WHOLE}
    emptied = tuple(
        plain
        for plain in (UnitKind.INPUT, UnitKind.OUTPUT)
        if plain.value in keys
        and plain.value not in used
        and any(PLAIN_OF.get(kind) is plain for kind in parts if kind)
    )
    return Form(
        used,
        is_used,
        is_unknown,
        has_unknown,
        not used or (has_unknown and not has_a_side),
        readings_of(used, keys),
        totals[0] if totals else None,
        bool(totals) and keys[totals[0]] == "total",
        emptied,
        "total" in keys and any(form <= {*compress(keys, is_counted)} for form in RAW_OF_OPENAI),
        any(
            term.role is Role.PART and term.kind is UnitKind.CACHED_INPUT
            for term in compress(terms, is_used)
        ),
    )


def _reading(form: Form, counts: tuple[int, ...], total: int | None) -> tuple[Reading, int]:
    """The reading that holds, and what has to go back to a plain count: Langfuse takes details out
    of it, never below 0, so where it is 0, what the total says to be missing was lost there. A
    reading that nothing is missing in goes before.
    """
    likeliest: Reading | None = None
    mended: tuple[Reading, int] | None = None
    for reading in form.readings:
        if not reading.holds(counts):
            continue
        if total is None:
            if max(reading.weights, default=0) > 1:
                continue  # Only a total can tell that too much was taken out.
            return reading, 0
        likeliest = likeliest or reading
        missing = total - reading.tokens(counts)
        if not missing:
            return reading, 0
        if not mended and missing > 0 and len(_lost(form, reading, counts)) == 1:
            mended = reading, missing
    if mended:
        return mended
    if likeliest is None:
        raise AssertionError(f"No reading of {form.used} holds.")
    return likeliest, 0


def _lost(form: Form, reading: Reading, counts: tuple[int, ...]) -> list[UnitKind]:
    """The emptied plain counts of which the reading finds nothing elsewhere."""
    return [kind for kind in form.emptied if not _counts(reading, kind, counts)]


def _counts(reading: Reading, kind: UnitKind, counts: tuple[int, ...]) -> bool:
    return any(one is kind and sum(map(mul, row, counts)) for one, row in reading.units)


def _doubt(
    form: Form, units: Mapping[UnitKind, int], tokens: TokenCounts, total: int | None
) -> Doubt:
    if tokens.beyond_total:
        return Doubt.MORE_THAN_TOTAL if tokens.beyond_total > 0 else Doubt.LESS_THAN_TOTAL
    if form.has_cached and UnitKind.CACHED_INPUT not in units:
        return Doubt.OVERLAP
    if total is None:
        taken_out = {PLAIN_OF[kind] for kind in units if kind in TAKEN_OUT}
        lost = [kind for kind in form.emptied if kind in taken_out and kind not in units]
        return Doubt.BELOW_ZERO if lost else Doubt.NONE
    if form.is_raw and units.keys() - COUNTED_UNDER_ONE_NAME <= PLAIN:
        return Doubt.DETAILS_DROPPED
    return Doubt.NONE


TAKEN_OUT = frozenset(
    {UnitKind.CACHED_INPUT, UnitKind.CACHE_WRITE, UnitKind.CACHE_WRITE_1H, UnitKind.REASONING}
)


def _tokens(units: Mapping[UnitKind, int], total: int | None) -> TokenCounts:
    counts = [0, 0, 0, 0, 0, 0, 0]
    for kind, count in units.items():
        for place in COUNTED_AT.get(kind, ()):
            counts[place] += count
    counts[TOTAL_AT] = counts[0] + counts[1] if total is None else total
    return TokenCounts(*counts)


def units_of(usage_details: Mapping[str, int]) -> dict[UnitKind, int]:
    """Units by kind, each counted once; kinds with no units are left out."""
    return dict(resolved(usage_details).units)


def count_tokens(usage_details: Mapping[str, int]) -> TokenCounts:
    """The token counts of a usage map."""
    return counted(usage_details)[0]


# A member of an enumeration is looked up slowly through its class.
NO_DOUBT = Doubt.NONE
UNDOUBTED = NO_TOKENS, NO_DOUBT


def counted(usage_details: Mapping[str, int]) -> tuple[TokenCounts, Doubt]:
    """The token counts of a usage map, and what is doubtful about them."""
    if not usage_details:
        return UNDOUBTED
    shape = shape_of(tuple(usage_details))
    if not stands_as_it_is(shape, usage_details):
        found = resolved(usage_details)
        return found.tokens, found.doubt
    into, out, _, *parts = shape.tokens_at((*usage_details.values(), 0))
    return TokenCounts(into, out, into + out, *parts), NO_DOUBT


def units_named(usage_details: Mapping[str, int], names: str) -> int:
    """How many units there are of keys that count nothing known and are called so: names apart by
    spaces, in which * is any text.
    """
    patterns = names.lower().split()
    return sum(
        count
        for key, count in usage_details.items()
        if (term := term_of(key)).kind is None
        and term.role is not Role.TOTAL
        and any(fnmatchcase(key.lower(), pattern) for pattern in patterns)
    )


def units_left_out(
    usage_details: Mapping[str, int], uncosted: Collection[str]
) -> dict[UnitKind, int] | None:
    """The units of the keys that Langfuse left out of a cost, as far as no other key's cost covers
    them; None where there are tokens among them of which nobody knows what they are.
    """
    found = resolved(usage_details)
    terms = [term_of(key) for key in found.keys]
    uncovered = {
        PLAIN_OF[term.kind]
        for key, term in zip(found.keys, terms, strict=True)
        if term.role is Role.WHOLE and key in uncosted and term.kind is not None
    }
    units: dict[UnitKind, int] = {}
    for at, (key, term) in enumerate(zip(found.keys, terms, strict=True)):
        if key not in uncosted:
            continue
        if term.role is Role.UNKNOWN:
            return None
        if term.kind is None or term.kind is UnitKind.REQUEST:
            continue
        if term.kind in BESIDE_TOKENS and found.tokens.total:
            continue
        if found.reading.places[at] is Place.INSIDE and PLAIN_OF[term.kind] not in uncovered:
            continue
        for kind, row in found.reading.units:
            if row[at]:
                units[kind] = units.get(kind, 0) + row[at] * found.counts[at]
    return {kind: count for kind, count in units.items() if count > 0}
