"""Ids as callers write them: one thing has one id, however its UUID is spelled. Pure."""

from functools import lru_cache
from hashlib import sha256
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


def as_called(name: str) -> str:
    """Names that differ only in case, or in space around them, are the same."""
    return name.strip().casefold()


def as_trace_id(run_id: UUID | str) -> str:
    """The 32 hex digits that name a run's trace: a UUID's own, and of any other id a digest, the
    one that Langfuse's SDK makes of it (``create_trace_id(seed=…)``). A trace id names itself.
    """
    if isinstance(run_id, UUID):
        return run_id.hex
    parsed = parse_uuid(run_id)
    return parsed.hex if parsed else sha256(run_id.encode()).digest()[:16].hex()
