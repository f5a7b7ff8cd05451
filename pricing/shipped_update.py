"""Keeps the states of the shipped price book: the installed one, and what the package's authors
publish since.
"""

import logging

import httpx2  # what genai-prices fetches with

from pricing import shipped_book
from pricing.models import ShippedPriceList
from pricing.signals import prices_entered

logger = logging.getLogger(__name__)


def record_installed() -> ShippedPriceList | None:
    """Keep what the installed package holds, once for each version of it. Returns the new state."""
    installed_version = shipped_book.installed_version()
    if ShippedPriceList.objects.filter(
        origin=ShippedPriceList.Origin.INSTALLED, version=installed_version
    ).exists():
        return None
    return _record(
        ShippedPriceList.Origin.INSTALLED, shipped_book.installed_packed(), shipped_book.installed()
    )


def update_from_authors() -> ShippedPriceList | None:
    """Fetch the published book and keep it if it is news; None otherwise, and where the network
    does not allow it (which is logged).
    """
    try:
        providers = shipped_book.fetch()
    except (httpx2.HTTPError, OSError, ValueError) as error:
        logger.warning(
            "The published price book could not be fetched, so the last one stays in use: %s", error
        )
        return None
    data = shipped_book.packed(providers)
    newest = ShippedPriceList.objects.first()
    if newest is not None and bytes(newest.data) == data:
        return None
    state = _record(ShippedPriceList.Origin.FETCHED, data, providers)
    prices_entered.send(ShippedPriceList, models=[])
    return state


def _record(
    origin: ShippedPriceList.Origin, data: bytes, providers: list[shipped_book.Provider]
) -> ShippedPriceList:
    return ShippedPriceList.objects.create(
        origin=origin,
        version=shipped_book.installed_version(),
        models_count=sum(len(provider.models) for provider in providers),
        data=data,
    )
