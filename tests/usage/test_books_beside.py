"""The books are looked at while a sync goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection as database


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
def test_what_is_stored_while_the_books_are_checked_raises_no_alarm(tmp_path: Path) -> None:
    env = {**os.environ, "KLUISZ_VAR_DIR": str(tmp_path)}
    if database.vendor == "postgresql":
        server = os.environ["DATABASE_URL"].rsplit("/", 1)[0]
        env["DATABASE_URL"] = f"{server}/{database.settings_dict['NAME']}"
    worker = subprocess.run(
        [sys.executable, "-m", "tests.usage.books_worker"],
        cwd=settings.BASE_DIR,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr
    told = json.loads(worker.stdout.splitlines()[-1])
    assert told["runs"] > 20, "runs were stored between the checks"
    assert told["found"] == []
