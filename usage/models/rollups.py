"""Rollups: sums of facts by period. Every one has the same numbers and differs in its dimensions.

A user's stats are added to in the transaction that writes the facts, since the ledger is charged
from them. The others are *built* from the facts soon after it (usage.rollups): until then their
periods are stale, which is written down in that transaction, and a question about a stale period is
answered from the facts. So an answer never depends on whether they are built.

Usage belongs to a tenant when that is known, and to a user when both are. Unattributed usage has
the nil UUID for its tenant; a missing project, flow or model is "".
"""

from uuid import UUID

from django.db import models
from django.db.models import F, Func

from kluisz_analytics.fields import CreditsField, UsdField
from kluisz_analytics.tenants.models import Tenant, User
from usage.measures import SUM_OF, SUMS, Unit
from usage.periods import Granularity

UNATTRIBUTED = UUID(int=0)


GRANULARITIES = [(one.value, one.name.capitalize()) for one in Granularity]


class NumberColumns(models.Model):
    """The numbers that every rollup keeps (usage.measures, Sums).

    All of them add up; none is a distinct count.
    """

    class Meta:
        abstract = True


COLUMN_OF = {Unit.USD: UsdField, Unit.CREDITS: CreditsField}
for _sum in SUMS:
    _column = COLUMN_OF.get(_sum.unit, models.BigIntegerField)
    NumberColumns.add_to_class(_sum.name, _column(default=0, help_text=_sum.help_text))


class Rollup(NumberColumns):
    """A period and its numbers; half-open, in UTC."""

    granularity = models.CharField(max_length=5, choices=GRANULARITIES)
    period_start = models.DateTimeField()
    period_end = models.DateTimeField()

    class Meta:
        abstract = True


class WholeCredits(Func):
    """The exact credits as an integer, rounded once, half up.

    Credits are stored in millionths and never negative.
    """

    template = "((%(expressions)s + 500000) / 1000000)"
    output_field = models.BigIntegerField()


class Same(Func):
    """A column by another name."""

    template = "(%(expressions)s)"


METRICS = tuple(SUM_OF.values())
LONGER = ~models.Q(granularity=Granularity.HOUR)


class BuiltRollup(Rollup):
    """Numbers that are built from the facts, with what can be merged over periods where a count or
    a percentile can't.
    """

    last_activity = models.DateTimeField(help_text="When its latest trace began.")
    active_users_count = models.BigIntegerField(default=0)
    users = models.BinaryField(help_text="Who: a set of user numbers (usage.rollups.sketches).")
    latencies = models.BinaryField(
        help_text="How many traces took how long (usage.rollups.sketches)."
    )

    class Meta:
        abstract = True


class TenantUsageStats(BuiltRollup):
    """A tenant's usage in a period."""

    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, related_name="usage_stats", db_index=False
    )
    total_credits_used = models.GeneratedField(
        expression=WholeCredits(F("credits_exact")),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )

    class Meta:
        db_table = "tenant_usage_stats"
        ordering = ["-period_start"]
        verbose_name = verbose_name_plural = "tenant usage stats"
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "period_start", "period_end"],
                name="one_stats_row_a_tenant_and_period",
            ),
        ]
        indexes = [
            models.Index(fields=["granularity", "period_start"], name="tenant_stats_by_period"),
            models.Index(
                fields=["tenant", "granularity", "period_start"], name="tenant_stats_by_tenant"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tenant}, {self.granularity} from {self.period_start:%Y-%m-%d %H:%M}"


class UserUsageStats(Rollup):
    """A user's usage in a period, in a tenant: its own, unless a run named another one."""

    # There are millions of rows, so the database checks neither: a user's number keeps the user,
    # and that its tenant; the tenant's own stats keep any other.
    tenant = models.ForeignKey(
        Tenant, on_delete=models.PROTECT, related_name="+", db_index=False, db_constraint=False
    )
    user = models.ForeignKey(
        User,
        on_delete=models.PROTECT,
        related_name="usage_stats",
        db_index=False,
        db_constraint=False,
    )
    credits_used = models.GeneratedField(
        expression=WholeCredits(F("credits_exact")),
        output_field=models.BigIntegerField(),
        db_persist=True,
    )
    # The names that domain.md gives a user's numbers; readable in queries, never written.
    traces_count = models.GeneratedField(
        expression=Same("total_traces"), output_field=models.BigIntegerField(), db_persist=True
    )
    cost_usd = models.GeneratedField(
        expression=Same("total_cost_usd"), output_field=UsdField(), db_persist=True
    )

    class Meta:
        db_table = "user_usage_stats"
        ordering = ["-period_start"]
        verbose_name = verbose_name_plural = "user usage stats"
        constraints = [
            models.UniqueConstraint(
                fields=["user", "period_start", "period_end", "tenant"],
                name="one_stats_row_a_user_and_period",
            ),
        ]
        indexes = [
            # Lists of users are ordered from these alone, by the day and longer; an hour's row has
            # no part in them.
            models.Index(
                fields=["granularity", "period_start", "user"],
                include=METRICS,
                condition=LONGER,
                name="user_stats_by_period",
            ),
            models.Index(
                fields=["tenant", "granularity", "period_start", "user"],
                include=METRICS,
                condition=LONGER,
                name="user_stats_by_tenant",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user}, {self.granularity} from {self.period_start:%Y-%m-%d %H:%M}"


class PlatformUsage(BuiltRollup):
    """All usage; what is unattributed apart."""

    is_attributed = models.BooleanField()

    class Meta:
        db_table = "platform_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "platform usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "is_attributed"],
                name="one_platform_usage_row",
            )
        ]


class PlatformModelUsage(BuiltRollup):
    """All usage by model. A trace counts once for each model that it used."""

    model = models.CharField(max_length=200, blank=True)

    class Meta:
        db_table = "platform_model_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "platform model usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "model"], name="one_platform_model_usage_row"
            )
        ]


class FlowUsage(BuiltRollup):
    """Usage by tenant, project and flow."""

    tenant_key = models.UUIDField()
    project_id = models.CharField(max_length=200, blank=True)
    flow_id = models.CharField(max_length=200, blank=True)

    class Meta:
        db_table = "flow_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "flow usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "tenant_key", "project_id", "flow_id"],
                name="one_flow_usage_row",
            ),
        ]
        indexes = [
            models.Index(
                fields=["tenant_key", "granularity", "period_start"], name="flow_usage_by_tenant"
            ),
            models.Index(
                fields=["flow_id", "granularity", "period_start"], name="flow_usage_by_flow"
            ),
            # Lists of flows and projects are ordered from this alone.
            models.Index(
                fields=["granularity", "period_start", "project_id", "flow_id"],
                include=["tenant_key", *METRICS],
                name="flow_usage_by_period",
            ),
        ]


class ModelUsage(BuiltRollup):
    """Usage by tenant and model. A trace counts once for each model that it used."""

    tenant_key = models.UUIDField()
    model = models.CharField(max_length=200, blank=True)

    class Meta:
        db_table = "model_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "model usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "tenant_key", "model"],
                name="one_model_usage_row",
            )
        ]
        indexes = [
            models.Index(
                fields=["tenant_key", "granularity", "period_start"], name="model_usage_by_tenant"
            )
        ]


class EnvironmentUsage(BuiltRollup):
    """Usage by tenant and environment."""

    tenant_key = models.UUIDField()
    environment = models.CharField(max_length=200, blank=True)

    class Meta:
        db_table = "environment_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "environment usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "tenant_key", "environment"],
                name="one_environment_usage_row",
            )
        ]
        indexes = [
            models.Index(
                fields=["tenant_key", "granularity", "period_start"],
                name="environment_usage_by_tenant",
            )
        ]


class NoUserUsage(BuiltRollup):
    """A tenant's usage whose user is not known: with its users' stats it is all of the tenant's."""

    tenant_key = models.UUIDField()

    class Meta:
        db_table = "no_user_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "no user usage"
        constraints = [
            models.UniqueConstraint(
                fields=["granularity", "period_start", "tenant_key"], name="one_no_user_usage_row"
            )
        ]


class SourceUsage(models.Model):
    """What an integration recorded in an hour, in one of its versions and of one environment: runs
    whose first step it recorded, and calls of models, of whichever runs (usage.rollups.sources).
    """

    period_start = models.DateTimeField(help_text="The hour in which the runs began.")
    source = models.CharField(max_length=200, blank=True)
    source_version = models.CharField(max_length=200, blank=True)
    environment = models.CharField(max_length=200, blank=True)
    total_traces = models.BigIntegerField()
    owned_traces = models.BigIntegerField(help_text="Runs whose tenant and user are known.")
    priced_observations = models.BigIntegerField()
    partly_priced_observations = models.BigIntegerField()
    unpriced_observations = models.BigIntegerField()
    unmetered_observations = models.BigIntegerField()
    owned_observations = models.BigIntegerField(
        help_text="Calls, of these, of runs whose tenant and user are known."
    )
    repeated_observations = models.BigIntegerField(
        help_text="Steps whose usage is counted in another step: they cost nothing."
    )
    total_tokens = models.BigIntegerField()
    total_cost_usd = UsdField()
    first_activity = models.DateTimeField(help_text="When the first of its runs began.")
    last_activity = models.DateTimeField(help_text="When the last of its runs began.")

    class Meta:
        db_table = "source_usage"
        ordering = ["-period_start"]
        verbose_name_plural = "source usage"
        constraints = [
            models.UniqueConstraint(
                fields=["period_start", "source", "source_version", "environment"],
                name="one_source_usage_row",
            )
        ]
        indexes = [
            # Since when there is each of them is read from this alone.
            models.Index(
                fields=["source", "source_version", "environment", "period_start"],
                include=["first_activity"],
                name="source_usage_by_source",
            )
        ]


class StalePeriod(models.Model):
    """A period of the built rollups that the facts have left behind. Added by whoever changes
    facts, in the same transaction.

    Of an hour there may be several: nobody waits for anybody to add one, and building takes away
    only those that it can see.
    """

    granularity = models.CharField(max_length=5, choices=GRANULARITIES)
    period_start = models.DateTimeField(db_index=True)

    class Meta:
        db_table = "stale_period"
        ordering = ["period_start"]

    def __str__(self) -> str:
        return f"{self.granularity} from {self.period_start:%Y-%m-%d %H:%M}"


class UserNumber(models.Model):
    """A small number for a user with usage, for sets of users to be made of.

    Written with its first usage, it keeps the user.
    """

    user = models.OneToOneField(User, on_delete=models.PROTECT, related_name="+")

    class Meta:
        db_table = "usage_user_number"

    def __str__(self) -> str:
        return f"{self.pk}: {self.user_id}"


class FlowEstimate(models.Model):
    """What a flow's runs of the last month cost, in credits; computed once an hour
    (usage.analytics.estimates).
    """

    flow_id = models.CharField(max_length=200, primary_key=True)
    median = CreditsField()
    p90 = CreditsField(help_text="Nine of ten runs cost no more.")
    runs = models.BigIntegerField()
    computed_at = models.DateTimeField()

    class Meta:
        db_table = "flow_estimate"
        ordering = ["-runs"]

    def __str__(self) -> str:
        return self.flow_id
