"""What operators ruled on usage that doesn't add up (domain.md, What doesn't add up)."""

from django.db import models
from django.db.models import Q

from kluisz_analytics.fields import CreditsField, UsdField
from kluisz_analytics.tenants.models import User
from usage.facts.findings import Finding, Takes
from usage.models.connections import LangfuseConnection


class UsageRuling(models.Model):
    """Which figure counts: of one observation, of a model, or of a whole connection.

    It holds from its beginning, as a repricing does: what is decided meanwhile is decided by it.
    Undone, it holds no more, and the traces are decided as before.
    """

    class Kind(models.TextChoices):
        SUM = Finding.SUM.value, "A step that carries what the steps inside it used"
        COST = Finding.COST.value, "Langfuse's cost far from the price lists'"
        FREE = Finding.FREE.value, "A cost of 0"
        UNITS = Finding.UNITS.value, "Units that don't add up"

    class Choice(models.TextChoices):
        CHILDREN = Takes.CHILDREN.value, "Only the steps inside it count"
        BOTH = Takes.BOTH.value, "It counts as well"
        LANGFUSE = Takes.LANGFUSE.value, "Langfuse's cost counts"
        PRICE_BOOK = Takes.PRICE_BOOK.value, "The price lists count"
        AS_COUNTED = Takes.AS_COUNTED.value, "It is right as it is counted"

    class State(models.TextChoices):
        APPLYING = "applying", "Applying"
        STOPPED = "stopped", "Stopped, to be continued"
        APPLIED = "applied", "Applied"
        UNDOING = "undoing", "Undoing"
        UNDONE = "undone", "Undone"

    HOLDING = (State.APPLYING, State.STOPPED, State.APPLIED)
    UNDER_WAY = (State.APPLYING, State.UNDOING)

    finding = models.CharField(max_length=5, choices=Kind)
    takes = models.CharField(max_length=10, choices=Choice)
    connection = models.ForeignKey(LangfuseConnection, on_delete=models.PROTECT, related_name="+")
    model = models.CharField(
        max_length=200, null=True, blank=True, help_text="Empty: whatever the model."
    )
    trace_key = models.UUIDField(null=True, blank=True, help_text="Empty: all traces.")
    langfuse_observation_id = models.CharField(
        max_length=200, blank=True, help_text="Empty: all observations."
    )
    reason = models.CharField(max_length=500)
    state = models.CharField(max_length=10, choices=State.choices, default=State.APPLYING)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # How far it is: the key of the last trace that was looked at.
    reached_trace_id = models.UUIDField(null=True, editable=False)
    traces_done = models.BigIntegerField(
        default=0, help_text="Looked at; when it is undone, counted from 0 again."
    )
    traces_changed = models.BigIntegerField(default=0)
    transactions_posted = models.BigIntegerField(default=0)
    cost_usd_difference = UsdField(default=0)
    credits_difference = CreditsField(default=0)

    class Meta:
        db_table = "usage_ruling"
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(trace_key__isnull=True, langfuse_observation_id="")
                | (Q(trace_key__isnull=False) & ~Q(langfuse_observation_id="")),
                name="a_ruling_names_a_whole_observation",
            )
        ]

    def __str__(self) -> str:
        return f"Ruling {self.pk}: {self.reason}"
