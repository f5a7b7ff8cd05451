"""Which Langfuse connections there are: rows, and the one of the environment or the embedded
sandbox.
"""

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from usage.langfuse.budget import LIMITS_OF_PLAN, RequestBudget
from usage.langfuse.client import LangfuseClientService
from usage.langfuse.errors import UnreadableKey
from usage.models import LangfuseConnection

SANDBOX_NAME = "sandbox"
ENVIRONMENT_NAME = "environment"


def configured_connection() -> LangfuseConnection:
    """The connection that the environment names, else the embedded sandbox's (architecture.md,
    Configuration).

    The other of the two is disabled, so that a real Langfuse never mixes with the sandbox's data
    anew.
    """
    Source = LangfuseConnection.Source
    if settings.USES_SANDBOX:
        name, source, other = SANDBOX_NAME, Source.SANDBOX, Source.ENVIRONMENT
        host, public_key, secret_key = (
            sandbox_host(),
            settings.SANDBOX_PUBLIC_KEY,
            settings.SANDBOX_SECRET_KEY,
        )
    else:
        name, source, other = ENVIRONMENT_NAME, Source.ENVIRONMENT, Source.SANDBOX
        host, public_key, secret_key = (
            settings.LANGFUSE_HOST,
            settings.LANGFUSE_PUBLIC_KEY,
            settings.LANGFUSE_SECRET_KEY,
        )
    LangfuseConnection.objects.filter(source=other).update(is_enabled=False)
    connection = LangfuseConnection.objects.filter(source=source).first() or LangfuseConnection(
        name=name, source=source
    )
    wanted = (host, public_key, settings.LANGFUSE_PLAN, True)
    if (
        connection.host,
        connection.public_key,
        connection.plan,
        connection.is_enabled,
    ) != wanted or not _has_secret(connection, secret_key):
        if connection.host != host:
            connection.api = ""
        connection.host, connection.public_key, connection.plan, connection.is_enabled = wanted
        connection.secret_key = secret_key
        connection.save()
    return connection


def _has_secret(connection: LangfuseConnection, secret_key: str) -> bool:
    """Whether the row has this secret.

    One that can't be decrypted any more is as good as another: the environment has the right one.
    """
    try:
        return bool(connection.encrypted_secret_key) and connection.secret_key == secret_key
    except ImproperlyConfigured:
        return False


def sandbox_host() -> str:
    return f"http://127.0.0.1:{settings.SANDBOX_PORT}"


def enabled_connections() -> list[LangfuseConnection]:
    """Every connection to read, the environment's (or the sandbox's) included."""
    configured_connection()
    return list(LangfuseConnection.objects.filter(is_enabled=True).order_by("pk"))


def client_for(connection: LangfuseConnection) -> LangfuseClientService:
    """A client for the connection, within the budget that all workers share.

    Raises UnreadableKey, which is this connection's trouble and no other's.
    """
    try:
        secret_key = connection.secret_key
    except ImproperlyConfigured as error:
        raise UnreadableKey(f"Connection {connection.name}: {error}") from error
    budget = RequestBudget(str(connection.pk), LIMITS_OF_PLAN[connection.plan])
    return LangfuseClientService(
        connection.host,
        connection.public_key,
        secret_key,
        api=connection.api,
        budget=budget,
    )


def remember_api(connection: LangfuseConnection, api: str) -> None:
    """Keep how the server is read; "" to find it out anew, after an update of the server
    perhaps.
    """
    if connection.api != api:
        connection.api = api
        connection.save(update_fields=["api"])
