"""Sixteen frameworks recorded at work: each call that happened is counted once, with the tokens
that it used, or it is said here why not.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from pricing.engine import PricingEngine
from pricing.price_book import PriceBook
from usage.facts.decide import assemble
from usage.facts.decided import BilledStep
from usage.facts.findings import Finding
from usage.facts.identity import trace_key
from usage.facts.owner import Directory
from usage.facts.received import newest_by_trace
from usage.langfuse.wire import decode_page

RECORDED = Path(__file__).parent.parent.parent / "fixtures/producers"


class Counted(NamedTuple):
    """What is counted of a recording: calls, tokens by kind; and how many steps are not."""

    calls: int
    input: int
    output: int
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    twice: int = 0
    sums: int = 0
    unmetered: int = 0


def billed_of(name: str) -> list[BilledStep]:
    rows = json.loads((RECORDED / f"{name}.observations.json").read_text())
    page = decode_page(json.dumps({"data": rows, "meta": {}}).encode())
    assert not page.rejected
    found = []
    for trace_id, steps in newest_by_trace(page.observations).items():
        key = trace_key(1, trace_id)
        found += assemble(1, key, [*steps.values()], Directory(), PricingEngine(PriceBook())).billed
    return found


def counted(name: str) -> Counted:
    billed = billed_of(name)
    calls = [one for one in billed if one.tokens.total]
    return Counted(
        len(calls),
        *(
            sum(getattr(one.tokens, kind) for one in calls)
            for kind in ("input", "output", "cached", "cache_write", "reasoning")
        ),
        sum(one.finding is Finding.TWICE for one in billed),
        sum(one.finding is Finding.SUM for one in billed),
        sum(one.cost_source.value == "unmetered" for one in billed),
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("langchain-anthropic", Counted(2, 2400, 603, 1800, 400, 0, twice=2)),
        ("langchain-and-litellm-one-trace", Counted(1, 1200, 300, 1024, 0, 128, twice=1)),
        ("pydantic-ai", Counted(2, 2400, 603, 2048, 0, 256)),
        ("pydantic-ai-google", Counted(2, 2400, 635, 2000, 0, 200)),
        ("openllmetry", Counted(3, 3600, 945, 3072, 0, 256)),
        ("openinference-google", Counted(2, 2400, 627, 2000, 0, 200)),
        ("llama-index", Counted(2, 2400, 621, 2048, 0, 256)),
        ("dspy-and-litellm", Counted(2, 2400, 645, 2048, 0, 256)),
        ("litellm-proxy", Counted(2, 2400, 600, 2048, 0, 256)),
        ("litellm-proxy-anthropic-google", Counted(3, 3600, 978, 2800, 400, 100)),
        ("vercel-ai-sdk", Counted(2, 2400, 615, 2048)),
        # What it lost of cached and reasoning tokens is nowhere.
        ("smolagents", Counted(3, 3600, 924, sums=1)),
        # One of two calls is hidden; the desk says so.
        ("adk", Counted(1, 1200, 327 + 128 - 128, 1024, 0, 128)),
        ("dspy", Counted(0, 0, 0, unmetered=2)),
        ("autogen", Counted(0, 0, 0)),
        # Two traces and no id in common: likely, not certain.
        ("openai-and-litellm-two-traces", Counted(2, 2400, 600, 2048, 0, 256)),
    ],
)
def test_each_call_of_a_recording_is_counted_once(name: str, expected: Counted) -> None:
    assert counted(name) == expected
