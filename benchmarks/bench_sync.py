"""How fast is the sync? `make bench-sync` (docs/benchmarks.md).

One run, one machine. Each measurement is a process of its own on a database of its own; what is
compared is measured in turn, several times, and the medians are what counts: beside *the floor*
(decode the same pages, COPY into a staging table, upsert into one table, nothing else) and *the
obvious way* (the SDK's models and bulk_create). Ratios are what counts; the figures are this
machine's.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psycopg

ROOT = Path(__file__).resolve().parent.parent
URL = os.environ.get("DATABASE_URL", "postgres://postgres@127.0.0.1:5432/kluisz_bench")
TEMPLATE = urlsplit(URL).path.lstrip("/")
LATENCY_MS = 100
# So slow a server that cores are free: what a second worker adds is then not taken from the first.
FAR_AWAY_MS = 800


@dataclass(frozen=True)
class Measured:
    """What a process says of its work: when it began and ended (seconds), how much it read, and its
    largest size.
    """

    began: float
    ended: float
    observations: int
    megabytes: float

    @property
    def seconds(self) -> float:
        return self.ended - self.began

    @property
    def rate(self) -> float:
        return self.observations / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        choices=["floor", "workers"],
        help="only the comparison with the floor, or of two workers with one",
    )
    options = parser.parse_args()
    if options.only == "workers":
        with template_database():
            two_workers(options.observations, options.rounds)
        return
    with template_database(), page_server(options.observations) as host:
        syncs, floors, ratios = [], [], []
        for _ in range(options.rounds):
            with database() as url:
                syncs.append(measure("sync", host, url))
            with database() as url:
                floors.append(measure("floor", host, url))
            ratios.append(syncs[-1].rate / floors[-1].rate)
        say("sync: facts, prices, rollups, stats, ledger", *syncs)
        say("the floor: decode, COPY, upsert", *floors)
        print(
            f"    sync / floor {median(ratios):.2f}, of {', '.join(f'{one:.2f}' for one in ratios)}"
            " (at least 0.5)",
            flush=True,
        )
        print(f"    {max(one.megabytes for one in syncs):.0f} MB at most", flush=True)
        if options.only:
            return
        compare_with_the_obvious_way(options.observations // 10, syncs)
        nothing_new(host)
        growth(options.observations, syncs)
        latency(options.observations, syncs)
        two_workers(options.observations, options.rounds)
        sqlite(options.observations // 4)


def compare_with_the_obvious_way(observations: int, syncs: list[Measured]) -> None:
    with page_server(observations) as host, database() as url:
        obvious = measure("obvious", host, url)
    say("the obvious way: SDK models, bulk_create", obvious)
    print(
        f"    sync / the obvious way {median(one.rate for one in syncs) / obvious.rate:.1f} (at"
        " least 5)",
        flush=True,
    )


def nothing_new(host: str) -> None:
    with database() as url:
        first, again, everything = (
            measure("sync", host, url),
            measure("sync_again", host, url),
            measure("sync", host, url),
        )
    say("sync again, what is due", again)
    print(f"    {again.seconds / first.seconds:.1%} of the first sync's time (under 15%)")
    say("sync again, everything read anew", everything)
    print(f"    {everything.seconds / first.seconds:.1%} of the first sync's time", flush=True)


def growth(observations: int, syncs: list[Measured]) -> None:
    with page_server(2 * observations) as host, database() as url:
        twice = measure("sync", host, url)
    say("sync, twice the data", twice)
    print(
        f"    {twice.seconds / median(one.seconds for one in syncs):.2f} times the time (at most"
        " 2.1)"
    )
    print(
        f"    {twice.megabytes:.0f} MB at most, {max(one.megabytes for one in syncs):.0f} MB with"
        " half of it (under 300)",
        flush=True,
    )


def latency(observations: int, syncs: list[Measured]) -> None:
    with page_server(observations, LATENCY_MS) as host, database() as url:
        far = measure("sync", host, url)
    say(f"sync, {LATENCY_MS} ms added to each page", far)
    print(
        f"    {1 - far.rate / median(one.rate for one in syncs):.1%} lost (less than 20%)",
        flush=True,
    )


def two_workers(observations: int, rounds: int) -> None:
    alone, together, ratios = [], [], []
    with page_server(observations, FAR_AWAY_MS) as host:
        for _ in range(rounds):
            with database() as url:
                alone.append(measure("sync_share", host, url))
            with database() as url:
                shares = [measuring("sync_share", host, url) for _ in range(2)]
                both = [finished(process) for process in shares]
            began, ended = min(one.began for one in both), max(one.ended for one in both)
            together.append(Measured(began, ended, sum(one.observations for one in both), 0))
            ratios.append(together[-1].rate / alone[-1].rate)
    say(f"one worker, {FAR_AWAY_MS} ms added to each page", *alone)
    say("two workers", *together)
    print(
        f"    {median(ratios):.2f} times one, of {', '.join(f'{one:.2f}' for one in ratios)} (at"
        " least 1.8)",
        flush=True,
    )


def sqlite(observations: int) -> None:
    with page_server(observations) as host, tempfile.TemporaryDirectory() as folder:
        environment = {"KLUISZ_VAR_DIR": folder}
        measure("prepare", "", None, **environment)
        say("sync, SQLite (at least 5,000)", measure("sync", host, None, **environment))


def say(name: str, *measured: Measured) -> None:
    print(
        f"{name:<45} {median(one.rate for one in measured):>10,.0f} observations a second",
        flush=True,
    )


def measure(what: str, host: str, url: str | None, **environment: str) -> Measured:
    return finished(measuring(what, host, url, **environment))


def measuring(what: str, host: str, url: str | None, **environment: str) -> "subprocess.Popen[str]":
    """A process that measures ``what`` (a function of benchmarks.sync_measures); without ``url`` on
    SQLite.
    """
    settings = {
        **os.environ,
        "KLUISZ_SECRET_KEY": "only for the benchmark",
        "DATABASE_URL": url or "",
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sync_measures", what, host],
        cwd=ROOT,
        env=settings,
        stdout=-1,
        text=True,
    )


def finished(process: "subprocess.Popen[str]") -> Measured:
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return Measured(**json.loads(output))


@contextmanager
def page_server(observations: int, latency_ms: int = 0) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.page_server", str(observations), str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def administer(statement: str) -> None:
    with psycopg.connect(URL.replace(f"/{TEMPLATE}", "/postgres"), autocommit=True) as admin:
        admin.execute(statement)


@contextmanager
def template_database() -> Iterator[None]:
    """A database with tables and a directory, of which each measurement gets a copy."""
    administer(f'DROP DATABASE IF EXISTS "{TEMPLATE}" WITH (FORCE)')
    administer(f'CREATE DATABASE "{TEMPLATE}"')
    try:
        measure("prepare", "", URL)
        yield
    finally:
        administer(f'DROP DATABASE IF EXISTS "{TEMPLATE}" WITH (FORCE)')


@contextmanager
def database() -> Iterator[str]:
    name = f"{TEMPLATE}_copy"
    administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    administer(f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}"')
    try:
        yield URL.replace(f"/{TEMPLATE}", f"/{name}")
    finally:
        administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    main()
