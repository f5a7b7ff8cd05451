"""The pricing app."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class PricingConfig(AppConfig):
    name = "pricing"

    def ready(self) -> None:
        post_migrate.connect(record_installed_book, sender=self)


def record_installed_book(**kwargs: Any) -> None:
    """After a migration, which every upgrade runs: the installed price book may be another."""
    from pricing.shipped_update import record_installed  # noqa: PLC0415

    record_installed()
