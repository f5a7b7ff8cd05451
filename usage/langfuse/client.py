"""Reads a Langfuse project: observations page by page, metrics, health and projects
(langfuse.md).
"""

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from threading import RLock
from typing import Any, Literal, Self

from usage.langfuse.budget import Kind, RequestBudget
from usage.langfuse.errors import (
    NotFound,
    NotLangfuse,
    RequestRefused,
    ServerTrouble,
    WrongKey,
)
from usage.langfuse.http import LangfuseHttp, Patience
from usage.langfuse.paging import whole_versions
from usage.langfuse.v1 import LEGACY_OBSERVATIONS, V1Reader
from usage.langfuse.whole_metadata import cut_off, with_whole
from usage.langfuse.wire import (
    NotAPage,
    Page,
    ReceivedObservation,
    RejectedRow,
    decode_page,
    iso,
)

logger = logging.getLogger(__name__)
OBSERVATIONS = "/api/public/v2/observations"
METRICS = "/api/public/v2/metrics"
PROJECTS = "/api/public/projects"
MODELS = "/api/public/models"
MODELS_A_PAGE = 100
MOST_FIGURES = 1000
COUNTED = [
    {"measure": "count", "aggregation": "count"},
    {"measure": "totalCost", "aggregation": "sum"},
    {"measure": "totalTokens", "aggregation": "sum"},
]
FIELD_GROUPS = "core,basic,time,metadata,model,usage,trace_context"
PAGE_SIZE = 1000
A_MOMENT = timedelta(seconds=1)
V1, V2 = "v1", "v2"


class WriteMode(StrEnum):
    """LANGFUSE_MIGRATION_V4_WRITE_MODE of a Langfuse 4; NONE of an older one."""

    NONE = ""
    EVENTS_ONLY = "events_only"
    DUAL = "dual"
    LEGACY = "legacy"


@dataclass(frozen=True, slots=True)
class Health:
    """What the server says of itself."""

    status: str
    version: str


@dataclass(frozen=True, slots=True)
class LangfuseProject:
    """The project that a key pair is for, and the id of the organization whose limits count for
    it; "" where the server doesn't say.
    """

    id: str
    name: str
    organization: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """What Langfuse's metrics say of a stretch of time; how many users are unknown where they are
    not asked for.
    """

    count: int
    tokens: int
    cost_usd: float
    users: int | None = None

    def differ(self, other: "Figures") -> bool:
        """Whether the two say different things; a float sum may differ in its last digits with the
        order of its parts.
        """
        same_cost = math.isclose(self.cost_usd, other.cost_usd, rel_tol=1e-9, abs_tol=1e-9)
        same_users = None in (self.users, other.users) or self.users == other.users
        same_counts = (self.count, self.tokens) == (other.count, other.tokens)
        return not (same_counts and same_cost and same_users)


class LangfuseClientService:
    """A client for one Langfuse project.

    ``api`` says how the server is read, "v2" (Langfuse 4) or "v1" (2 and 3, and 4 in write mode
    legacy); "" finds it out at the first reading, and the ``write_mode`` with it. Every call raises
    a LangfuseError with the way out (usage.langfuse.errors).
    """

    def __init__(
        self,
        host: str,
        public_key: str,
        secret_key: str,
        *,
        api: str = "",
        write_mode: str = "",
        budget: RequestBudget | None = None,
        sleep: Callable[[float], object] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._http = LangfuseHttp(
            host, public_key, secret_key, budget or RequestBudget(public_key), sleep, patience
        )
        self.host, self.api, self.write_mode = self._http.host, api, write_mode
        # Decoding is the interpreter's work: threads that compete for it make all others wait, the
        # one that stores most of all.
        self.computing = RLock()
        self._finding_out = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def interrupt(self) -> None:
        """Wake up whoever waits for the server in another thread; from now on nobody waits."""
        self._http.interrupt()

    def report_trouble_to(self, on_trouble: Callable[[str], object]) -> None:
        """From now on call this with what is wrong while the server is waited for, and with "" when
        it answers again; in whatever thread asks.
        """
        self._http.on_trouble = on_trouble

    def health(self) -> Health:
        """The server's health; needs no key."""
        body = self._http.get_json("/api/public/health")
        if not isinstance(body, dict) or "status" not in body:
            raise NotLangfuse(
                f"{self.host} answers, but not as Langfuse does. Check the host's address."
            )
        return Health(str(body["status"]), str(body.get("version", "")))

    def projects(self) -> list[LangfuseProject]:
        """The projects that the keys are for; in practice one."""
        body = self._http.get_json(PROJECTS)
        try:
            return [
                LangfuseProject(
                    str(one["id"]),
                    str(one["name"]),
                    str((one.get("organization") or {}).get("id", "")),
                )
                for one in body["data"]
            ]
        except (TypeError, KeyError, AttributeError) as error:
            raise NotLangfuse(
                f"{self.host} answers, but not as Langfuse does. Check the host's address."
            ) from error

    def project(self) -> LangfuseProject:
        """The project that the keys are for.

        Raises NotLangfuse where the server doesn't say it, WrongKey where it isn't one.
        """
        try:
            projects = self.projects()
        except NotFound as error:
            raise NotLangfuse(
                f"{self.host} does not say which project its keys are for (404 for {PROJECTS}), so"
                " nothing is read: the same usage could be billed twice. Every Langfuse since 2.0"
                " says it; check the host's address and what stands before it."
            ) from error
        if len(projects) != 1:
            raise WrongKey(
                f"The keys are for {len(projects)} projects of {self.host}. Enter the keys of one"
                " project (its settings, API keys)."
            )
        return projects[0]

    def models(self) -> list[Mapping[str, Any]]:
        """What the server knows of models and their prices, page by page."""
        found: list[Mapping[str, Any]] = []
        page, pages = 1, 1
        while page <= pages:
            body = self._http.get_json(MODELS, {"limit": MODELS_A_PAGE, "page": page})
            try:
                found += body["data"]
                pages = int(body["meta"]["totalPages"])
            except (TypeError, KeyError, ValueError) as error:
                raise NotLangfuse(
                    f"{self.host} answers {MODELS}, but not as Langfuse does."
                ) from error
            page += 1
        return found

    def find_api(self) -> str:
        """How the server is read; asks it once."""
        with self._finding_out:
            return self.api or self.find_out()

    def find_out(self) -> str:
        """Ask how the server is read, and in which write mode it is: at most three requests.

        A Langfuse 4 in write mode ``legacy`` answers v2 without the data, so it is read by v1; its
        v2 metrics aren't there. In ``dual`` v1 is there beside v2 (langfuse.md, Which API).
        """
        with self._finding_out:
            has_v2 = self._has(OBSERVATIONS, Kind.OBSERVATIONS)
            if has_v2 and self._has_metrics():
                has_v1 = self._has(LEGACY_OBSERVATIONS, Kind.LEGACY)
                self.api, self.write_mode = V2, WriteMode.DUAL if has_v1 else WriteMode.EVENTS_ONLY
            elif self._has(LEGACY_OBSERVATIONS, Kind.LEGACY):
                self.api, self.write_mode = V1, WriteMode.LEGACY if has_v2 else WriteMode.NONE
            else:
                raise NotLangfuse(
                    f"{self.host} has no {METRICS if has_v2 else OBSERVATIONS}, nor"
                    f" {LEGACY_OBSERVATIONS}, so it can't be read as a Langfuse server. Check the"
                    " address."
                )
            return self.api

    def _has_metrics(self) -> bool:
        """Only 404 says that they aren't there; whatever else goes wrong, is for whoever needs
        them.
        """
        now = datetime.now(UTC)
        try:
            self._metrics(now, now + A_MOMENT, "hour", COUNTED)
        except NotFound:
            return False
        except (ServerTrouble, RequestRefused, NotLangfuse) as error:
            logger.warning("%s has metrics, but: %s", self.host, error)
        return True

    def _has(self, path: str, kind: Kind) -> bool:
        # Of a moment only: over all of a project's history the store may run out of time.
        now = datetime.now(UTC)
        asked = {"limit": 1, "fromStartTime": iso(now), "toStartTime": iso(now + A_MOMENT)}
        try:
            self._http.get(path, asked, kind)
        except NotFound:
            return False
        return True

    def observations(self, start: datetime, end: datetime) -> Iterator[ReceivedObservation]:
        """Every version of every observation that starts in [start, end), newest first; rows that
        break the contract are left out.
        """
        for page in self.pages(start, end):
            yield from page.observations

    def pages(self, start: datetime, end: datetime) -> Iterator[Page]:
        """The same page by page, with the rows that break the contract; a page is fetched when it
        is asked for.
        """
        if self.find_api() == V2:
            yield from self._v2_pages(start, end)
        else:
            yield from V1Reader(self._http, self.computing).pages(start, end)

    def _v2_pages(self, start: datetime, end: datetime) -> Iterator[Page]:
        query = {
            "fields": FIELD_GROUPS,
            "limit": PAGE_SIZE,
            "fromStartTime": iso(start),
            "toStartTime": iso(end),
        }
        cursor: str | None = None
        before: list[RejectedRow] = []
        while True:
            asked = {**query, "cursor": cursor} if cursor else query
            page = whole_versions(self._page(asked))
            if keys := cut_off(page):
                expanded = self._page({**asked, "expandMetadata": ",".join(keys)})
                page = with_whole(page, expanded.observations)
            # One that stands between the last whole row and the border comes once more.
            yield replace(page, rejected=[one for one in page.rejected if one not in before])
            if page.cursor is None:
                return
            if page.cursor == cursor:
                raise NotLangfuse(
                    f"{self.host} gave the same cursor twice, so its pages would never end. Report"
                    " it to its operator."
                )
            cursor, before = page.cursor, page.rejected

    def count_observations(self, start: datetime, end: datetime) -> int:
        """How many observations a v1 server has in [start, end); one request."""
        return V1Reader(self._http, self.computing).count(start, end)

    def figures(
        self, start: datetime, end: datetime, granularity: Literal["hour", "day"]
    ) -> dict[datetime, Figures]:
        """What Langfuse counts in each hour or day of [start, end), at most 1,000 of them; one
        request, v2 only.

        Every version of a re-sent row counts until Langfuse merges it away, so it is a change that
        tells, not a difference from ours.
        """
        rows = self._metrics(start, end, granularity, COUNTED)
        return {moment: _figures(row) for moment, row in rows}

    def tenant_days(
        self, start: datetime, end: datetime, tenant_id: str = ""
    ) -> dict[datetime, Figures]:
        """The same of each day, with how many users it had; only of what names the tenant, where
        one is given.
        """
        measures = [*COUNTED, {"measure": "uniqueUserIds", "aggregation": "uniq"}]
        rows = self._metrics(start, end, "day", measures, tenant_id=tenant_id)
        return {day: _figures(row) for day, row in rows}

    def user_days(
        self, start: datetime, end: datetime, tenant_id: str = ""
    ) -> list[tuple[datetime, str, Figures]]:
        """The same of each user's days, "" for what names none: the 1,000 with most observations,
        so all of them where there are fewer.
        """
        by_user = {
            "dimensions": [{"field": "userId"}],
            "orderBy": [{"field": "count_count", "direction": "desc"}],
        }
        rows = self._metrics(start, end, "day", COUNTED, by_user, tenant_id)
        return [(day, row["userId"] or "", _figures(row)) for day, row in rows]

    def metrics_left(self) -> int | None:
        """How many requests for metrics may be made until the plan's limit counts anew; None where
        there is none.
        """
        return self._http.requests_left(Kind.METRICS)

    def _metrics(
        self,
        start: datetime,
        end: datetime,
        granularity: Literal["hour", "day"],
        measures: list[dict[str, str]],
        more: Mapping[str, Any] | None = None,
        tenant_id: str = "",
    ) -> list[tuple[datetime, dict[str, Any]]]:
        """The rows of one request, with the hours or days that they are of."""
        query = {
            "view": "observations",
            "metrics": measures,
            "dimensions": [],
            "filters": [_names_tenant(tenant_id)] if tenant_id else [],
            "timeDimension": {"granularity": granularity},
            "fromTimestamp": iso(start),
            "toTimestamp": iso(end),
            "config": {"row_limit": MOST_FIGURES},
            **(more or {}),
        }
        body = self._http.get_json(METRICS, {"query": json.dumps(query)}, Kind.METRICS)
        try:
            rows = [(_moment(row["time_dimension"]), row) for row in body["data"]]
            for _, row in rows:
                _figures(row)
        except (TypeError, KeyError, ValueError) as error:
            raise NotLangfuse(
                f"{self.host} answers {METRICS}, but not with metrics ({error!r}). Check the host's"
                " version."
            ) from error
        # What begins at the very end is counted there, too, in a period of its own.
        return [(moment, row) for moment, row in rows if moment < end]

    def _page(self, query: Mapping[str, Any]) -> Page:
        try:
            body = self._http.get(OBSERVATIONS, query, Kind.OBSERVATIONS)
            with self.computing:
                return decode_page(body)
        except NotAPage as error:
            raise NotLangfuse(
                f"{self.host} answers {OBSERVATIONS}, but not with a page of observations"
                f" ({error}). Check the host's address."
            ) from error


def _names_tenant(tenant_id: str) -> Mapping[str, str]:
    """A filter on what names the tenant. Most writers' values are stored with their JSON quotes,
    others' without: an id is in either, and in no other id.
    """
    return {
        "column": "metadata",
        "type": "stringObject",
        "key": "tenant_id",
        "operator": "contains",
        "value": tenant_id,
    }


def _figures(row: Mapping[str, Any]) -> Figures:
    return Figures(
        int(row["count_count"] or 0),
        int(row["sum_totalTokens"] or 0),
        float(row["sum_totalCost"] or 0),
        int(row["uniq_uniqueUserIds"]) if "uniq_uniqueUserIds" in row else None,
    )


def _moment(text: str) -> datetime:
    """A time of the metrics: UTC without saying so; a day is its date alone."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
