"""The queues of tasks, and how long a task of each may take.

Work that waits for others' servers has queues of its own, so that it can't keep credits waiting.
A worker that names no queue consumes all of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TaskQueue:
    """A queue, and after how many seconds a task of it is interrupted, and then killed.

    Every task names its queue: ``@shared_task(**MONEY.options)``.
    """

    name: str
    soft_seconds: int
    hard_seconds: int

    @property
    def options(self) -> dict[str, str | int]:
        """What a task is declared with."""
        return {
            "queue": self.name,
            "soft_time_limit": self.soft_seconds,
            "time_limit": self.hard_seconds,
        }


MONEY = TaskQueue("money", 240, 300)
"""Credits: grants, top-ups, holds, budgets and alerts. Waits for the database only."""
SYNC = TaskQueue("sync", 1200, 1320)
"""Reading Langfuse. What a sync has stored stays stored; the next one goes on there."""
DELIVERIES = TaskQueue("deliveries", 30, 45)
"""Webhooks and mail."""
HOUSEKEEPING = TaskQueue("housekeeping", 600, 660)
"""Estimates, repricing, the shipped price book."""
QUEUES = (MONEY, SYNC, DELIVERIES, HOUSEKEEPING)
LONGEST_SECONDS = max(queue.hard_seconds for queue in QUEUES)
