"""IANA time zones by name."""

from functools import cache
from zoneinfo import available_timezones


@cache
def zone_names() -> frozenset[str]:
    """All that this machine knows; looked up once, since finding them reads hundreds of files."""
    return frozenset(available_timezones())


def unknown_zone(name: str) -> str | None:
    """What to say of a name that is no zone's; None for a zone's."""
    return (
        None
        if name in zone_names()
        else f"“{name}” is not an IANA time zone; write for example Europe/Amsterdam."
    )
