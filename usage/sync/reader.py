"""Reads stretches of a connection's time with several requests under way at once, ahead of whoever
stores them.

Langfuse gives a stretch page by page, newest first, and each page names the next, so one walk is as
fast as the server's answers are. A fetcher that has nothing to do therefore takes half of what
another has left. Where the server gives up on a stretch, again and again, it is halved too: what
takes too long as a whole often does not in parts (langfuse.md, Rate limits).
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Condition, Thread
from typing import Generic, Self, TypeVar

from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import BudgetSpent, ServerTrouble
from usage.langfuse.wire import Page

T = TypeVar("T")
MILLISECOND = timedelta(milliseconds=1)
# Halving ends here: what a server can't give of so short a time, it can't give.
SHORTEST = timedelta(minutes=1)
NOTHING = timedelta(0)
# So long a fetcher that has nothing to do waits for another stretch before it takes from others.
PATIENCE_SECONDS = 0.02
# How many decoded pages may wait to be taken; a page is about 3 MB.
PAGES_AHEAD = 24


class Stretch:
    """A part of the time to read, half-open. Of it, what is before ``unfetched_until`` has not been
    fetched yet; the rest has.

    What is before ``unread_until`` has not been taken yet; the rest has, in ``pages``. ``a_page``
    is how much came with the last one.
    """

    def __init__(self, start: datetime, end: datetime, label: object) -> None:
        self.start, self.end, self.label = start, end, label
        self.unfetched_until = self.unread_until = end
        self.a_page: timedelta | None = None
        self.pages = 0

    def fetched_until(self, reached: datetime) -> None:
        self.unfetched_until, self.a_page = reached, self.unfetched_until - reached

    def to_spare(self) -> timedelta:
        """What is left beyond the page that is being fetched; nothing that anyone knows of while
        that is the first.
        """
        return NOTHING if self.a_page is None else self.unfetched_until - self.a_page - self.start


@dataclass(frozen=True, slots=True, eq=False)
class Fetched(Generic[T]):
    """A page, as what it was turned into; all of its stretch from ``reached`` on has come with
    it.
    """

    stretch: Stretch
    content: T
    reached: datetime | None


class Reader(Generic[T]):
    """Fetches the stretches that are added and hands their pages out; of those that have come, the
    newest first.

    ``turn`` is called in the fetching threads, with a page and its stretch's label; it must not
    touch the database. What a fetcher raises is raised by :meth:`take`.
    """

    def __init__(
        self, client: LangfuseClientService, turn: Callable[[Page, object], T], fetchers: int
    ) -> None:
        self._client, self._turn = client, turn
        self._changed = Condition()
        self._queue: deque[Stretch] = deque()
        self._unfinished: list[Stretch] = []
        self._fetched: list[Fetched[T]] = []
        self._idle = fetchers
        self._failure: BaseException | None = None
        self._is_closed = False
        self._threads = [
            Thread(target=self._fetch_until_closed, name=f"fetcher-{number}", daemon=True)
            for number in range(fetchers)
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the fetchers, also in the middle of a walk or a wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._client.interrupt()
        for thread in self._threads:
            thread.join()

    def add(self, start: datetime, end: datetime, label: object = None) -> None:
        with self._changed:
            self._add(Stretch(start, end, label))

    def is_hungry(self) -> bool:
        """Whether a fetcher has nothing to do, or will not have in a moment: everything has been
        taken.
        """
        with self._changed:
            return self._idle > len(self._queue) or not self._unfinished

    def to_spare(self) -> timedelta:
        """How much of the time fetchers that have nothing to do could take from others."""
        with self._changed:
            return sum((max(stretch.to_spare(), NOTHING) for stretch in self._unfinished), NOTHING)

    def is_ahead(self) -> bool:
        """Whether a page waits to be taken."""
        with self._changed:
            return bool(self._fetched)

    def is_fetching(self) -> bool:
        """Whether more is to come than what waits."""
        with self._changed:
            return any(stretch.unfetched_until > stretch.start for stretch in self._unfinished)

    def take(self, timeout_seconds: float) -> Fetched[T] | None:
        """The newest page that waits; None when none came in time, or when everything has been
        taken.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._failure or self._fetched or not self._unfinished, timeout_seconds
            )
            if self._failure is not None:
                raise self._failure
            if not self._fetched:
                return None
            # The newest first, so that days are wholly read one after the other, and not all of
            # them at the end.
            fetched = max(self._fetched, key=lambda one: one.stretch.end)
            self._fetched.remove(fetched)
            stretch = fetched.stretch
            stretch.pages += 1
            if fetched.reached is not None:
                stretch.unread_until = fetched.reached
            if stretch.unread_until <= stretch.start:
                self._unfinished.remove(stretch)
            self._changed.notify_all()
            return fetched

    def unread(self) -> list[tuple[datetime, datetime]]:
        """The parts of the time that have been added and not wholly taken."""
        with self._changed:
            return [(stretch.start, stretch.unread_until) for stretch in self._unfinished]

    def _add(self, stretch: Stretch) -> None:
        self._queue.append(stretch)
        self._unfinished.append(stretch)
        self._changed.notify_all()

    def _fetch_until_closed(self) -> None:
        while (stretch := self._next_stretch()) is not None:
            try:
                self._fetch(stretch)
            except BaseException as failure:  # noqa: BLE001  (whatever it is, the taker gets it)
                with self._changed:
                    self._failure = self._failure or failure
            with self._changed:
                self._idle += 1
                self._changed.notify_all()

    def _next_stretch(self) -> Stretch | None:
        with self._changed:
            while not self._changed.wait_for(
                lambda: self._is_closed or (self._queue and self._failure is None),
                PATIENCE_SECONDS,
            ):
                self._share()
            if self._is_closed:
                return None
            self._idle -= 1
            return self._queue.popleft()

    def _share(self) -> None:
        """Take from whoever has most to spare: half of it, or all when that is not more than a
        page.
        """
        stretch = max(self._unfinished, key=Stretch.to_spare, default=None)
        if stretch is None or stretch.a_page is None or self._failure is not None:
            return
        spare = stretch.to_spare()
        if spare > max(SHORTEST, stretch.a_page / 2):
            self._split(
                stretch,
                _middle(
                    stretch.start, stretch.start + (spare if spare > stretch.a_page else 2 * spare)
                ),
            )

    def _fetch(self, stretch: Stretch) -> None:
        """All pages of the stretch; where the server gives up, of its newer half, and the older
        half by itself.
        """
        for page, reached in self._pages(stretch):
            with self._client.computing:
                content = self._turn(page, stretch.label)
            if not self._hand_out(Fetched(stretch, content, reached)):
                return

    def _pages(self, stretch: Stretch) -> Iterator[tuple[Page, datetime | None]]:
        end = stretch.end
        while True:
            try:
                for page in self._client.pages(stretch.start, end):
                    # Nobody may take from the stretch meanwhile.
                    with self._changed:
                        start = stretch.start
                        is_last = page.cursor is None or (
                            page.oldest is not None and page.oldest < start
                        )
                        # More rows of the same millisecond may follow on the next page.
                        reached = start if is_last else page.oldest and page.oldest + MILLISECOND
                        if reached is not None:
                            stretch.fetched_until(reached)
                    yield page.since(start) if is_last else page, reached
                    end = reached or end
                    if is_last:
                        return
            except BudgetSpent:
                raise
            except ServerTrouble:
                with self._changed:
                    if end - stretch.start < 2 * SHORTEST:
                        raise
                    self._split(stretch, _middle(stretch.start, end))

    def _split(self, stretch: Stretch, middle: datetime) -> None:
        with self._changed:
            older = Stretch(stretch.start, middle, stretch.label)
            stretch.start = middle
            self._add(older)

    def _hand_out(self, fetched: Fetched[T]) -> bool:
        """Wait for room as long as anyone wants the page."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_closed or self._failure or len(self._fetched) < PAGES_AHEAD
            )
            if self._is_closed or self._failure:
                return False
            self._fetched.append(fetched)
            self._changed.notify_all()
            return True


def _middle(start: datetime, end: datetime) -> datetime:
    """The middle, in whole milliseconds: what Langfuse can tell apart."""
    return start + (end - start) // 2 // MILLISECOND * MILLISECOND
