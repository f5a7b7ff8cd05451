"""Crash safety: real worker processes on PostgreSQL, killed at random points while the data goes on
changing.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.conf import settings
from django.db import connection as database
from django.utils import timezone

from credits.models import Account
from tests.conftest import PUBLIC_KEY, SECRET_KEY, People, RunningSandbox
from tests.usage.stored import stored_steps
from tests.usage.sync.test_sync import MOMENT, call, owned
from usage.books import verify_books
from usage.models import LangfuseConnection, SyncRun, SyncWindow, Trace

pytestmark = [
    pytest.mark.skipif(
        database.vendor != "postgresql", reason="several processes write at once: PostgreSQL only"
    ),
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]
KILLS = 30
KILLS_MID_WORK = 8
TRACES = 900
HOURS = 60
LONGEST_LIFE_SECONDS = 0.7


def environment(sandbox: RunningSandbox) -> dict[str, str]:
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + database.settings_dict["NAME"]
    return {
        **os.environ,
        "DATABASE_URL": url,
        "KLUISZ_LANGFUSE_HOST": sandbox.url,
        "KLUISZ_LANGFUSE_PUBLIC_KEY": PUBLIC_KEY,
        "KLUISZ_LANGFUSE_SECRET_KEY": SECRET_KEY,
        "KLUISZ_SYNC_BATCH_OBSERVATIONS": "300",
        "KLUISZ_SYNC_LEASE_SECONDS": "1",
    }


def worker(env: dict[str, str]) -> subprocess.Popen[str]:
    start = (MOMENT - timedelta(hours=HOURS + 1)).isoformat()
    command = [sys.executable, "manage.py", "sync_usage", "--json", "--from", start]
    return subprocess.Popen(
        command,
        cwd=settings.BASE_DIR,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def chance() -> random.Random:
    return random.Random(7)  # noqa: S311


def versions(people: People, chance: random.Random) -> Iterator[dict[str, Any]]:
    """For ever: one more version of some trace's root or call, in whatever hour, of whatever owner,
    environment and cost.
    """
    received = 0
    while True:
        received += 1
        trace_id = f"t{chance.randrange(TRACES)}"
        # A tenth of them at the trace's own moment, so that there is something to merge.
        own = int(trace_id[1:]) % (HOURS * 60)
        start = MOMENT - timedelta(
            minutes=own if chance.random() < 0.1 else chance.randrange(HOURS * 60)
        )
        environment = chance.choice(["default", "staging", "langfuse-evaluation"])
        if chance.random() < 0.3:
            user = chance.choice([people.acme_user, people.acme_colleague, people.globex_user])
            yield owned(
                people,
                trace_id=trace_id,
                start=start,
                received=10**6 + received,
                environment=environment,
                userId=str(user.pk),
                metadata={"tenant_id": str(chance.choice([user.tenant_id, people.acme.pk]))},
            )
        else:
            yield call(
                f"c{chance.randrange(2)}",
                chance.randrange(1, 100) / 1000,
                trace_id=trace_id,
                start=start,
                received=10**6 + received,
                environment=environment,
            )


def truth(rows: list[dict[str, Any]]) -> dict[tuple[str, str], Decimal | None]:
    """What the newest version of each row costs."""
    newest: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        key = row["traceId"], row["id"]
        if key not in newest or newest[key]["updatedAt"] < row["updatedAt"]:
            newest[key] = row
    return {
        key: Decimal(str(row["costDetails"]["total"])) if row["costDetails"] else None
        for key, row in newest.items()
    }


def is_at_work() -> bool:
    return SyncWindow.objects.filter(state="leased", leased_until__gt=timezone.now()).exists()


def wait_until_one_is_at_work() -> None:
    deadline = time.monotonic() + 5
    while not is_at_work() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_thirty_kills_lose_nothing_and_double_nothing(
    sandbox: RunningSandbox, people: People, chance: random.Random
) -> None:
    source, sent = versions(people, chance), []

    def send(number: int) -> None:
        rows = [next(source) for _ in range(number)]
        sandbox.store.add(rows)
        sent.extend(rows)

    send(2500)
    env, kills, mid_work, merged = environment(sandbox), 0, 0, 0
    # Until enough of them died with windows in hand, not before or after their work.
    while kills < KILLS or mid_work < KILLS_MID_WORK:
        workers = [worker(env), worker(env)]
        wait_until_one_is_at_work()
        time.sleep(chance.uniform(0, LONGEST_LIFE_SECONDS))
        for one in workers:
            if one.poll() is None:
                one.kill()
                kills += 1
            one.communicate()
        mid_work += is_at_work()
        merged += sandbox.store.merge()
        assert verify_books() == [], "whatever was committed before the kill is whole"
        send(40)

    deadline = time.monotonic() + 120
    while True:
        time.sleep(1.2)  # the dead workers' leases run out
        last = worker(env)
        output, errors = last.communicate(timeout=120)
        if last.returncode == 0:
            break
        assert time.monotonic() < deadline, (output, errors)

    assert merged > 0
    expected = truth(sent)
    assert {key: step.version.cost_usd for key, step in stored_steps().items()} == expected
    assert not SyncWindow.objects.exclude(state="done").exists()
    assert not SyncRun.objects.filter(outcome="running").exists()
    assert SyncRun.objects.filter(outcome="interrupted").count() >= KILLS_MID_WORK
    assert verify_books() == []
    charged = sum(Account.objects.values_list("used", flat=True), Decimal(0))
    assert (
        charged
        == sum((trace.credits for trace in Trace.objects.exclude(credits=None)), Decimal(0))
        > 0
    )


def test_two_workers_at_once_share_the_work(
    sandbox: RunningSandbox, people: People, chance: random.Random
) -> None:
    source = versions(people, chance)
    rows = [next(source) for _ in range(3000)]
    sandbox.store.add(rows)
    env = environment(sandbox)
    for _ in range(6):
        workers = [worker(env) for _ in range(3)]
        for one in workers:
            _, errors = one.communicate(timeout=120)
            assert "Traceback" not in errors, errors
    assert LangfuseConnection.objects.count() == 1, "however many enter it at once"
    last = worker(env)
    output, errors = last.communicate(timeout=120)
    assert last.returncode == 0, (output, errors)
    assert set(SyncRun.objects.values_list("outcome", flat=True)) <= {"complete", "shared"}
    assert {key: step.version.cost_usd for key, step in stored_steps().items()} == truth(rows)
    assert verify_books() == []
