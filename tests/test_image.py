"""The image and compose.yaml: no secret goes in, none is made, nothing starts before its time."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings

from kluisz_analytics.queues import QUEUES

TREE = Path(settings.BASE_DIR)
PACKAGES = ("kluisz_analytics", "pricing", "credits", "usage")


def pattern_of(line: str) -> re.Pattern[str]:
    """Docker's rules: from the root; * stays within a name, ** does not; what is in a folder that
    matches matches.
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", line.strip("/"))
    wild = {"**/": r"(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(wild.get(part) or re.escape(part) for part in parts) + r"(?:/.*)?")


def is_left_out(path: str) -> bool:
    out = False
    for line in (TREE / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#") and pattern_of(line.lstrip("!")).fullmatch(path):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".env.production",
        "usage/.env",
        "var/secret-key",
        "var/kluisz.sqlite3",
        "copy.sqlite3-wal",
        ".git/config",
        ".venv/bin/python",
        "tests/client/node_modules/vitest/index.js",
        "usage/sync/__pycache__/walk.cpython-311.pyc",
        ".pytest_cache/v/cache/lastfailed",
        ".mypy_cache/3.11/usage/books.data.json",
        ".hypothesis/examples/1",
        "tests/conftest.py",
    ],
)
def test_secrets_data_and_what_tools_leave_stay_out_of_the_image(path: str) -> None:
    assert is_left_out(path)


def test_whatever_git_ignores_stays_out_too() -> None:
    for line in (TREE / ".gitignore").read_text().split():
        name = line.strip("/").replace("*", "some")
        assert is_left_out(name), line


def test_all_that_is_run_goes_in() -> None:
    files = [
        path.relative_to(TREE).as_posix()
        for folder in (*PACKAGES, "static", "templates")
        for path in (TREE / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    assert len(files) > 200
    kept_out = [path for path in [*files, "manage.py", "requirements.txt"] if is_left_out(path)]
    assert kept_out == []


@pytest.mark.both_databases
def test_building_needs_no_secret_and_leaves_none(tmp_path: Path) -> None:
    def left_out(folder: str, names: list[str]) -> list[str]:
        here = Path(folder).relative_to(TREE)
        return [name for name in names if is_left_out((here / name).as_posix())]

    app, data = tmp_path / "app", tmp_path / "data"
    shutil.copytree(TREE, app, ignore=left_out)
    ours = ("KLUISZ_", "LANGFUSE_", "DATABASE_URL", "REDIS_URL")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
    environment |= {"KLUISZ_VAR_DIR": str(data), "KLUISZ_STATIC_ROOT": str(tmp_path / "static")}
    subprocess.run(
        [sys.executable, "manage.py", "collectstatic", "--noinput"],
        cwd=app,
        env=environment,
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "static" / "kluisz" / "page.css").exists()
    assert [path for path in tmp_path.rglob("*") if path.name == "secret-key"] == []
    assert [path for path in data.rglob("*") if path.is_file()] == []


def test_the_image_does_not_run_as_root() -> None:
    instructions = [line.split() for line in (TREE / "Dockerfile").read_text().splitlines() if line]
    names = [line[0] for line in instructions]
    user = names.index("USER")
    assert instructions[user][1] not in ("root", "0")
    assert user < names.index("CMD")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return yaml.safe_load((TREE / "compose.yaml").read_text())["services"]


def test_whatever_needs_the_schema_waits_until_it_is_up_to_date(services: dict[str, Any]) -> None:
    built = {name for name, service in services.items() if "build" in service}
    assert built > {"migrate", "web", "beat"}
    for name in built - {"migrate"}:
        waits_for = services[name]["depends_on"]
        assert waits_for["migrate"]["condition"] == "service_completed_successfully", name
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            if other != "migrate":
                assert how["condition"] == "service_healthy", (name, other)
    assert "migrate" in services["migrate"]["command"]


def test_everything_that_stays_up_has_a_health_check_and_comes_up_again(
    services: dict[str, Any],
) -> None:
    for name in services.keys() - {"migrate"}:
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped", name
        assert "user" not in services[name]


def test_every_queue_has_a_worker_of_its_own(services: dict[str, Any]) -> None:
    commands = [service["command"].split() for service in services.values() if "command" in service]
    consumed = sorted(command[command.index("-Q") + 1] for command in commands if "-Q" in command)
    assert consumed == sorted(queue.name for queue in QUEUES)


def test_the_health_check_of_the_web_server_is_a_program(services: dict[str, Any]) -> None:
    compile(services["web"]["healthcheck"]["test"][-1], "the health check", "exec")
