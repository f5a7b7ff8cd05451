"""The channels by which alerts go out. A new one is a module here and a line in ``CHANNELS``.

A channel is told which deliveries an alert needs, and makes one attempt at one of them. It runs in
a task of its own, outside of any transaction; patience, time limits and the log are
:mod:`credits.deliveries`'.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol

from credits.channels import mail, webhook
from credits.models import Alert, Delivery


class Channel(Protocol):
    """What the module of a channel provides."""

    def receivers(self, alert: Alert) -> Iterable[Delivery]:
        """A delivery, not yet stored, for each that the alert goes to; says what the address is."""

    def send(self, delivery: Delivery, now: datetime) -> str:
        """Make one attempt. Returns what the receiver answered.

        Raises Undeliverable where trying again can't help, and any other exception where it may.
        """


CHANNELS: Mapping[str, Channel] = {
    "mail": mail,
    "webhook": webhook,
}
