"""Runs the suite on SQLite, and on PostgreSQL with Redis where they answer; elsewhere it says that
the second half is skipped. What became of each test is kept in var/.
"""

import os
import socket
import subprocess
import sys

POSTGRESQL = ("127.0.0.1", 5432)
REDIS = ("127.0.0.1", 6379)
DATABASE_URL = "postgres://postgres@127.0.0.1:5432/postgres"
# Of the environment that the suite starts in, nothing of this may reach the tests.
NOT_FOR_TESTS = ("DATABASE_URL", "REDIS_URL", "KLUISZ_", "LANGFUSE_")


def answers(address: tuple[str, int]) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(address) == 0


def run(name: str, settings: dict[str, str]) -> int:
    sys.stdout.write(f"=== The suite on {name}\n")
    sys.stdout.flush()
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(NOT_FOR_TESTS)
    }
    kept = f"--junit-xml=var/tests-{name.split(maxsplit=1)[0].lower()}.xml"
    return subprocess.run(
        [sys.executable, "-m", "pytest", kept, *sys.argv[1:]],
        env={**environment, **settings},
        check=False,
    ).returncode


def main() -> int:
    status = run("SQLite", {})
    if not (answers(POSTGRESQL) and answers(REDIS)):
        sys.stdout.write(
            "=== Skipped: the suite on PostgreSQL with Redis (nothing answers at 127.0.0.1:5432 and"
            " :6379)\n"
        )
        return status
    settings = {
        "DATABASE_URL": DATABASE_URL,
        "REDIS_URL": "redis://127.0.0.1:6379/9",
        "KLUISZ_SECRET_KEY": "only for the tests",
    }
    return run("PostgreSQL with Redis", settings) or status


if __name__ == "__main__":
    sys.exit(main())
