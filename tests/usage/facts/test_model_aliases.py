"""What a name of a model means is entered in the admin: what waited for a price has one at once,
what was priced stays as it was until it is repriced, and the run's page says what was understood.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from pricing import lists
from pricing.models import IN_LIST, ModelAlias, ModelPrice
from tests.conftest import LONG_AGO, NOON, People
from usage.books import verify_books
from usage.models import LangfuseConnection, Observation, Trace

pytestmark = pytest.mark.django_db
D = Decimal
GPT_4O = D("0.000075")
"""Ten tokens in and five out, by the shipped book."""
ADD = "admin:pricing_modelalias_add"


@pytest.fixture
def root(people: People) -> Client:
    client = Client()
    client.force_login(people.platform_admin)
    return client


def enter(root: Client, **said: Any) -> None:
    filled = {"name": "prod-chat", "model": "gpt-4o", "provider": "azure", "connection": "", **said}
    begins = {"valid_from_0": "2026-01-01", "valid_from_1": "00:00:00"}
    answer = root.post(reverse(ADD), {**filled, **begins})
    assert answer.status_code == 302, answer.content.decode()


def costs() -> dict[str, Decimal | None]:
    return dict(Trace.objects.values_list("langfuse_trace_id", "cost_usd"))


def test_what_waited_is_priced_and_the_trace_keeps_its_name(
    root: Client,
    people: People,
    use: Callable[..., None],
    django_capture_on_commit_callbacks: Any,
) -> None:
    use(people.acme_user, None, model="prod-chat", trace_id="bare")
    use(people.acme_user, None, model="azure/Prod-Chat", trace_id="prefixed")
    use(people.acme_user, None, model="prod-embed", trace_id="other")
    assert set(costs().values()) == {None}

    with django_capture_on_commit_callbacks(execute=True):
        enter(root)

    assert costs() == {"bare": GPT_4O, "prefixed": GPT_4O, "other": None}
    assert set(Observation.objects.values_list("model", flat=True)) >= {
        "prod-chat",
        "azure/Prod-Chat",
    }
    assert verify_books() == []
    trace = Trace.objects.get(langfuse_trace_id="bare")
    page = root.get(reverse("admin:usage_trace_change", args=[trace.pk])).content.decode()
    assert "azure/gpt-4o" in page
    explained = root.get(f"/api/v2/analytics/traces/{trace.pk}/explanation").json()
    (step,) = explained["observations"]
    assert (step["model"], step["price"]["model"]) == ("prod-chat", "azure/gpt-4o")
    assert [item["kind"] for item in step["line_items"]] == ["input", "output"]


def test_one_of_another_connection_is_not_for_it(
    root: Client,
    people: People,
    bare_connection: LangfuseConnection,
    use: Callable[..., None],
    django_capture_on_commit_callbacks: Any,
) -> None:
    other = LangfuseConnection(name="other", host="http://127.0.0.1:9", public_key="pk")
    other.secret_key = "sk"
    other.save()
    use(people.acme_user, None, model="prod-chat", trace_id="run")
    with django_capture_on_commit_callbacks(execute=True):
        enter(root, connection=str(other.pk))
    assert costs() == {"run": None}
    with django_capture_on_commit_callbacks(execute=True):
        enter(root, connection=str(bare_connection.pk))
    assert costs() == {"run": GPT_4O}
    use(people.acme_user, None, model="prod-chat", trace_id="later")
    assert costs() == {"run": GPT_4O, "later": GPT_4O}
    assert verify_books() == []


def test_what_was_priced_stays_until_it_is_repriced(
    root: Client, people: People, use: Callable[..., None]
) -> None:
    lists.enter_price(
        ModelPrice(model="gpt-4o", valid_from=LONG_AGO, input=D(1000), output=D(1000)), None
    )
    enter(root)
    use(people.acme_user, None, model="prod-chat", trace_id="run")
    assert costs() == {"run": D("0.015")}

    alias = ModelAlias.objects.get()
    chosen = {"action": "withdraw", "_selected_action": [str(alias.pk)], "confirmed": "yes"}
    root.post(reverse("admin:pricing_modelalias_changelist"), chosen)
    alias.refresh_from_db()
    assert (alias.withdrawn_by, ModelAlias.objects.filter(IN_LIST).count()) == (
        people.platform_admin,
        0,
    )
    use(people.acme_user, None, model="prod-chat", trace_id="run")
    assert costs() == {"run": D("0.015")}

    day = f"{NOON:%Y-%m-%d}", f"{NOON + timedelta(days=1):%Y-%m-%d}"
    period = ["--from", day[0], "--to", day[1]]
    call_command("reprice_usage", *period, "--apply", "--reason", "a mistake")
    assert costs() == {"run": None}
    assert verify_books() == []


def test_what_is_entered_again_takes_the_others_place_and_nothing_is_changed(
    root: Client, people: People
) -> None:
    enter(root)
    enter(root, name="PROD-chat", model="gpt-4o-mini")
    old, new = ModelAlias.objects.order_by("id")
    assert (old.withdrawn_at, new.withdrawn_at) == (new.recorded_at, None)
    with (
        pytest.raises(IntegrityError, match="withdraw it and record it anew"),
        transaction.atomic(),
    ):
        ModelAlias.objects.filter(pk=new.pk).update(model="gpt-5")


def test_only_the_platform_admin_enters_one(people: People) -> None:
    client = Client()
    client.force_login(people.acme_admin)
    assert client.get(reverse(ADD)).status_code in (302, 403)
    assert client.post(reverse(ADD), {"name": "x", "model": "y"}).status_code in (302, 403)
    assert not ModelAlias.objects.exists()
