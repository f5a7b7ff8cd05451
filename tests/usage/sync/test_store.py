"""Facts as rows."""

from datetime import UTC, datetime

import pytest

from kluisz_analytics.bulk import stamp
from usage.models import LangfuseConnection, Observation
from usage.sync import store

NOON = stamp(datetime(2026, 11, 20, 12, tzinfo=UTC))


@pytest.mark.django_db
def test_what_the_row_of_a_plain_step_leaves_out_is_what_the_database_writes(bare_connection: LangfuseConnection) -> None:
    assert len(store.STEP_COLUMNS) == store.PLAIN_WIDTH + len(store.PLAIN)
    ids = [f"{number:032x}" for number in range(4)]
    plain, whole, plain_before, whole_before = [(pk, ids[0], 7, "o", "SPAN", "n", "DEFAULT", False, "", NOON, NOON, NOON) for pk in ids]
    store.write_steps([plain, whole + store.PLAIN, plain_before, whole_before], [])
    store.write_steps([], [plain_before, whole_before + store.PLAIN])
    rows = list(Observation.objects.values(*store.STEP_COLUMNS[1:]))
    assert rows == 4 * [rows[0]]
    assert (rows[0]["cost_source"], rows[0]["total_tokens"], rows[0]["usage_details"], rows[0]["flow_id"]) == ("no_usage", 0, "", None)
