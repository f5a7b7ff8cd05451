"""Asks a Langfuse server over HTTP: within its budget, patiently, and with a clear error for
everything that can go wrong.
"""

import json
import logging
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_random_exponential,
)

from usage.langfuse.budget import Kind, RequestBudget
from usage.langfuse.errors import (
    BudgetSpent,
    NotFound,
    NotLangfuse,
    RequestRefused,
    ServerTrouble,
    TooMuchAtOnce,
    Unreachable,
    WrongKey,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

# More than any worker has under way at once.
CONNECTIONS = 32
LONGEST_WAIT_SECONDS = 15 * 60
# No plan's limit lasts longer.
LONGEST_PAUSE_SECONDS = 24 * 60 * 60
CHUNK_BYTES = 1 << 17
TOO_MANY = 429
TROUBLE = frozenset({500, 502, 503, 504, 524})
# Nobody stands behind the host's address, as while it is restarted.
AWAY = frozenset({502, 503})
UNPROCESSABLE = 422
# How a Langfuse 4 says with 422 that its store gave up, out of time or memory; any other 422 is
# about the request itself.
STORE_GAVE_UP = re.compile(
    rb"timed? ?out|took too long|memory limit|overcommittracker|resource limit|narrow your request"
    rb"|shorter date range",
    re.IGNORECASE,
)
# Nobody is there to take the connection, and may be in a while.
NOBODY_THERE = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.ProxyError,
)
# The host can't be reached at all; any other break of the transport may be the server's doing.
NO_CONNECTION = (*NOBODY_THERE, urllib3.exceptions.SSLError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server in trouble is waited for, in seconds.

    ``away``: while it refuses connections or answers 502 or 503, as when it is restarted.
    ``read``: for its next bytes. ``request``: for a whole answer, however it trickles. ``silent``:
    over all requests, while each of them fails; longer makes no sense, whatever is asked for.
    ``attempts``: how often anything else is asked for; 1 asks once and waits for nothing.
    """

    attempts: int = 5
    away: float = 120
    read: float = 60
    request: float = 120
    silent: float = 300


PATIENCE = Patience()
IMPATIENT = Patience(attempts=1, read=10, request=10)
# What takes too long will mostly take too long again.
ATTEMPTS_AT_A_TIME_OUT = 2


class Retryable(Exception):
    """An answer that may be better the next time: 5xx, a cut-off body."""


class Away(Retryable):
    """Nobody is there to answer."""


class TooSlow(Retryable):
    """No whole answer in time."""


class Answer(NamedTuple):
    """What the server answered, whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class LangfuseHttp:
    """GET requests to one server, as one project. Safe for several threads.

    ``on_trouble`` is called, in whatever thread asks, with what is wrong while the server is waited
    for, and with "" when it answers again. By urllib3: a page is some megabytes, of which httpx
    makes a hundred chunks, and with that five times the work.
    """

    def __init__(
        self,
        host: str,
        public_key: str,
        secret_key: str,
        budget: RequestBudget,
        sleep: Callable[[float], object] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.host = host.rstrip("/")
        self.on_trouble: Callable[[str], object] = lambda words: None
        self._http = _pool(self.host)
        self._headers = {
            "Authorization": f"Basic {b64encode(f'{public_key}:{secret_key}'.encode()).decode()}",
            "Accept-Encoding": "gzip",
        }
        self._budget, self._patience = budget, patience or PATIENCE
        self._interrupted = Event()
        self._wait = sleep or self._interrupted.wait
        # Since when every answer that was waited for was none; None while there are answers.
        self._silent_since: float | None = None
        self._is_in_trouble = False

    def close(self) -> None:
        self.interrupt()
        self._http.clear()

    def interrupt(self) -> None:
        """Wake up whoever waits for the server in another thread; from now on nobody waits."""
        self._interrupted.set()

    def get(
        self, path: str, query: Mapping[str, Any] | None = None, kind: Kind = Kind.OTHER
    ) -> bytes:
        """The body of the answer with status 200.

        Waits as the server or the budget asks, and tries again, with backoff and jitter, after what
        may be better the next time. Raises a LangfuseError: WrongKey, NotFound (404), NotLangfuse,
        RequestRefused, BudgetSpent, Unreachable, TooMuchAtOnce, or ServerTrouble once the retries
        are used up.
        """
        return self._patiently(lambda: self._answer(path, query or {}, kind).body)

    def get_json(
        self, path: str, query: Mapping[str, Any] | None = None, kind: Kind = Kind.OTHER
    ) -> Any:
        """The same as JSON."""

        def fetch() -> Any:
            answer = self._answer(path, query or {}, kind)
            try:
                return json.loads(answer.body)
            except ValueError as error:
                raise NotLangfuse(
                    f"{self.host} answers {path}, but not with JSON. Check the host's address."
                ) from error

        return self._patiently(fetch)

    def requests_left(self, kind: Kind) -> int | None:
        """How many of these requests may be made now; None where there is no limit."""
        return self._budget.left(kind)

    def _sleep(self, seconds: float) -> None:
        self._wait(seconds)

    def _patiently(self, fetch: Callable[[], T]) -> T:
        kinds: Counter[type[Retryable]] = Counter()

        def is_enough(state: RetryCallState) -> bool:
            failure = _failure(state)
            kinds[type(failure)] += 1
            return self._is_enough(failure, kinds, max(state.idle_for, _elapsed(state)))

        retrying = Retrying(
            retry=retry_if_exception_type(Retryable),
            stop=is_enough,
            wait=wait_random_exponential(multiplier=0.5, max=10),
            sleep=self._sleep,
            before_sleep=lambda state: self._report(f"{_failure(state)}; trying again"),
            retry_error_callback=lambda state: self._give_up(_failure(state), kinds),
        )
        return retrying(fetch)

    def _is_enough(
        self, failure: Retryable, kinds: Counter[type[Retryable]], waited: float
    ) -> bool:
        """Whether to give up after this failure, one of these, having waited so long."""
        if self._patience.attempts == 1 or self._interrupted.is_set() or self._is_silent():
            return True
        if isinstance(failure, Away):
            return waited >= self._patience.away
        if kinds[TooSlow] >= ATTEMPTS_AT_A_TIME_OUT:
            return True
        return kinds[TooSlow] + kinds[Retryable] >= self._patience.attempts

    def _is_silent(self) -> bool:
        return self._silent_for() > self._patience.silent

    def _silent_for(self) -> float:
        since = self._silent_since
        return 0 if since is None else monotonic() - since

    def _record_silence(self, requested_at: float) -> None:
        if self._silent_since is None:
            self._silent_since = requested_at

    def _record_answer(self) -> None:
        self._silent_since = None
        if self._is_in_trouble:
            self._is_in_trouble = False
            self.on_trouble("")

    def _report(self, words: str) -> None:
        since = f" (no answer for {self._silent_for():.0f} s)" if self._silent_since else ""
        logger.warning("%s%s", words, since)
        self._is_in_trouble = True
        self.on_trouble(f"{words}{since}.")

    def _give_up(self, failure: Retryable, kinds: Counter[type[Retryable]]) -> Any:
        if isinstance(failure.__cause__, NO_CONNECTION):
            raise Unreachable(
                f"{failure}. Check the host's address and that it can be reached from here."
            ) from failure
        if self._is_silent():
            raise Unreachable(
                f"{failure}; there was no whole answer for {self._silent_for():.0f} s, whatever was"
                " asked for. Nothing that was read is lost; the next run goes on. Look at Langfuse"
                " and at what stands before it."
            ) from failure
        times = f", {kinds.total()} times" if kinds.total() > 1 else ""
        raise ServerTrouble(f"{failure}{times}. Try again later.") from failure

    def _answer(self, path: str, query: Mapping[str, Any], kind: Kind) -> Answer:
        """The server's answer with status 200, after waiting as often and as long as it asks to."""
        waited = 0.0
        while True:
            self._await_budget(kind)
            answer = self._request(path, query)
            if answer.status == 200:
                return answer
            if answer.status != TOO_MANY:
                raise self._problem(answer, path)
            seconds = _retry_after(answer)
            # Whoever asks next waits for it, this worker as well as all others.
            self._budget.pause(kind, seconds)
            if waited + seconds > LONGEST_WAIT_SECONDS:
                raise BudgetSpent(
                    f"{self.host} asks to slow down (429) with requests of this kind"
                    f" ({kind.value}): it answers them again in {seconds / 60:.0f} minutes, after"
                    f" {waited / 60:.0f} already waited. Other kinds go on; the next run goes on"
                    " with this one."
                )
            self._report(f"{self.host} asks to slow down (429); going on in {seconds:.0f} s")
            waited += seconds

    def _await_budget(self, kind: Kind) -> None:
        while seconds := self._budget.seconds_to_wait(kind):
            limit = self._budget.limit_of(kind)
            if seconds > LONGEST_WAIT_SECONDS:
                allows = (
                    f"allows {limit.requests} requests of this kind ({kind.value}) in"
                    f" {limit.seconds / 3600:.2g} h on this plan, and they are used up"
                    if limit
                    else f"has asked to slow down with requests of this kind ({kind.value})"
                )
                raise BudgetSpent(
                    f"{self.host} {allows}. It goes on by itself in {seconds / 3600:.1f} h; a"
                    " larger plan is set at the connection."
                )
            if self._interrupted.is_set():
                raise Unreachable("Interrupted.")
            self._sleep(seconds)

    def _request(self, path: str, query: Mapping[str, Any]) -> Answer:
        """One request and its whole answer. Raises Retryable and what else never gets better."""
        requested_at = monotonic()
        try:
            answer = self._exchange(path, query, requested_at + self._patience.request)
        except urllib3.exceptions.LocationValueError as error:
            raise Unreachable(
                f"“{self.host}” is not an address. Write for example https://cloud.langfuse.com."
            ) from error
        except urllib3.exceptions.HTTPError as error:
            self._record_silence(requested_at)
            raise self._break(error) from error
        if answer.status in TROUBLE:
            self._record_silence(requested_at)
            raise (Away if answer.status in AWAY else Retryable)(
                f"{self.host} answered {answer.status}"
            )
        self._record_answer()
        return answer

    def _exchange(self, path: str, query: Mapping[str, Any], deadline: float) -> Answer:
        response = self._http.request(
            "GET",
            self.host + path,
            fields=query,
            headers=self._headers,
            timeout=urllib3.Timeout(connect=10, read=self._patience.read),
            retries=False,
            redirect=False,
            preload_content=False,
        )
        chunks = []
        try:
            # What has come, at once: else a body that trickles would never reach the deadline.
            while chunk := response.read1(CHUNK_BYTES):
                chunks.append(chunk)
                if monotonic() > deadline:
                    raise urllib3.exceptions.TimeoutError("The body trickles.")
        except BaseException:
            response.close()
            raise
        response.release_conn()
        return Answer(response.status, response.headers, b"".join(chunks))

    def _break(self, error: urllib3.exceptions.HTTPError) -> Retryable:
        """What a break of the transport means."""
        name = type(error).__name__
        if isinstance(error, NOBODY_THERE):
            return Away(f"No whole answer from {self.host} ({name})")
        if isinstance(error, urllib3.exceptions.TimeoutError):
            return TooSlow(
                f"No whole answer from {self.host} in {self._patience.request:.0f} s, or nothing of"
                f" it for {self._patience.read:.0f} s ({name})"
            )
        return Retryable(f"No whole answer from {self.host} ({name})")

    def _problem(self, answer: Answer, path: str) -> Exception:
        status = answer.status
        if status in (401, 403):
            return WrongKey(
                f"{self.host} refused the keys ({status}). Check the public and the secret key, and"
                " that they are this host's."
            )
        if status == 404:
            return NotFound(f"{self.host} answered 404 for {path}. Check the host's address.")
        if 300 <= status < 400:
            return NotLangfuse(
                f"{self.host} answered {status} for {path}. Check the host's address."
            )
        if status == UNPROCESSABLE and STORE_GAVE_UP.search(answer.body):
            # The same request would take as long again, so it isn't repeated.
            return TooMuchAtOnce(
                f"{self.host} ran out of time or memory over {path} (422): {_beginning(answer)}."
                " Try again later, with a shorter period, or give Langfuse's store more room."
            )
        return RequestRefused(f"{self.host} refused {path} ({status}): {_beginning(answer)}")


def _beginning(answer: Answer) -> str:
    """The beginning of the body."""
    return answer.body[:300].decode(errors="replace")


def _pool(host: str) -> urllib3.PoolManager:
    """Connections to the host, by the environment's proxy if it has one for it (HTTPS_PROXY,
    NO_PROXY).
    """
    settings: dict[str, Any] = {"maxsize": CONNECTIONS, "ca_certs": certifi.where()}
    address = urlsplit(host)
    proxy = getproxies().get(address.scheme)
    if proxy is None or proxy_bypass(address.hostname or ""):
        return urllib3.PoolManager(**settings)
    credentials = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=credentials) if credentials else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)


def _elapsed(state: RetryCallState) -> float:
    """Seconds since the first attempt began."""
    return state.seconds_since_start or 0.0


def _failure(state: RetryCallState) -> Retryable:
    failure = state.outcome.exception() if state.outcome else None
    if not isinstance(failure, Retryable):
        raise RuntimeError("A retry without a failure.")
    return failure


def _retry_after(answer: Answer) -> float:
    try:
        seconds = float(answer.headers.get("Retry-After", "1"))
    except ValueError:
        return 1.0
    return max(1.0, min(seconds, LONGEST_PAUSE_SECONDS))
