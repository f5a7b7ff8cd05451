"""Reads Langfuse's public API: observations page by page, health and projects (langfuse.md)."""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event, RLock
from typing import Any, Literal, Self, TypeVar

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from usage.langfuse.errors import NotLangfuse, RequestRefused, ServerTrouble, Unreachable, WrongKey
from usage.langfuse.wire import NotAPage, Page, ReceivedObservation, decode_page

logger = logging.getLogger(__name__)
T = TypeVar("T")

OBSERVATIONS = "/api/public/v2/observations"
METRICS = "/api/public/v2/metrics"
MOST_FIGURES = 1000
FIELD_GROUPS = "core,basic,time,metadata,model,usage,trace_context"
OUR_METADATA = "tenant_id,kluisz_project_id,kluisz_flow_id"
PAGE_SIZE = 1000
TIMEOUT = httpx.Timeout(60, connect=10)
ATTEMPTS = 5
LONGEST_WAIT_SECONDS = 15 * 60
TOO_MANY = 429
TROUBLE = frozenset({500, 502, 503, 504, 524})


class Retryable(Exception):
    """An answer that may be better the next time: 5xx, a time-out, a cut-off body."""


@dataclass(frozen=True, slots=True)
class Health:
    """What the server says of itself."""

    status: str
    version: str


@dataclass(frozen=True, slots=True)
class LangfuseProject:
    """The project that a key pair is for."""

    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Figures:
    """What Langfuse's metrics say of a stretch of time."""

    count: int
    tokens: int
    cost_usd: float

    def differ(self, other: "Figures") -> bool:
        """Whether the two say different things; a float sum may differ in its last digits with the order of its parts."""
        same_cost = math.isclose(self.cost_usd, other.cost_usd, rel_tol=1e-9, abs_tol=1e-9)
        return (self.count, self.tokens) != (other.count, other.tokens) or not same_cost


class LangfuseClientService:
    """A client for one Langfuse project.

    Every call raises a LangfuseError with the way out: WrongKey, Unreachable, NotLangfuse, RequestRefused, or ServerTrouble once
    the retries are used up.
    """

    def __init__(self, host: str, public_key: str, secret_key: str, *, sleep: Callable[[float], object] | None = None) -> None:
        self.host = host.rstrip("/")
        self._http = httpx.Client(base_url=self.host, auth=(public_key, secret_key), timeout=TIMEOUT, follow_redirects=False)
        # Decoding is the interpreter's work: threads that compete for it make all others wait, the one that stores most of all.
        self.computing = RLock()
        self._interrupted = Event()
        self._sleep = sleep or self._interrupted.wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.interrupt()
        self._http.close()

    def interrupt(self) -> None:
        """Wake up whoever waits for the server in another thread; from now on nobody waits."""
        self._interrupted.set()

    def health(self) -> Health:
        """The server's health; needs no key."""
        body = self._get_json("/api/public/health")
        if not isinstance(body, dict) or "status" not in body:
            raise NotLangfuse(f"{self.host} answers, but not as Langfuse does. Check the host's address.")
        return Health(str(body["status"]), str(body.get("version", "")))

    def projects(self) -> list[LangfuseProject]:
        """The projects that the keys are for; in practice one."""
        body = self._get_json("/api/public/projects")
        if not isinstance(body, dict) or not isinstance(body.get("data"), list):
            raise NotLangfuse(f"{self.host} answers, but not as Langfuse does. Check the host's address.")
        return [LangfuseProject(str(one["id"]), str(one["name"])) for one in body["data"]]

    def observations(self, start: datetime, end: datetime) -> Iterator[ReceivedObservation]:
        """Every version of every observation that starts in [start, end), newest first; rows that break the contract are left out."""
        for page in self.pages(start, end):
            yield from page.observations

    def pages(self, start: datetime, end: datetime) -> Iterator[Page]:
        """The same page by page, with the rows that break the contract; a page is fetched when it is asked for."""
        query = {
            "fields": FIELD_GROUPS,
            "expandMetadata": OUR_METADATA,
            "limit": PAGE_SIZE,
            "fromStartTime": _iso(start),
            "toStartTime": _iso(end),
        }
        cursor: str | None = None
        while True:
            page = self._page({**query, "cursor": cursor} if cursor else query)
            yield page
            if page.cursor is None:
                return
            if page.cursor == cursor:
                raise NotLangfuse(f"{self.host} gave the same cursor twice, so its pages would never end. Report it to its operator.")
            cursor = page.cursor

    def figures(self, start: datetime, end: datetime, granularity: Literal["hour", "day"]) -> dict[datetime, Figures]:
        """What Langfuse counts in each hour or day of [start, end), at most 1,000 of them; one request.

        Every version of a re-sent row counts until Langfuse merges it away, so it is a change that tells, not a difference from ours.
        """
        query = {
            "view": "observations",
            "metrics": [
                {"measure": "count", "aggregation": "count"},
                {"measure": "totalCost", "aggregation": "sum"},
                {"measure": "totalTokens", "aggregation": "sum"},
            ],
            "dimensions": [],
            "filters": [],
            "timeDimension": {"granularity": granularity},
            "fromTimestamp": _iso(start),
            "toTimestamp": _iso(end),
            "config": {"row_limit": MOST_FIGURES},
        }
        body = self._get_json(METRICS, {"query": json.dumps(query)})
        try:
            return {_moment(row["time_dimension"]): _figures(row) for row in body["data"]}
        except (TypeError, KeyError, ValueError) as error:
            raise NotLangfuse(f"{self.host} answers {METRICS}, but not with metrics ({error!r}). Check the host's version.") from error

    def _page(self, query: Mapping[str, Any]) -> Page:
        def fetch() -> Page:
            body = self._answer(OBSERVATIONS, query).content
            try:
                with self.computing:
                    return decode_page(body)
            except NotAPage as error:
                raise NotLangfuse(
                    f"{self.host} answers {OBSERVATIONS}, but not with a page of observations ({error}). Check the host's address."
                ) from error

        return self._patiently(fetch)

    def _get_json(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        def fetch() -> Any:
            answer = self._answer(path, query or {})
            try:
                return answer.json()
            except ValueError as error:
                raise NotLangfuse(f"{self.host} answers {path}, but not with JSON. Check the host's address.") from error

        return self._patiently(fetch)

    def _patiently(self, fetch: Callable[[], T]) -> T:
        """The result of ``fetch``, tried again after a Retryable, with backoff and jitter."""
        retrying = Retrying(
            retry=retry_if_exception_type(Retryable),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=30),
            sleep=self._sleep,
            before_sleep=lambda state: logger.warning("%s; trying again in %.1f s", _failure(state), state.upcoming_sleep),
            retry_error_callback=lambda state: self._give_up(_failure(state)),
        )
        return retrying(fetch)

    def _give_up(self, failure: BaseException) -> Any:
        if isinstance(failure.__cause__, httpx.TransportError):
            raise Unreachable(f"{failure}. Check the host's address and that it can be reached from here.") from failure
        raise ServerTrouble(f"{failure}, {ATTEMPTS} times. Try again later.") from failure

    def _answer(self, path: str, query: Mapping[str, Any]) -> httpx.Response:
        """The server's answer with status 200, after waiting as often and as long as it asks to."""
        waited = 0.0
        while True:
            answer = self._ask(path, query)
            if answer.status_code == 200:
                return answer
            if answer.status_code != TOO_MANY or waited >= LONGEST_WAIT_SECONDS:
                raise self._problem(answer, path)
            seconds = _retry_after(answer)
            logger.info("%s asks to slow down; going on in %.0f s", self.host, seconds)
            self._sleep(seconds)
            waited += seconds

    def _ask(self, path: str, query: Mapping[str, Any]) -> httpx.Response:
        try:
            return self._http.get(path, params=query)
        except httpx.TransportError as error:
            raise Retryable(f"No whole answer from {self.host} ({type(error).__name__})") from error
        except httpx.InvalidURL as error:
            raise Unreachable(f"“{self.host}” is not an address. Write for example https://cloud.langfuse.com.") from error

    def _problem(self, answer: httpx.Response, path: str) -> Exception:
        status = answer.status_code
        if status == TOO_MANY:
            return ServerTrouble(
                f"{self.host} asks to slow down (429), for longer than {LONGEST_WAIT_SECONDS // 60} minutes. Try again later."
            )
        if status in TROUBLE:
            return Retryable(f"{self.host} answered {status}")
        if status in (401, 403):
            return WrongKey(f"{self.host} refused the keys ({status}). Check the public and the secret key, and that they are this host's.")
        if status == 404 and path == OBSERVATIONS:
            return NotLangfuse(
                f"{self.host} has no {OBSERVATIONS}. Either it isn't a Langfuse server, or it is older than version 4; check the address "
                "and the version."
            )
        if answer.is_redirect or status == 404:
            return NotLangfuse(f"{self.host} answered {status} for {path}. Check the host's address.")
        return RequestRefused(f"{self.host} refused {path} ({status}): {answer.text[:300]}")


def _figures(row: Mapping[str, Any]) -> Figures:
    return Figures(int(row["count_count"] or 0), int(row["sum_totalTokens"] or 0), float(row["sum_totalCost"] or 0))


def _moment(text: str) -> datetime:
    """A time of the metrics: UTC without saying so; a day is its date alone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _failure(state: RetryCallState) -> BaseException:
    failure = state.outcome.exception() if state.outcome else None
    if failure is None:
        raise RuntimeError("A retry without a failure.")
    return failure


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(1.0, min(float(answer.headers.get("Retry-After", "1")), LONGEST_WAIT_SECONDS))
    except ValueError:
        return 1.0


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
