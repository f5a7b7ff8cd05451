"""How fast are the answers? `make bench-api` (docs/benchmarks.md).

Two sizes of one synthetic history on PostgreSQL, asked through gunicorn as a frontend asks: each
endpoint by platform admins, tenant admins and users, one request after the other, without an ETag,
so that each is computed. Tenants and users are drawn as the traffic is, so busy ones come often;
*cold* is the first request of each of them. Beside each stands the time of the same question asked
of the facts alone. Milliseconds differ between machines by three, so what counts is how many times
the *floor* an answer takes: an endpoint that asks nothing, through the same stack, measured between
the others.
"""

import argparse
import http.client
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlencode, urlsplit

import psycopg

from benchmarks.serving import serving

ROOT = Path(__file__).resolve().parent.parent
URL = os.environ.get("DATABASE_URL", "postgres://postgres@127.0.0.1:5432/kluisz_bench_api")
NAME = urlsplit(URL).path.lstrip("/")
WANTED = {"platform": 8, "tenant": 3, "user": 3}
"""How many times the floor an answer takes at most, by its median."""
WANTED_GROWTH = 2
FLOOR = "floor"
CALLERS = 40
ZONE = {"tz": "Europe/Amsterdam"}
LISTS: list[tuple[str, dict[str, str]]] = [
    ("time-series", {"granularity": "day"}),
    ("time-series", {"granularity": "day", **ZONE}),
    ("top-users", {}),
    ("top-flows", {}),
    ("cost-breakdown", {"group_by": "model"}),
    ("cost-breakdown", {"group_by": "flow", "limit": "100"}),
    ("traces", {"limit": "50"}),
]
ENDPOINTS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "platform": [
        ("platform/stats", {}),
        ("platform/stats", ZONE),
        ("top-tenants", {}),
        ("cost-breakdown", {"group_by": "tenant", "limit": "100"}),
        *LISTS,
    ],
    "tenant": [("tenant/{tenant}/stats", {}), *LISTS],
    "user": [("user/me/stats", {}), *LISTS],
}


def environment(name: str) -> dict[str, str]:
    url = URL.replace(f"/{NAME}", f"/{name}")
    return {
        **os.environ,
        "DATABASE_URL": url,
        "KLUISZ_SECRET_KEY": "bench",
        "DJANGO_SETTINGS_MODULE": "benchmarks.floor_settings",
    }


def administer(statement: str) -> None:
    with psycopg.connect(URL.replace(f"/{NAME}", "/postgres"), autocommit=True) as admin:
        admin.execute(statement)


@contextmanager
def history(traces: int, *, keep: bool) -> Iterator[str]:
    """A database with the history; one that was kept is used again. Yields its name."""
    name = f"{NAME}_{traces}"
    with psycopg.connect(URL.replace(f"/{NAME}", "/postgres"), autocommit=True) as admin:
        exists = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
    if not exists:
        administer(f'CREATE DATABASE "{name}"')
        began = time.monotonic()
        try:
            step(name, "load", str(traces))
        except subprocess.CalledProcessError:
            administer(f'DROP DATABASE "{name}" WITH (FORCE)')
            raise
        print(f"{traces:,} traces loaded and built in {time.monotonic() - began:.0f} s", flush=True)
    try:
        yield name
    finally:
        if not keep:
            administer(f'DROP DATABASE "{name}" WITH (FORCE)')


def step(name: str, *arguments: str) -> str:
    """One step in a process of its own, which has Django set up."""
    command = [sys.executable, "-m", "benchmarks.bench_api_steps", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(name), stdout=-1, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[1_000_000, 10_000_000], metavar="TRACES"
    )
    parser.add_argument("--requests", type=int, default=100, help="of each endpoint")
    parser.add_argument("--keep", action="store_true", help="keep the databases for the next run")
    parser.add_argument(
        "--no-facts", action="store_true", help="leave out the questions asked of the facts alone"
    )
    options = parser.parse_args()
    found = []
    for traces in options.sizes:
        with history(traces, keep=options.keep) as name:
            callers = json.loads(step(name, "callers", str(CALLERS)))
            facts = (
                {}
                if options.no_facts
                else json.loads(step(name, "facts", json.dumps(ENDPOINTS), json.dumps(callers)))
            )
            with serving(environment(name)) as port:
                found.append(measure(traces, port, callers, facts, options.requests))
    if len(found) > 1:
        compare(*found[:2])


def measure(
    traces: int,
    port: int,
    callers: dict[str, list[dict[str, str]]],
    facts: dict[str, float],
    requests: int,
) -> dict[str, float]:
    """Prints each endpoint's times in milliseconds, and its median as a multiple of the floor's,
    which is measured before and after it. Returns the medians.
    """
    print(
        f"\n{traces:,} traces; milliseconds          {'cold 95th':>10} {'median':>8} {'95th':>8}"
        f" {'99th':>8} {'floor':>7} {'floors':>7} {'facts alone':>12}"
    )
    medians, over = {}, []
    for scope, endpoints in ENDPOINTS.items():
        for path, query in endpoints:
            title = title_of(scope, path, query)
            cold = sorted(asked(port, path, query, callers[scope]))
            who = random.Random(7).choices(callers[scope], k=requests)  # noqa: S311
            before = asked(port, FLOOR, {}, who)
            warm = sorted(asked(port, path, query, who))
            floor = median(before + asked(port, FLOOR, {}, who))
            medians[title] = median(warm)
            floors = medians[title] / floor
            if floors > WANTED[scope]:
                over.append(f"{title} {floors:.1f}")
            plain = f"{facts[title]:12,.0f}" if title in facts else ""
            print(
                f"{title:38} {cold[int(0.95 * len(cold))]:10.1f} {medians[title]:8.1f}"
                f" {warm[int(0.95 * len(warm))]:8.1f} {warm[int(0.99 * len(warm))]:8.1f}"
                f" {floor:7.1f} {floors:7.1f} {plain}",
                flush=True,
            )
    print(f"    more than {WANTED} floors: {', '.join(over) or 'none'}", flush=True)
    return medians


def title_of(scope: str, path: str, query: dict[str, str]) -> str:
    return " ".join(
        [
            scope,
            path.replace("/{tenant}", ""),
            *(value for name, value in query.items() if name != "limit"),
        ]
    )


def asked(
    port: int, path: str, query: dict[str, str], callers: list[dict[str, str]]
) -> list[float]:
    """How long each caller's request took, in milliseconds; one after the other."""
    connection, times = http.client.HTTPConnection("127.0.0.1", port), []
    for caller in callers:
        address = f"/api/v2/analytics/{path.format(**caller)}?{urlencode(query)}"
        began = time.perf_counter()
        connection.request("GET", address, headers={"Authorization": f"Bearer {caller['token']}"})
        answer = connection.getresponse()
        body = answer.read()
        times.append(1000 * (time.perf_counter() - began))
        assert answer.status == 200, (address, answer.status, body[:500])
    return times


def compare(small: dict[str, float], large: dict[str, float]) -> None:
    ratios = {title: large[title] / small[title] for title in small}
    worst = sorted(ratios, key=lambda title: -ratios[title])[:5]
    print(
        f"\nlarge / small, medians; the largest (at most {WANTED_GROWTH}): "
        + ", ".join(f"{title} {ratios[title]:.2f}" for title in worst)
    )


if __name__ == "__main__":
    main()
