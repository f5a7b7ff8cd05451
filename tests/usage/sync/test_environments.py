"""Runs that cost no credits by a rule: of an environment that isn't billed, or failed on a tier
that doesn't charge that. They are counted all the same.
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.conf import settings as project
from django.test import Client
from django.urls import reverse

from credits.enforcement import reserve_credits
from credits.models import Account, Hold, Transaction
from pricing import lists
from pricing.models import IN_LIST, TierRate
from tests.conftest import People, RunningSandbox
from tests.usage.sync.test_set_aside import run
from tests.usage.sync.test_sync import MOMENT, call, owned, row, sync
from usage.analytics.explain import explain
from usage.books import verify_books
from usage.environments import billed_environments
from usage.facts import environments
from usage.facts.apply import Batch, apply_batch, load_assembler
from usage.facts.environments import bill_in, charge_as_set
from usage.langfuse.wire import decode_rows
from usage.models import LangfuseConnection, Trace
from usage.repricing.preview import preview
from usage.sync.runner import sync_connection

pytestmark = pytest.mark.django_db
D = Decimal
FREE, CHARGED = D(0), D("11.4")


@pytest.mark.parametrize(
    ("written", "billed", "left_out"),
    [
        ("", ["", "default", "production", "langfuse"], ["langfuse-llm-as-a-judge", "langfuse-"]),
        ("production, staging-*", ["production", "staging-eu"], ["", "default", "staging"]),
        ("default", ["", "default"], ["production"]),
        ("*", ["", "langfuse-evaluation"], []),
        (" langfuse-experiment\nproduction ", ["langfuse-experiment"], ["langfuse-evaluation"]),
    ],
)
def test_the_setting_says_which_environments_are_billed(
    written: str, billed: list[str], left_out: list[str]
) -> None:
    asked = billed_environments(written)
    assert [one for one in billed if one not in asked] == []
    assert [one for one in left_out if one in asked] == []


@pytest.mark.parametrize("wrong", ["Production", "a*b", "pröd", "a;b"])
def test_what_no_environment_is_called_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"“{wrong}”")):
        billed_environments(wrong)


@pytest.fixture
def synced(connection: LangfuseConnection, sandbox: RunningSandbox) -> Callable[..., None]:
    def add(*rows: dict[str, Any]) -> None:
        sandbox.store.add(list(rows))
        read_again(connection)

    return add


def read_again(connection: LangfuseConnection) -> None:
    assert sync_connection(connection, MOMENT - timedelta(hours=1)).error == ""


def enter(**terms: Any) -> None:
    """Another rate of the tier, soon after the first."""
    rate = TierRate.objects.filter(IN_LIST, tier__name="Professional").get()
    rate.pk, rate.valid_from = None, rate.valid_from + timedelta(days=1)
    for name, value in terms.items():
        setattr(rate, name, value)
    lists.enter_rate(rate, None)


def run_in(people: People, environment: str, name: str = "t1") -> list[dict[str, Any]]:
    fields = {"environment": environment, "traceId": name}
    return [owned(people, id=f"root-{name}", **fields), call(f"c-{name}", 0.06, **fields)]


def test_an_evaluators_run_is_counted_and_costs_no_credits(
    synced: Callable[..., None], people: People
) -> None:
    enter(minimum_credits_per_trace=D(3))
    synced(*run_in(people, "langfuse-llm-as-a-judge"), *run_in(people, "production", "t2"))
    judged = run("t1")
    assert (judged.cost_usd, judged.credits, judged.billed_cost_usd) == (D("0.06"), FREE, FREE)
    assert (judged.uncharged, run("t2").uncharged) == ("environment", "")
    assert "environment isn't one of those" in explain(judged, people.acme_user).why_no_credits
    assert Account.objects.get(user=people.acme_user).used == run("t2").credits == CHARGED
    assert verify_books() == []


def test_other_environments_are_billed_from_the_next_sync_on_and_back_again(
    synced: Callable[..., None], connection: LangfuseConnection, people: People
) -> None:
    synced(*run_in(people, "production"), *run_in(people, "staging-eu", "t2"))
    bill_in(connection, "production")
    sync(connection)
    assert (run("t1").credits, run("t2").credits) == (CHARGED, FREE)
    assert Account.objects.get(user=people.acme_user).used == CHARGED
    assert Transaction.objects.filter(reason="Other environments are billed").count() == 1
    assert verify_books() == []
    synced(call("c2", 0.06, environment="staging-eu", traceId="t2"))
    assert (run("t2").cost_usd, run("t2").credits) == (D("0.12"), FREE)
    bill_in(connection, "staging-*,production")
    sync(connection)
    assert run("t2").credits == 2 * CHARGED
    assert verify_books() == []


def test_what_was_decided_ahead_by_the_setting_of_before_is_decided_again(
    connection: LangfuseConnection, people: People
) -> None:
    """A worker's assembler is up to half a minute old."""
    assembler = load_assembler(connection)
    rows, _ = decode_rows([msgspec.Raw(json.dumps(one).encode()) for one in run_in(people, "x")])
    batch = Batch(connection.pk, rows)
    batch.prepare(assembler)
    bill_in(connection, "production")
    apply_batch(connection, batch, assembler)
    assert run("t1").credits == FREE


def test_any_order_of_settings_and_syncs_comes_to_the_same(
    sandbox: RunningSandbox, connection: LangfuseConnection, people: People
) -> None:
    names = ["", "production", "staging", "langfuse-evaluation"]
    rows = [one for at, name in enumerate(names) for one in run_in(people, name, f"t{at}")]
    chance = random.Random(3)  # noqa: S311
    sandbox.store.add(rows[:3])
    for asked in ("staging", "*", "", "production, langfuse-*"):
        bill_in(connection, asked)
        if chance.random() < 0.7:
            read_again(connection)
        sandbox.store.add(rows)
    read_again(connection)
    billed = {one.environment for one in Trace.objects.filter(uncharged="")}
    assert billed == {"production", "langfuse-evaluation"}
    assert Account.objects.get(user=people.acme_user).used == 2 * CHARGED
    assert verify_books() == []


def test_an_operator_says_in_the_admin_which_are_billed(
    synced: Callable[..., None], connection: LangfuseConnection, people: People, client: Client
) -> None:
    synced(*run_in(people, "staging"))
    client.force_login(people.platform_admin)
    LangfuseConnection.objects.filter(pk=connection.pk).update(source="row")
    address = reverse("admin:usage_langfuseconnection_change", args=[connection.pk])
    form = client.get(address).context["adminform"].form
    values = {name: form[name].value() or "" for name in form.fields}
    refused = client.post(address, {**values, "billed_environments": "Production"})
    assert "is not an environment of Langfuse" in refused.content.decode()
    assert client.post(address, {**values, "billed_environments": "production"}).status_code == 302
    connection.refresh_from_db()
    sync(connection)
    assert run("t1").credits == FREE


def test_a_wrong_name_in_the_environment_is_refused_in_words() -> None:
    refused = subprocess.run(
        [sys.executable, "manage.py", "check"],
        env={**os.environ, "KLUISZ_LANGFUSE_BILLED_ENVIRONMENTS": "Prod!"},
        capture_output=True,
        text=True,
        cwd=project.BASE_DIR,
        check=False,
    )
    assert refused.returncode == 1
    assert "KLUISZ_LANGFUSE_BILLED_ENVIRONMENTS: “Prod!” is not an environment" in refused.stderr


def test_a_run_that_failed_is_charged_as_its_tier_says(
    synced: Callable[..., None], people: People
) -> None:
    failed = {"level": "ERROR"}
    run_again = [owned(people, traceId="t2"), call("c2", 0.06, traceId="t2")]
    synced(owned(people, **failed), call("c1", 0.06), *run_again)
    assert (run("t1").is_failed, run("t1").credits) == (True, CHARGED)
    enter(charges_failed_runs=False, minimum_credits_per_trace=D(3))
    later = {"traceId": "t3", "start": MOMENT + timedelta(minutes=1)}
    synced(
        row("r3", isRootObservation=True, userId=str(people.acme_user.pk), **failed, **later),
        call("c3", 0.06, **later),
    )
    free = run("t3")
    assert (free.cost_usd, free.credits, free.uncharged) == (D("0.06"), FREE, "failed")
    assert "doesn't charge runs that failed" in explain(free, people.acme_user).why_no_credits
    assert verify_books() == []
    shown = preview(MOMENT - timedelta(hours=1), MOMENT + timedelta(hours=1))
    assert (shown.traces_changed, shown.total.credits_before, shown.total.credits_after) == (
        1,
        11_400_000,
        0,
    )


def test_the_hold_of_a_run_that_is_not_charged_is_freed(
    synced: Callable[..., None], people: People
) -> None:
    hold = reserve_credits(people.acme_user, trace_id="t1", credits=D(5)).hold
    synced(*run_in(people, "langfuse-evaluation"))
    assert Hold.objects.get(pk=hold.pk).state == "charged"
    assert Account.objects.get(user=people.acme_user).held == 0


def test_a_setting_that_changes_while_it_is_applied_is_applied_too(
    synced: Callable[..., None],
    connection: LangfuseConnection,
    people: People,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever decides takes the newest; a search for what an older one leaves never ends."""
    synced(*run_in(people, "production"), *run_in(people, "staging", "t2"))
    reassemble, calls = environments.reassemble, []

    def while_it_changes(*arguments: Any) -> Any:
        calls.append(arguments)
        assert len(calls) < 10
        if len(calls) == 1:
            bill_in(connection, "staging")
        return reassemble(*arguments)

    monkeypatch.setattr(environments, "reassemble", while_it_changes)
    monkeypatch.setattr(environments, "TRACES_A_BATCH", 1)
    bill_in(connection, "nothing")
    charge_as_set(connection)
    assert (run("t1").credits, run("t2").credits) == (FREE, CHARGED)
    connection.refresh_from_db()
    assert connection.environments_applied == "staging"
    assert verify_books() == []
