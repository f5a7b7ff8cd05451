"""Which Langfuse projects are read, and how far."""

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from kluisz_analytics.fields import UsdField
from kluisz_analytics.secrets import decrypt, encrypt
from kluisz_analytics.tenants.models import Tenant
from usage.environments import billed_environments


def validate_environments(text: str) -> None:
    try:
        billed_environments(text)
    except ValueError as error:
        raise ValidationError(str(error), code="unknown_environments") from error


NOTICE_OF_WRITE_MODE = {
    "events_only": (
        "This Langfuse refuses the traces and observations that older SDKs send to"
        " /api/public/ingestion (207, with 400 inside): their usage never arrives, and nothing here"
        " can show it. Update those SDKs, or set LANGFUSE_MIGRATION_V4_WRITE_MODE=dual for as long"
        " as there are any."
    ),
    "dual": (
        "What older SDKs send is readable only when a batch job of this Langfuse has moved it, some"
        " ten minutes later: an hour counts as read 20 minutes after its end."
    ),
    "legacy": (
        "This Langfuse answers v2 without the data, so it is read by v1, a hundred observations at"
        " a time. A reconciliation compares how many there are, not what they cost nor whose they"
        " are. Set LANGFUSE_MIGRATION_V4_WRITE_MODE=dual or events_only for both."
    ),
}


class LangfuseConnection(models.Model):
    """A Langfuse project to read. Its secret key is encrypted at rest and never shown again."""

    class Source(models.TextChoices):
        SANDBOX = "sandbox", "Embedded sandbox"
        ENVIRONMENT = "environment", "Environment (KLUISZ_LANGFUSE_…)"
        ROW = "row", "Entered here"

    name = models.SlugField(max_length=100, unique=True)
    source = models.CharField(
        max_length=20, choices=Source.choices, default=Source.ROW, editable=False
    )
    host = models.URLField(max_length=500, help_text="For example https://cloud.langfuse.com")
    public_key = models.CharField(max_length=200)
    encrypted_secret_key = models.TextField(blank=True, editable=False)
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Fixed: all of this project's usage belongs to this tenant.",
    )

    class Plan(models.TextChoices):
        SELF_HOSTED = "self_hosted", "Self-hosted (no limits)"
        HOBBY = "hobby", "Cloud Hobby"
        CORE = "core", "Cloud Core"
        PRO = "pro", "Cloud Pro, Team or Enterprise"

    class Api(models.TextChoices):
        V2 = "v2", "v2 (Langfuse 4)"
        V1 = "v1", "v1 (Langfuse 2 and 3, and 4 in write mode legacy)"

    class WriteMode(models.TextChoices):
        """LANGFUSE_MIGRATION_V4_WRITE_MODE of a Langfuse 4 (langfuse.md, Which API)."""

        EVENTS_ONLY = "events_only", "events_only (Langfuse Cloud, too)"
        DUAL = "dual", "dual"
        LEGACY = "legacy", "legacy"

    plan = models.CharField(
        max_length=20,
        choices=Plan.choices,
        default=Plan.SELF_HOSTED,
        help_text="Sets how many requests all workers together may make.",
    )
    organization = models.CharField(
        max_length=100,
        blank=True,
        help_text=(
            "Langfuse's limits count for an organization: connections of the same one share them."
            " Any name for it; empty, its id is asked for at the first sync."
        ),
    )
    api = models.CharField(
        max_length=2,
        choices=Api.choices,
        blank=True,
        editable=False,
        help_text="Found out at the first sync.",
    )
    write_mode = models.CharField(
        max_length=11,
        choices=WriteMode.choices,
        blank=True,
        editable=False,
        help_text=(
            "How a Langfuse 4 stores what it receives; none of an older one. Found out at the first"
            " sync, and anew at each reconciliation."
        ),
    )
    project_id = models.CharField(
        max_length=200,
        blank=True,
        editable=False,
        help_text="The project that it reads, as Langfuse names it. Once known, it never changes.",
    )
    server = models.SlugField(
        max_length=100,
        blank=True,
        help_text=(
            "Only for a project whose id another server's project has, too"
            " (LANGFUSE_INIT_PROJECT_ID): any name for this server."
        ),
    )
    billed_environments = models.CharField(
        max_length=500,
        blank=True,
        validators=[validate_environments],
        help_text=(
            "Names apart by commas, with * at the end for all that begin so; empty: all but"
            " langfuse-* (Langfuse's evaluators). What runs in others is counted and costs no"
            " credits."
        ),
    )
    environments_applied = models.CharField(
        max_length=500,
        blank=True,
        editable=False,
        help_text="The billed environments by which all that is stored is charged.",
    )
    is_enabled = models.BooleanField(default=True)
    complete_through = models.DateTimeField(
        null=True,
        blank=True,
        editable=False,
        help_text="Up to when all of it had been read when its last run began. Never goes back.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "langfuse_connection"
        ordering = ["name"]
        constraints = [
            # Two would bill the same usage twice. Ids are unique over all servers, unless chosen by
            # hand; a server can have several addresses.
            models.UniqueConstraint(
                fields=["server", "project_id"],
                condition=~Q(project_id=""),
                name="one_connection_a_project",
            ),
            # Processes that start at the same moment each enter it.
            models.UniqueConstraint(
                fields=["source"],
                condition=~Q(source="row"),
                name="one_connection_of_the_environment",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def notice(self) -> str:
        """What an operator should know of the way in which its server stores usage; "" for
        nothing.
        """
        if self.plan != self.Plan.SELF_HOSTED:
            return ""
        return NOTICE_OF_WRITE_MODE.get(self.write_mode, "")

    @property
    def secret_key(self) -> str:
        """The secret key in clear.

        Raises ImproperlyConfigured when no configured key can decrypt it.
        """
        return decrypt(self.encrypted_secret_key)

    @secret_key.setter
    def secret_key(self, value: str) -> None:
        self.encrypted_secret_key = encrypt(value)


class ConnectionTenant(models.Model):
    """A tenant of which something was read by a connection: how far that is read, concerns it."""

    connection = models.ForeignKey(LangfuseConnection, on_delete=models.CASCADE, related_name="+")
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+")

    class Meta:
        db_table = "langfuse_connection_tenant"
        ordering = ["connection", "tenant"]
        verbose_name = "tenant of a connection"
        verbose_name_plural = "tenants of connections"
        constraints = [
            models.UniqueConstraint(
                fields=["connection", "tenant"], name="one_row_a_connection_and_tenant"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant}, by {self.connection}"


class SyncWindow(models.Model):
    """One hour of one connection: what a worker leases, reads and completes."""

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        LEASED = "leased", "Leased"
        DONE = "done", "Done"

    connection = models.ForeignKey(
        LangfuseConnection, on_delete=models.CASCADE, related_name="windows"
    )
    start = models.DateTimeField()
    end = models.DateTimeField()
    state = models.CharField(max_length=10, choices=State.choices, default=State.PENDING)
    leased_by = models.CharField(max_length=100, blank=True)
    leased_until = models.DateTimeField(null=True, blank=True)
    read_at = models.DateTimeField(null=True, blank=True, help_text="When it was last read.")
    complete_through = models.DateTimeField(
        null=True,
        blank=True,
        help_text="Everything that Langfuse had received of this hour up to then is stored.",
    )
    observations = models.PositiveIntegerField(default=0)
    # What Langfuse's metrics said of the hour before it was last read; unknown where nobody asked.
    # A change means: read it again.
    langfuse_count = models.BigIntegerField(null=True)
    langfuse_tokens = models.BigIntegerField(null=True)
    langfuse_cost_usd = models.FloatField(
        null=True, help_text="A float sum of Langfuse's; compared, never billed."
    )
    error = models.TextField(blank=True)

    class Meta:
        db_table = "sync_window"
        ordering = ["-start"]
        constraints = [
            models.UniqueConstraint(fields=["connection", "start"], name="one_window_an_hour"),
            models.CheckConstraint(
                condition=Q(end__gt=F("start")), name="window_ends_after_it_starts"
            ),
        ]
        indexes = [
            # Each answer asks for the first of these; there are hardly any.
            models.Index(
                fields=["connection", "start"],
                condition=Q(complete_through__isnull=True) | Q(complete_through__lt=F("end")),
                name="window_not_wholly_read",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.connection} {self.start:%Y-%m-%d %H:00}"


class SyncTurn(models.Model):
    """Whose turn it is to sync or to reconcile a connection: of the tasks on the queue, one's at a
    time.
    """

    connection = models.ForeignKey(LangfuseConnection, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=20)
    held_by = models.CharField(max_length=32, blank=True)
    held_until = models.DateTimeField()

    class Meta:
        db_table = "sync_turn"
        constraints = [
            models.UniqueConstraint(fields=["connection", "kind"], name="one_turn_a_connection")
        ]

    def __str__(self) -> str:
        return f"{self.connection} {self.kind}"


class SyncRun(models.Model):
    """One run of the sync over one connection, as operators see it."""

    class Kind(models.TextChoices):
        SYNC = "sync", "Sync"
        RECONCILIATION = "reconciliation", "Reconciliation"

    class Outcome(models.TextChoices):
        RUNNING = "running", "Running"
        COMPLETE = "complete", "Complete"
        SHARED = "shared", "Shared: other workers read a part"
        FAILED = "failed", "Failed"
        INTERRUPTED = "interrupted", "Interrupted"

    connection = models.ForeignKey(
        LangfuseConnection, on_delete=models.CASCADE, related_name="runs"
    )
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    last_seen_at = models.DateTimeField(
        default=timezone.now, help_text="When its worker last gave a sign of life."
    )
    outcome = models.CharField(max_length=12, choices=Outcome.choices, default=Outcome.RUNNING)
    kind = models.CharField(max_length=20, choices=Kind.choices, default=Kind.SYNC)
    windows = models.PositiveIntegerField(default=0)
    windows_drifted = models.PositiveIntegerField(
        default=0, help_text="Hours that had changed in Langfuse since they were read."
    )
    windows_elsewhere = models.PositiveIntegerField(
        default=0, help_text="Hours that were due and that other workers read."
    )
    observations_read = models.PositiveBigIntegerField(default=0)
    observations_stored = models.PositiveBigIntegerField(default=0)
    observations_rejected = models.PositiveBigIntegerField(default=0)
    traces_changed = models.PositiveBigIntegerField(default=0)
    observations_deleted = models.PositiveBigIntegerField(
        default=0, help_text="Found to be deleted in Langfuse. They stay billed."
    )
    transactions_posted = models.PositiveBigIntegerField(default=0)
    error = models.TextField(blank=True)

    class Meta:
        db_table = "sync_run"
        ordering = ["-started_at"]
        get_latest_by = "started_at"
        constraints = [
            models.CheckConstraint(
                condition=~Q(outcome="failed") | ~Q(error=""), name="a_failed_run_says_why"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.connection} {self.started_at:%Y-%m-%d %H:%M}"


class SyncDrift(models.Model):
    """An hour, or a day of a tenant or of all, of which Langfuse said something else than before it
    was last read; read again, it changed this in our facts.
    """

    class Period(models.TextChoices):
        HOUR = "hour", "Hour"
        DAY = "day", "Day"

    run = models.ForeignKey(SyncRun, on_delete=models.CASCADE, related_name="drifts")
    start = models.DateTimeField(help_text="The hour; of a day the first.")
    period = models.CharField(max_length=4, choices=Period.choices, default=Period.HOUR)
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Whose day it is, where it was found by the figures of one tenant.",
    )
    count_before = models.BigIntegerField()
    count_now = models.BigIntegerField()
    tokens_before = models.BigIntegerField()
    tokens_now = models.BigIntegerField()
    cost_usd_before = models.FloatField(help_text="Langfuse's float sum; compared, never billed.")
    cost_usd_now = models.FloatField(help_text="Langfuse's float sum; compared, never billed.")
    users_before = models.BigIntegerField(null=True)
    users_now = models.BigIntegerField(null=True)
    observations_stored = models.PositiveIntegerField(
        null=True, help_text="New or changed ones that the repair stored; unknown until then."
    )
    observations_deleted = models.PositiveIntegerField(null=True)

    class Meta:
        db_table = "sync_drift"
        ordering = ["-run", "-start"]
        constraints = [
            models.UniqueConstraint(
                fields=["run", "start", "period"],
                condition=Q(tenant=None),
                name="one_drift_a_run_and_period",
            ),
            models.UniqueConstraint(
                fields=["run", "start", "tenant"],
                condition=~Q(tenant=None),
                name="one_drift_a_run_tenant_and_day",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.run.connection} {self.start:%Y-%m-%d %H:00}"


class TenantComparison(models.Model):
    """When a connection's Langfuse was last asked what a tenant used, or all of the project; a day
    without a row of its own (:class:`TenantDay`) had nothing then.
    """

    connection = models.ForeignKey(LangfuseConnection, on_delete=models.CASCADE, related_name="+")
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="+"
    )
    compared_at = models.DateTimeField()

    class Meta:
        db_table = "langfuse_tenant_comparison"
        ordering = ["connection", "tenant"]
        constraints = [
            models.UniqueConstraint(
                fields=["connection", "tenant"], name="one_comparison_a_connection_and_tenant"
            ),
            models.UniqueConstraint(
                fields=["connection"],
                condition=Q(tenant=None),
                name="one_comparison_of_a_whole_connection",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant or 'All'}, by {self.connection}"


class TenantDay(models.Model):
    """What Langfuse said of a tenant's day (in UTC), or of all that is in the project, and what
    we have of it.

    The two need not be equal: Langfuse counts each version of a step that was sent again until it
    merges them, and a step on its own day, where we count a run on the day of its first step; and
    only steps that name the tenant themselves are its there.
    """

    connection = models.ForeignKey(LangfuseConnection, on_delete=models.CASCADE, related_name="+")
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Empty: all that is in the project, whoever's it is.",
    )
    day = models.DateField()
    langfuse_count = models.BigIntegerField()
    langfuse_tokens = models.BigIntegerField()
    langfuse_cost_usd = models.FloatField(
        help_text="A float sum of Langfuse's; compared, never billed."
    )
    langfuse_users = models.BigIntegerField()
    langfuse_users_digest = models.CharField(
        max_length=32,
        blank=True,
        help_text="A digest of what each user had; empty where there are too many to ask for.",
    )
    observations = models.BigIntegerField(default=0)
    tokens = models.BigIntegerField(default=0)
    cost_usd = UsdField(default=0)
    users = models.BigIntegerField(default=0)
    compared_at = models.DateTimeField()

    class Meta:
        db_table = "langfuse_tenant_day"
        ordering = ["-day", "tenant"]
        verbose_name = "tenant's day compared with Langfuse"
        verbose_name_plural = "tenants' days compared with Langfuse"
        constraints = [
            models.UniqueConstraint(
                fields=["connection", "tenant", "day"],
                name="one_row_a_connection_tenant_and_day",
            ),
            models.UniqueConstraint(
                fields=["connection", "day"],
                condition=Q(tenant=None),
                name="one_row_a_whole_connection_and_day",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant or 'All'} {self.day}"
