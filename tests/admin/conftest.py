"""A world in which every list of the admin has a row."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from decimal import Decimal
from typing import NamedTuple

import pytest
from django.contrib.auth.models import Permission
from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoDbBlocker

from credits import grants, licenses
from credits.grants import NewGrant
from credits.models import Alert, Delivery, Grant, Hold, LicensePool, TenantBudget, Webhook
from kluisz_analytics.tenants.models import (
    ApiToken,
    DirectoryChange,
    Membership,
    TenantAlias,
    User,
    UserAlias,
)
from pricing import lists
from pricing.models import ModelAlias, ModelPrice, PricingTier, ShippedPriceList
from pricing.shipped_update import record_installed
from tests.conftest import LONG_AGO, NOON, People, made_people, made_tiers
from tests.usage.conftest import made_bare_connection, usage_of
from usage.facts import disputes
from usage.facts.owner import Outcome
from usage.models import (
    AttributionRule,
    AttributionRules,
    DisputedTrace,
    FlowEstimate,
    LangfuseConnection,
    RejectedObservation,
    Repricing,
    SyncDrift,
    SyncRun,
    SyncTurn,
    SyncWindow,
    TenantComparison,
    TenantDay,
    Trace,
    TraceVoid,
    UsageRuling,
)
from usage.rollups.build import build_rollups

HOUR = timedelta(hours=1)
REJECTED_ROW = '{"id": "bad"}'


class World(NamedTuple):
    """A row of everything that the admin lists, and what more can be made with."""

    people: People
    tiers: dict[str, PricingTier]
    bare_connection: LangfuseConnection
    use: Callable[..., None]


@pytest.fixture(scope="module")
def made_world(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[World]:
    """Made once for all tests of a module; what a test changes is rolled back to it."""
    with django_db_blocker.unblock(), transaction.atomic():
        tiers, connection = made_tiers(), made_bare_connection()
        people, use = made_people(tiers), usage_of(connection)
        _usage(people, use)
        _money(people, tiers)
        _prices(people)
        _sync(connection)
        ApiToken.objects.create(user=people.acme_user, name="ann's", expiry=None)
        yield World(people, tiers, connection, use)
        transaction.set_rollback(True)


@pytest.fixture
def tiers(made_world: World, db: None) -> dict[str, PricingTier]:
    return deepcopy(made_world.tiers)


@pytest.fixture
def bare_connection(made_world: World, db: None) -> LangfuseConnection:
    return deepcopy(made_world.bare_connection)


@pytest.fixture
def use(made_world: World, db: None) -> Callable[..., None]:
    return made_world.use


@pytest.fixture
def people(made_world: World, db: None) -> People:
    return deepcopy(made_world.people)


@pytest.fixture
def world(people: People) -> People:
    """The people of the world."""
    return people


def _usage(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, flow=str(people.flow.pk), project=str(people.project.pk))
    use(None, "0.25")
    use(None, "0.25", tenant_reference=str(people.acme.pk), start=NOON + HOUR)
    build_rollups()
    foreign = User(pk=people.globex_user.pk, tenant=people.acme)
    use(foreign, "0.5", trace_id="zz-foreign")
    disputed = [DisputedTrace.objects.get().pk.hex]
    disputes.settle(disputed, Outcome.LEFT_OUT, people.platform_admin)
    disputes.undo(disputed, people.platform_admin)
    UserAlias.objects.create(tenant=people.acme, user=people.acme_user, name="annie")
    TenantAlias.objects.create(tenant=people.acme, name="team 7")
    Membership.objects.create(user=people.acme_user, tenant=people.acme)
    DirectoryChange.objects.create(user=people.acme_user)
    use(people.acme_user, None, model="unknown-7b")
    Trace.objects.update(deleted_observations=1)
    trace = Trace.objects.earliest("langfuse_trace_id")
    TraceVoid.objects.create(trace=trace, reason="asked for", created_by=people.platform_admin)
    FlowEstimate.objects.create(
        flow_id=str(people.flow.pk), median=1, p90=2, runs=3, computed_at=NOON
    )
    Repricing.objects.create(
        start=NOON, end=NOON + HOUR, reason="agreed", as_of=NOON, state=Repricing.State.APPLIED
    )
    UsageRuling.objects.create(
        finding="cost",
        takes="price_book",
        connection=LangfuseConnection.objects.order_by("pk").first(),
        reason="agreed",
        state=UsageRuling.State.APPLIED,
    )
    rules = AttributionRules.objects.create(
        connection=LangfuseConnection.objects.order_by("pk").first(),
        name="teams",
        reason="agreed",
        state=AttributionRules.State.APPLIED,
    )
    AttributionRule.objects.create(
        rules=rules, position=0, gives="tenant", source="metadata", path="team"
    )


def _money(people: People, tiers: dict[str, PricingTier]) -> None:
    given = NewGrant(people.acme_user, Decimal(100), Grant.Source.MANUAL, "ann")
    grants.grant(given)
    Hold.objects.create(
        account_id=people.acme_user.pk,
        trace_id="held",
        credits=1,
        state=Hold.State.RELEASED,
        created_at=NOON,
        expires_at=NOON + HOUR,
    )
    TenantBudget.objects.create(tenant=people.acme, unit="credits", amount=1000)
    hook = Webhook(url="http://127.0.0.1:9/", tenant=people.acme)
    hook.secret = "sixteen characters"
    hook.save()
    alert = Alert.objects.create(
        kind=Alert.Kind.CREDITS, tenant=people.acme, threshold=80, period_start=NOON, message="80%"
    )
    Delivery.objects.create(alert=alert, webhook=hook, next_attempt_at=NOON)
    LicensePool.objects.create(tenant=people.acme, tier=tiers["Starter"], total=5)
    LicensePool.objects.create(tenant=people.acme, tier=tiers["Enterprise"], total=5)
    licenses.assign(people.acme_colleague, tiers["Starter"], None)


def _prices(people: People) -> None:
    for tenant in (None, people.acme):
        lists.enter_price(
            ModelPrice(model="gpt-4o", tenant=tenant, valid_from=LONG_AGO, input=Decimal(1)), None
        )
    alias = ModelAlias(name="prod-chat", model="gpt-4o", provider="azure", valid_from=LONG_AGO)
    lists.enter_alias(alias, people.platform_admin)
    if not ShippedPriceList.objects.exists():
        record_installed()


def _sync(connection: LangfuseConnection) -> None:
    run = SyncRun.objects.create(connection=connection, started_at=NOON)
    SyncTurn.objects.create(connection=connection, kind=SyncRun.Kind.SYNC, held_until=NOON)
    SyncWindow.objects.create(connection=connection, start=NOON, end=NOON + HOUR)
    TenantComparison.objects.create(connection=connection, compared_at=NOON)
    TenantDay.objects.create(
        connection=connection,
        day=NOON.date(),
        langfuse_count=1,
        langfuse_tokens=2,
        langfuse_cost_usd=0.06,
        langfuse_users=1,
        compared_at=NOON,
    )
    SyncDrift.objects.create(
        run=run,
        start=NOON,
        count_before=1,
        count_now=2,
        tokens_before=1,
        tokens_now=2,
        cost_usd_before=1,
        cost_usd_now=2,
    )
    RejectedObservation.objects.create(
        connection=connection,
        langfuse_observation_id="bad",
        reason="no trace",
        row=REJECTED_ROW,
    )


@pytest.fixture
def root(world: People) -> Client:
    """The platform admin, at the admin."""
    client = Client(raise_request_exception=False)
    client.force_login(world.platform_admin)
    return client


@pytest.fixture
def nobody(world: People) -> Client:
    """Staff without any permission."""
    user = User.objects.create_user("temp", password="right", tenant=world.acme, is_staff=True)
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def clerk(world: People) -> Client:
    """Staff with every permission of Django's, who is no platform admin."""
    user = User.objects.create_user("clerk", password="right", tenant=world.acme, is_staff=True)
    content_types = ContentType.objects.all()
    user.user_permissions.set(Permission.objects.filter(content_type__in=content_types))
    client = Client(raise_request_exception=False)
    client.force_login(user)
    return client


@pytest.fixture
def next_month() -> str:
    """A day that is yet to come, as a form takes it."""
    return f"{timezone.now() + timedelta(days=30):%Y-%m-%d}"
