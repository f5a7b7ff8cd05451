"""The credits app."""

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_save


class CreditsConfig(AppConfig):
    name = "credits"

    def ready(self) -> None:
        from kluisz_analytics.tenants.models import User  # noqa: PLC0415
        from pricing.signals import tiers_assigned  # noqa: PLC0415

        tiers_assigned.connect(welcome_to_tiers)
        post_save.connect(welcome_new_user, sender=User)


def welcome_to_tiers(users: Any, by: Any, **kwargs: Any) -> None:
    """Whoever has a tier for the first time gets its default credits."""
    from credits.top_up import welcome  # noqa: PLC0415

    welcome(users, by)


def welcome_new_user(instance: Any, created: bool, raw: bool, **kwargs: Any) -> None:
    """A new user may have a tier from its beginning: its tenant's, or the platform's."""
    from credits.top_up import welcome  # noqa: PLC0415
    from kluisz_analytics.tenants.models import User  # noqa: PLC0415

    if created and not raw:
        welcome(User.objects.filter(pk=instance.pk))
