"""Keys of facts, from the ids that Langfuse gives.

A span id is unique within its trace only (OpenTelemetry), and a trace id within its Langfuse project, so a key is a digest of all that
makes the id unique. A row that is sent again has the same key, wherever it lies. Keys are UUIDs, in the sync as 32 hex digits: the form
that both databases take as it is.
"""

from functools import lru_cache
from hashlib import blake2b


@lru_cache(maxsize=8192)
def trace_key(connection_id: int, trace_id: str) -> str:
    return blake2b(f"{connection_id}\0{trace_id}".encode(), digest_size=16).hexdigest()


def observation_key(connection_id: int, trace_id: str, observation_id: str) -> str:
    return blake2b(f"{connection_id}\0{trace_id}\0{observation_id}".encode(), digest_size=16).hexdigest()
