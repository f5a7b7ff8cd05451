"""Tasks that beat asks for again and again.

Their messages never expire: where one task takes longer than the time between two messages, those
of the others behind it would expire each time, and their work would never be done. Instead, a
message is passed over once a run that began after it was sent has done what it asks for. So what
has piled up while no worker ran is one run's work.
"""

import time
from typing import Any

from celery import Task
from celery.utils.log import get_task_logger
from django.core.cache import cache

REMEMBERED_SECONDS = 2 * 24 * 60 * 60
logger = get_task_logger(__name__)


class RepeatedTask(Task):
    """Does all that is due whenever it runs, so that one run stands for all messages before it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        key = ":".join(["task-began", self.name, *map(str, args)])
        sent_at, began_at = self.request.get("sent_at"), cache.get(key)
        if sent_at is not None and began_at is not None and began_at > sent_at:
            logger.info("%s: a later run has done what this message asks for", self.name)
            return None
        begins_at = time.time()
        result = super().__call__(*args, **kwargs)
        # Only now: a run that fails stands for no other.
        cache.set(key, begins_at, timeout=REMEMBERED_SECONDS)
        return result
