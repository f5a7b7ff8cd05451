"""Who may call what: every address of the URLconf, by every method, with every role and every scope
of a token. A new address fails here until it is decided.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from rest_framework.settings import api_settings
from rest_framework.test import APIClient

from credits.models import Account, Hold
from kluisz_analytics.tenants.models import ApiToken, User
from kluisz_analytics.tenants.permissions import Undeclared
from tests.conftest import NOON, People
from usage.models import Trace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]

ROLES = ["platform_admin", "acme_admin", "acme_user", "globex_admin", "service"]
SCOPES = [None, "read", "credits", "manage"]
"""None is a session."""

# For each address and method a group a scope (session, read, credits, manage), and in it a cell a
# role, in the order of ROLES: "+" is let in, 3 is 403, 4 is 404.
OPEN = "+++++ +++++ +++++ +++++"
PLATFORM = "+3333 +3333 33333 +3333"
EVERYONE = "++++3 ++++3 33333 ++++3"
OF_ACME = "++343 ++343 33333 ++343"
OF_ACME_USER = "+++43 +++43 33333 +++43"
CREDITS_OF_ACME_USER = "+++4+ +++4+ +++4+ +++4+"
OWN_CREDITS = "+++++ +++++ +++++ +++++"
GATE = "+333+ 33333 +333+ 33333"
ESTIMATES = "+333+ +333+ +333+ +333+"
GIVING = "+3333 33333 33333 +3333"
TABLE = {
    ("platform-stats", "GET"): PLATFORM,
    ("tenant-stats", "GET"): OF_ACME,
    ("my-stats", "GET"): EVERYONE,
    ("user-stats", "GET"): OF_ACME_USER,
    ("time-series", "GET"): EVERYONE,
    ("top-users", "GET"): EVERYONE,
    ("top-flows", "GET"): EVERYONE,
    ("top-tenants", "GET"): PLATFORM,
    ("traces", "GET"): EVERYONE,
    ("trace-detail", "GET"): OF_ACME_USER,
    ("trace-explanation", "GET"): OF_ACME_USER,
    ("costs", "GET"): EVERYONE,
    ("sync-status", "GET"): PLATFORM,
    ("anomalies", "GET"): EVERYONE,
    ("unpriced", "GET"): PLATFORM,
    ("expected-usage", "GET"): PLATFORM,
    ("doubtful", "GET"): PLATFORM,
    ("unmetered", "GET"): PLATFORM,
    ("sources", "GET"): PLATFORM,
    ("unknown-names", "GET"): PLATFORM,
    ("cost-breakdown", "GET"): EVERYONE,
    ("disputes", "GET"): PLATFORM,
    ("settle-dispute", "POST"): GIVING,
    ("undo-settlement", "POST"): GIVING,
    ("my-credit-status", "GET"): OWN_CREDITS,
    ("user-credit-status", "GET"): CREDITS_OF_ACME_USER,
    ("credit-estimate", "GET"): ESTIMATES,
    ("credit-check", "POST"): GATE,
    ("credit-holds", "GET"): EVERYONE,
    ("credit-holds", "POST"): GATE,
    ("credit-hold", "GET"): CREDITS_OF_ACME_USER,
    ("settle-hold", "POST"): GATE,
    ("release-hold", "POST"): GATE,
    ("credit-budgets", "GET"): EVERYONE,
    ("transactions", "GET"): EVERYONE,
    ("credit-grants", "POST"): GIVING,
    ("credit-refunds", "POST"): GIVING,
    ("schema", "GET"): OPEN,
    ("docs", "GET"): OPEN,
}
PUBLIC = {"schema", "docs"}
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE"]


def patterns(resolver: URLResolver, path: str = "") -> Iterator[tuple[str, URLPattern]]:
    """Every address of the URLconf, with the pattern that it has."""
    for one in resolver.url_patterns:
        below = path + str(one.pattern)
        if isinstance(one, URLResolver):
            yield from patterns(one, below)
        else:
            yield below, one


def endpoints() -> dict[str, URLPattern]:
    return {str(one.name): one for path, one in patterns(get_resolver()) if path.startswith("api/")}


@pytest.fixture
def hold(people: People) -> Hold:
    account = Account.objects.get(pk=people.acme_user.pk)
    account.held += 1
    account.save()
    return Hold.objects.create(
        account=account,
        trace_id="0" * 32,
        credits=1,
        created_at=NOON,
        expires_at=NOON.replace(year=2099),
    )


@pytest.fixture
def tokens(people: People) -> dict[tuple[str, str], str]:
    return {
        (role, scope): ApiToken.objects.create(user=getattr(people, role), scope=scope)[1]
        for role in ROLES
        for scope in ApiToken.Scope.values
    }


def address(name: str, people: People, hold: Hold) -> str:
    ids = {
        "tenant_id": people.acme.pk,
        "user_id": people.acme_user.pk,
        "trace_id": Trace.objects.filter(user=people.acme_user).earliest("start_time").pk,
        "hold_id": hold.pk,
    }
    converters = endpoints()[name].pattern.converters
    return reverse(name, kwargs={key: ids[key] for key in converters})


def body_for(people: People) -> dict[str, str]:
    """What is right for every address that takes a body."""
    return {
        "user_id": str(people.acme_user.pk),
        "trace_id": "run-1",
        "credits": "1",
        "amount": "1",
        "reason": "because",
        "outcome": "left_out",
    }


def ask(
    user: User | None, token: str | None, path: str, method: str, people: People, **extra: Any
) -> int:
    client = APIClient()
    if token is not None:
        client.credentials(HTTP_AUTHORIZATION=f"Bearer {token}")
    elif user is not None:
        client.force_login(user)
    sends = method not in ("GET", "HEAD", "OPTIONS", "TRACE")
    answer = client.generic(
        method,
        path + ("" if sends else "?flow_id=f"),
        client._encode_data(body_for(people), "json")[0] if sends else "",
        content_type="application/json",
        headers={"Idempotency-Key": f"{method}{path}{user}{token}"},
        **extra,
    )
    return answer.status_code


def cell(status: int) -> str:
    return {401: "1", 403: "3", 404: "4"}.get(status, "+")


def test_every_address_is_decided() -> None:
    assert endpoints().keys() == {name for name, _ in TABLE}


def test_every_view_names_its_permissions_and_what_names_none_is_closed() -> None:
    assert [Undeclared] == api_settings.DEFAULT_PERMISSION_CLASSES
    unnamed = [
        name
        for name, pattern in endpoints().items()
        if not pattern.callback.cls.permission_classes
        or Undeclared in pattern.callback.cls.permission_classes
    ]
    assert unnamed == []


SUB_PATHS = ["", "/api/v2/credits"]
"""Where the application is deployed; the second is also what would make any path look like another
to who looks at paths.
"""


@pytest.mark.parametrize(("name", "method"), TABLE, ids=[" ".join(key) for key in TABLE])
def test_each_role_and_scope_may_do_what_the_table_says(
    people: People, hold: Hold, tokens: dict[tuple[str, str], str], name: str, method: str
) -> None:
    path = address(name, people, hold)
    for below in SUB_PATHS:
        found = [
            "".join(
                cell(
                    ask(
                        getattr(people, role),
                        tokens[role, scope] if scope else None,
                        path,
                        method,
                        people,
                        SCRIPT_NAME=below,
                    )
                )
                for role in ROLES
            )
            for scope in SCOPES
        ]
        assert " ".join(found) == TABLE[name, method], below
    assert cell(ask(None, None, path, method, people)) == ("+" if name in PUBLIC else "1")
    assert ask(None, "invented", path, method, people) == 401


def test_no_other_method_does_anything(
    people: People, hold: Hold, tokens: dict[tuple[str, str], str]
) -> None:
    for name in endpoints():
        path = address(name, people, hold)
        named = {method for one, method in TABLE if one == name}
        for method in set(METHODS) - named - {"OPTIONS"} - ({"HEAD"} if "GET" in named else set()):
            for scope in (None, "credits", "manage"):
                token = tokens["platform_admin", scope] if scope else None
                status = ask(people.platform_admin, token, path, method, people)
                assert status in (403, 405), (name, method, scope)


def test_neither_the_head_nor_the_options_are_a_way_around(
    people: People, hold: Hold, tokens: dict[tuple[str, str], str]
) -> None:
    for (name, method), row in TABLE.items():
        path = address(name, people, hold)
        for scope, decided in zip(SCOPES, row.split(), strict=True):
            user, expected = people.acme_user, decided[ROLES.index("acme_user")]
            token = tokens["acme_user", scope] if scope else None
            if method == "GET":
                head = cell(ask(user, token, path, "HEAD", people))
                assert head == expected, (name, scope)
            elif expected == "3" and (name, "GET") not in TABLE:
                assert ask(user, token, path, "OPTIONS", people) == 403, (name, scope)


@pytest.mark.parametrize(
    "header", ["SCRIPT_NAME", "Script-Name", "X-Script-Name", "X-Original-URL"]
)
def test_a_header_changes_nothing(
    people: People, hold: Hold, tokens: dict[tuple[str, str], str], header: str
) -> None:
    """A server may take SCRIPT_NAME from a header of that name."""
    for name, method in TABLE:
        for role in ("platform_admin", "service"):
            token = tokens[role, "credits"]
            path = address(name, people, hold)
            environ = f"HTTP_{header.upper().replace('-', '_')}"
            status = ask(
                getattr(people, role), token, path, method, people, **{environ: "/api/v2/credits"}
            )
            assert cell(status) == TABLE[name, method].split()[2][ROLES.index(role)], (name, role)


PUBLIC_PAGES = {"login", "logout", "admin:login", "admin:logout", "admin:jsi18n", "jsi18n"}


def test_a_token_opens_no_page(
    people: People, hold: Hold, tokens: dict[tuple[str, str], str]
) -> None:
    """Pages are for people who have signed in: neither a token nor nobody gets behind the login."""
    seen = 0
    samples = {
        "slug": "acme",
        "uuid": str(people.acme_user.pk),
        "path": "1",
        "str": "1",
        "int": "1",
    }
    for path, pattern in patterns(get_resolver()):
        if path.startswith("api/") or pattern.name in PUBLIC_PAGES:
            continue
        filled = path.replace("^", "").replace("$", "")
        for key, converter in pattern.pattern.converters.items():
            kind = {"SlugConverter": "slug", "UUIDConverter": "uuid"}.get(
                type(converter).__name__, "str"
            )
            for spelled in (f"<{kind}:{key}>", f"<path:{key}>", f"<int:{key}>", f"<{key}>"):
                filled = filled.replace(spelled, samples[kind])
        if "<" in filled or "(" in filled:
            continue
        client = Client(headers={"Authorization": f"Bearer {tokens['platform_admin', 'manage']}"})
        answer = client.get(f"/{filled}")
        assert answer.status_code in (301, 302, 404), filled
        if answer.status_code == 302:
            assert "login" in answer["Location"] or "/admin/" in answer["Location"], filled
        seen += 1
    assert seen > 100


def test_a_read_token_of_a_platform_admin_gives_and_holds_nothing(
    people: People, tokens: dict[tuple[str, str], str]
) -> None:
    before = Account.objects.get(pk=people.acme_user.pk)
    for path in ("grants", "refunds", "holds", "check"):
        token = tokens["platform_admin", "read"]
        status = ask(people.platform_admin, token, f"/api/v2/credits/{path}", "POST", people)
        assert status == 403
    after = Account.objects.get(pk=people.acme_user.pk)
    assert (after.allocated, after.held) == (before.allocated, before.held)


def test_a_refusal_says_which_scope_is_needed(
    people: People, tokens: dict[tuple[str, str], str]
) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {tokens['platform_admin', 'credits']}")
    answer = client.get("/api/v2/credits/transactions")
    assert answer.json()["errors"][0]["detail"] == (
        "This token's scope is “credits”; this takes one of the scope “read” or “manage”."
    )
