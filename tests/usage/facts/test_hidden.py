"""What a framework hides of its calls: told where it is so, and nowhere else."""

import json

import pytest

from tests.usage.facts.test_twins_recorded import RECORDED
from usage.facts.hidden import Hidden, hidden_in
from usage.facts.received import newest_by_trace
from usage.langfuse.wire import decode_page

HIDING = {
    "adk": {(Hidden.ALL_BUT_ONE, "gcp.vertex.agent")},
    "autogen": {(Hidden.ALL_CALLS, "autogen-core")},
}


@pytest.mark.parametrize(
    "name", sorted(path.name.removesuffix(".observations.json") for path in RECORDED.iterdir())
)
def test_of_each_recording(name: str) -> None:
    rows = json.loads((RECORDED / f"{name}.observations.json").read_text())
    page = decode_page(json.dumps({"data": rows, "meta": {}}).encode())
    found = set()
    for steps in newest_by_trace(page.observations).values():
        found |= hidden_in([one.step for one in steps.values()])
    assert found == HIDING.get(name, set())
