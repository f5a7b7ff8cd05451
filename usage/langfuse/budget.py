"""How many requests may be made of a Langfuse, by all workers together (langfuse.md, Rate limits).

Counted in Django's cache: in Redis every worker on every machine counts in one place, in the
embedded size every process for itself. When the server asks one worker to slow down with one kind
of request, all of them do with that kind.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from django.core.cache import cache

MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60


class Kind(StrEnum):
    """Requests that are limited together. Of OTHER (health, projects) there is no limit."""

    OBSERVATIONS = "observations"
    METRICS = "metrics"
    LEGACY = "legacy"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in so many seconds, as the plan says it; the last of them is refused
    already (langfuse.md).
    """

    requests: int
    seconds: int

    @property
    def allowed(self) -> int:
        """How many are answered; one, where the plan has no more."""
        return max(1, self.requests - 1)


Limits = Mapping[Kind, Limit]
NO_LIMITS: Limits = {}
LIMITS_OF_PLAN: Mapping[str, Limits] = {
    "self_hosted": NO_LIMITS,
    "hobby": {
        Kind.OBSERVATIONS: Limit(30, MINUTE),
        Kind.METRICS: Limit(100, DAY),
        Kind.LEGACY: Limit(15, MINUTE),
    },
    "core": {
        Kind.OBSERVATIONS: Limit(1000, MINUTE),
        Kind.METRICS: Limit(100, HOUR),
        Kind.LEGACY: Limit(30, MINUTE),
    },
    "pro": {
        Kind.OBSERVATIONS: Limit(1000, MINUTE),
        Kind.METRICS: Limit(500, HOUR),
        Kind.LEGACY: Limit(100, MINUTE),
    },
}


class RequestBudget:
    """The requests that may still be made under one name; the same name is the same budget, in
    whatever process.
    """

    def __init__(
        self, name: str, limits: Limits = NO_LIMITS, clock: Callable[[], float] = time.time
    ) -> None:
        # Names are free texts, and keys of a cache are not.
        self._name = blake2b(name.encode(), digest_size=16).hexdigest()
        self._limits, self._clock = limits, clock

    def limit_of(self, kind: Kind) -> Limit | None:
        return self._limits.get(kind)

    def seconds_to_wait(self, kind: Kind) -> float:
        """0 when a request may be made now, and is counted; else after how long to ask again."""
        now = self._clock()
        paused_until = cache.get(self._key(f"paused:{kind.value}"), 0.0)
        if paused_until > now:
            return paused_until - now
        limit = self._limits.get(kind)
        if limit is None:
            return 0.0
        period = int(now // limit.seconds)
        key = self._count_key(kind, period)
        # Kept longer than the period, so that it can't run out between the two calls.
        cache.add(key, 0, timeout=2 * limit.seconds)
        if cache.incr(key) <= limit.allowed:
            return 0.0
        return (period + 1) * limit.seconds - now

    def left(self, kind: Kind) -> int | None:
        """How many requests may be made until the limit counts anew; None where there is none."""
        limit = self._limits.get(kind)
        if limit is None:
            return None
        made = cache.get(self._count_key(kind, int(self._clock() // limit.seconds)), 0)
        return max(0, limit.allowed - made)

    def pause(self, kind: Kind, seconds: float) -> None:
        """Let no worker make this kind of request for so long: the server has said so."""
        key = self._key(f"paused:{kind.value}")
        cache.set(key, self._clock() + seconds, timeout=int(seconds) + 1)

    def _count_key(self, kind: Kind, period: int) -> str:
        return self._key(f"{kind.value}:{period}")

    def _key(self, what: str) -> str:
        return f"langfuse-budget:{self._name}:{what}"
