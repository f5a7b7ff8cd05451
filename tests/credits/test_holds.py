"""Holds over HTTP: one run has one hold however its id is spelled, what has ended stays ended, and
what a run said that it used is never forgotten.
"""

import json
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from rest_framework.test import APIClient

from credits import grants
from credits.grants import NewGrant
from credits.holds import SETTLED_TTL, expire_all
from credits.models import Account, Grant, Hold
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier
from tests.conftest import NOON, People
from usage.analytics.estimates import refresh_estimates
from usage.books import verify_books
from usage.langfuse.tracer import LangfuseTracer

pytestmark = pytest.mark.django_db
RUN = uuid.UUID("8f2b0c1e-5a3d-4c77-9b1e-0d7a4e6f9c21")
SPELLINGS = [str(RUN), RUN.hex, str(RUN).upper(), RUN.hex.upper(), f"{{{RUN}}}", RUN.urn]


@pytest.fixture
def ann(people: People) -> User:
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
    grants.grant(NewGrant(people.acme_user, Decimal(100), Grant.Source.MANUAL, "ann"))
    return people.acme_user


class Engine:
    """The flow engine: a service account's session."""

    def __init__(self, user: User) -> None:
        self.client = APIClient()
        self.client.force_login(user)

    def post(self, path: str, **body: Any) -> Any:
        return self.client.post(f"/api/v2/credits/{path}", body, format="json")

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"/api/v2/credits/{path}", query)


@pytest.fixture
def engine(people: People) -> Engine:
    return Engine(people.service)


def held_by(user: User) -> Decimal:
    return Account.objects.get(pk=user.pk).held


def books_balance() -> bool:
    return verify_books() == []


@pytest.mark.parametrize("spelling", [*SPELLINGS, "run-4711", "a" * 200])
def test_the_hold_of_a_run_ends_when_the_tracers_trace_of_it_is_charged(
    ann: User, engine: Engine, use: Callable[..., None], tracing: Any, spelling: str
) -> None:
    traced = LangfuseTracer("Run", "chain", "P", spelling, str(ann.pk), client=tracing)
    made = engine.post("holds", user_id=str(ann.pk), trace_id=spelling, credits="20")
    assert made.json()["trace_id"] == traced.langfuse_trace_id
    use(ann, "0.06", trace_id=traced.langfuse_trace_id)
    assert engine.get(f"holds/{made.json()['id']}").json()["state"] == "charged"
    assert held_by(ann) == 0
    assert books_balance()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_hold_ends_also_where_langfuse_spells_the_trace_otherwise(
    ann: User, engine: Engine, use: Callable[..., None], spelling: str
) -> None:
    engine.post("holds", user_id=str(ann.pk), trace_id=RUN.hex, credits="20")
    use(ann, "0.06", trace_id=spelling)
    assert held_by(ann) == 0


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_run_has_one_hold_however_its_id_is_spelled(
    ann: User, engine: Engine, spelling: str
) -> None:
    first = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20")
    again = engine.post("holds", user_id=ann.pk.hex, trace_id=spelling, credits="20")
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert held_by(ann) == 20


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_flow_has_one_history_however_its_id_is_spelled(
    ann: User, engine: Engine, use: Callable[..., None], spelling: str
) -> None:
    use(ann, "0.06", flow=str(RUN))
    refresh_estimates(NOON + timedelta(hours=1))
    known = engine.get("estimate", flow_id=spelling).json()
    assert (known["runs"], known["flow_id"]) == (1, str(RUN))
    checked = engine.post("check", user_id=str(ann.pk), flow_id=spelling)
    assert checked.json()["required"] == "11.400000"
    made = engine.post("holds", user_id=str(ann.pk), flow_id=spelling, trace_id="t").json()
    assert (made["credits"], made["flow_id"]) == ("11.400000", str(RUN))


def after(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    monkeypatch.setattr(timezone, "now", lambda: moment)


def conflict(answer: Any) -> str:
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (409, "conflict")
    return str(answer.json()["errors"][0]["detail"])


@pytest.mark.parametrize(
    ("end", "state"),
    [
        ("release", "released"),
        ("settle", "settled"),
        ("expire", "expired"),
        ("expire unseen", "expired"),
        ("settle and expire", "settled, and its run was never charged"),
        ("charge", "charged"),
    ],
)
def test_a_hold_that_has_ended_is_not_given_again(
    ann: User,
    engine: Engine,
    use: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    end: str,
    state: str,
) -> None:
    body = {"user_id": str(ann.pk), "trace_id": str(RUN), "credits": "20"}
    hold = engine.post("holds", **body).json()["id"]
    if end in ("release", "settle", "settle and expire"):
        engine.post(f"holds/{hold}/{end.split(maxsplit=1)[0]}")
    if end == "charge":
        use(ann, "0.06", trace_id=RUN.hex)
    if end.startswith("expire") or end.endswith("expire"):
        after(monkeypatch, timezone.now() + 2 * SETTLED_TTL)
    if end in ("expire", "settle and expire"):
        expire_all()
    before = held_by(ann)
    assert state in conflict(engine.post("holds", **body))
    assert state in conflict(engine.post("holds", **{**body, "credits": "5"}))
    assert held_by(ann) == before


def test_settling_again_with_the_same_amount_is_harmless_and_with_another_a_conflict(
    ann: User, engine: Engine, use: Callable[..., None]
) -> None:
    made = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20").json()
    path = f"holds/{made['id']}/settle"
    settled = engine.post(path, cost_usd="0.06")
    assert (settled.status_code, settled.json()["settled_credits"]) == (200, "11.400000")
    for same in ({"credits": "11.4"}, {"cost_usd": "0.06"}, {}):
        assert engine.post(path, **same).json() == settled.json()
    said = conflict(engine.post(path, credits="50"))
    assert "11.400000" in said
    assert "50" in said
    assert held_by(ann) == Decimal("11.4")
    use(ann, "0.06", trace_id=RUN.hex)
    assert engine.post(path, credits="11.4").json()["state"] == "charged"
    conflict(engine.post(path, credits="50"))


def test_settling_a_run_that_was_charged_meanwhile_is_harmless(
    ann: User, engine: Engine, use: Callable[..., None]
) -> None:
    made = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20").json()
    use(ann, "0.06", trace_id=RUN.hex)
    settled = engine.post(f"holds/{made['id']}/settle", credits="11")
    assert (settled.status_code, settled.json()["state"]) == (200, "charged")


def test_settling_what_was_released_is_a_conflict(ann: User, engine: Engine) -> None:
    made = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20").json()
    engine.post(f"holds/{made['id']}/release")
    assert "released" in conflict(engine.post(f"holds/{made['id']}/settle", credits="3"))
    assert engine.post(f"holds/{made['id']}/release").status_code == 200


def test_a_refusal_says_what_is_required_and_what_remains(ann: User, engine: Engine) -> None:
    engine.post("holds", user_id=str(ann.pk), trace_id="t0", credits="40")
    for path, extra in (("check", {}), ("holds", {"trace_id": "t1"})):
        refused = engine.post(path, user_id=str(ann.pk), credits="60.000001", **extra)
        assert refused.status_code == 402
        assert (refused.json()["required"], refused.json()["remaining"]) == (
            "60.000001",
            "60.000000",
        )


@pytest.fixture
def never_traced(ann: User, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> str:
    """A hold that was settled with 12 credits, and whose trace did not come in two days."""
    made = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20").json()
    engine.post(f"holds/{made['id']}/settle", credits="12")
    after(monkeypatch, timezone.now() + SETTLED_TTL + timedelta(minutes=1))
    expire_all()
    return str(made["id"])


class TestAnAmountWhoseTraceNeverComes:
    def test_is_kept_and_no_longer_held(self, ann: User, engine: Engine, never_traced: str) -> None:
        hold = engine.get(f"holds/{never_traced}").json()
        assert (hold["state"], hold["settled_credits"]) == ("uncharged", "12.000000")
        assert held_by(ann) == 0
        assert books_balance()

    @pytest.mark.parametrize(
        ("role", "count"),
        [("platform_admin", 1), ("acme_admin", 1), ("acme_user", 1), ("acme_colleague", 0)],
    )
    def test_is_listed(self, people: People, never_traced: str, role: str, count: int) -> None:
        listed = Engine(getattr(people, role)).get("holds", state="uncharged").json()["results"]
        assert [one["id"] for one in listed] == [never_traced] * count

    def test_is_in_the_admin(self, people: People, never_traced: str) -> None:
        client = Client()
        client.force_login(people.platform_admin)
        page = client.get("/admin/credits/hold/?state__exact=uncharged").content.decode()
        assert "Settled, never charged" in page
        assert RUN.hex in page
        for spelling in SPELLINGS:
            found = client.get("/admin/credits/hold/", {"q": spelling}).content.decode()
            assert RUN.hex in found

    def test_is_a_notice_of_verify_books_that_does_not_fail_it(
        self, ann: User, never_traced: str, command: Callable[..., str]
    ) -> None:
        told = json.loads(command("verify_books", "--json"))
        assert told["balanced"] is True
        (notice,) = told["notices"]
        assert "never charged" in notice["check"]
        assert {never_traced, "12.000000", RUN.hex} <= set(notice["rows"][0])
        text = command("verify_books")
        assert "The books balance." in text
        assert never_traced in text

    def test_is_charged_when_the_trace_comes_after_all(
        self, ann: User, engine: Engine, never_traced: str, use: Callable[..., None]
    ) -> None:
        use(ann, "0.06", trace_id=RUN.hex)
        assert engine.get(f"holds/{never_traced}").json()["state"] == "charged"
        assert books_balance()

    def test_is_kept_too_when_it_is_said_after_the_hold_expired(
        self, ann: User, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), credits="20").json()
        after(monkeypatch, timezone.now() + timedelta(hours=2))
        expire_all()
        settled = engine.post(f"holds/{made['id']}/settle", credits="12").json()
        assert (settled["state"], settled["settled_credits"]) == ("uncharged", "12.000000")
        assert held_by(ann) == 0
        assert engine.post(f"holds/{made['id']}/settle", credits="12").json() == settled
        conflict(engine.post(f"holds/{made['id']}/settle", credits="13"))
        assert books_balance()


class TestTheList:
    @pytest.fixture(autouse=True)
    def some(self, people: People, ann: User, engine: Engine) -> None:
        grants.grant(NewGrant(people.globex_user, Decimal(100), Grant.Source.MANUAL, "gus"))
        engine.post("holds", user_id=str(ann.pk), trace_id=str(RUN), flow_id=str(RUN), credits="1")
        engine.post("holds", user_id=str(ann.pk), trace_id="run-4711", credits="2")
        released = engine.post("holds", user_id=str(ann.pk), trace_id="t3", credits="3").json()
        engine.post(f"holds/{released['id']}/release")
        engine.post("holds", user_id=str(people.globex_user.pk), trace_id="t4", credits="4")

    @pytest.mark.parametrize(
        ("role", "amounts"),
        [
            ("platform_admin", "4321"),
            ("acme_admin", "321"),
            ("acme_user", "321"),
            ("acme_colleague", ""),
            ("globex_admin", "4"),
        ],
    )
    def test_each_role_sees_its_own_newest_first(
        self, people: People, role: str, amounts: str
    ) -> None:
        rows = Engine(getattr(people, role)).get("holds").json()["results"]
        assert [row["credits"] for row in rows] == [f"{one}.000000" for one in amounts]

    @pytest.mark.parametrize(
        ("query", "amounts"),
        [
            ({"state": "released"}, "3"),
            ({"state": ["released", "open"]}, "4321"),
            ({"trace_id": "run-4711"}, "2"),
            *[({"trace_id": spelling}, "1") for spelling in SPELLINGS],
            *[({"flow_id": spelling}, "1") for spelling in SPELLINGS],
            ({"start_date": "2099-01-01"}, ""),
            ({"end_date": "2001-01-01"}, ""),
            ({"start_date": "2001-01-01"}, "4321"),
        ],
    )
    def test_it_is_filtered(self, people: People, query: dict[str, Any], amounts: str) -> None:
        rows = Engine(people.platform_admin).get("holds", **query).json()["results"]
        assert [row["credits"] for row in rows] == [f"{one}.000000" for one in amounts]

    def test_it_is_paged(self, people: People) -> None:
        admin = Engine(people.platform_admin)
        first = admin.get("holds", limit=3).json()
        rest = admin.client.get(first["next"]).json()["results"]
        amounts = [row["credits"] for row in first["results"] + rest]
        assert amounts == [f"{one}.000000" for one in "4321"]

    def test_it_is_had_as_csv(self, people: People) -> None:
        answer = Engine(people.acme_admin).get("holds", format="csv")
        lines = b"".join(answer.streaming_content).decode().splitlines()
        assert lines[0].startswith("id,user_id,trace_id,flow_id,model,state")
        assert len(lines) == 4
        assert lines[1].endswith(",ann")

    @pytest.mark.parametrize(
        ("query", "attr"),
        [({"state": "gone"}, "state"), ({"user_id": "x"}, "user_id"), ({"limit": 0}, "limit")],
    )
    def test_a_wrong_filter_is_refused(
        self, people: People, query: dict[str, Any], attr: str
    ) -> None:
        answer = Engine(people.acme_user).get("holds", **query)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["attr"].split(".")[0] == attr

    @pytest.mark.parametrize(
        ("role", "status"),
        [
            ("platform_admin", 200),
            ("service", 200),
            ("acme_admin", 200),
            ("acme_user", 200),
            ("acme_colleague", 403),
            ("globex_admin", 404),
        ],
    )
    def test_one_is_seen_by_whom_it_concerns(self, people: People, role: str, status: int) -> None:
        hold = Hold.objects.get(trace_id=RUN.hex)
        answer = Engine(getattr(people, role)).get(f"holds/{hold.pk}")
        assert answer.status_code == status
        if status == 200:
            assert answer.json()["username"] == "ann"
