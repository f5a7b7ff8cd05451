"""Every task has a queue and limits; no message is lost by waiting, and none is done twice."""

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import QueueNotFound
from django.conf import settings
from django.core.cache import cache
from kombu import Connection

from credits.tasks import expire_holds
from kluisz_analytics.celery import app
from kluisz_analytics.queues import QUEUES
from kluisz_analytics.repeated import RepeatedTask

app.loader.import_default_modules()
OURS = sorted(name for name in app.tasks if not name.startswith("celery."))


@pytest.mark.parametrize("name", OURS)
def test_every_task_has_a_queue_and_that_queues_limits(name: str) -> None:
    task = app.tasks[name]
    queues = [queue for queue in QUEUES if queue.name == getattr(task, "queue", None)]
    assert queues, f"{name} names no queue: declare it with @shared_task(**MONEY.options)"
    assert (task.soft_time_limit, task.time_limit) == (
        queues[0].soft_seconds,
        queues[0].hard_seconds,
    )


def test_every_queue_is_consumed_by_a_plain_worker_and_leaves_time_to_say_what_happened() -> None:
    assert [queue.name for queue in settings.CELERY_TASK_QUEUES] == [one.name for one in QUEUES]
    assert all(0 < queue.soft_seconds < queue.hard_seconds for queue in QUEUES)
    assert settings.CELERY_TASK_DEFAULT_QUEUE in [queue.name for queue in QUEUES]
    assert settings.EMAIL_TIMEOUT


def test_a_queue_that_nobody_consumes_is_refused() -> None:
    with pytest.raises(QueueNotFound):
        expire_holds.apply_async(queue="nobody's")


def test_beat_asks_only_for_tasks_that_there_are_and_no_message_expires() -> None:
    assert {entry["task"] for entry in settings.CELERY_BEAT_SCHEDULE.values()} <= set(OURS)
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        assert "expires" not in entry.get("options", {})
        assert isinstance(app.tasks[entry["task"]], RepeatedTask)


SENDER = """
import threading
from kluisz_analytics.wsgi import application
from credits.tasks import expire_holds
serving = threading.Thread(target=lambda: print(expire_holds.app.main))
serving.start()
serving.join()
"""


@pytest.mark.both_databases
def test_what_a_thread_of_the_web_server_sends_goes_to_the_projects_broker() -> None:
    sent = subprocess.run(
        [sys.executable, "-c", SENDER],
        cwd=settings.BASE_DIR,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sent.stdout == "kluisz_analytics\n"


class Work(RepeatedTask):
    """Counts its runs."""

    def __init__(self) -> None:
        self.name = f"work-{uuid.uuid4()}"
        self.runs: list[Any] = []

    def run(self, what: str = "", fails: bool = False) -> None:
        self.runs.append(what)
        if fails:
            raise ValueError(what)

    def message(self, sent_at: float, *args: Any) -> None:
        self.push_request(sent_at=sent_at)
        try:
            self(*args)
        finally:
            self.pop_request()


@pytest.fixture
def work() -> Iterator[Work]:
    made = Work()
    made.bind(app)
    yield made
    cache.clear()


@pytest.mark.both_databases
def test_a_message_is_passed_over_when_a_later_run_has_done_it(work: Work) -> None:
    sent_at = time.time() - 60
    work.message(sent_at, "a")
    work.message(sent_at + 1, "a")
    assert work.runs == ["a"]
    work.message(time.time() + 1, "a")
    assert work.runs == ["a", "a"], "one sent since asks for what has come up since"


@pytest.mark.both_databases
def test_a_run_for_something_else_stands_for_no_other(work: Work) -> None:
    sent_at = time.time() - 60
    work.message(sent_at, "a")
    work.message(sent_at, "b")
    assert work.runs == ["a", "b"]


@pytest.mark.both_databases
def test_a_run_that_failed_stands_for_no_other(work: Work) -> None:
    sent_at = time.time() - 60
    with pytest.raises(ValueError, match="a"):
        work.message(sent_at, "a", True)
    work.message(sent_at, "a")
    assert work.runs == ["a", "a"]


@pytest.mark.both_databases
def test_a_worker_never_sees_half_a_message(tmp_path: Path) -> None:
    """Many writers and a reader at once: as it comes, each message is whole."""
    options = {
        "data_folder_in": str(tmp_path),
        "data_folder_out": str(tmp_path),
        "control_folder": str(tmp_path / "control"),
    }
    numbers = range(300)
    with Connection(
        "filesystem://", transport="kluisz_analytics.broker:Transport", transport_options=options
    ) as reading:
        inbox = reading.SimpleQueue("inbox")

        def write(first: int) -> None:
            with Connection(
                "filesystem://",
                transport="kluisz_analytics.broker:Transport",
                transport_options=options,
            ) as writing:
                outbox = writing.SimpleQueue("inbox")
                for number in numbers[first::3]:
                    outbox.put({"number": number})

        with ThreadPoolExecutor(3) as writers:
            written = [writers.submit(write, first) for first in range(3)]
            came = []
            while len(came) < len(numbers):
                message = inbox.get(timeout=60)
                came.append(message.payload["number"])
                message.ack()
        assert [one.exception() for one in written] == [None] * 3
    assert sorted(came) == list(numbers)
