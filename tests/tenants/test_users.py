"""Tenants and users: nobody is without a tenant."""

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, models, transaction

from kluisz_analytics.tenants.models import Tenant, User

pytestmark = pytest.mark.django_db


def test_the_default_tenant_always_exists() -> None:
    assert Tenant.objects.get(is_default=True).slug == "default"
    with pytest.raises(models.ProtectedError, match="always exists"):
        Tenant.objects.get(is_default=True).delete()


def test_there_is_only_one_default_tenant() -> None:
    with pytest.raises(IntegrityError):
        Tenant.objects.create(name="Other", slug="other", is_default=True)


def test_createsuperuser_puts_it_into_the_default_tenant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "secret-enough")
    call_command(
        "createsuperuser", "--noinput", "--username", "root", "--email", "root@example.com"
    )
    assert User.objects.get(username="root").tenant.is_default


def test_a_database_constraint_keeps_every_user_in_a_tenant() -> None:
    user = User.objects.create_user("ann")
    for change in (
        lambda: User.objects.filter(pk=user.pk).update(tenant=None),
        lambda: User.objects.bulk_create([User(username="nobody")]),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            change()
    with pytest.raises(models.ProtectedError):
        Tenant.objects.filter(pk=user.tenant_id).delete()


def test_a_tenants_zone_has_to_be_one() -> None:
    with pytest.raises(ValidationError, match="not an IANA time zone"):
        Tenant(name="X", slug="x", timezone="Mars/Olympus").full_clean()
