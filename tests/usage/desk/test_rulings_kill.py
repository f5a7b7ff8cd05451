"""Rulings are applied and undone while a sync stores, by processes that are killed again and again:
what is billed in the end is what was ruled.
"""

import random
import subprocess
import sys
import time
from decimal import Decimal as D
from typing import Any

import pytest
from django.conf import settings
from django.db import connection as database

from credits.models import Account
from tests.conftest import People, RunningSandbox
from tests.usage.desk.test_rulings import GPT5, LANGFUSES, OURS
from tests.usage.sync.test_kill import environment
from tests.usage.sync.test_kill import worker as sync_worker
from tests.usage.sync.test_sync import call, owned
from usage.books import verify_books
from usage.desk import rulings
from usage.facts.findings import Finding, Takes
from usage.models import LangfuseConnection, Observation, Trace, UsageRuling

pytestmark = [
    pytest.mark.skipif(
        database.vendor != "postgresql", reason="several processes write at once: PostgreSQL only"
    ),
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]
TRACES, TRACES_A_ROUND, TRACES_A_BATCH = 500, 40, 10
KILLS_MID_WORK = 3
LONGEST_LIFE_SECONDS = 0.4
ADVANCE = """
from usage.desk import rulings
from usage.facts import rework
from usage.models import UsageRuling
rework.TRACES_A_BATCH = {batch}
print("at work", flush=True)
rulings.advance(UsageRuling.objects.get(pk={pk}))
"""


def ruling_worker(env: dict[str, str], ruling: UsageRuling) -> subprocess.Popen[str]:
    code = ADVANCE.format(batch=TRACES_A_BATCH, pk=ruling.pk)
    return subprocess.Popen(
        [sys.executable, "manage.py", "shell", "--no-imports", "-c", code],
        cwd=settings.BASE_DIR,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, (output, errors)


def synced(env: dict[str, str]) -> None:
    """All that was sent is stored; a dead worker's lease may have to run out first."""
    deadline = time.monotonic() + 120
    while True:
        one = sync_worker(env)
        output, errors = one.communicate(timeout=120)
        if one.returncode == 0:
            return
        assert time.monotonic() < deadline, (output, errors)
        time.sleep(1.2)


def test_killed_rulings_beside_a_sync_end_in_what_was_ruled(
    sandbox: RunningSandbox, people: People
) -> None:
    chance, sent = random.Random(11), 0  # noqa: S311

    def send(number: int) -> None:
        nonlocal sent
        for _ in range(number):
            sent += 1
            trace_id = f"t{sent}"
            doubled: dict[str, Any] = {"usageDetails": GPT5, "costDetails": {"total": 0.148789}}
            rows = [
                owned(people, trace_id=trace_id),
                call("call", None, "gpt-5", trace_id=trace_id, **doubled),
            ]
            sandbox.store.add(rows)

    def under_kills(ruling: UsageRuling) -> None:
        """Until enough of its workers died in the middle; then to its end."""
        mid_work = 0
        while mid_work < KILLS_MID_WORK and ruling.state in ruling.UNDER_WAY:
            send(TRACES_A_ROUND)
            applying = [ruling_worker(env, ruling) for _ in range(2)]
            at_once = [*applying, sync_worker(env)]
            for one in applying:
                assert one.stdout is not None
                assert one.stdout.readline() == "at work\n"
            time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
            for one in at_once:
                one.kill()
                one.communicate()
            assert verify_books() == [], "whatever was committed before the kill is whole"
            ruling.refresh_from_db()
            mid_work += ruling.state in ruling.UNDER_WAY and ruling.traces_done > 0
        assert mid_work > 0
        ended(ruling_worker(env, ruling))
        synced(env)
        ruling.refresh_from_db()

    def everything_costs(cost: D) -> None:
        assert Trace.objects.count() == sent
        assert set(Observation.objects.values_list("cost_usd", flat=True)) - {None} == {cost}
        credits = sum(Trace.objects.values_list("credits", flat=True), D(0))
        assert Account.objects.get(pk=people.acme_user.pk).used == credits > 0
        assert verify_books() == []

    env = environment(sandbox)
    send(TRACES)
    synced(env)
    connection = LangfuseConnection.objects.get()
    everything_costs(LANGFUSES)

    ruling = rulings.begin(
        Finding.COST,
        Takes.PRICE_BOOK,
        connection,
        reason="Langfuse counts cached tokens twice",
        by=None,
        model="gpt-5",
    )
    under_kills(ruling)
    assert ruling.state == "applied"
    everything_costs(OURS)
    rulings.undo(ruling)
    under_kills(ruling)
    assert ruling.state == "undone"
    everything_costs(LANGFUSES)
