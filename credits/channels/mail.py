"""Alerts by e-mail: to the user whom it is about, and to the admins of its tenant."""

from collections.abc import Iterator
from datetime import datetime

from django.core.mail import EmailMessage

from credits.channels.errors import Undeliverable
from credits.models import Alert, Delivery
from kluisz_analytics.tenants.models import User


def receivers(alert: Alert) -> Iterator[Delivery]:
    admins = User.objects.filter(tenant=alert.tenant_id, is_tenant_admin=True, is_active=True)
    people = [*admins, *([alert.user] if alert.user else [])]
    for address in sorted({user.email for user in people if user.email}):
        yield Delivery(alert=alert, address=address)


def send(delivery: Delivery, now: datetime) -> str:
    text = delivery.alert.message if delivery.alert else "A test."
    # A header is one line, and names of tenants and users may have several.
    subject = f"Kluisz Analytics: {' '.join(text.split())}"
    mail = EmailMessage(subject, f"{text}\n", to=[delivery.address])
    try:
        mail.message()
    except ValueError as error:
        raise Undeliverable(f"No mail can be made of it: {error}") from error
    mail.send()
    return "handed to the mail server"
