"""Usage by its own total: as many tokens as that says, each kind read as it is written."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pricing.own_total import CONTRADICTED, NAMES, by_own_total
from pricing.units import COUNTED_AS, Doubt, count_tokens, counted, resolved, units_of
from pricing.vocabulary import UnitKind


@pytest.mark.parametrize(
    ("stored", "by_total"),
    [
        # What is too much is taken out of the plain input first.
        ({"input": 4000, "output": 100, "total": 2000}, {"input": 1900, "output": 100}),
        (
            {"input": 50, "input_cached_tokens": 100, "output": 10, "total": 90},
            {"input_cached_tokens": 80, "output": 10},
        ),
        ({"input": 5, "output": 100, "total": 40}, {"output": 40}),
        # What lacks is plain input.
        ({"input": 10, "output": 5, "total": 40}, {"input": 35, "output": 5}),
        ({"output": 5, "total_tokens": 40}, {"input": 35, "output": 5}),
        # What is no token stays.
        ({"input": 9, "images": 2, "total_tokens": 4}, {"input": 4, "images": 2}),
    ],
)
def test_by_its_own_total(stored: dict[str, int], by_total: dict[str, int]) -> None:
    assert by_own_total(stored) == by_total


def test_each_set_of_kinds_is_read_as_it_is_written() -> None:
    tokens = [kind for kind in NAMES if kind in COUNTED_AS]
    others = [kind for kind in NAMES if kind not in COUNTED_AS]
    for size in range(1, len(tokens) + 1):
        for kinds in combinations(tokens, size):
            for more in ((), others[:1], others):
                units = {kind: 3 + number for number, kind in enumerate([*kinds, *more])}
                assert units_of({NAMES[kind]: count for kind, count in units.items()}) == units


assert NAMES.keys() == set(UnitKind) - {UnitKind.OTHER}
keys = st.sampled_from(
    [
        *("input", "output", "input_cached_tokens", "cache_read_input_tokens", "input_audio"),
        *("cache_creation_input_tokens", "reasoning_tokens", "images", "some_tokens"),
    ]
)


@given(st.dictionaries(keys, st.integers(0, 9), min_size=1), st.integers(0, 40))
def test_it_comes_to_the_total_and_is_not_in_doubt(usage: dict[str, int], total: int) -> None:
    stored = {**usage, "total": total}
    if counted(stored)[1] not in CONTRADICTED:
        return
    mended = by_own_total(stored)
    tokens, doubt = counted(mended)
    assert tokens.input + tokens.output == tokens.total == count_tokens(stored).total
    assert doubt not in CONTRADICTED
    assert doubt in (Doubt.NONE, Doubt.BELOW_ZERO)
    others = {kind: n for kind, n in resolved(stored).units.items() if kind not in COUNTED_AS}
    assert others.items() <= units_of(mended).items()
