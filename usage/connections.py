"""Which Langfuse connections there are: rows, and the one of the environment or the embedded
sandbox.
"""

from itertools import count

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import IntegrityError, transaction

from usage.facts.environments import bill_in
from usage.langfuse.budget import LIMITS_OF_PLAN, RequestBudget
from usage.langfuse.client import LangfuseClientService, LangfuseProject
from usage.langfuse.errors import LangfuseError, UnreadableKey
from usage.langfuse.http import Patience
from usage.models import LangfuseConnection

Source = LangfuseConnection.Source

SANDBOX_NAME = "sandbox"
ENVIRONMENT_NAME = "environment"
CONFIGURED = (
    "host",
    "public_key",
    "encrypted_secret_key",
    "plan",
    "is_enabled",
    "api",
    "write_mode",
)
"""What the environment says of its connection; the rest is the sync's."""


class WrongProject(LangfuseError):
    """The keys are for a project that the connection must not read."""


def configured_connection() -> LangfuseConnection:
    """The connection that the environment names, else the embedded sandbox's (architecture.md,
    Configuration).

    The other of the two is disabled, so that a real Langfuse never mixes with the sandbox's data
    anew. Keys that were entered as a connection before go on as that connection, with all that it
    has read. Workers that start at once come to the same row.
    """
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
    try:
        with transaction.atomic():
            return _stored(name, source, host, public_key, secret_key)
    except IntegrityError:
        # Another process, started at the same moment, has stored it since: there is one of each.
        return _stored(name, source, host, public_key, secret_key)


def _stored(
    name: str, source: Source, host: str, public_key: str, secret_key: str
) -> LangfuseConnection:
    connection = _row_of(source, host, public_key) or LangfuseConnection(
        name=_free_name(name), source=source
    )
    wanted = (host, public_key, settings.LANGFUSE_PLAN, True)
    if (
        connection.host,
        connection.public_key,
        connection.plan,
        connection.is_enabled,
    ) != wanted or not _has_secret(connection, secret_key):
        if connection.host != host:
            connection.api = connection.write_mode = ""
        connection.host, connection.public_key, connection.plan, connection.is_enabled = wanted
        connection.secret_key = secret_key
        connection.save(update_fields=CONFIGURED if connection.pk else None)
    if connection.billed_environments != settings.LANGFUSE_BILLED_ENVIRONMENTS:
        bill_in(connection, settings.LANGFUSE_BILLED_ENVIRONMENTS)
    return connection


def _row_of(source: Source, host: str, public_key: str) -> LangfuseConnection | None:
    """The row of this source; an entered one with these keys takes its place."""
    rows = LangfuseConnection.objects
    current = rows.filter(source=source).first()
    if current and (current.host, current.public_key) == (host, public_key):
        return current
    same_host = {host.rstrip("/"), host.rstrip("/") + "/"}
    entered = rows.filter(source=Source.ROW, host__in=same_host, public_key=public_key).first()
    if entered is None:
        return current
    with transaction.atomic():
        rows.filter(source=source).update(source=Source.ROW, is_enabled=False)
        rows.filter(pk=entered.pk).update(source=source)
    entered.source = source
    return entered


def _free_name(name: str) -> str:
    """The name, with a number where a connection has it already."""
    taken = set(
        LangfuseConnection.objects.filter(name__startswith=name).values_list("name", flat=True)
    )
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(one for one in numbered if one not in taken)


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


def client_for(
    connection: LangfuseConnection, patience: Patience | None = None
) -> LangfuseClientService:
    """A client for the connection, within the budget that all workers share, and with it all
    connections of its organization.

    Raises UnreadableKey, which is this connection's trouble and no other's.
    """
    try:
        secret_key = connection.secret_key
    except ImproperlyConfigured as error:
        raise UnreadableKey(f"Connection {connection.name}: {error}") from error
    shared = connection.organization or str(connection.pk)
    budget = RequestBudget(shared, LIMITS_OF_PLAN[connection.plan])
    return LangfuseClientService(
        connection.host,
        connection.public_key,
        secret_key,
        api=connection.api,
        write_mode=connection.write_mode,
        budget=budget,
        patience=patience,
    )


def claim_project(connection: LangfuseConnection, client: LangfuseClientService) -> LangfuseProject:
    """The project of the connection's keys, which from now on is the connection's.

    Raises WrongProject where the connection has read another one, or where another connection reads
    this one. Call it before anything is read.
    """
    project = client.project()
    _remember_organization(connection, project)
    if connection.project_id == project.id:
        return project
    own = LangfuseConnection.objects.filter(pk=connection.pk)
    try:
        with transaction.atomic():
            claimed = own.filter(project_id__in=("", project.id)).update(project_id=project.id)
    except IntegrityError as error:
        raise WrongProject(_read_by_another(connection, project.id)) from error
    connection.project_id = own.values_list("project_id", flat=True).get()
    if not claimed:
        raise WrongProject(_read_another(connection, project.id))
    return project


def _remember_organization(connection: LangfuseConnection, project: LangfuseProject) -> None:
    """Where its plan has limits: ids of organizations are unique there."""
    has_limits = bool(LIMITS_OF_PLAN[connection.plan])
    if has_limits and not connection.organization and project.organization:
        connection.organization = project.organization
        connection.save(update_fields=["organization"])


def check_project(connection: LangfuseConnection, project_id: str) -> None:
    """Whether the connection, which may not be stored yet, may read the project.

    Raises WrongProject as :func:`claim_project` does.
    """
    if connection.project_id not in ("", project_id):
        raise WrongProject(_read_another(connection, project_id))
    if holder_of(connection, project_id) is not None:
        raise WrongProject(_read_by_another(connection, project_id))


def holder_of(connection: LangfuseConnection, project_id: str) -> LangfuseConnection | None:
    """The other connection that has the project."""
    same = LangfuseConnection.objects.filter(server=connection.server, project_id=project_id)
    return same.exclude(pk=connection.pk).first()


def is_retired(connection: LangfuseConnection) -> bool:
    """Whether it was the environment's, whose keys are no longer there."""
    return connection.source == Source.ENVIRONMENT and settings.USES_SANDBOX


def _read_another(connection: LangfuseConnection, project_id: str) -> str:
    whose = (
        "The keys of KLUISZ_LANGFUSE_…"
        if connection.source == Source.ENVIRONMENT
        else f"The keys of connection “{connection.name}”"
    )
    return (
        f"{whose} are for the project “{project_id}”, and so far this connection has read the"
        f" project “{connection.project_id}”. Nothing was read. Enter keys of"
        f" “{connection.project_id}” again, and those of “{project_id}” as a connection of their"
        " own (Sync, Langfuse connections)."
    )


def _read_by_another(connection: LangfuseConnection, project_id: str) -> str:
    holder = holder_of(connection, project_id)
    name = holder.name if holder else "?"
    if holder and is_retired(holder):
        way_out = (
            "That one was the environment's: enter these keys as a new connection, and it goes on"
            " with all that was read"
        )
    elif holder and holder.source != Source.ROW:
        way_out = "That one is the environment's: take its keys out of the environment first"
    else:
        way_out = f"To go on with other keys, enter them at “{name}”"
    return (
        f"The keys of connection “{connection.name}” are for the project “{project_id}”, which is"
        f" that of the connection “{name}”: its usage would be billed twice. Nothing was read."
        f" {way_out}. If it is another server's project with the same id, enter a name of that"
        " server at “Server”."
    )


def remember_server(connection: LangfuseConnection, api: str, write_mode: str) -> None:
    """Keep how the server is read and in which write mode it is; "" to find it out anew, after an
    update of the server perhaps.
    """
    if (connection.api, connection.write_mode) != (api, write_mode):
        connection.api, connection.write_mode = api, write_mode
        connection.save(update_fields=["api", "write_mode"])
