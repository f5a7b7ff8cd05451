"""The usage app."""

from typing import Any

from django.apps import AppConfig

TRACES_AT_ONCE = 5_000


class UsageConfig(AppConfig):
    name = "usage"

    def ready(self) -> None:
        from pricing.signals import prices_entered  # noqa: PLC0415

        prices_entered.connect(price_unpriced_usage)


def price_unpriced_usage(**kwargs: Any) -> None:
    """Someone entered a price: what waits for it is priced at once, as much of it as a request can;
    the next sync does the rest.
    """
    from usage.facts.unpriced import price_all_unpriced  # noqa: PLC0415

    price_all_unpriced(TRACES_AT_ONCE)
