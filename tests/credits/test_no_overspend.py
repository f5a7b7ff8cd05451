"""Invariant 4: however many processes reserve at once, what is granted never exceeds what remains,
and who has enough is let through.
"""

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection as database

LITTLE = Decimal(300)
"""What the accounts of the worker begin with."""


def run(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.credits.gate_worker", *arguments]
    return subprocess.Popen(
        command,
        cwd=settings.BASE_DIR,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> Any:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1]) if out.strip() else None


def nobody_gets_through(env: dict[str, str], processes: int, reservations: int) -> None:
    answer(run(env, "setup"))
    with ExitStack() as ended:
        workers = [
            run(env, "work", str(seed), str(reservations // processes)) for seed in range(processes)
        ]
        for worker in workers:
            # Whatever fails, none goes on writing to the database of the tests after this one.
            ended.callback(worker.kill)
        told = [answer(worker) for worker in workers]
    found = answer(run(env, "verify"))

    assert found["findings"] == []
    for name, account in found["accounts"].items():
        granted = sum((Decimal(one["granted"].get(name, "0")) for one in told), Decimal(0))
        refused = min(
            (Decimal(one["refused"][name]) for one in told if name in one["refused"]), default=None
        )
        assert Decimal(account["remaining"]) >= 0, f"{name} was overdrawn"
        if name.startswith("only"):
            # Nothing is given back here, so what is left in the end is the least that ever was.
            assert Decimal(account["remaining"]) == LITTLE - granted
            assert refused is not None, "these accounts run out"
            assert refused > Decimal(account["remaining"]), (
                f"{name} had enough for {refused} and was refused"
            )
        if name.startswith("rich"):
            assert refused is None, f"{name} always has enough"
    for end in ("released", "settled", "charged", "topped up"):
        assert sum(one.get(end, 0) for one in told) > 0, f"nothing was {end}"


@pytest.mark.skipif(database.vendor != "postgresql", reason="several processes at once: PostgreSQL")
@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_thousands_of_reservations_on_postgresql_overspend_nothing() -> None:
    url = os.environ["DATABASE_URL"].rsplit("/", 1)[0] + "/" + database.settings_dict["NAME"]
    nobody_gets_through({**os.environ, "DATABASE_URL": url}, processes=4, reservations=4_000)


@pytest.mark.both_databases
@pytest.mark.skipif(database.vendor != "sqlite", reason="the same on SQLite, smaller")
def test_several_processes_on_sqlite_overspend_nothing(tmp_path: Path) -> None:
    nobody_gets_through(
        {**os.environ, "KLUISZ_VAR_DIR": str(tmp_path)}, processes=3, reservations=1_800
    )
