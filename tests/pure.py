"""Which tests are pure: they use neither the database, nor the cache, nor the broker, nor a process
of their own. All that is another on PostgreSQL with Redis is out of their reach, so they run once.

A test is held to be pure unless it asks for the database or is marked ``both_databases``. Whatever
is held to be pure is refused all of these wherever it runs, so none is left out by mistake.
"""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import kombu
import pytest
from django.core.cache import CacheHandler

DATABASE_FIXTURES = {"db", "transactional_db", "django_db_setup", "live_server"}
# What else the two differ by. The database itself is refused by pytest-django.
REFUSED = [
    (CacheHandler, "__getitem__"),
    (kombu.Connection, "__init__"),
    (subprocess.Popen, "__init__"),
]
LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-pure",
        action="store_true",
        help="leave out the tests that use neither database, cache, broker nor processes",
    )


def is_pure(item: pytest.Item) -> bool:
    fixtures = set(getattr(item, "fixturenames", ()))
    marks = ("django_db", "both_databases")
    return not fixtures & DATABASE_FIXTURES and not any(map(item.get_closest_marker, marks))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--without-pure"):
        return
    pure = [item for item in items if is_pure(item)]
    items[:] = [item for item in items if not is_pure(item)]
    config.hook.pytest_deselected(items=pure)
    config.stash[LEFT_OUT] = len(pure)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    if not config.getoption("--without-pure"):
        return []
    return [
        f"{config.stash[LEFT_OUT]} tests are left out: they use neither database, cache, broker nor"
        " processes, and run on SQLite's side."
    ]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Keep a pure test from what would make it another on another database."""
    with ExitStack() as refusals:
        for owner, name in REFUSED if is_pure(item) else ():
            refusals.enter_context(patch.object(owner, name, refuse))
        return (yield)


def refuse(*_: Any, **__: Any) -> Any:
    raise AssertionError(
        "This test uses the cache, the broker or a process: mark it both_databases"
        " (tests/pure.py says why)."
    )
