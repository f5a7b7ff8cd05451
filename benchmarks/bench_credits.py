"""How fast is the gate? `make bench-credits` (docs/benchmarks.md).

Reserve plus settle on PostgreSQL: over HTTP through gunicorn with 32 clients, and through the
Python API with 32 and with 4 processes; the users spread out, and all clients on one user. Clients,
server and PostgreSQL share the machine's cores. At the end the books are verified.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import psycopg

from benchmarks.serving import serving

ROOT = Path(__file__).resolve().parent.parent
URL = os.environ.get("DATABASE_URL", "postgres://postgres@127.0.0.1:5432/kluisz_bench_credits")
NAME = urlsplit(URL).path.lstrip("/")
USERS = 2_000
CLIENTS, FEW_CLIENTS = 32, 4


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": URL,
        "KLUISZ_SECRET_KEY": "bench",
        "DJANGO_SETTINGS_MODULE": "kluisz_analytics.settings",
    }


@contextmanager
def database() -> Iterator[None]:
    with psycopg.connect(URL.replace(f"/{NAME}", "/postgres"), autocommit=True) as admin:
        admin.execute(f'DROP DATABASE IF EXISTS "{NAME}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{NAME}"')
        try:
            yield
        finally:
            admin.execute(f'DROP DATABASE IF EXISTS "{NAME}" WITH (FORCE)')


def step(*arguments: str) -> str:
    """One step in a process of its own, which has Django set up."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_credits", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="*")
    parser.add_argument("--seconds", type=int, default=8)
    options = parser.parse_args()
    if options.step:
        STEPS[options.step[0]](*options.step[1:])
        return
    seconds = str(options.seconds)
    with database():
        prepared = json.loads(step("prepare"))
        with serving(environment()) as port:
            over_http(port, prepared["token"], prepared["users"], False, 3, "warm")
            for hot in (False, True):
                report(
                    f"HTTP, {CLIENTS} clients, {where(hot)}",
                    over_http(
                        port, prepared["token"], prepared["users"], hot, options.seconds, "run"
                    ),
                    2,
                )
        spread = report(
            f"Python, {CLIENTS} processes, {where(False)}", in_python(CLIENTS, "0", seconds), 2
        )
        hot_rate = report(
            f"Python, {CLIENTS} processes, {where(True)}", in_python(CLIENTS, "1", seconds), 2
        )
        print(
            f"    one user reaches {hot_rate / spread:.2f} of the spread-out rate (at least 0.33)"
        )
        report(
            f"Python, {FEW_CLIENTS} processes, {where(False)}",
            in_python(FEW_CLIENTS, "0", seconds),
            2,
        )
        print("    the 99th percentile of reserve is to be under 5 ms")
        print(f"books: {step('verify')}")


def where(hot: bool) -> str:
    return "all on one user" if hot else f"{USERS:,} users"


def report(title: str, found: list[dict[str, list[float]]], calls: int) -> float:
    """Prints pairs a second, and the times of a reserve and a settle. Returns pairs a second."""
    rate = sum(one["pairs"][0] for one in found)
    times = {name: sorted(t for one in found for t in one[name]) for name in ("reserve", "settle")}
    print(f"{title}: {rate:,.0f} runs a second ({calls * rate:,.0f} calls)")
    for name, taken in times.items():
        print(
            f"    {name:8} median {1000 * median(taken):6.1f} ms, 99th percentile"
            f" {1000 * taken[int(0.99 * len(taken))]:6.1f} ms"
        )
    return rate


def over_http(
    port: int, token: str, users: list[str], hot: bool, seconds: int, name: str
) -> list[dict[str, list[float]]]:
    with ThreadPoolExecutor(CLIENTS) as threads:
        return list(
            threads.map(
                lambda number: http_client(
                    port, token, users, hot, seconds, f"{name}{number}", number
                ),
                range(CLIENTS),
            )
        )


def http_client(
    port: int, token: str, users: list[str], hot: bool, seconds: int, name: str, number: int
) -> dict[str, list[float]]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def post(path: str, body: dict[str, str]) -> dict[str, str]:
        connection.request("POST", f"/api/v2/credits/{path}", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201), text
        return json.loads(text)  # type: ignore[no-any-return]

    def reserve(run: int) -> str:
        user = users[0 if hot else (number * 7919 + run) % len(users)]
        return post(
            "holds", {"user_id": user, "trace_id": f"{name}-{hot}-{run}", "credits": "1.5"}
        )["id"]

    return measured(seconds, reserve, lambda hold: post(f"holds/{hold}/settle", {"credits": "1.2"}))


def measured(
    seconds: int, reserve: Callable[[int], str], settle: Callable[[str], object]
) -> dict[str, list[float]]:
    reserves, settles, run = [], [], 0
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        hold = reserve(run)
        middle = time.perf_counter()
        settle(hold)
        reserves.append(middle - start)
        settles.append(time.perf_counter() - middle)
        run += 1
    return {"pairs": [run / (time.perf_counter() - began)], "reserve": reserves, "settle": settles}


def in_python(processes: int, hot: str, seconds: str) -> list[dict[str, list[float]]]:
    # All begin at one moment, when the slowest has started.
    begin = str(time.time() + 4 + processes * 0.6)
    with ThreadPoolExecutor(processes) as threads:
        told = threads.map(
            lambda number: step("client", str(number), str(processes), hot, seconds, begin),
            range(processes),
        )
        return [json.loads(one) for one in told]


def prepare() -> None:
    import django  # noqa: PLC0415

    django.setup()
    from decimal import Decimal  # noqa: PLC0415

    from django.core.management import call_command  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    call_command("migrate", verbosity=0)
    from credits.grants import NewGrant, give  # noqa: PLC0415
    from credits.models import Grant  # noqa: PLC0415
    from kluisz_analytics.tenants.models import ApiToken, Tenant, User  # noqa: PLC0415
    from pricing.models import PricingTier, TierAssignment, TierRate  # noqa: PLC0415
    from pricing.prices import EVER  # noqa: PLC0415

    tenant = Tenant.objects.create(name="Bench", slug="bench")
    tier = PricingTier.objects.create(name="Bench")
    since = EVER.replace(year=2020)
    TierRate.objects.create(
        tier=tier, valid_from=since, credits_per_usd=Decimal(100), pricing_multiplier=Decimal(1)
    )
    TierAssignment.objects.create(tier=tier, tenant=tenant, valid_from=since)
    users = User.objects.bulk_create(
        [User(username=f"u{number}", tenant=tenant) for number in range(USERS)]
    )
    give([NewGrant(user, Decimal(10**9), Grant.Source.MANUAL, f"g{user.pk}") for user in users])
    engine = User.objects.create(username="engine", tenant=tenant, is_service_account=True)
    _, token = ApiToken.objects.create(user=engine, scope="credits")
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    print(json.dumps({"token": token, "users": [str(user.pk) for user in users]}))


def client(number: str, processes: str, hot: str, seconds: str, begin: str) -> None:
    import django  # noqa: PLC0415

    django.setup()
    from decimal import Decimal  # noqa: PLC0415

    from credits import enforcement, holds  # noqa: PLC0415
    from kluisz_analytics.tenants.models import User  # noqa: PLC0415

    users = list(
        User.objects.filter(username__startswith="u").select_related("tenant").order_by("username")
    )
    mine = users[:1] if hot == "1" else users[int(number) :: int(processes)]

    def reserve(run: int) -> str:
        return str(
            enforcement.reserve_credits(
                mine[run % len(mine)], f"p{hot}-{processes}-{number}-{run}", credits=Decimal("1.5")
            ).hold.pk
        )

    time.sleep(max(0.0, float(begin) - time.time()))
    print(
        json.dumps(measured(int(seconds), reserve, lambda hold: holds.settle(hold, Decimal("1.2"))))
    )  # type: ignore[arg-type]


def verify() -> None:
    import django  # noqa: PLC0415

    django.setup()
    from usage.books import verify_books  # noqa: PLC0415

    print("balanced" if not verify_books() else verify_books())


STEPS = {"prepare": prepare, "client": client, "verify": verify}

if __name__ == "__main__":
    main()
