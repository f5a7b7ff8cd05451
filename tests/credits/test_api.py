"""The credits API: the gate, the books, and the right status and code for everything that is not as
it should be.
"""

import uuid
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone
from drf_spectacular.generators import SchemaGenerator
from jsonschema import Draft202012Validator
from rest_framework.test import APIClient

from credits import grants, ledger
from credits.books import ledger_findings
from credits.grants import NewGrant
from credits.models import Account, Grant, Hold, Transaction
from kluisz_analytics.tenants.models import ApiToken, User
from pricing.models import PricingTier
from tests.conftest import NOON, People

pytestmark = pytest.mark.django_db
D = Decimal
Post = Callable[..., Any]


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


@pytest.fixture
def post(schema: dict[str, Any]) -> Post:
    """Posts as somebody; every answer has to be one that the schema describes."""

    def send(user: User | None, path: str, key: str | None = None, /, **body: Any) -> Any:
        client = APIClient()
        if user is not None:
            client.force_login(user)
            client.force_authenticate(user)
        headers = {"Idempotency-Key": key} if key else {}
        answer = client.post(f"/api/v2/credits/{path}", body, format="json", headers=headers)
        parts = ["{hold_id}" if len(part) == 36 else part for part in path.split("/")]
        described = schema["paths"][f"/api/v2/credits/{'/'.join(parts)}"]["post"]["responses"][
            str(answer.status_code)
        ]
        body_schema = described["content"]["application/json"]["schema"]
        Draft202012Validator({**body_schema, "components": schema["components"]}).validate(
            answer.json()
        )
        return answer

    return send


@pytest.fixture
def ann(people: People) -> User:
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "ann"))
    return people.acme_user


def books() -> list[Any]:
    assert list(ledger_findings()) == []
    return [
        list(Account.objects.order_by("pk").values_list("pk", "allocated", "used", "held")),
        Transaction.objects.count(),
        Hold.objects.count(),
    ]


def error(answer: Any) -> tuple[int, str, str | None]:
    first = answer.json()["errors"][0]
    return answer.status_code, first["code"], first["attr"]


def test_a_run_is_reserved_settled_and_released(people: People, ann: User, post: Post) -> None:
    assert post(people.service, "check", user_id=str(ann.pk), credits="60").json() == {
        "can_execute": True, "required": "60.000000", "remaining": "100.000000",
    }  # fmt: skip
    made = post(
        people.service, "holds", user_id=str(ann.pk), trace_id="t1", flow_id="f", credits="60"
    )
    assert (made.status_code, made.json()["state"], made.json()["credits"]) == (
        201,
        "open",
        "60.000000",
    )
    again = post(
        people.service, "holds", user_id=str(ann.pk), trace_id="t1", flow_id="f", credits="60"
    )
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    settled = post(people.service, f"holds/{made.json()['id']}/settle", cost_usd="0.06")
    assert (settled.status_code, settled.json()["settled_credits"]) == (200, "11.400000")
    assert (
        post(people.service, f"holds/{made.json()['id']}/settle", credits="11.4").json()
        == settled.json()
    )
    released = post(people.service, f"holds/{made.json()['id']}/release")
    assert released.json()["state"] == "released"
    assert Account.objects.get(pk=ann.pk).held == 0
    assert (
        post(people.service, "holds", user_id=str(ann.pk), trace_id="t2").json()["credits"]
        == "1.000000"
    )


def test_too_few_credits_are_402_and_no_license_is_403(
    people: People, ann: User, post: Post
) -> None:
    for path, extra in (("check", {}), ("holds", {"trace_id": "t1"})):
        refused = post(people.service, path, user_id=str(ann.pk), credits="100.000001", **extra)
        assert error(refused) == (402, "insufficient_credits", None)
        assert (
            "100.000001 credits are required and 100.000000 remain"
            in refused.json()["errors"][0]["detail"]
        )
        unlicensed = post(people.service, path, user_id=str(people.globex_admin.pk), **extra)
        assert error(unlicensed) == (403, "no_active_license", None)


BAD = [
    ({"credits": "0"}, "credits"),
    ({"credits": "-1"}, "credits"),
    ({"credits": "NaN"}, "credits"),
    ({"credits": "Infinity"}, "credits"),
    ({"credits": "1e30"}, "credits"),
    ({"credits": "0.0000001"}, "credits"),
    ({"credits": "lots"}, "credits"),
    ({"user_id": "ann"}, "user_id"),
    ({"trace_id": ""}, "trace_id"),
    ({"trace_id": "x" * 201}, "trace_id"),
    ({"ttl_seconds": 0}, "ttl_seconds"),
    ({"ttl_seconds": 10**9}, "ttl_seconds"),
]


@pytest.mark.parametrize(("change", "attr"), BAD)
def test_what_can_not_be_reserved_is_refused_by_name(
    people: People, ann: User, post: Post, change: dict[str, Any], attr: str
) -> None:
    before = books()
    refused = post(
        people.service,
        "holds",
        **{"user_id": str(ann.pk), "trace_id": "t1", "credits": "5", **change},
    )
    assert (error(refused)[0], error(refused)[2]) == (400, attr)
    assert books() == before


@pytest.mark.parametrize("amount", ["0", "-1", "NaN", "1e30", "0.0000001"])
@pytest.mark.parametrize("path", ["grants", "refunds"])
def test_what_can_not_be_given_is_refused_by_name(
    people: People, ann: User, post: Post, path: str, amount: str
) -> None:
    before = books()
    refused = post(
        people.platform_admin, path, "k1", user_id=str(ann.pk), amount=amount, reason="r"
    )
    assert (error(refused)[0], error(refused)[2]) == (400, "amount")
    assert books() == before


def test_giving_needs_a_reason_and_a_key(people: People, ann: User, post: Post) -> None:
    assert (
        error(post(people.platform_admin, "grants", "k", user_id=str(ann.pk), amount="5"))[2]
        == "reason"
    )
    assert (
        error(post(people.platform_admin, "grants", user_id=str(ann.pk), amount="5", reason="r"))[0]
        == 400
    )
    for key in ("a\x00b", "k" * 151):
        refused = post(
            people.platform_admin, "grants", key, user_id=str(ann.pk), amount="5", reason="r"
        )
        assert (error(refused)[0], error(refused)[2]) == (400, "Idempotency-Key")
    wrong = post(
        people.platform_admin,
        "grants",
        "k",
        user_id=str(ann.pk),
        amount="5",
        reason="r",
        expires_at="2020-01-01T00:00:00Z",
    )
    assert wrong.status_code == 400
    for moment in ("0001-01-01T00:00:00Z", "9999-12-31T23:00:00Z"):
        far = post(
            people.platform_admin,
            "grants",
            "k",
            user_id=str(ann.pk),
            amount="5",
            reason="r",
            starts_at=moment,
            recurrence="day",
        )
        assert far.status_code == 400
        assert "years away" in far.json()["errors"][0]["detail"]


def test_a_key_gives_once_and_another_body_is_a_conflict(
    people: People, ann: User, post: Post
) -> None:
    body = {"user_id": str(ann.pk), "amount": "5", "reason": "welcome"}
    first, again = (post(people.platform_admin, "grants", "k1", **body) for _ in range(2))
    assert (first.status_code, again.json()) == (201, first.json())
    before = books()
    assert error(post(people.platform_admin, "grants", "k1", **{**body, "amount": "6"}))[:2] == (
        409,
        "conflict",
    )
    assert books() == before
    assert Account.objects.get(pk=ann.pk).allocated == 105


def test_a_trace_with_another_users_hold_is_a_conflict(
    people: People, ann: User, post: Post
) -> None:
    grants.grant(NewGrant(people.globex_user, D(100), Grant.Source.MANUAL, "gus"))
    post(people.service, "holds", user_id=str(ann.pk), trace_id="t1", credits="5")
    before = books()
    assert error(
        post(
            people.service, "holds", user_id=str(people.globex_user.pk), trace_id="t1", credits="5"
        )
    )[:2] == (409, "conflict")
    assert books() == before


def test_an_expired_hold_can_be_settled_without_harm(
    people: People, ann: User, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = post(
        people.service, "holds", user_id=str(ann.pk), trace_id="t1", credits="5", ttl_seconds=1
    )
    from credits.holds import expire_all

    expire_all(timezone.now() + timedelta(days=1))
    before = books()
    assert (
        post(people.service, f"holds/{made.json()['id']}/settle", credits="3").json()["state"]
        == "uncharged"
    )
    assert books() == before


@pytest.mark.parametrize(
    ("body", "attr"),
    [
        ({"credits": "-1"}, "credits"),
        ({"cost_usd": "NaN"}, "cost_usd"),
        ({"credits": "1", "cost_usd": "1"}, "non_field_errors"),
    ],
)
def test_what_can_not_be_settled_is_refused(
    people: People, ann: User, post: Post, body: dict[str, str], attr: str
) -> None:
    made = post(people.service, "holds", user_id=str(ann.pk), trace_id="t1", credits="5")
    before = books()
    assert (error(post(people.service, f"holds/{made.json()['id']}/settle", **body))[0::2]) == (
        400,
        attr,
    )
    assert books() == before


def test_an_unknown_hold_or_user_is_404(people: People, ann: User, post: Post) -> None:
    unknown = str(uuid.uuid4())
    for path, body in (
        (f"holds/{unknown}/settle", {}),
        (f"holds/{unknown}/release", {}),
        ("check", {"user_id": unknown}),
    ):
        assert post(people.service, path, **body).status_code == 404
    assert (
        post(
            people.platform_admin, "grants", "k", user_id=unknown, amount="5", reason="r"
        ).status_code
        == 404
    )


@pytest.mark.parametrize(
    "path", ["check", "holds", "grants", "refunds", "holds/{hold}/settle", "holds/{hold}/release"]
)
def test_who_may_do_what(people: People, ann: User, post: Post, path: str) -> None:
    hold = post(people.service, "holds", user_id=str(ann.pk), trace_id="t0", credits="1").json()[
        "id"
    ]
    body = {"user_id": str(ann.pk), "trace_id": "t1", "credits": "1", "amount": "1", "reason": "r"}
    is_giving = path in ("grants", "refunds")
    allowed = {"platform_admin"} if is_giving else {"platform_admin", "service"}
    for role in (
        "platform_admin",
        "service",
        "acme_admin",
        "acme_user",
        "acme_colleague",
        "globex_admin",
        "globex_user",
    ):
        status = post(
            getattr(people, role), path.format(hold=hold), f"key-{role}", **body
        ).status_code
        if role in allowed:
            assert status in (200, 201), role
        else:
            assert status == 403, role
    assert post(None, path.format(hold=hold), "key", **body).status_code == 401


def test_a_service_token_opens_the_gate_and_nothing_else(people: People, ann: User) -> None:
    _, token = ApiToken.objects.create(user=people.service, scope="credits")
    client = APIClient(headers={"Authorization": f"Bearer {token}"})
    assert (
        client.post("/api/v2/credits/check", {"user_id": str(ann.pk)}, format="json").status_code
        == 200
    )
    assert client.get("/api/v2/credits/transactions").status_code == 403
    assert client.get("/api/v2/analytics/time-series").status_code == 403


class TestTransactions:
    @pytest.fixture(autouse=True)
    def entries(self, people: People, ann: User) -> None:
        grants.grant(NewGrant(people.acme_colleague, D(50), Grant.Source.PURCHASE, "bob", "bought"))
        grants.grant(NewGrant(people.globex_user, D(70), Grant.Source.MANUAL, "gus"))
        ledger.post_usage({(ann.pk, NOON): D("11.4")}, timezone.now())

    @pytest.mark.parametrize(
        ("role", "count"),
        [
            ("platform_admin", 4),
            ("acme_admin", 3),
            ("acme_user", 2),
            ("globex_user", 1),
            ("globex_admin", 1),
        ],
    )
    def test_each_role_sees_its_own(
        self, people: People, api: Callable[..., Any], role: str, count: int
    ) -> None:
        body = api(getattr(people, role), "/api/v2/credits/transactions").json()
        assert len(body["results"]) == count

    def test_it_is_filtered_paged_and_newest_first(
        self, people: People, ann: User, api: Callable[..., Any]
    ) -> None:
        def ask(**query: Any) -> Any:
            return api(people.acme_admin, "/api/v2/credits/transactions", **query).json()

        assert [row["type"] for row in ask()["results"]] == ["deduction", "purchase", "addition"]
        assert [row["amount"] for row in ask(type="deduction")["results"]] == ["-11.400000"]
        assert len(ask(user_id=[str(ann.pk), str(people.acme_colleague.pk)])["results"]) == 3
        assert ask(start_date="2099-01-01T00:00:00Z")["results"] == []
        # PostgreSQL itself knows no such offset.
        assert ask(start_date="2099-01-01T00:00:00-17:21")["results"] == []
        assert (
            len(ask(end_date="2099-01-01T00:00:00Z", type=["purchase", "addition"])["results"]) == 2
        )
        first = ask(limit=2)
        assert len(first["results"]) == 2
        rest = APIClient()
        rest.force_login(people.acme_admin)
        assert [row["type"] for row in rest.get(first["next"]).json()["results"]] == ["addition"]

    def test_it_is_had_as_csv(self, people: People, api: Callable[..., Any]) -> None:
        answer = api(people.acme_admin, "/api/v2/credits/transactions", format="csv")
        lines = b"".join(answer.streaming_content).decode().splitlines()
        assert lines[0].startswith("id,user_id,username,type,amount")
        assert len(lines) == 4
        assert "bought" in lines[2]

    @pytest.mark.parametrize(
        ("query", "attr"),
        [
            ({"type": "gift"}, "type"),
            ({"type": ["deduction", "a\x00"]}, "type"),
            ({"user_id": "x"}, "user_id"),
            ({"limit": 0}, "limit"),
            ({"start_date": "x"}, "start_date"),
            ({"start_date": "2026-13-01T00:00:00Z"}, "start_date"),
            ({"start_date": "0001-01-01T00:00:00+12:00"}, "start_date"),
            ({"end_date": "9999-12-31T23:00:00-12:00"}, "end_date"),
        ],
    )
    def test_a_wrong_filter_is_refused(
        self, people: People, api: Callable[..., Any], query: dict[str, Any], attr: str
    ) -> None:
        answer = api(people.acme_user, "/api/v2/credits/transactions", **query)
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["attr"].split(".")[0] == attr

    def test_anothers_user_is_not_to_be_asked_for(
        self, people: People, ann: User, api: Callable[..., Any]
    ) -> None:
        assert (
            api(
                people.globex_admin, "/api/v2/credits/transactions", user_id=str(ann.pk)
            ).status_code
            == 404
        )
        assert (
            api(
                people.acme_colleague, "/api/v2/credits/transactions", user_id=str(ann.pk)
            ).status_code
            == 403
        )


@pytest.mark.parametrize("flow_id", ["", "a\x00b", "x" * 201])
def test_an_estimate_of_no_flow_is_refused(people: People, flow_id: str) -> None:
    client = APIClient()
    client.force_login(people.platform_admin)
    answer = client.get("/api/v2/credits/estimate", {"flow_id": flow_id})
    assert (answer.status_code, answer.json()["errors"][0]["attr"]) == (400, "flow_id")
