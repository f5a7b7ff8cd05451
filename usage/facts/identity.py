"""The key of a trace, from the ids that Langfuse gives.

A trace id is unique within its Langfuse project, so the key is a digest of both. A trace that is
read again has the same key. Keys are UUIDs, in the sync as 32 hex digits: the form that both
databases take as it is.
"""

from hashlib import blake2b


def trace_key(connection_id: int, trace_id: str) -> str:
    return blake2b(f"{connection_id}\0{trace_id}".encode(), digest_size=16).hexdigest()


def response_key(connection_id: int, response_id: str) -> str:
    """The key of a provider's response, as a connection's steps say its id."""
    return blake2b(
        f"{connection_id}\0{response_id}".encode(), digest_size=16, person=b"response"
    ).hexdigest()
