"""Whose a run is: each rule in each form that it is asked in (docs/domain.md, What is counted)."""

from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import connection

from kluisz_analytics.tenants.attributed import (
    ATTRIBUTED_LOOKUPS,
    OWNED_LOOKUPS,
    WITHOUT_USER_LOOKUPS,
    attributed_sql,
    is_attributed,
    is_owned,
    known_owner,
    owned_sql,
    without_user_sql,
)
from tests.conftest import People
from usage.facts import store
from usage.models import Trace
from usage.models.facts import NOT_OWNED

pytestmark = pytest.mark.django_db


def holds(condition: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {condition} FROM usage_trace a")
        ((held,),) = cursor.fetchall()
    return bool(held)


@pytest.mark.parametrize("has_user", [True, False])
@pytest.mark.parametrize("has_tenant", [True, False])
def test_each_rule_says_the_same_in_every_form(
    people: People, use: Callable[..., None], has_tenant: bool, has_user: bool
) -> None:
    use(people.acme_user)
    tenant_id = people.acme.pk if has_tenant else None
    user_id = people.acme_user.pk if has_user else None
    Trace.objects.update(tenant=tenant_id, user=user_id)
    (trace,) = Trace.objects.all()
    (fact,) = store.lock_traces([trace.pk.hex]).values()
    assert {
        is_attributed(tenant_id),
        trace.is_attributed,
        Trace.objects.filter(**ATTRIBUTED_LOOKUPS).exists(),
        holds(attributed_sql("a")),
    } == {has_tenant}
    assert {
        is_owned(tenant_id, user_id),
        trace.is_owned,
        fact.is_owned,
        Trace.objects.filter(**OWNED_LOOKUPS).exists(),
        not Trace.objects.filter(NOT_OWNED).exists(),
        holds(owned_sql("a")),
    } == {has_tenant and has_user}
    assert {
        is_attributed(tenant_id) and not is_owned(tenant_id, user_id),
        Trace.objects.filter(**WITHOUT_USER_LOOKUPS).exists(),
        holds(without_user_sql("a")),
    } == {has_tenant and not has_user}
    both: tuple[UUID, UUID] | None = (people.acme.pk, people.acme_user.pk)
    assert known_owner(tenant_id, user_id) == (both if has_tenant and has_user else None)
