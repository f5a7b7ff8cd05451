"""What has an owner: one rule, in each form that it is written in (docs/domain.md, Unattributed
usage).
"""

from collections.abc import Callable
from uuid import UUID

import pytest
from django.db import connection

from kluisz_analytics.tenants.attributed import (
    ATTRIBUTED_LOOKUPS,
    attributed_sql,
    is_attributed,
    known_owner,
)
from tests.conftest import People
from usage.facts import store
from usage.models import Trace
from usage.models.facts import UNATTRIBUTED

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("has_user", [True, False])
@pytest.mark.parametrize("has_tenant", [True, False])
def test_a_run_has_an_owner_when_its_tenant_and_its_user_are_known_in_every_form(
    people: People, use: Callable[..., None], has_tenant: bool, has_user: bool
) -> None:
    use(people.acme_user)
    tenant_id = people.acme.pk if has_tenant else None
    user_id = people.acme_user.pk if has_user else None
    Trace.objects.update(tenant=tenant_id, user=user_id)
    (trace,) = Trace.objects.all()
    (fact,) = store.lock_traces([trace.pk.hex]).values()
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {attributed_sql('a')} FROM usage_trace a")
        (row,) = cursor.fetchall()
    assert {
        is_attributed(tenant_id, user_id),
        trace.is_attributed,
        fact.is_attributed,
        Trace.objects.filter(**ATTRIBUTED_LOOKUPS).exists(),
        not Trace.objects.filter(UNATTRIBUTED).exists(),
        bool(row[0]),
    } == {has_tenant and has_user}
    both: tuple[UUID, UUID] | None = (people.acme.pk, people.acme_user.pk)
    assert known_owner(tenant_id, user_id) == (both if has_tenant and has_user else None)
