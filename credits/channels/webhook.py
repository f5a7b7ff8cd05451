"""Alerts by signed webhook: to those of the tenant and those of the platform.

The signature is the HMAC-SHA256 of ``timestamp.body`` with the webhook's secret, in the header
``X-Kluisz-Signature: t=<timestamp>,v1=<hex>``; a receiver computes it anew and refuses old
timestamps. The delivery's id comes along, so that a repeated one is known.
"""

import asyncio
import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import datetime

import httpx
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.models import Q

from credits.channels.errors import Undeliverable
from credits.models import Alert, Delivery, Webhook

LONGEST_ANSWER = 200
"""How many bytes of a refusal are read."""
LAST_PORT = 65_535


def receivers(alert: Alert) -> Iterator[Delivery]:
    hooks = Webhook.objects.filter(
        Q(tenant=alert.tenant_id) | Q(tenant__isnull=True), is_enabled=True
    )
    for hook in hooks:
        yield to(hook, alert)


def to(hook: Webhook, alert: Alert | None = None) -> Delivery:
    """A delivery of the alert to the webhook; of a test without one."""
    return Delivery(alert=alert, channel="webhook", webhook=hook, address=hook.url)


def send(delivery: Delivery, now: datetime) -> str:
    hook = delivery.webhook
    if hook is None:
        raise Undeliverable("Its webhook no longer exists.")
    try:
        secret = hook.secret
    except ImproperlyConfigured as error:
        raise Undeliverable(str(error)) from error
    body = body_of(delivery)
    headers = {
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "Kluisz-Analytics",
        "X-Kluisz-Signature": signature(secret, int(now.timestamp()), body),
    }
    return asyncio.run(_post(_address(hook.url), body, headers))


def _address(text: str) -> httpx.URL:
    """Raises Undeliverable for what no request can be sent to."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise Undeliverable(f"“{text}” is not an address to post to: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise Undeliverable(f"“{text}” is not an address to post to: write https://…")
    if url.port is not None and not 0 < url.port <= LAST_PORT:
        raise Undeliverable(f"“{text}” is not an address to post to: there is no such port.")
    return url


def body_of(delivery: Delivery) -> bytes:
    """What is posted: JSON, the same at every attempt."""
    alert = delivery.alert
    content: dict[str, object] = {"id": str(delivery.pk), "event": "test"}
    if alert is not None:
        content |= {
            "event": f"alert.{alert.kind}",
            "tenant_id": str(alert.tenant_id),
            "user_id": str(alert.user_id) if alert.user_id else None,
            "threshold_percent": alert.threshold,
            "period_start": alert.period_start.isoformat(),
            "message": alert.message,
        }
    return json.dumps(content).encode()


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """The header's value."""
    digest = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={timestamp},v1={digest}"


async def _post(url: httpx.URL, body: bytes, headers: dict[str, str]) -> str:
    """The status, if it is a success: nothing more of the answer is read then.

    One limit for all of it. A limit for each step (httpx's own) never ends with a receiver that
    sends a byte now and then, be it in the handshake, the headers or the body.
    """
    seconds = settings.DELIVERY_SECONDS
    try:
        async with (
            asyncio.timeout(seconds),
            httpx.AsyncClient(timeout=None, follow_redirects=False) as client,  # noqa: S113
            client.stream("POST", url, content=body, headers=headers) as answer,
        ):
            if answer.is_success:
                return str(answer.status_code)
            said = (await _beginning(answer)).decode(errors="replace")
    except TimeoutError as error:
        raise TimeoutError(f"no whole answer within {seconds} s") from error
    raise httpx.HTTPStatusError(
        f"{answer.status_code} {said}", request=answer.request, response=answer
    )


async def _beginning(answer: httpx.Response) -> bytes:
    read = b""
    async for chunk in answer.aiter_raw(LONGEST_ANSWER):
        read += chunk
        if len(read) >= LONGEST_ANSWER:
            break
    return read[:LONGEST_ANSWER]
