"""Whatever the schema lets a caller send, no answer is a server error, and each is one that the
schema describes; for every role.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from hypothesis import given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from kluisz_analytics.tenants.models import User
from tests.conftest import People
from usage.models import Trace

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("some_usage")]
DESCRIBED = SchemaGenerator().get_schema(request=None, public=True)
OPERATIONS = [
    (path, method.upper()) for path, methods in DESCRIBED["paths"].items() for method in methods
]
ROLES = ["platform_admin", "acme_admin", "acme_user", "globex_admin", "service", None]
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


SECRET = "k" * 32


@pytest.fixture(autouse=True)
def one_connection() -> Iterator[None]:
    """The application answers within the test's transaction, as Django's own test client has it."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def cookies_of(user: User | None) -> dict[str, str]:
    """What a browser sends that the user has signed in with."""
    if user is None:
        return {}
    client = Client()
    client.force_login(user)
    return {"sessionid": client.cookies["sessionid"].value, "csrftoken": SECRET}


@pytest.mark.parametrize(
    ("path", "method"), OPERATIONS, ids=[f"{method} {path}" for path, method in OPERATIONS]
)
def test_no_answer_is_an_error_or_undescribed(
    people: People, use: Callable[..., None], path: str, method: str
) -> None:
    operation = schemathesis.openapi.from_dict(DESCRIBED)[path][method]
    application = get_wsgi_application()
    callers = [cookies_of(getattr(people, role) if role else None) for role in ROLES]
    ids = [
        str(one.pk)
        for one in (people.acme, people.acme_user, people.globex_user, Trace.objects.first())
    ]

    @settings(max_examples=40, database=None)
    @given(
        case=operation.as_strategy(),
        caller=st.sampled_from(callers),
        known=st.sampled_from([None, *ids]),
    )
    def check(case: Any, caller: dict[str, str], known: str | None) -> None:
        # Who is asking is decided here: an invented token or session lets nobody in.
        case.headers.pop("Authorization", None)
        case.cookies.clear()
        if known is not None:
            case.path_parameters = dict.fromkeys(case.path_parameters, known)
        response = case.call(
            app=application,
            cookies=caller,
            headers={"X-CSRFToken": SECRET, "Accept-Encoding": "identity"},
        )
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    statuses: Counter[int] = Counter()
    check()
    assert set(statuses) - {401}, "nobody was let in"
