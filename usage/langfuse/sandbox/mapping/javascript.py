"""Values as JavaScript reads, counts and writes them, since the real server is written in it."""

import json
import math
import re
from decimal import Decimal
from typing import Any, NoReturn

import orjson

LARGEST_SAFE_INTEGER = 2**53
LARGEST_WRITTEN_OUT = 2**63
# Text in which a number may lose digits as a JavaScript number.
LONG_NUMBER = re.compile(r"[\d.]{13,}|\d[eE]")
LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)")


def number(value: float) -> int | float:
    """A number of JavaScript, which has one kind only: 3.0 is 3."""
    if isinstance(value, int):
        return value if abs(value) <= LARGEST_SAFE_INTEGER else number(float(value))
    return int(value) if value.is_integer() and abs(value) < LARGEST_WRITTEN_OUT else value


def parse_json(text: str) -> Any:
    """As JSON.parse. Raises ValueError where the text is no JSON."""
    return _parse(text, lambda digits: number(float(digits)))


def parse_exactly(text: str) -> Any:
    """As the API shows a stored text: what it says as JSON, else the text itself; a number that
    would lose digits stays text.
    """
    try:
        return _parse(text, _exact_number) if LONG_NUMBER.search(text) else parse_json(text)
    except ValueError:
        return text


def _parse(text: str, read_number: Any) -> Any:
    try:
        parsed = json.loads(
            text, parse_int=read_number, parse_float=read_number, parse_constant=_refuse
        )
    except RecursionError as error:
        raise ValueError("JSON of too many levels") from error
    if "\\ud" in text.casefold():
        orjson.loads(text)  # Half a surrogate pair is text that no store takes: refused.
    return parsed


def _exact_number(digits: str) -> Any:
    value = number(float(digits))
    if not math.isfinite(value):
        return digits
    written, read = (Decimal(one).normalize().as_tuple().digits for one in (digits, repr(value)))
    return value if written == read else digits


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def parsed_or_none(value: Any) -> Any:
    """A map or a list as it is, a text as the JSON that it is; None for anything else."""
    if isinstance(value, str):
        try:
            return parse_json(value)
        except ValueError:
            return None
    return value if isinstance(value, dict | list) else None


def record(value: Any) -> dict[str, Any] | None:
    """The entries of a map or a list, given as it is or as JSON; None for anything else."""
    parsed = parsed_or_none(value)
    if isinstance(parsed, list):
        return {str(place): one for place, one in enumerate(parsed)}
    return parsed if isinstance(parsed, dict) else None


def json_text(value: Any) -> str:
    """As JSON.stringify."""
    return orjson.dumps(value).decode()


def text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json_text(value)


def to_string(value: Any) -> str:
    """As toString: a list without its brackets."""
    if isinstance(value, list):
        return ",".join("" if one is None else to_string(one) for one in value)
    return text(value)


def to_number(value: Any) -> int | float | None:
    """As Number; None for what is none."""
    if value is None or value == [] or (isinstance(value, str) and not value.strip()):
        return 0
    if isinstance(value, list):
        return to_number(value[0]) if len(value) == 1 else None
    try:
        found = number(float(value)) if not isinstance(value, int) else number(int(value))
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def leading_integer(value: Any) -> int | None:
    """As parseInt; None where the text doesn't begin with an integer."""
    found = LEADING_INTEGER.match(to_string(value))
    return int(found[1]) if found else None


def is_truthy(value: Any) -> bool:
    """As in a condition: an empty list is true."""
    return isinstance(value, list | dict) or bool(value)


def is_meaningful(value: Any) -> bool:
    """Neither absent nor empty."""
    return value is not None and value not in ("", [], {})
