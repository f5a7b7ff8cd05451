"""An installation of its own: a database, a broker, and processes that are told what to do by
commands only.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis
from django.conf import settings

from kluisz_analytics.queues import QUEUES

BOUND_SECONDS = 300
"""All that is waited for takes a fraction of it, on a machine with nothing else to do."""
POLL_SECONDS = 0.1
RESULT = "the result: "
# Reads code, a line of JSON each, and prints what it leaves as ``result``.
CONSOLE = f"""
import json, sys
from django.db import close_old_connections
for line in sys.stdin:
    close_old_connections()
    names = {{}}
    exec(json.loads(line), names)
    print({RESULT!r} + json.dumps(names["result"], default=str), flush=True)
"""


class Installation:
    """Its environment, and what can be done with it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self._console: subprocess.Popen[str] | None = None

    def manage(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=settings.BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code: str) -> Any:
        """What the code leaves as ``result``. One process runs all of it: to start one takes longer
        than all that it is asked.
        """
        if self._console is None:
            self._console = self._started_console()
        console = self._console
        assert console.stdin is not None
        assert console.stdout is not None
        console.stdin.write(json.dumps(code) + "\n")
        console.stdin.flush()
        for line in console.stdout:
            if line.startswith(RESULT):
                return json.loads(line.removeprefix(RESULT))
        raise AssertionError((self.folder / "console.log").read_text())

    def _started_console(self) -> "subprocess.Popen[str]":
        with (self.folder / "console.log").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "manage.py", "shell", "--no-imports", "-c", CONSOLE],
                cwd=settings.BASE_DIR,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def close(self) -> None:
        if self._console is not None:
            self._console.kill()
            self._console.communicate()

    def send(self, *tasks: tuple[Any, ...]) -> None:
        """Messages, as (task, argument, …)."""
        self.python(
            "from kluisz_analytics.celery import app\n"
            "app.loader.import_default_modules()\n"
            f"for name, *args in {tasks!r}:\n"
            "    app.tasks[name].delay(*args)\n"
            "result = None"
        )

    @contextmanager
    def worker(self, *options: str) -> Iterator[Path]:
        """A real worker, while the block lasts. Yields its log."""
        log = self.folder / f"worker-{uuid.uuid4().hex[:8]}.log"
        command = [sys.executable, "-m", "celery", "-A", "kluisz_analytics", "worker"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--loglevel", "INFO", "--hostname", f"{log.stem}@%h", *options],
                cwd=settings.BASE_DIR,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield log
        finally:
            # At once, its children too: it may be in the middle of waiting for a server that hangs.
            os.killpg(process.pid, 9)
            process.wait()
            print(log.read_text()[-20000:])  # noqa: T201 - pytest shows it where the test failed

    def wait_until(self, code: str, wanted: Any) -> None:
        """Until the code's ``result`` is what is wanted."""
        deadline = time.monotonic() + BOUND_SECONDS
        while (result := self.python(code)) != wanted:
            assert time.monotonic() < deadline, (result, wanted)
            time.sleep(POLL_SECONDS)


class Installations:
    """Makes installations as copies of one whose schema is there, on the database and the broker
    that the tests run on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._url = folder, os.environ.get("DATABASE_URL")
        self._schema = f"workers_{uuid.uuid4().hex}"
        self._create(self._schema, "template1")
        self._at(folder, self._schema).manage("migrate", "--verbosity", "0")

    @contextmanager
    def one(self, folder: Path, **more: str) -> Iterator[Installation]:
        """A new one, gone at the end."""
        shutil.copytree(self._folder, folder, dirs_exist_ok=True)
        name = f"workers_{uuid.uuid4().hex}"
        self._create(name, self._schema)
        self._empty_broker()
        installation = self._at(folder, name, **more)
        try:
            yield installation
        finally:
            installation.close()
            self._drop(name)

    def close(self) -> None:
        self._empty_broker()
        self._drop(self._schema)

    def _at(self, folder: Path, database: str, **more: str) -> Installation:
        environment = {
            **os.environ,
            "KLUISZ_VAR_DIR": str(folder),
            "KLUISZ_LOG_LEVEL": "INFO",
            **more,
        }
        if self._url:
            environment["DATABASE_URL"] = f"{self._url.rsplit('/', 1)[0]}/{database}"
        return Installation(folder, environment)

    def _create(self, name: str, template: str) -> None:
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def _drop(self, name: str) -> None:
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        if self._url:
            with psycopg.connect(self._url, autocommit=True) as server:
                server.execute(statement)

    def _empty_broker(self) -> None:
        if "REDIS_URL" in os.environ:
            broker = redis.Redis.from_url(os.environ["REDIS_URL"])
            broker.delete(*(queue.name for queue in QUEUES), "unacked", "unacked_index")
            for key in broker.scan_iter("*task-began*"):
                broker.delete(key)
