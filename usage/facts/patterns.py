"""Patterns that operators enter and texts of strangers are held against: such that none can take
long, whatever the text. Pure.
"""

import re
from functools import lru_cache

# The parser of the standard library's own re.
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

LONGEST_PATTERN = 200
LONGEST_TEXT = 200
MOST_WAYS = 50_000
"""In how many ways a text of the greatest length may be tried: two repetitions without an end."""
SINGLE = {op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN, op.CATEGORY, op.RANGE}
REPEATS = {op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT}
REFUSED = {
    op.GROUPREF: "it refers back to a group",
    op.GROUPREF_EXISTS: "it asks whether a group was found",
    op.ASSERT: "it looks ahead or behind",
    op.ASSERT_NOT: "it looks ahead or behind",
}


class BadPattern(ValueError):
    """The pattern is none, or could take too long. The message says why."""


@lru_cache(maxsize=1_024)
def bounded_pattern(text: str, group: str) -> re.Pattern[str]:
    """The pattern, which a whole text has to match; what it finds is the group of that name.

    Raises BadPattern.
    """
    if len(text) > LONGEST_PATTERN:
        raise BadPattern(f"The pattern has {len(text)} characters; {LONGEST_PATTERN} at most.")
    try:
        compiled = re.compile(text)
        ways = _ways(parser.parse(text))
    except (re.error, OverflowError, RecursionError) as error:
        raise BadPattern(f"“{text}” is no pattern: {error}.") from error
    if group not in compiled.groupindex:
        raise BadPattern(
            f"“{text}” does not say which part of it is meant: write (?P<{group}>…) around it."
        )
    if ways > MOST_WAYS:
        raise BadPattern(
            f"“{text}” could take too long: use * and + twice at most, and few choices beside them."
        )
    return compiled


def found_by(pattern: re.Pattern[str], group: str, text: str) -> str:
    """What the pattern finds in the text; "" where it doesn't match."""
    match = pattern.fullmatch(text[:LONGEST_TEXT])
    return (match.group(group) or "").strip() if match else ""


def _ways(items: Any) -> int:
    """An upper bound of the ways in which a text may be tried."""
    ways = 1
    for what, argument in items:
        if what in REFUSED:
            raise BadPattern(f"The pattern could take too long: {REFUSED[what]}.")
        if what in REPEATS:
            least, most, repeated = argument
            if most > 1 and not (len(repeated) == 1 and repeated[0][0] in SINGLE):
                raise BadPattern(
                    "The pattern could take too long: repeat single characters, not groups."
                )
            ways *= (min(most, LONGEST_TEXT) - min(least, LONGEST_TEXT) + 1) * _ways(repeated)
        elif what is op.BRANCH:
            ways *= sum(_ways(branch) for branch in argument[1])
        elif what is op.SUBPATTERN:
            ways *= _ways(argument[-1])
        elif what is op.ATOMIC_GROUP:
            ways *= _ways(argument)
    return ways
