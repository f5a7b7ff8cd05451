"""Lets a slow producer work ahead: pages are fetched and decoded while the database is busy with those before."""

from collections.abc import Generator, Iterable
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1


class _End:
    """The producer is done, or failed with this."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self.failure = failure


def prefetched(items: Iterable[T], ahead: int) -> Generator[T]:
    """The items in their order, up to ``ahead`` of them made in advance by a thread of its own.

    What the producer raises is raised here, after the items before it. Closing the generator stops the producer.
    """
    queue: Queue[T | _End] = Queue(ahead)
    is_wanted = Event()
    is_wanted.set()
    producer = Thread(target=_produce, args=(items, queue, is_wanted), name="prefetch", daemon=True)
    producer.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, _End):
                if item.failure is not None:
                    raise item.failure
                return
            yield item
    finally:
        is_wanted.clear()
        while producer.is_alive():
            try:
                queue.get(timeout=POLL_SECONDS)
            except Empty:
                continue


def _produce(items: Iterable[T], queue: "Queue[T | _End]", is_wanted: Event) -> None:
    try:
        for item in items:
            if not _put(queue, item, is_wanted):
                return
    except BaseException as failure:  # noqa: BLE001  (whatever it is, the consumer gets it)
        _put(queue, _End(failure), is_wanted)
    else:
        _put(queue, _End(), is_wanted)


def _put(queue: "Queue[T | _End]", item: "T | _End", is_wanted: Event) -> bool:
    """Wait for room as long as anyone wants the item."""
    while is_wanted.is_set():
        try:
            queue.put(item, timeout=POLL_SECONDS)
        except Full:
            continue
        return True
    return False
