"""What operators ruled on usage that doesn't add up (domain.md, What doesn't add up)."""

from django.db import models
from django.db.models import Q

from usage.facts.findings import Finding, Takes
from usage.models.connections import LangfuseConnection
from usage.models.rework import Rework


class UsageRuling(Rework):
    """Which figure counts: of one observation, of a model, or of a whole connection.

    It holds from its beginning, and undone no more, as every rework.
    """

    class Kind(models.TextChoices):
        SUM = Finding.SUM.value, "A step that carries what the steps inside it used"
        TWICE = Finding.TWICE.value, "A call that is recorded twice"
        ALIKE = Finding.ALIKE.value, "A call that two runs may record"
        COST = Finding.COST.value, "Langfuse's cost far from the price lists'"
        FREE = Finding.FREE.value, "A cost of 0"
        UNITS = Finding.UNITS.value, "Units that don't add up"

    class Choice(models.TextChoices):
        CHILDREN = Takes.CHILDREN.value, "Only the steps inside it count"
        ONCE = Takes.ONCE.value, "It is counted once"
        BOTH = Takes.BOTH.value, "It counts as well"
        OTHERS = Takes.OTHERS.value, "It never counts where another integration recorded it"
        LANGFUSE = Takes.LANGFUSE.value, "Langfuse's cost counts"
        PRICE_BOOK = Takes.PRICE_BOOK.value, "The price lists count"
        AS_COUNTED = Takes.AS_COUNTED.value, "It is right as it is counted"
        TOTAL = Takes.TOTAL.value, "Its own total counts, by the price lists"

    finding = models.CharField(max_length=5, choices=Kind)
    takes = models.CharField(max_length=10, choices=Choice)
    connection = models.ForeignKey(LangfuseConnection, on_delete=models.PROTECT, related_name="+")
    model = models.CharField(
        max_length=200, null=True, blank=True, help_text="Empty: whatever the model."
    )
    source = models.CharField(
        max_length=200,
        null=True,
        blank=True,
        help_text="What this integration records. Null: whatever recorded it.",
    )
    trace_key = models.UUIDField(null=True, blank=True, help_text="Empty: all traces.")
    langfuse_observation_id = models.CharField(
        max_length=200, blank=True, help_text="Empty: all observations."
    )

    class Meta(Rework.Meta):
        db_table = "usage_ruling"
        verbose_name = "ruling"
        constraints = [
            models.CheckConstraint(
                condition=Q(trace_key__isnull=True, langfuse_observation_id="")
                | (Q(trace_key__isnull=False) & ~Q(langfuse_observation_id="")),
                name="a_ruling_names_a_whole_observation",
            )
        ]
