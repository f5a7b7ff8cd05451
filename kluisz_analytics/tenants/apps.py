"""The tenants app, and the default tenant that always exists.

It is the first of ours that Django starts, so it loads what the whole process needs.
"""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


def ensure_default_tenant(using: str, **kwargs: Any) -> None:
    """Create the default tenant if the database has none (domain.md, Who)."""
    from kluisz_analytics.tenants.models import Tenant  # noqa: PLC0415

    if not Tenant.objects.using(using).filter(is_default=True).exists():
        Tenant.objects.using(using).create(name="Default", slug="default", is_default=True)


class TenantsConfig(AppConfig):
    name = "kluisz_analytics.tenants"
    label = "tenants"

    def ready(self) -> None:
        # Without the application, a task would be sent to Celery's default broker.
        from kluisz_analytics import celery  # noqa: F401, PLC0415
        from kluisz_analytics.tenants import openapi  # noqa: F401, PLC0415  (registers itself)

        post_migrate.connect(ensure_default_tenant, sender=self)
