"""The browser client: its types are current, and it works against a running server."""

import os
import shutil
import subprocess
from decimal import Decimal
from typing import Any

import pytest

from credits import grants
from credits.grants import NewGrant
from credits.models import Grant
from kluisz_analytics.tenants.models import ApiToken, User
from tests.conftest import People
from usage.management.commands.browser_client import TOOLS, TYPES, current_schema, header_of

NPM = shutil.which("npm")


def test_its_types_are_of_the_current_schema() -> None:
    assert TYPES.read_text().splitlines()[0] == header_of(current_schema()), (
        "the API has changed: run make client"
    )


def token(user: User) -> str:
    return str(ApiToken.objects.create(user, name="test", scope=ApiToken.Scope.READ)[1])


@pytest.mark.skipif(NPM is None, reason="no Node: install the package npm")
@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.usefixtures("some_usage")
def test_it_works_against_a_running_server(live_server: Any, people: People) -> None:
    grants.grant(NewGrant(people.acme_user, Decimal(10_000), Grant.Source.MANUAL, "ann"))
    if not (TOOLS / "node_modules").exists():
        installed = subprocess.run(
            [str(NPM), "ci", "--no-audit", "--no-fund"],
            cwd=TOOLS,
            capture_output=True,
            text=True,
            check=False,
        )
        if installed.returncode:
            shutil.rmtree(TOOLS / "node_modules", ignore_errors=True)
            pytest.skip(f"the client's tools can't be installed here: {installed.stderr[-300:]}")
    environment = {
        **os.environ,
        "KLUISZ_URL": live_server.url,
        "KLUISZ_ADMIN": token(people.platform_admin),
        "KLUISZ_USER": token(people.acme_user),
        "KLUISZ_POOR": token(people.globex_user),
        "KLUISZ_TENANT": str(people.acme.pk),
        "TZ": "UTC",
        "LANG": "en_US.UTF-8",
    }
    for script in ("check", "test"):
        done = subprocess.run(
            [str(NPM), "run", script],
            cwd=TOOLS,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
