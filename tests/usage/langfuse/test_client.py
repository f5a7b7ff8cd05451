"""The client: pages, and a clear error for everything that can be wrong with a server."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox, recorded
from tests.usage.langfuse.conftest import Answer
from usage.langfuse import client as client_module
from usage.langfuse.budget import Kind, Limit, Limits, RequestBudget
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import (
    BudgetSpent,
    LangfuseError,
    NotLangfuse,
    RequestRefused,
    ServerTrouble,
    TooMuchAtOnce,
    Unreachable,
    WrongKey,
)
from usage.langfuse.wire import iso

# The budget of requests is in the cache.
pytestmark = pytest.mark.both_databases
START = datetime(2026, 11, 23, tzinfo=UTC)
END = START + timedelta(days=1)


def page(rows: list[Any], cursor: str | None = None) -> bytes:
    return json.dumps({"data": rows, "meta": {"cursor": cursor} if cursor else {}}).encode()


def client_of(
    host: str,
    secret_key: str = SECRET_KEY,
    waits: list[float] | None = None,
    limits: Limits | None = None,
) -> LangfuseClientService:
    """A client whose time passes only while it sleeps; ``waits`` gets how long."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if waits is not None:
            waits.append(seconds)

    # A name of its own: in Redis a budget outlives the server, whose port may come again.
    budget = RequestBudget(f"{host}-{uuid4()}", limits or {}, clock=lambda: now[0])
    return LangfuseClientService(host, PUBLIC_KEY, secret_key, api="v2", budget=budget, sleep=sleep)


def read(host: str, **kwargs: Any) -> list[str]:
    with client_of(host, **kwargs) as client:
        return [one.step.observation_id for one in client.observations(START, END)]


def test_it_reads_all_pages_newest_first(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = recorded("observations_all_fields")["body"]["data"]
    sandbox.store.add(rows)
    monkeypatch.setattr(client_module, "PAGE_SIZE", 10)
    with client_of(sandbox.url) as client:
        pages = list(client.pages(START, END))
    # The last row of a page comes with its other versions, on the next.
    assert [len(one.observations) for one in pages] == [9, 9, 9, 6]
    assert [one.step.observation_id for a_page in pages for one in a_page.observations] == [
        row["id"] for row in rows
    ]


def test_it_reads_page_by_page_not_the_whole_period(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.store.add(recorded("observations_all_fields")["body"]["data"])
    monkeypatch.setattr(client_module, "PAGE_SIZE", 1)
    asked: list[dict[str, Any]] = []
    with client_of(sandbox.url) as client:
        fetch = client._page
        monkeypatch.setattr(client, "_page", lambda query: asked.append(query) or fetch(query))
        pages = client.pages(START, END)
        for _ in range(3):
            next(pages)
        pages.close()
    assert len(asked) == 3


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 50])
def test_no_version_is_lost_at_a_pages_border(
    sandbox: RunningSandbox, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The newest is the truth, and may be the one that doesn't fit."""
    rows = recorded("observations_all_fields")["body"]["data"][:6]
    received = [f"2026-11-23T15:00:0{version}.000Z" for version in range(3)]
    versions = [{**row, "updatedAt": moment} for row in rows for moment in received]
    if size > len(received):
        broken = {**rows[2], "id": "broken", "type": "NONSENSE"}
        sandbox.store.add([broken])
    sandbox.store.add(versions)
    monkeypatch.setattr(client_module, "PAGE_SIZE", size)
    with client_of(sandbox.url) as client:
        pages = list(client.pages(START, END))
    read = [one for page in pages for one in page.observations]
    if size > len(received):
        expected = {(row["id"], row["updatedAt"]) for row in versions}
        moments = [iso(one.step.received_at) for one in read]
        ids = [one.step.observation_id for one in read]
        assert sorted(zip(ids, moments, strict=True)) == sorted(expected), "and none twice"
        assert sum(len(page.rejected) for page in pages) == 1
    else:
        # More versions than a page has room for: no page shows them all.
        assert {one.step.observation_id for one in read} == {row["id"] for row in rows}


def test_health_and_projects(sandbox: RunningSandbox) -> None:
    with client_of(sandbox.url) as client:
        assert client.health().version == "4.16.0"
        assert [project.name for project in client.projects()] == ["sandbox"]


def test_a_wrong_key_says_so_and_shows_no_key(sandbox: RunningSandbox) -> None:
    with pytest.raises(WrongKey, match="refused the keys") as caught:
        read(sandbox.url, secret_key="sk-lf-very-wrong")
    assert "sk-lf" not in str(caught.value)


def test_a_wrong_host_says_so() -> None:
    with pytest.raises(Unreachable, match="Check the host's address"):
        read("http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (
            (200, {"Content-Type": "text/html"}, b"<html>Welcome</html>"),
            NotLangfuse,
            "not with a page",
        ),
        ((200, {}, b'{"hello": 1}'), NotLangfuse, "not with a page"),
        ((404, {}, b"not found"), NotLangfuse, "404"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), NotLangfuse, "302"),
        ((403, {}, b"{}"), WrongKey, "403"),
        ((400, {}, b'{"message": "Invalid request data"}'), RequestRefused, "Invalid request data"),
        ((500, {}, b"oops"), ServerTrouble, "answered 500, 5 times"),
        ((422, {}, b'{"message": "Unknown filter column"}'), RequestRefused, "Unknown filter"),
        ((422, {}, b'{"message": "The name is too long"}'), RequestRefused, "too long"),
        (
            (422, {}, b'{"message": "Please narrow your request", "error": "Request timed out"}'),
            TooMuchAtOnce,
            "narrow your request",
        ),
        (
            (422, {}, b'{"message": "Memory limit exceeded", "error": "InternalServerError"}'),
            TooMuchAtOnce,
            "Memory limit",
        ),
        ((524, {}, b""), ServerTrouble, "524"),
    ],
)
def test_a_server_that_cannot_be_read_says_why(
    serve: Callable[..., str], answer: Answer, error: type[LangfuseError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read(serve([answer]))


def test_health_of_something_else_says_so(serve: Callable[..., str]) -> None:
    for body in (b"<html>", b"[1]", b'{"ok": true}'):
        with client_of(serve([(200, {}, body)])) as client, pytest.raises(NotLangfuse):
            client.health()


def test_it_waits_as_long_as_it_is_told_and_goes_on_from_the_same_cursor(
    serve: Callable[..., str],
) -> None:
    row = recorded("observations_all_fields")["body"]["data"][0]
    waits: list[float] = []
    host = serve(
        [
            (200, {}, page([row], "c1")),
            (429, {"Retry-After": "7"}, b"{}"),
            (200, {}, page([{**row, "id": "second"}])),
        ]
    )
    assert read(host, waits=waits) == [row["id"], "second"]
    assert waits == [7]


def test_it_waits_as_often_as_it_is_told_but_not_for_ever(serve: Callable[..., str]) -> None:
    row = recorded("observations_all_fields")["body"]["data"][0]
    waits: list[float] = []
    told = (429, {"Retry-After": "30"}, b"{}")
    assert read(serve([told] * 20 + [(200, {}, page([row]))]), waits=waits) == [row["id"]]
    assert waits == [30] * 20
    with pytest.raises(ServerTrouble, match="429"):
        read(serve([told]), waits=waits)


def test_a_pause_of_one_kind_of_request_stops_no_other(serve: Callable[..., str]) -> None:
    row = recorded("observations_all_fields")["body"]["data"][0]
    waits: list[float] = []
    host = serve([(429, {"Retry-After": "3600"}, b"{}"), (200, {}, page([row]))])
    with client_of(host, waits=waits) as client:
        with pytest.raises(BudgetSpent, match=r"\(metrics\).*in 60 minutes"):
            client.figures(START, END, "day")
        assert len(list(client.observations(START, END))) == 1
        with pytest.raises(BudgetSpent, match="slow down with requests of this kind"):
            client.figures(START, END, "day")
    assert waits == [], "nobody waits for an hour, nor for what was not slowed down"


def test_it_tries_again_after_trouble(serve: Callable[..., str]) -> None:
    row = recorded("observations_all_fields")["body"]["data"][0]
    waits: list[float] = []
    cut_off = (200, {"Content-Length": "100000"}, b'{"data": [')
    assert read(
        serve([(503, {}, b""), cut_off, (502, {}, b""), (200, {}, page([row]))]), waits=waits
    ) == [row["id"]]
    assert len(waits) == 3


def test_a_cursor_that_goes_round_in_circles_ends_the_walk(serve: Callable[..., str]) -> None:
    with pytest.raises(NotLangfuse, match="same cursor twice"):
        read(serve([(200, {}, page([], "again"))]))


def test_it_waits_for_its_budget(serve: Callable[..., str]) -> None:
    row = recorded("observations_all_fields")["body"]["data"][0]
    waits: list[float] = []
    host = serve(
        [(200, {}, page([row], f"c{number}")) for number in range(4)] + [(200, {}, page([row]))]
    )
    read(host, waits=waits, limits={Kind.OBSERVATIONS: Limit(3, 60)})
    assert waits == [60, 60]


def test_it_does_not_wait_for_tomorrow(serve: Callable[..., str]) -> None:
    figures = (200, {}, b'{"data": []}')
    with client_of(serve([figures]), limits={Kind.METRICS: Limit(1, 86_400)}) as client:
        client.figures(START, END, "day")
        with pytest.raises(BudgetSpent, match="1 requests of this kind"):
            client.figures(START, END, "day")


def test_it_finds_out_how_the_server_is_read(
    sandbox: RunningSandbox, serve: Callable[..., str]
) -> None:
    with LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY) as client:
        assert client.find_api() == "v2"
    for mode, found in {
        "events_only": ("v2", "events_only"),
        "dual": ("v2", "dual"),
        "legacy": ("v1", "legacy"),
    }.items():
        sandbox.sandbox.write_mode = mode
        with LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY) as client:
            assert (client.find_out(), client.write_mode) == found
    sandbox.sandbox.is_v1 = True
    with LangfuseClientService(sandbox.url, PUBLIC_KEY, SECRET_KEY) as client:
        assert (client.find_api(), client.write_mode) == ("v1", "")
    with (
        LangfuseClientService(serve([(404, {}, b"")]), PUBLIC_KEY, SECRET_KEY) as client,
        pytest.raises(NotLangfuse, match="nor"),
    ):
        client.find_api()
