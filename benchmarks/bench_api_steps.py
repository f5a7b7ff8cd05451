"""The steps of bench_api that need Django, each in a process of its own."""

import json
import sys
import time
from statistics import median
from unittest.mock import patch
from urllib.parse import urlencode

import django

django.setup()

from django.core.management import call_command
from django.db import connection
from rest_framework.test import APIClient

from benchmarks.bench_api import title_of
from benchmarks.synthetic_history import load
from kluisz_analytics.tenants.models import ApiToken, User
from usage.models import Trace

FACTS_REQUESTS = {"platform": 1, "tenant": 3, "user": 3}


def load_history(traces: str) -> None:
    call_command("migrate", verbosity=0)
    load(int(traces))


def callers(count: str) -> None:
    """Tokens of platform admins, tenant admins and users; tenants and users as often as they have
    traffic.
    """
    drawn = Trace.objects.filter(user__isnull=False).order_by("id")[: int(count)]
    found = {
        "platform": [{"tenant": "", "token": _token(User.objects.get(username="root"))}],
        "tenant": [],
        "user": [],
    }
    for trace in drawn.select_related("user"):
        admin = User.objects.filter(tenant=trace.tenant_id, is_tenant_admin=True)[0]
        found["tenant"].append({"tenant": str(trace.tenant_id), "token": _token(admin)})
        user = (
            trace.user
            if not trace.user.is_tenant_admin
            else User.objects.filter(tenant=trace.tenant_id, is_tenant_admin=False)[0]
        )
        found["user"].append({"tenant": str(trace.tenant_id), "token": _token(user)})
    print(json.dumps(found))


def _token(user: User) -> str:
    return str(ApiToken.objects.create(user, name="bench", scope=ApiToken.Scope.READ)[1])


def facts(endpoints: str, tokens: str) -> None:
    """How long each endpoint takes when only the facts are asked, in milliseconds."""
    times: dict[str, float] = {}
    by_scope = json.loads(tokens)
    with patch("usage.analytics.plan.source_of", return_value=None):
        for scope, paths in json.loads(endpoints).items():
            for path, query in paths:
                taken = []
                for caller in by_scope[scope][: FACTS_REQUESTS[scope]]:
                    client = APIClient(
                        SERVER_NAME="127.0.0.1",
                        headers={"Authorization": f"Bearer {caller['token']}"},
                    )
                    began = time.perf_counter()
                    answer = client.get(
                        f"/api/v2/analytics/{path.format(**caller)}?{urlencode(query)}"
                    )
                    assert answer.status_code == 200
                    taken.append(1000 * (time.perf_counter() - began))
                times[title_of(scope, path, query)] = median(taken)
    connection.close()
    print(json.dumps(times))


STEPS = {"load": load_history, "callers": callers, "facts": facts}

if __name__ == "__main__":
    STEPS[sys.argv[1]](*sys.argv[2:])
