"""Facts: what Langfuse last said of each trace's steps, each trace as decided and priced from them,
and each step that is billed.

A trace's key is a digest of (connection, trace id): the sync knows it before it has seen the
database, and one unique index serves both identity and joins.
"""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from kluisz_analytics.fields import CreditsField, UsdField
from kluisz_analytics.tenants.attributed import OWNED_LOOKUPS, is_attributed, is_owned
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import CostSource, Uncharged
from pricing.units import Doubt
from usage.facts import owner
from usage.facts.findings import Finding
from usage.measures import DIMENSIONS, TOKENS
from usage.models.connections import LangfuseConnection

WITHOUT_WHOLE_COST = (
    CostSource.PARTLY_PRICED.value,
    CostSource.UNMETERED.value,
    CostSource.UNPRICED.value,
)
"""Of billed steps whose cost is not, or not wholly, known; as the index of them says it."""
NOT_OWNED = Q(*((name, not known) for name, known in OWNED_LOOKUPS.items()), _connector=Q.OR)
"""Traces whose tenant or user is not known: as the index of them says it, so that it is used."""


class TokenColumns(models.Model):
    """Token counts (pricing.units.TokenCounts)."""

    total_tokens: int

    class Meta:
        abstract = True


for _name in TOKENS:
    TokenColumns.add_to_class(_name, models.BigIntegerField(default=0))


class DimensionColumns(models.Model):
    """The dimensions of a trace that are texts (usage.measures, Dimensions)."""

    project_id: str
    flow_id: str
    environment: str

    class Meta:
        abstract = True


for _declared in DIMENSIONS.values():
    if _declared.trace is not None and not _declared.is_owner:
        _column = models.CharField(max_length=200, blank=True)
        DimensionColumns.add_to_class(_declared.trace, _column)


class Trace(TokenColumns, DimensionColumns):
    """One flow run (domain.md, What is counted).

    ``hour`` is the hour of its own time; all its usage counts there.
    """

    id = models.UUIDField(primary_key=True)
    # What these name can't go away: its windows keep the connection, its user's number the user,
    # and the tenant as UserUsageStats says. So that is not checked for each trace as it is stored,
    # a tenth of the work of PostgreSQL in a sync; verify_books does.
    connection = models.ForeignKey(
        LangfuseConnection,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    langfuse_trace_id = models.CharField(max_length=200)
    name = models.CharField(max_length=200, blank=True)
    start_time = models.DateTimeField()
    hour = models.DateTimeField()
    last_step_hour = models.DateTimeField(
        null=True,
        help_text="The hour of its last step, where that began in a later one than its own.",
    )
    latency_ms = models.BigIntegerField(null=True)
    is_failed = models.BooleanField()
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    user = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    tenant_reference = models.CharField(
        max_length=200, blank=True, help_text="The tenant as the trace names it."
    )
    user_reference = models.CharField(
        max_length=200, blank=True, help_text="The user as the trace names it."
    )
    # Most traces use one model; of these, usage by model is read without their steps.
    model = models.CharField(
        max_length=200,
        blank=True,
        null=True,
        help_text="The model of all its usage. Null: of several.",
    )
    observations = models.IntegerField()
    deleted_observations = models.IntegerField(
        default=0, help_text="Deleted in Langfuse since they were read; still billed unless voided."
    )
    priced_observations = models.IntegerField()
    partly_priced_observations = models.IntegerField(default=0)
    unpriced_observations = models.IntegerField()
    unmetered_observations = models.IntegerField(default=0)
    doubtful_observations = models.IntegerField(default=0)
    cost_usd = UsdField(null=True, help_text="Unknown when nothing of its usage has a price.")
    billed_cost_usd = UsdField(null=True)
    credits = CreditsField(null=True)
    rate_id = models.BigIntegerField(null=True, help_text="The tier's rate that priced it.")
    priced_as_of = models.DateTimeField(
        help_text="It is priced with the lists as they were then, unless its period was repriced."
    )
    is_voided = models.BooleanField(
        default=False, help_text="Taken out of all numbers and of the ledger by an operator."
    )
    set_aside = models.CharField(
        max_length=500,
        blank=True,
        help_text="Why it has no cost or no charge: it would come to more than any run can.",
    )

    uncharged = models.CharField(
        max_length=12,
        blank=True,
        choices=[
            (Uncharged.ENVIRONMENT.value, "Its environment isn't billed"),
            (Uncharged.FAILED.value, "It failed, and its tier doesn't charge that"),
            (Uncharged.TWICE.value, "All of it is counted in another run"),
        ],
        help_text="Why it costs no credits, by a rule.",
    )
    # Of a run whose tenant and user don't belong together (usage.facts.owner).
    dispute = models.CharField(
        max_length=20, blank=True, help_text="Why it can't be said whose it is."
    )
    settled_as = models.CharField(
        max_length=20, blank=True, help_text="What an operator settled the dispute as."
    )
    disputed_tenant = models.ForeignKey(
        Tenant,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )
    disputed_user = models.ForeignKey(
        User,
        null=True,
        on_delete=models.PROTECT,
        related_name="+",
        db_index=False,
        db_constraint=False,
    )

    # By attribution rules (usage.facts.rules).
    attribution = models.TextField(
        blank=True,
        default="",
        db_default="",
        help_text="JSON: what attribution rules gave, and whether it found somebody.",
    )
    unowned_as_of = models.DateTimeField(
        null=True, help_text="What its priced_as_of was before a rule found its owner."
    )

    source = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The integration that recorded its first step. Empty: Langfuse's own SDK.",
    )
    source_version = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The version of that integration, where it says one.",
    )

    class Meta:
        db_table = "usage_trace"
        ordering = ["-start_time"]
        indexes = [
            models.Index(fields=["start_time"], name="trace_by_start"),
            models.Index(fields=["tenant", "start_time"], name="trace_by_tenant"),
            # How long a user's runs took is read from this alone.
            models.Index(
                fields=["user", "start_time"],
                include=["tenant", "latency_ms", "is_voided"],
                name="trace_by_user",
            ),
            models.Index(fields=["flow_id", "start_time"], name="trace_by_flow"),
            # load_directory looks here for usage whose tenant or user has become known.
            models.Index(
                fields=["user_reference", "tenant_reference"],
                condition=NOT_OWNED,
                name="trace_unattributed",
            ),
            models.Index(
                fields=["start_time"], condition=Q(deleted_observations__gt=0), name="trace_deleted"
            ),
            models.Index(fields=["start_time"], condition=~Q(set_aside=""), name="trace_set_aside"),
            models.Index(
                fields=["disputed_user", "start_time"],
                condition=~Q(dispute=""),
                name="trace_disputed",
            ),
            # Whoever reads an hour again looks here for the traces that run into it.
            models.Index(
                fields=["last_step_hour", "start_time"],
                condition=Q(last_step_hour__isnull=False),
                name="trace_by_last_step",
            ),
        ]

    def __str__(self) -> str:
        return self.langfuse_trace_id

    @property
    def is_attributed(self) -> bool:
        return is_attributed(self.tenant_id)

    @property
    def is_owned(self) -> bool:
        return is_owned(self.tenant_id, self.user_id)


class Disputes(models.Manager["DisputedTrace"]):
    def get_queryset(self) -> models.QuerySet["DisputedTrace"]:
        """Voided ones are in no dispute."""
        return super().get_queryset().filter(~Q(dispute=""), is_voided=False)


class DisputedTrace(Trace):
    """A trace whose tenant and user don't belong together, as a page of its own."""

    objects: ClassVar[Disputes] = Disputes()  # type: ignore[assignment]

    class Meta:
        proxy = True
        ordering = ["-start_time"]
        verbose_name = "disputed trace"


class ReceivedTrace(models.Model):
    """What Langfuse last said of each step of a trace, in one row.

    ``usage.facts.received`` reads and writes it.
    """

    trace = models.OneToOneField(
        Trace,
        primary_key=True,
        on_delete=models.PROTECT,
        related_name="received",
        db_constraint=False,
    )
    steps = models.TextField(
        help_text="JSON: the newest version of each step, with what it says of its trace."
    )
    deleted = models.TextField(
        default="",
        db_default="",
        help_text="JSON: step → since when it is deleted in Langfuse. It stays billed.",
    )

    class Meta:
        db_table = "usage_received_trace"
        ordering = ["trace"]
        verbose_name = "trace as received"
        verbose_name_plural = "traces as received"

    def __str__(self) -> str:
        return str(self.pk)


class Observation(TokenColumns):
    """A step that is billed: it used something, or a tier's minimum is charged for it.

    Of all others, ReceivedTrace knows.
    """

    class Type(models.TextChoices):
        SPAN = "SPAN"
        GENERATION = "GENERATION"
        EVENT = "EVENT"
        AGENT = "AGENT"
        TOOL = "TOOL"
        CHAIN = "CHAIN"
        RETRIEVER = "RETRIEVER"
        EVALUATOR = "EVALUATOR"
        EMBEDDING = "EMBEDDING"
        GUARDRAIL = "GUARDRAIL"

    class Level(models.TextChoices):
        DEBUG = "DEBUG"
        DEFAULT = "DEFAULT"
        WARNING = "WARNING"
        ERROR = "ERROR"

    class Source(models.TextChoices):
        TENANT_PRICE = CostSource.TENANT_PRICE.value, "The tenant's own price"
        PLATFORM_PRICE = CostSource.PLATFORM_PRICE.value, "A platform price in place of Langfuse's"
        LANGFUSE = CostSource.LANGFUSE.value, "Langfuse's cost"
        LANGFUSE_AND_PRICE = (
            CostSource.LANGFUSE_AND_PRICE.value,
            "Langfuse's cost, and a price of ours for what it leaves out",
        )
        LANGFUSE_AND_BOOK = (
            CostSource.LANGFUSE_AND_BOOK.value,
            "Langfuse's cost, and the shipped price book's for what it leaves out",
        )
        FALLBACK_PRICE = CostSource.FALLBACK_PRICE.value, "A platform price where Langfuse has none"
        PRICE_BOOK = CostSource.PRICE_BOOK.value, "The shipped price book"
        PARTLY_PRICED = (
            CostSource.PARTLY_PRICED.value,
            "Partly priced: Langfuse's cost leaves out units that nobody has a price for",
        )
        UNPRICED = CostSource.UNPRICED.value, "Unpriced: cost unknown"
        UNMETERED = CostSource.UNMETERED.value, "Unmetered: a call that says no usage"
        NO_USAGE = CostSource.NO_USAGE.value, "No usage"

    class UsageDoubt(models.TextChoices):
        MORE_THAN_TOTAL = Doubt.MORE_THAN_TOTAL.value, "More tokens than its own total says"
        LESS_THAN_TOTAL = Doubt.LESS_THAN_TOTAL.value, "Fewer tokens than its own total says"
        BELOW_ZERO = Doubt.BELOW_ZERO.value, "Langfuse took out more than there was: some is lost"
        DETAILS_DROPPED = Doubt.DETAILS_DROPPED.value, "Langfuse may have dropped its details"
        TOTAL_ALONE = Doubt.TOTAL_ALONE.value, "Nothing but a total: counted as input"
        OVERLAP = Doubt.OVERLAP.value, "Cached tokens that are of audio or images, too"

    class Doubtful(models.TextChoices):
        SUM = Finding.SUM.value, "It carries what the steps inside it used"
        TWICE = Finding.TWICE.value, "Another step records the same call"
        ALIKE = Finding.ALIKE.value, "Another run's step is ruled to be the same call"
        COST = Finding.COST.value, "Langfuse's cost is far from the price lists'"
        FREE = Finding.FREE.value, "Langfuse says that it cost nothing"

    id = models.BigAutoField(primary_key=True)
    # Written in one transaction with its trace; verify_books checks what a constraint would check
    # millions of times.
    trace = models.ForeignKey(
        Trace, on_delete=models.PROTECT, related_name="billed_observations", db_constraint=False
    )
    langfuse_observation_id = models.CharField(max_length=200)
    type = models.CharField(max_length=12, choices=Type.choices)
    name = models.CharField(max_length=200, blank=True)
    level = models.CharField(max_length=8, choices=Level.choices)
    is_root = models.BooleanField()
    model = models.CharField(max_length=200, blank=True)
    source = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The integration that recorded it. Empty: Langfuse's own SDK.",
    )
    source_version = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The version of that integration, where it says one.",
    )
    context = models.CharField(
        max_length=100,
        blank=True,
        default="",
        db_default="",
        help_text="How the model was asked, where that changes the price: service_tier=flex.",
    )
    start_time = models.DateTimeField()
    end_time = models.DateTimeField(null=True)
    usage_details = models.TextField(
        blank=True, help_text="JSON: unit → count, as the provider named them."
    )
    uncosted = models.TextField(
        blank=True, default="", help_text="JSON: the units that Langfuse's cost leaves out."
    )
    usage_doubt = models.CharField(
        max_length=20,
        blank=True,
        default="",
        choices=UsageDoubt,
        help_text="What does not add up in its usage, or can't be known from it.",
    )
    finding = models.CharField(
        max_length=5,
        blank=True,
        default="",
        db_default="",
        choices=Doubtful,
        help_text="What else doesn't add up.",
    )
    other_cost_usd = UsdField(
        null=True, help_text="What it would cost by the figure that is not counted."
    )
    takes = models.CharField(
        max_length=10,
        blank=True,
        default="",
        db_default="",
        help_text="Which figure is counted, where that was ruled.",
    )
    counted_in = models.CharField(
        max_length=200,
        blank=True,
        default="",
        db_default="",
        help_text="The step that its usage is counted in; here it costs nothing.",
    )
    counted_in_trace = models.UUIDField(
        null=True, help_text="That step's trace, where it is another one."
    )
    langfuse_cost_usd = UsdField(null=True)
    cost_usd = UsdField(null=True)
    cost_source = models.CharField(max_length=20, choices=Source.choices)
    price_id = models.BigIntegerField(null=True, help_text="The model price that priced it.")
    billed_cost_usd = UsdField(null=True, help_text="Its part of what the trace is billed.")
    credits = CreditsField(null=True, help_text="Its part of the trace's credits.")

    class Meta:
        db_table = "usage_observation"
        ordering = ["-start_time"]
        indexes = [
            # The list of the admin.
            models.Index(fields=["start_time"], name="observation_by_start"),
            models.Index(
                fields=["model"],
                condition=Q(cost_source__in=WITHOUT_WHOLE_COST),
                name="observation_unpriced",
            ),
            models.Index(
                fields=["finding", "model", "trace"],
                condition=~Q(finding=""),
                name="observation_doubtful",
            ),
            models.Index(
                fields=["model", "trace"],
                condition=~Q(usage_doubt=""),
                name="observation_usage_doubt",
            ),
        ]

    def __str__(self) -> str:
        return self.name or self.langfuse_observation_id


class ResponseTraces(models.Model):
    """Which traces say that a step of theirs is of this response of a provider's: mostly one, and
    two where a gateway and an SDK recorded it (``usage.facts.ties``).

    Its key is a digest of the connection and the response's id.
    """

    id = models.UUIDField(primary_key=True)
    is_sign = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Not a response's id, but what likely records of one call have in common.",
    )
    traces = models.TextField(
        help_text="The keys of the traces, sorted; “*” where they are too many to be of one call."
    )

    class Meta:
        db_table = "usage_response"
        ordering = ["id"]
        verbose_name = "response"

    def __str__(self) -> str:
        return str(self.pk)


class TraceVoid(models.Model):
    """Who voided a trace that is deleted in Langfuse, and why.

    Without it, the trace stays billed.
    """

    trace = models.OneToOneField(
        Trace, primary_key=True, on_delete=models.PROTECT, related_name="void"
    )
    reason = models.CharField(max_length=500)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        db_table = "usage_trace_void"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.trace}: {self.reason}"


class TraceSettlement(models.Model):
    """What an operator decided of a disputed trace that named this tenant and this user.

    It holds until it is undone, or the trace names others.
    """

    class Outcome(models.TextChoices):
        NAMED_TENANT = owner.Outcome.NAMED_TENANT.value, "The named tenant's, of no user"
        USERS_TENANT = owner.Outcome.USERS_TENANT.value, "The user's, in its own tenant"
        LEFT_OUT = owner.Outcome.LEFT_OUT.value, "Left out"

    trace = models.ForeignKey(Trace, on_delete=models.PROTECT, related_name="settlements")
    outcome = models.CharField(max_length=20, choices=Outcome.choices)
    named_tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    named_user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    undone_at = models.DateTimeField(null=True)
    undone_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        db_table = "usage_trace_settlement"
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["trace"],
                condition=Q(undone_at__isnull=True),
                name="one_settlement_a_trace",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.trace}: {self.get_outcome_display()}"


class RejectedObservation(models.Model):
    """A row that is not what Langfuse's contract says: set aside with its reason, billed to nobody,
    and tried again.
    """

    class Resolution(models.TextChoices):
        READ = "read", "Read after all"
        SUPERSEDED = "superseded", "A later version was read"

    connection = models.ForeignKey(
        LangfuseConnection, on_delete=models.CASCADE, related_name="rejected"
    )
    langfuse_observation_id = models.CharField(max_length=200)
    langfuse_trace_id = models.CharField(max_length=200, blank=True)
    received_at = models.CharField(max_length=40, blank=True)
    reason = models.CharField(max_length=500)
    row = models.TextField(help_text="The row as Langfuse sent it, cut at 100,000 characters.")
    first_seen_at = models.DateTimeField(auto_now_add=True)
    tried_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was last tried again."
    )
    resolution = models.CharField(max_length=10, choices=Resolution.choices, blank=True)

    class Meta:
        db_table = "rejected_observation"
        ordering = ["-first_seen_at"]
        verbose_name = "observation set aside"
        verbose_name_plural = "observations set aside"
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "connection",
                    "langfuse_trace_id",
                    "langfuse_observation_id",
                    "received_at",
                ],
                name="one_rejection_a_version",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.langfuse_observation_id}: {self.reason}"
