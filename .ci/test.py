"""Runs the suite on SQLite, and beside it on PostgreSQL with Redis where they answer; elsewhere it
says that the second half is skipped. Tests that use neither are in the first half only
(tests/pure.py). What became of each test is kept in var/.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

KEPT = Path("var")
POSTGRESQL = ("127.0.0.1", 5432)
REDIS = ("127.0.0.1", 6379)
DATABASE_URL = "postgres://postgres@127.0.0.1:5432/postgres"
# Of the environment that the suite starts in, nothing of this may reach the tests.
NOT_FOR_TESTS = ("DATABASE_URL", "REDIS_URL", "KLUISZ_", "LANGFUSE_")


def answers(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(address) == 0


def started(name: str, settings: dict[str, str], *options: str) -> "subprocess.Popen[bytes]":
    """The suite on a database, in a process of its own; what it prints is kept in var/, too."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(NOT_FOR_TESTS)
    }
    kept = f"--junit-xml={KEPT}/tests-{name}.xml"
    with (KEPT / f"tests-{name}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", kept, *options, *sys.argv[1:]],
            env={**environment, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def finished(name: str, process: "subprocess.Popen[bytes]") -> int:
    """Waits for it and prints what it printed. Returns its status."""
    status = process.wait()
    sys.stdout.write(f"=== The suite on {name}\n")
    sys.stdout.write((KEPT / f"tests-{name}.log").read_text(errors="replace"))
    sys.stdout.flush()
    return status


def main() -> int:
    KEPT.mkdir(exist_ok=True)
    suites = {"sqlite": started("sqlite", {})}
    if answers(POSTGRESQL) and answers(REDIS):
        settings = {
            "DATABASE_URL": DATABASE_URL,
            "REDIS_URL": "redis://127.0.0.1:6379/9",
            "KLUISZ_SECRET_KEY": "only for the tests",
        }
        suites["postgresql"] = started("postgresql", settings, "--without-pure")
    else:
        sys.stdout.write(
            "=== Skipped: the suite on PostgreSQL with Redis (nothing answers at 127.0.0.1:5432 and"
            " :6379)\n"
        )
    sys.stdout.write(f"Under way: {', '.join(suites)}; {KEPT}/tests-*.log says how far.\n")
    sys.stdout.flush()
    return max(abs(finished(name, process)) for name, process in suites.items())


if __name__ == "__main__":
    sys.exit(main())
