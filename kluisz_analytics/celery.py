"""The Celery application: tasks are found in each app's ``tasks`` module."""

import logging
import os
import time
from typing import Any

from celery import Celery
from celery.signals import before_task_publish, task_failure

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kluisz_analytics.settings")

logger = logging.getLogger(__name__)
app = Celery("kluisz_analytics")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@before_task_publish.connect
def say_when_it_was_sent(headers: dict[str, Any], **_: Any) -> None:
    """For :class:`kluisz_analytics.repeated.RepeatedTask`."""
    headers["sent_at"] = time.time()


@task_failure.connect
def say_of_what_it_failed(
    sender: Any, task_id: str, exception: BaseException, args: Any, **_: Any
) -> None:
    """Celery's own line has the traceback, and not of which connection or delivery it was."""
    logger.error("%s%r [%s] failed: %r", sender.name, tuple(args), task_id, exception)
