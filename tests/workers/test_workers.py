"""Servers that hang, secrets that can't be read: real workers go on with everything else."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PUBLIC_KEY, SECRET_KEY, RunningSandbox
from tests.credits.test_alerts import Receiver, receiver
from tests.workers.installation import BOUND_SECONDS, Installation, Installations
from tests.workers.servers import hangs, listening, trickles

__all__ = ["receiver"]
# They share a broker.
pytestmark = [pytest.mark.both_databases, pytest.mark.xdist_group("workers")]

SOMEBODY = """
from datetime import timedelta
from decimal import Decimal
from django.utils import timezone
from credits import ledger
from credits.grants import NewGrant, grant
from credits.models import Account, Alert, Delivery, Grant, Hold, Webhook
from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier, TierAssignment, TierRate
from usage.models import LangfuseConnection, SyncRun

now = timezone.now()
long_ago = now - timedelta(days=400)
tier = PricingTier.objects.create(name="T", default_credits_per_month=Decimal(500))
TierRate.objects.create(
    tier=tier, valid_from=long_ago, credits_per_usd=Decimal(100), pricing_multiplier=Decimal(1)
)
tenant = Tenant.objects.create(name="Acme\\nand Sons", slug="acme")
ann = User.objects.create_user("ann", tenant=tenant, email="ann@acme.example")
grant(NewGrant(ann, Decimal(1000), Grant.Source.MANUAL, "first", starts_at=now - timedelta(days=9)))
hour = now.replace(minute=0, second=0, microsecond=0)
ledger.post_usage({(ann.pk, hour): Decimal(990)}, now)
TierAssignment.objects.create(user=ann, tier=tier, valid_from=long_ago)
Hold.objects.create(
    account_id=ann.pk, credits=Decimal(3), created_at=long_ago, expires_at=now - timedelta(hours=1)
)
Account.objects.filter(pk=ann.pk).update(held=Decimal(3))


def connect(name, host, secret):
    row = LangfuseConnection(name=name, host=host, public_key=f"pk-{name}")
    row.secret_key = "sk"
    row.encrypted_secret_key = secret or row.encrypted_secret_key
    row.save()
    return row.pk


def hook(url, secret=""):
    row = Webhook(url=url, tenant=tenant)
    row.secret = "a signing secret"
    row.encrypted_secret = secret or row.encrypted_secret
    row.save()
"""
MONEY = """
from credits.models import Grant, Hold
result = [
    Hold.objects.get().state, Grant.objects.filter(source=Grant.Source.MONTHLY).count()
]
"""
MONEY_DONE = ["expired", 1]
RUNS = """
from usage.models import SyncRun
result = sorted(set(SyncRun.objects.exclude(outcome="running").values_list(
    "connection__name", "outcome")))
"""
ANSWERS = """
from credits.models import Delivery
result = sorted(
    [one.address.rsplit("/", 1)[-1], one.state, one.answer[:29]]
    for one in Delivery.objects.filter(alert__user__isnull=False, alert__kind="credits")
)
"""


@pytest.fixture(scope="module")
def installations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installations]:
    made = Installations(tmp_path_factory.mktemp("schema"))
    yield made
    made.close()


@pytest.fixture
def installation(
    tmp_path: Path, sandbox: RunningSandbox, installations: Installations
) -> Iterator[Installation]:
    with installations.one(
        tmp_path / "var",
        KLUISZ_LANGFUSE_HOST=sandbox.url,
        KLUISZ_LANGFUSE_PUBLIC_KEY=PUBLIC_KEY,
        KLUISZ_LANGFUSE_SECRET_KEY=SECRET_KEY,
        KLUISZ_DELIVERY_SECONDS="2",
    ) as one:
        yield one


@pytest.fixture
def open_server() -> Iterator[Any]:
    with ExitStack() as servers:
        yield lambda serve: servers.enter_context(listening(serve))


def test_one_worker_goes_on_whatever_hangs_or_cannot_be_read(
    installation: Installation, receiver: Receiver, open_server: Any
) -> None:
    hanging, trickling = open_server(hangs), open_server(trickles(b"HTTP/1.1 200 O"))
    installation.environment["EMAIL_URL"] = f"smtp://127.0.0.1:{hanging}"
    installation.python(
        SOMEBODY
        + f"""
connect("a-broken", "http://127.0.0.1:{hanging}", "not of any key")
connect("b-hanging", "http://127.0.0.1:{hanging}", "")
hook("http://127.0.0.1:{hanging}/hangs")
hook("http://127.0.0.1:{trickling}/trickles")
hook("http://127.0.0.1:{hanging}/unreadable", "not of any key")
hook("http://127.0.0.1:99999999/no-address")
hook("http://127.0.0.1:{receiver.server_port}/good")
from usage.connections import configured_connection
configured_connection()
result = None
"""
    )
    with installation.worker("--concurrency", "2"):
        installation.send(
            ("usage.tasks.sync_usage",),
            ("credits.tasks.evaluate_alerts",),
            ("usage.tasks.sync_usage",),
            ("credits.tasks.expire_holds",),
            ("credits.tasks.top_up_month",),
        )
        installation.wait_until(MONEY, MONEY_DONE)
        installation.wait_until(RUNS, [["a-broken", "failed"], ["environment", "complete"]])
        installation.wait_until(
            ANSWERS,
            [
                ["ann@acme.example", "pending", "SMTPServerDisconnected: Conne"],
                ["good", "sent", "200"],
                ["hangs", "pending", "TimeoutError: no whole answer"],
                ["no-address", "failed", "“http://127.0.0.1:99999999/no"],
                ["trickles", "pending", "TimeoutError: no whole answer"],
                ["unreadable", "failed", "A stored secret can't be decr"],
            ],
        )
    assert "KLUISZ_ENCRYPTION_KEYS" in installation.python(
        "from usage.models import SyncRun\nresult = SyncRun.objects.filter("
        'connection__name="a-broken").first().error'
    )


def test_a_connection_that_hangs_takes_one_process_however_often_it_is_asked_for(
    installation: Installation, open_server: Any
) -> None:
    hanging = open_server(hangs)
    slow, good = installation.python(
        SOMEBODY
        + f"""
from usage.connections import configured_connection
slow = connect("slow", "http://127.0.0.1:{hanging}", "")
result = [slow, configured_connection().pk]
"""
    )
    with (
        installation.worker("-Q", "sync", "--concurrency", "2"),
        installation.worker("-Q", "money,deliveries,housekeeping", "--concurrency", "1"),
    ):
        installation.send(*[("usage.tasks.sync_one", slow)] * 4)
        installation.send(("usage.tasks.sync_one", good), ("credits.tasks.expire_holds",))
        installation.send(("credits.tasks.top_up_month",))
        installation.wait_until(RUNS, [["environment", "complete"]])
        installation.wait_until(MONEY, MONEY_DONE)
        counted = "from usage.models import SyncRun\nresult = SyncRun.objects.filter("
        assert installation.python(counted + f"connection={slow}).count()") == 1


def test_an_attempt_that_takes_too_long_is_ended_by_its_time_limit_and_says_so(
    installation: Installation, open_server: Any
) -> None:
    installation.environment["EMAIL_URL"] = f"smtp://127.0.0.1:{open_server(trickles(b'220 '))}"
    installation.python(SOMEBODY + "result = None")
    installation.python(
        "from credits.alerts import evaluate_all\n"
        "from credits.models import Delivery\n"
        "from credits.tasks import deliver\n"
        "evaluate_all()\n"
        'for one in Delivery.objects.filter(channel="mail"):\n'
        "    deliver.apply_async([str(one.pk), 1], soft_time_limit=2, time_limit=20)\n"
        "result = None"
    )
    with installation.worker("--concurrency", "2"):
        installation.wait_until(
            "from credits.models import Delivery\n"
            'result = sorted(set(Delivery.objects.values_list("state", "attempts", "answer")))',
            [["pending", 1, "Stopped: it took longer than an attempt may."]],
        )
        # What is left of the processes after that goes on.
        installation.send(("credits.tasks.expire_holds",), ("credits.tasks.top_up_month",))
        installation.wait_until(MONEY, MONEY_DONE)


def test_a_worker_that_was_killed_in_an_attempt_leaves_it_to_be_made_again(
    installation: Installation, open_server: Any
) -> None:
    installation.environment["KLUISZ_DELIVERY_SECONDS"] = "29"
    hanging = open_server(hangs)
    installation.python(
        SOMEBODY
        + f"""
from credits.alerts import evaluate_all
from credits.tasks import send_deliveries
hook("http://127.0.0.1:{hanging}/hangs")
User.objects.update(email="")
evaluate_all()
send_deliveries.delay()
result = None
"""
    )
    counted = (
        "from credits.models import Delivery\n"
        'result = sorted(set(Delivery.objects.values_list("state", "attempts", "answer")))'
    )
    under_way = "No result: the attempt is under way, or its worker was stopped."
    with installation.worker("--concurrency", "4"):
        installation.wait_until(counted, [["pending", 1, under_way]])
    assert installation.python(
        "from datetime import timedelta\n"
        "from django.utils import timezone\n"
        "from credits.deliveries import hand_over\n"
        "handed = []\n"
        "later = timezone.now() + timedelta(minutes=2)\n"
        "hand_over(lambda pk, number: handed.append(number), later)\n"
        "result = sorted(set(handed))"
    ) == [2]


def test_beat_and_one_plain_worker_do_everything(installation: Installation) -> None:
    installation.environment["KLUISZ_SYNC_EVERY_SECONDS"] = "1"
    with installation.worker("--beat"):
        installation.wait_until(RUNS, [["environment", "complete"]])


def test_what_piled_up_while_no_worker_ran_is_one_runs_work(installation: Installation) -> None:
    installation.python(SOMEBODY + "result = None")
    installation.send(*[("credits.tasks.expire_holds",)] * 5, ("credits.tasks.top_up_month",))
    with installation.worker("--concurrency", "1") as log:
        installation.wait_until(MONEY, MONEY_DONE)
        installation.send(("credits.tasks.catch_up_grants",))
        deadline = time.monotonic() + BOUND_SECONDS
        while "catch_up_grants" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        passed_over = "credits.tasks.expire_holds: a later run has done what this message asks for"
        assert log.read_text().count(passed_over) == 4


def test_a_task_that_fails_says_for_which_connection(installation: Installation) -> None:
    installation.send(("usage.tasks.continue_repricing", 4711))
    with installation.worker("--concurrency", "1") as log:
        deadline = time.monotonic() + BOUND_SECONDS
        while "usage.tasks.continue_repricing(4711,)" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
