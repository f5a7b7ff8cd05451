"""The real traffic (usage/demo/azure-llm-2023), and the seeded rule by which it gets tenants,
users, flows, models and dates.

The data has arrival times within one hour and token counts, nothing else. The rule (docs/demo.md):

- *When*: an arrival's place in its hour becomes the same place in the last 30 days (UTC, today
  included), along a clock that runs faster at night and on weekends, so the order and the bursts of
  the real arrivals stay.
- *Who and what*: tenant, user and flow are drawn with the seed; a few of each make most of the
  calls (weights 1/rank). A flow belongs to one service (conversation or code) and always calls one
  model.
- *How long*: 0.25 s, 12 ms for each token out, 0.05 ms for each token in.
- *Failures*: one run in 80, by the seed.
"""

import csv
import gzip
import random
import uuid
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from math import ceil
from pathlib import Path
from typing import Any

from usage.demo.directory import NAMESPACE, SEED

FOLDER = Path(__file__).parent / "azure-llm-2023"
SERVICES = ("conv", "code")
DAYS = 30
FAILURE_EVERY = 80
MODELS = {
    "conv": ["gpt-4o", "gpt-4o-mini", "claude-haiku-4-5", "gpt-5", "gemini-2.5-flash"],
    "code": ["claude-sonnet-4-5-20250929", "gpt-5", "gpt-4o"],
}


@dataclass(frozen=True, slots=True)
class Request:
    """One real request: its place within the hour (0 to 1) and its tokens."""

    service: str
    row: int
    place: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class DemoRun:
    """A request as a flow run of somebody."""

    run_id: uuid.UUID
    tenant_id: str
    user_id: str
    project_id: str
    flow_id: str
    flow_name: str
    model: str
    start_time: datetime
    end_time: datetime
    input_tokens: int
    output_tokens: int
    is_failed: bool


def read_requests(paths: Sequence[Path] = ()) -> list[Request]:
    """All requests of the files (the shipped ones unless given), in the order of their arrival."""
    paths = paths or [FOLDER / f"{service}.csv.gz" for service in SERVICES]
    arrivals = [
        (moment, path.name.split(".")[0], number, row)
        for path in paths
        for number, (moment, row) in enumerate(_rows(path))
    ]
    first, last = min(arrivals)[0], max(arrivals)[0]
    length = (last - first).total_seconds() or 1.0
    requests = [
        Request(
            service,
            number,
            (moment - first).total_seconds() / length,
            int(row["ContextTokens"]),
            int(row["GeneratedTokens"]),
        )
        for moment, service, number, row in arrivals
    ]
    return sorted(requests, key=lambda request: (request.place, request.service, request.row))


def _rows(path: Path) -> Iterator[tuple[datetime, dict[str, str]]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            yield datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC), row


def demo_runs(
    requests: Sequence[Request], directory: dict[str, Any], end: datetime
) -> Iterator[DemoRun]:
    """The requests as runs of the directory's users over the 30 days up to ``end``; the same ones
    for the same input.
    """
    chance = random.Random(SEED)
    cast = Cast(directory, chance)
    first_day = end.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=DAYS - 1)
    clock = Clock(first_day, end)
    for request in requests:
        owner = cast.draw(request.service)
        start = clock.at(request.place)
        length = timedelta(
            milliseconds=250 + 12 * request.output_tokens + request.input_tokens // 20
        )
        yield DemoRun(
            run_id=uuid.uuid5(NAMESPACE, f"run/{request.service}/{request.row}"),
            **owner,
            start_time=start,
            end_time=start + length,
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
            is_failed=chance.randrange(FAILURE_EVERY) == 0,
        )


class Clock:
    """Places from 0 to 1 along the hours of a stretch of time, each as long as people are busy in
    it.
    """

    def __init__(self, start: datetime, end: datetime) -> None:
        self._start = start
        length = (end - start) / timedelta(hours=1)
        hours = [start + timedelta(hours=number) for number in range(ceil(length))]
        # The last hour is as long as it has been running.
        self._lengths = [min(1.0, length - number) for number in range(len(hours))]
        self._reached = list(
            accumulate(_busy(hour) * part for hour, part in zip(hours, self._lengths, strict=True))
        )

    def at(self, place: float) -> datetime:
        wanted = min(place, 0.999999) * self._reached[-1]
        hour = bisect(self._reached, wanted)
        before = self._reached[hour - 1] if hour else 0.0
        within = self._lengths[hour] * (wanted - before) / (self._reached[hour] - before)
        moment = self._start + timedelta(hours=hour + within)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def _busy(hour: datetime) -> float:
    by_hour = 0.25 if hour.hour < 6 else 1.0 if 8 <= hour.hour < 18 else 0.55
    return by_hour * (0.35 if hour.weekday() >= 5 else 1.0)


class Cast:
    """Who runs what: draws a tenant, one of its users and one of its flows, the first of each most
    often.
    """

    def __init__(self, directory: dict[str, Any], chance: random.Random) -> None:
        self._chance = chance
        self._tenants = directory["tenants"]
        self._users: dict[str, list[dict[str, Any]]] = {
            tenant["slug"]: [] for tenant in self._tenants
        }
        for user in directory["users"]:
            self._users[user["tenant"]].append(user)
        tenant_of_project = {project["id"]: project["tenant"] for project in directory["projects"]}
        self._flows: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number, flow in enumerate(directory["flows"]):
            service = SERVICES[number % 3 == 2]
            tenant = tenant_of_project[flow["project"]]
            model = MODELS[service][number // 3 % len(MODELS[service])]
            self._flows.setdefault((tenant, service), []).append({**flow, "model": model})

    def draw(self, service: str) -> dict[str, Any]:
        tenant = self._pick(self._tenants)
        user = self._pick(self._users[tenant["slug"]])
        flow = self._pick(self._flows[tenant["slug"], service])
        return {
            "tenant_id": tenant["id"],
            "user_id": user["id"],
            "project_id": flow["project"],
            "flow_id": flow["id"],
            "flow_name": flow["name"],
            "model": flow["model"],
        }

    def _pick(self, choices: Sequence[Any]) -> Any:
        weights = [1 / rank for rank in range(1, len(choices) + 1)]
        return self._chance.choices(choices, weights)[0]
