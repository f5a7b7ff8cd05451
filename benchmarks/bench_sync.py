"""How fast is the sync? `make bench-sync` (docs/benchmarks.md).

One run, one machine: the sync, beside *the floor* (decode the same pages, COPY into a staging table, upsert into one table, nothing else)
and *the obvious way* (the SDK's models and bulk_create). Ratios are what counts; the figures are this machine's.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("DATABASE_URL", "postgres://postgres@127.0.0.1:5432/kluisz_bench")
os.environ.setdefault("KLUISZ_SECRET_KEY", "only for the benchmark")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")

FLOOR_COLUMNS = (
    "id text PRIMARY KEY, trace_id text, type text, name text, level text, is_root bool, start_time timestamptz, end_time timestamptz, "
    "received_at timestamptz, tenant text, usr text, project text, flow text, trace_name text, model text, usage text, cost numeric"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=200_000)
    parser.add_argument("--only", choices=["sync"], help="measure only the sync (for profiling)")
    options = parser.parse_args()
    with fresh_database():
        from benchmarks import sync_measures as measures

        measures.prepare()
        with page_server(options.observations) as host:
            synced = report("sync: facts, prices, rollups, stats, ledger", options.observations, lambda: measures.sync(host))
            if options.only:
                return
            again = report("sync again, nothing new", options.observations, lambda: measures.sync_again(host))
            floor = report("the floor: decode, COPY, upsert", options.observations, lambda: measures.floor(host))
            obvious_size = options.observations // 10
        with page_server(obvious_size) as host:
            obvious = report("the obvious way: SDK models, bulk_create", obvious_size, lambda: measures.obvious(host))
    print(f"sync / floor           {synced / floor:.2f}   (at least 0.5)")
    print(f"sync / the obvious way {synced / obvious:.1f}   (at least 5)")
    print(f"nothing new / sync     {synced / again:.1%} of the time")


def report(name: str, observations: int, work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    rate = observations / (time.perf_counter() - began)
    print(f"{name:<45} {rate:>10,.0f} observations a second", flush=True)
    return rate


@contextmanager
def page_server(observations: int, latency_ms: int = 0) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.page_server", str(observations), str(latency_ms)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@contextmanager
def fresh_database() -> Iterator[None]:
    url = os.environ["DATABASE_URL"]
    name = urlsplit(url).path.lstrip("/")
    with psycopg.connect(url.replace(f"/{name}", "/postgres"), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            import django

            django.setup()
            yield
        finally:
            from django.db import connection

            connection.close()
            admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


if __name__ == "__main__":
    main()
