"""Ids as callers write them: one thing has one id, however its UUID is spelled."""

from functools import lru_cache
from uuid import UUID


@lru_cache(maxsize=65_536)
def canonical_id(text: str) -> str:
    """A UUID in whatever form as Python writes it, any other id as it is; so one thing has one
    id.
    """
    parsed = parse_uuid(text)
    return str(parsed) if parsed else text


@lru_cache(maxsize=65_536)
def parse_uuid(text: str) -> UUID | None:
    if len(text) < 32:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None
