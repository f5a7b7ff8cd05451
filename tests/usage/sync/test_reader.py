"""The reader: several requests under way at once, long stretches shared out, failing ones halved,
every row once.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.usage.facts.test_decide import received
from usage.langfuse.errors import ServerTrouble, WrongKey
from usage.langfuse.wire import Page, ReceivedObservation
from usage.sync import reader
from usage.sync.reader import Reader

START = datetime(2026, 11, 1, tzinfo=UTC)
END = START + timedelta(days=1)
ROWS = [
    received(f"o{minute}", start_time=START + timedelta(minutes=minute))
    for minute in range(24 * 60)
]


class Server:
    """Gives ROWS, newest first, fifty a page, as the client does; can be slow, and can fail on
    stretches that are too long.
    """

    def __init__(
        self,
        seconds: float | Callable[[], float] = 0,
        longest: timedelta | None = None,
        failure: Exception | None = None,
    ) -> None:
        self.computing = threading.RLock()
        self.seconds = seconds if callable(seconds) else lambda: seconds
        self.longest, self.failure = longest, failure
        self.busy = self.most_busy = 0
        self.asked: list[tuple[datetime, datetime]] = []
        self._lock = threading.Lock()

    def interrupt(self) -> None:
        return None

    def pages(self, start: datetime, end: datetime) -> Iterator[Page]:
        self.asked.append((start, end))
        if self.failure is not None:
            raise self.failure
        if self.longest is not None and end - start > self.longest:
            raise ServerTrouble("answered 524, 5 times")
        rows = [row for row in reversed(ROWS) if start <= row.step.start_time < end]
        for position in range(0, len(rows), 50):
            with self._lock:
                self.busy += 1
                self.most_busy = max(self.most_busy, self.busy)
            time.sleep(self.seconds())
            with self._lock:
                self.busy -= 1
            yield Page(
                rows[position : position + 50], [], "more" if position + 50 < len(rows) else None
            )
        if not rows:
            yield Page([], [], None)


def read(server: Server, fetchers: int = 4, end: datetime = END) -> list[ReceivedObservation]:
    found: list[ReceivedObservation] = []
    with Reader(server, lambda page, _: page.observations, fetchers) as running:  # type: ignore[arg-type]
        running.add(START, end)
        while running.unread():
            fetched = running.take(30)
            assert fetched is not None
            found += fetched.content
    return found


def assert_each_once(found: list[ReceivedObservation]) -> None:
    assert Counter(one.step.observation_id for one in found) == Counter(
        one.step.observation_id for one in ROWS
    )


@pytest.mark.parametrize("fetchers", [1, 2, 4, 7])
def test_every_row_comes_once(fetchers: int) -> None:
    assert_each_once(read(Server(), fetchers))


def test_a_long_stretch_is_shared_between_the_fetchers() -> None:
    server = Server(seconds=0.02)
    assert_each_once(read(server))
    assert server.most_busy == 4


@pytest.mark.parametrize("seed", range(12))
def test_every_row_comes_once_however_long_each_page_takes(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetchers take from each other in the middle of a request, too."""
    chance = random.Random(seed)  # noqa: S311
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 0.0005)
    assert_each_once(read(Server(seconds=lambda: chance.random() * 0.01), fetchers=7))


def test_whoever_has_nothing_to_do_takes_from_whoever_has_most_to_spare() -> None:
    server = Server(seconds=0.1)
    with Reader(server, lambda page, _: page.observations, 2) as short_and_long:  # type: ignore[arg-type]
        short_and_long.add(START, START + timedelta(minutes=60))
        short_and_long.add(START + timedelta(hours=2), END)
        while short_and_long.unread():
            assert short_and_long.take(30) is not None
    # Two pages of 50 minutes each have come of the long one when the short one is through, and a
    # third is on its way.
    taken_from, taken_to = server.asked[2]
    assert taken_from == START + timedelta(hours=2)
    assert abs(
        taken_to - (taken_from + (END - taken_from - timedelta(minutes=150)) / 2)
    ) < timedelta(minutes=30)


def test_nothing_is_taken_where_the_next_page_is_the_last() -> None:
    server = Server(seconds=0.1)
    read(server, fetchers=2, end=START + timedelta(minutes=90))
    assert len(server.asked) == 1


def test_a_short_stretch_is_one_request() -> None:
    server = Server()
    read(server, end=START + timedelta(minutes=30))
    assert len(server.asked) == 1


def test_what_takes_too_long_as_a_whole_is_read_in_halves() -> None:
    server = Server(longest=timedelta(hours=2))
    assert_each_once(read(server))
    assert any(end - start > timedelta(hours=2) for start, end in server.asked)


def test_a_server_that_fails_on_the_shortest_stretch_is_said_to() -> None:
    with pytest.raises(ServerTrouble):
        read(Server(longest=timedelta(seconds=1)))


def test_a_failure_reaches_the_taker_and_stops_the_others() -> None:
    server = Server(failure=WrongKey("refused the keys"))
    with pytest.raises(WrongKey, match="refused the keys"):
        read(server)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetcher")]


def test_the_taker_can_stop_in_the_middle() -> None:
    with Reader(Server(seconds=0.01), lambda page, _: page, 4) as running:  # type: ignore[arg-type]
        running.add(START, END)
        assert running.take(30) is not None
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fetcher")]


def test_of_what_has_come_the_newest_is_taken_first() -> None:
    def ends_of_what_waits(running: Reader[Page], number: int) -> list[datetime]:
        while len(running._fetched) < number:
            time.sleep(0.001)
        return [running.take(30).stretch.end for _ in range(number)]  # type: ignore[union-attr]

    hours = [START + number * timedelta(hours=1) for number in range(4)]
    with Reader(Server(), lambda page, _: page, 1) as running:  # type: ignore[arg-type]
        for hour in hours:
            running.add(hour, hour + timedelta(minutes=60))
        # Of an hour there are two pages, and they stay in their order.
        assert ends_of_what_waits(running, 8) == [
            hour + timedelta(hours=1) for hour in reversed(hours) for _ in range(2)
        ]
        assert not running.is_fetching()
        # More than may wait.
        running.add(START, END)
        assert running.is_fetching()


def test_what_is_not_taken_is_unread() -> None:
    with Reader(Server(), lambda page, _: page, 1) as running:  # type: ignore[arg-type]
        running.add(START, END)
        first = running.take(30)
        assert first is not None
        assert running.unread() == [(START, ROWS[-50].step.start_time + timedelta(milliseconds=1))]
