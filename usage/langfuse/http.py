"""Asks a Langfuse server over HTTP: within its budget, patiently, and with a clear error for
everything that can go wrong.
"""

import logging
import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from threading import Event
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
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

TIMEOUT = urllib3.Timeout(connect=10, read=60)
# More than any worker has under way at once.
CONNECTIONS = 32
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 15 * 60
TOO_MANY = 429
TROUBLE = frozenset({500, 502, 503, 504, 524})
UNPROCESSABLE = 422
# How a Langfuse 4 says with 422 that its store gave up; any other 422 is about the request itself.
STORE_GAVE_UP = re.compile(
    rb"timed? ?out|memory limit|resource limit|too long|narrow your request|shorter date range",
    re.IGNORECASE,
)
# The host isn't there at all; any other break of the transport may be the server's doing.
NO_CONNECTION = (
    urllib3.exceptions.NewConnectionError,
    urllib3.exceptions.ConnectTimeoutError,
    urllib3.exceptions.SSLError,
    urllib3.exceptions.ProxyError,
)


class Retryable(Exception):
    """An answer that may be better the next time: 5xx, a time-out, a cut-off body."""


class LangfuseHttp:
    """GET requests to one server, as one project. Safe for several threads.

    By urllib3: a page is some megabytes, of which httpx makes a hundred pieces, and with that five
    times the work.
    """

    def __init__(
        self,
        host: str,
        public_key: str,
        secret_key: str,
        budget: RequestBudget,
        sleep: Callable[[float], object] | None = None,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.host = host.rstrip("/")
        self._http = _pool(self.host)
        self._headers = {
            "Authorization": f"Basic {b64encode(f'{public_key}:{secret_key}'.encode()).decode()}",
            "Accept-Encoding": "gzip",
        }
        self._budget, self._attempts = budget, attempts
        self._interrupted = Event()
        self._wait = sleep or self._interrupted.wait

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
        return self._patiently(lambda: self._answer(path, query or {}, kind).data)

    def get_json(
        self, path: str, query: Mapping[str, Any] | None = None, kind: Kind = Kind.OTHER
    ) -> Any:
        """The same as JSON."""

        def fetch() -> Any:
            answer = self._answer(path, query or {}, kind)
            try:
                return answer.json()
            except ValueError as error:
                raise NotLangfuse(
                    f"{self.host} answers {path}, but not with JSON. Check the host's address."
                ) from error

        return self._patiently(fetch)

    def _sleep(self, seconds: float) -> None:
        self._wait(seconds)

    def _patiently(self, fetch: Callable[[], T]) -> T:
        retrying = Retrying(
            retry=retry_if_exception_type(Retryable),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            sleep=self._sleep,
            before_sleep=lambda state: logger.warning(
                "%s; trying again in %.1f s", _failure(state), state.upcoming_sleep
            ),
            retry_error_callback=lambda state: self._give_up(_failure(state)),
        )
        return retrying(fetch)

    def _give_up(self, failure: BaseException) -> Any:
        if isinstance(failure.__cause__, NO_CONNECTION):
            raise Unreachable(
                f"{failure}. Check the host's address and that it can be reached from here."
            ) from failure
        times = f", {self._attempts} times" if self._attempts > 1 else ""
        raise ServerTrouble(f"{failure}{times}. Try again later.") from failure

    def _answer(self, path: str, query: Mapping[str, Any], kind: Kind) -> urllib3.BaseHTTPResponse:
        """The server's answer with status 200, after waiting as often and as long as it asks to."""
        waited = 0.0
        while True:
            self._await_budget(kind)
            answer = self._ask(path, query)
            if answer.status == 200:
                return answer
            if answer.status != TOO_MANY or waited >= LONGEST_WAIT_SECONDS:
                raise self._problem(answer, path)
            seconds = _retry_after(answer)
            logger.info("%s asks to slow down; going on in %.0f s", self.host, seconds)
            # Whoever asks next waits for it, this worker as well as all others.
            self._budget.pause(seconds)
            waited += seconds

    def _await_budget(self, kind: Kind) -> None:
        while seconds := self._budget.seconds_to_wait(kind):
            limit = self._budget.limit_of(kind)
            if seconds > LONGEST_WAIT_SECONDS and limit is not None:
                raise BudgetSpent(
                    f"{self.host} allows {limit.requests} requests of this kind ({kind.value}) in"
                    f" {limit.seconds // 3600} h on this plan, and they are used up. It goes on by"
                    f" itself in {seconds / 3600:.1f} h; a larger plan is set at the connection."
                )
            if self._interrupted.is_set():
                raise Unreachable("Interrupted.")
            self._sleep(seconds)

    def _ask(self, path: str, query: Mapping[str, Any]) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(
                "GET",
                self.host + path,
                fields=query,
                headers=self._headers,
                timeout=TIMEOUT,
                retries=False,
                redirect=False,
            )
        except urllib3.exceptions.LocationValueError as error:
            raise Unreachable(
                f"“{self.host}” is not an address. Write for example https://cloud.langfuse.com."
            ) from error
        except urllib3.exceptions.HTTPError as error:
            raise Retryable(f"No whole answer from {self.host} ({type(error).__name__})") from error

    def _problem(self, answer: urllib3.BaseHTTPResponse, path: str) -> Exception:
        status = answer.status
        if status == TOO_MANY:
            return ServerTrouble(
                f"{self.host} asks to slow down (429), for longer than {LONGEST_WAIT_SECONDS // 60}"
                " minutes. Try again later."
            )
        if status in TROUBLE:
            return Retryable(f"{self.host} answered {status}")
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
        if status == UNPROCESSABLE and STORE_GAVE_UP.search(answer.data):
            # The same request would take as long again, so it isn't repeated.
            return TooMuchAtOnce(
                f"{self.host} ran out of time or memory over {path} (422): {_said(answer)}."
                " Try again later, with a shorter period, or give Langfuse's store more room."
            )
        return RequestRefused(f"{self.host} refused {path} ({status}): {_said(answer)}")


def _said(answer: urllib3.BaseHTTPResponse) -> str:
    """The beginning of the body."""
    return answer.data[:300].decode(errors="replace")


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


def _failure(state: RetryCallState) -> BaseException:
    failure = state.outcome.exception() if state.outcome else None
    if failure is None:
        raise RuntimeError("A retry without a failure.")
    return failure


def _retry_after(answer: urllib3.BaseHTTPResponse) -> float:
    try:
        return max(1.0, min(float(answer.headers.get("Retry-After", "1")), LONGEST_WAIT_SECONDS))
    except ValueError:
        return 1.0
