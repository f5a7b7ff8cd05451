"""The numbers of an answer, by the same names everywhere (api.md)."""

from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from typing import Any

from kluisz_analytics.fields import CREDIT_PLACES, USD_PLACES, from_scaled, round_half_up
from usage.analytics.ask import Answer
from usage.models.rollups import NUMBERS


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a question about usage is answered with. Unknown is None, never 0."""

    total_traces: int
    successful_traces: int
    failed_traces: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    audio_tokens: int
    total_cost_usd: Decimal | None
    billed_cost_usd: Decimal | None
    total_credits_used: int | None
    credits_exact: Decimal | None
    active_users_count: int
    average_latency_ms: float | None
    p95_latency_ms: int | None
    unpriced_observations: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def numbers_from(answer: Answer) -> Numbers:
    """The numbers of an answer.

    The cost is unknown where there was usage and none of it has a price; credits are unknown where
    no trace has a tier and a cost.
    """
    count = answer.sums
    is_cost_known = count["priced_observations"] > 0 or count["unpriced_observations"] == 0
    is_rated = count["rated_traces"] > 0 or count["total_traces"] == 0
    credits_exact = from_scaled(count["credits_exact"], CREDIT_PLACES) if is_rated else None
    return Numbers(
        total_traces=count["total_traces"],
        successful_traces=count["total_traces"] - count["failed_traces"],
        failed_traces=count["failed_traces"],
        input_tokens=count["input_tokens"],
        output_tokens=count["output_tokens"],
        total_tokens=count["total_tokens"],
        cached_tokens=count["cached_tokens"],
        cache_write_tokens=count["cache_write_tokens"],
        reasoning_tokens=count["reasoning_tokens"],
        audio_tokens=count["audio_tokens"],
        total_cost_usd=from_scaled(count["total_cost_usd"], USD_PLACES) if is_cost_known else None,
        billed_cost_usd=from_scaled(count["billed_cost_usd"], USD_PLACES) if is_rated else None,
        total_credits_used=(
            int(round_half_up(credits_exact, 0)) if credits_exact is not None else None
        ),
        credits_exact=credits_exact,
        active_users_count=answer.active_users,
        average_latency_ms=(
            round(count["latency_ms_sum"] / count["timed_traces"], 3)
            if count["timed_traces"]
            else None
        ),
        p95_latency_ms=answer.p95_latency_ms,
        unpriced_observations=count["unpriced_observations"],
    )


NO_NUMBERS = numbers_from(Answer(0, None, dict.fromkeys(NUMBERS, 0), 0, 0, None, None))


def change_of(now: Numbers, before: Numbers) -> dict[str, float | None]:
    """How each number changed, as a ratio of the earlier one (0.25 is a quarter more); None where
    that is 0 or unknown.
    """
    return {
        field.name: _ratio(getattr(now, field.name), getattr(before, field.name))
        for field in fields(Numbers)
    }


def _ratio(now: Any, before: Any) -> float | None:
    if now is None or not before:
        return None
    return round(float((now - before) / before), 6)
