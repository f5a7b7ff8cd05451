"""How a usage map can be read: which key is separate from which, and which is inside
(docs/pricing.md, Units). Pure.

A *reading* gives each key of a shape a place (``pricing.vocabulary``), and so is linear: a kind's
units are a sum of counts, each taken 1, 0 or -1 times. Of all readings of a shape, the most likely
first, the one holds that takes nowhere more out than there is, and comes to the producer's own
total where it says one.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import product
from operator import mul
from typing import NamedTuple

from pricing.vocabulary import (
    OF_A_TIER,
    OUTSIDE_THE_TOTAL,
    SEPARATE,
    SUBTRACTED_TWICE,
    TAKEN_APART,
    Place,
    Role,
    Term,
    UnitKind,
    term_of,
)

K = UnitKind
PLAIN_OF = {
    **dict.fromkeys(
        (K.INPUT, K.CACHED_INPUT, K.CACHE_WRITE, K.CACHE_WRITE_1H, K.INPUT_AUDIO, K.INPUT_IMAGE),
        K.INPUT,
    ),
    **dict.fromkeys((K.OUTPUT, K.REASONING, K.OUTPUT_AUDIO, K.OUTPUT_IMAGE), K.OUTPUT),
}
"""The plain kind of each kind's side."""
PLAIN = frozenset(PLAIN_OF.values())
COUNTED_ONCE = frozenset(
    {K.CACHED_INPUT, K.CACHE_WRITE, K.REASONING}
    | {K.INPUT_AUDIO, K.INPUT_IMAGE, K.OUTPUT_AUDIO, K.OUTPUT_IMAGE}
)
"""Kinds that a producer counts under one name; a second known name is the same count again."""
MODALITIES = frozenset({K.INPUT_AUDIO, K.INPUT_IMAGE})
COUNTED_UNDER_ONE_NAME = frozenset(
    {K.WEB_SEARCH, K.STORAGE_SEARCH, K.SEARCH_UNITS, K.SECONDS, K.CHARACTERS, K.PAGES}
)
"""Units that are no tokens, and that a second name counts again."""
# How unlikely a place is where it is not the first of its key's.
COSTS = {
    Place.UNTOLD: 1,
    Place.INSIDE: 2,
    Place.SEPARATE: 3,
    Place.ECHO: 4,
    Place.SHARED: 4,
    Place.RETURNED: 8,
}
MOST_DETAILS = 7
# Columns of a reading beside the kinds: what is left of a cache write when its lifetimes are apart.
WRITE_REST = "write_rest"
Column = UnitKind | str


class Reading(NamedTuple):
    """A way to read a shape.

    ``units``: for each kind that it counts, how often each key is in it; ``at_least_0``: sums that
    can't be negative; ``weights``: how often each key is in the sum of all tokens; ``places``: of
    each key.
    """

    units: tuple[tuple[UnitKind, tuple[int, ...]], ...]
    at_least_0: tuple[tuple[int, ...], ...]
    weights: tuple[int, ...]
    places: tuple[Place | None, ...]

    def holds(self, counts: Sequence[int]) -> bool:
        return all(sum(map(mul, row, counts)) >= 0 for row in self.at_least_0)

    def tokens(self, counts: Sequence[int]) -> int:
        return sum(map(mul, self.weights, counts))


class Readings:
    """All readings of a shape, the most likely first; each is made when it is first asked for."""

    def __init__(self, keys: tuple[str, ...], all_keys: tuple[str, ...]) -> None:
        self._keys = keys
        self._terms = [_in_company(key, all_keys) for key in keys]
        self._options = _options(keys, self._terms)
        self._made = [self._reading([0] * len(keys))]

    def __iter__(self) -> Iterator[Reading]:
        yield self._made[0]
        for at in range(1, len(self._others) + 1):
            if at == len(self._made):
                self._made.append(self._reading(self._others[at - 1]))
            yield self._made[at]
        yield self._all_separate

    @property
    def likeliest(self) -> Reading:
        return self._made[0]

    @cached_property
    def _others(self) -> list[tuple[int, ...]]:
        """Seldom asked for: nearly all usage is as its producer's usually is."""
        return _others(self._keys, self._terms, self._options)

    @cached_property
    def _all_separate(self) -> Reading:
        return _reading(self._keys, self._terms, [Place.SEPARATE] * len(self._keys))

    def _reading(self, chosen: Sequence[int]) -> Reading:
        places = [places[one] for places, one in zip(self._options, chosen, strict=True)]
        return _reading(self._keys, self._terms, places)


@lru_cache(maxsize=2048)
def readings_of(keys: tuple[str, ...], all_keys: tuple[str, ...]) -> Readings:
    """The readings of usage with ``keys``, those of ``all_keys`` that are not 0. The last one has
    all keys separate from one another, whatever their places usually are: it holds for any counts,
    and counts no key twice.
    """
    return Readings(keys, all_keys)


def _others(
    keys: tuple[str, ...], terms: Sequence[Term], options: Sequence[tuple[Place, ...]]
) -> list[tuple[int, ...]]:
    """Which place of each key's, for each reading but the likeliest."""
    # No producer has more details than these; a map with hundreds of keys is no puzzle. Sorted, so
    # that the order of keys says nothing.
    several = [at for at, places in enumerate(options) if len(places) > 1]
    open_to_doubt = sorted(several, key=keys.__getitem__)[:MOST_DETAILS]
    costs = [_costs(term, places) for term, places in zip(terms, options, strict=True)]
    found = []
    for chosen in product(*[range(len(options[at])) for at in open_to_doubt]):
        cost = sum(costs[at][one] for at, one in zip(open_to_doubt, chosen, strict=True))
        found.append((cost, chosen))
    found.sort()
    readings = []
    for _, chosen in found[1:]:
        places = [0] * len(options)
        for at, one in zip(open_to_doubt, chosen, strict=True):
            places[at] = one
        readings.append(tuple(places))
    return readings


def _costs(term: Term, places: tuple[Place, ...]) -> list[int]:
    """How unlikely each place of the key is. The first is not; that what should be an echo is none
    is more so than that a part stands elsewhere.
    """
    if term.role is Role.LIFETIME:
        return [*range(len(places))]
    is_echo = 3 if places[0] is Place.ECHO else 0
    return [at and COSTS[place] + is_echo for at, place in enumerate(places)]


def _in_company(key: str, keys: tuple[str, ...]) -> Term:
    """The key's term among these keys."""
    term = term_of(key)
    if key in OUTSIDE_THE_TOTAL and not OUTSIDE_THE_TOTAL[key].isdisjoint(keys):
        return Term(Role.OTHER)
    is_of_openai = term.is_known and term.rank == 0 and term.role is Role.PART
    if is_of_openai and term.places[0] is Place.INSIDE and not TAKEN_APART.isdisjoint(keys):
        return term._replace(places=SEPARATE)
    return term


def _options(keys: tuple[str, ...], terms: Sequence[Term]) -> list[tuple[Place, ...]]:
    """Where each key may stand, the most likely place first."""
    first_of: dict[tuple[Role, UnitKind | None], int] = {}
    for at in sorted(range(len(keys)), key=lambda at: (terms[at].rank, keys[at])):
        first_of.setdefault((terms[at].role, terms[at].kind), at)
    has_cached = (Role.PART, K.CACHED_INPUT) in first_of
    has_write = (Role.PART, K.CACHE_WRITE) in first_of
    has_modality = any(term.role is Role.PART and term.kind in MODALITIES for term in terms)
    has_cached_parts = any(term.role is Role.CACHED_PART for term in terms)
    wholes = {term.kind for term in terms if term.role is Role.WHOLE}
    options = []
    for at, term in enumerate(terms):
        is_first = first_of.get((term.role, term.kind)) == at
        places = term.places
        if term.kind is None or term.role in (Role.OTHER, Role.TOTAL, Role.UNKNOWN):
            places = (Place.SEPARATE,)
        elif term.role is Role.WHOLE and not is_first:
            places = (Place.ECHO, Place.SEPARATE)
        elif PLAIN_OF[term.kind] not in wholes and _is_of_the_rest(keys[at], term):
            places = (Place.SEPARATE,)
        elif term.role is Role.CACHED_PART:
            if not has_cached:
                places = (Place.SEPARATE, Place.INSIDE)
        elif term.role is Role.LIFETIME:
            if not has_write and places[0] is Place.INSIDE:
                places = (Place.SEPARATE, Place.INSIDE)
        elif term.role is Role.PART and term.kind in COUNTED_ONCE and not is_first:
            if term.is_known:
                twice = {*SUBTRACTED_TWICE} <= {*keys} and keys[at] in SUBTRACTED_TWICE
                places = (*((Place.UNTOLD,) if twice else ()), Place.ECHO, *places)
        elif term.kind is K.CACHED_INPUT and has_modality and not has_cached_parts:
            places = (*places, Place.UNTOLD, Place.ECHO)
        options.append(tuple(dict.fromkeys(places)))
    return options


def _is_of_the_rest(key: str, term: Term) -> bool:
    """Whether the key can only be inside the plain count, and is separate where there is none."""
    if term.role is not Role.PART or term.places[0] is Place.UNTOLD:
        return False
    return term.kind in PLAIN or key in OF_A_TIER


def _is_second_name(keys: tuple[str, ...], terms: Sequence[Term], at: int) -> bool:
    """Whether another key counts the same units."""
    return terms[at].kind in COUNTED_UNDER_ONE_NAME and any(
        term.kind is terms[at].kind and key < keys[at]
        for key, term in zip(keys, terms, strict=True)
    )


def _reading(keys: tuple[str, ...], terms: Sequence[Term], places: Sequence[Place]) -> Reading:
    columns: dict[Column, list[int]] = {}
    weights = [0] * len(keys)
    has_write = any(
        term.role is Role.PART and term.kind is K.CACHE_WRITE and place is not Place.ECHO
        for term, place in zip(terms, places, strict=True)
    )

    def add(column: Column, at: int, times: int) -> None:
        columns.setdefault(column, [0] * len(keys))[at] += times
        weights[at] += times

    shown: list[Place | None] = []
    for at, (term, place) in enumerate(zip(terms, places, strict=True)):
        kind = term.kind
        if kind is None:
            shown.append(None)
            continue
        if term.role is Role.OTHER:
            columns.setdefault(kind, [0] * len(keys))[at] += not _is_second_name(keys, terms, at)
            shown.append(None)
            continue
        shown.append(place)
        own: Column = WRITE_REST if kind is K.CACHE_WRITE and term.role is Role.PART else kind
        inside_of: Column = PLAIN_OF[kind]
        if term.role is Role.LIFETIME and has_write:
            inside_of = WRITE_REST
        elif term.role is Role.CACHED_PART and term.modality in MODALITIES:
            inside_of = term.modality
        match place:
            case Place.SEPARATE:
                add(own, at, 1)
            case Place.INSIDE:
                add(own, at, 1)
                add(inside_of, at, -1)
            case Place.UNTOLD:
                add(PLAIN_OF[kind], at, 1)
            case Place.RETURNED:
                add(own, at, 1)
                add(PLAIN_OF[kind], at, 1)
                if inside_of is WRITE_REST:
                    add(inside_of, at, -1)
            case Place.SHARED:
                add(term.modality or K.INPUT, at, -1)
                add(K.INPUT, at, 1)
    at_least_0 = tuple(tuple(row) for row in columns.values() if min(row) < 0)
    if WRITE_REST in columns:
        rest = columns.pop(WRITE_REST)
        written = columns.get(K.CACHE_WRITE, [0] * len(keys))
        columns[K.CACHE_WRITE] = [sum(pair) for pair in zip(written, rest, strict=True)]
    units = tuple((kind, tuple(row)) for kind, row in columns.items() if any(row))
    return Reading(units, at_least_0, tuple(weights), tuple(shown))  # type: ignore[arg-type]
