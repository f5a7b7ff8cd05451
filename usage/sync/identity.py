"""Keys of facts, from the ids that Langfuse gives.

A span id is unique within its trace only (OpenTelemetry), and a trace id within its Langfuse project, so a key is a digest of all that
makes the id unique. A row that is sent again has the same key, wherever it lies.
"""

from functools import lru_cache
from hashlib import blake2b
from uuid import UUID


@lru_cache(maxsize=8192)
def trace_key(connection_id: int, trace_id: str) -> UUID:
    return UUID(bytes=blake2b(f"{connection_id}\0{trace_id}".encode(), digest_size=16).digest())


def observation_key(connection_id: int, trace_id: str, observation_id: str) -> UUID:
    return UUID(bytes=blake2b(f"{connection_id}\0{trace_id}\0{observation_id}".encode(), digest_size=16).digest())


@lru_cache(maxsize=65_536)
def canonical_id(text: str) -> str:
    """A UUID in whatever form as Python writes it, any other id as it is; so one thing has one id."""
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
