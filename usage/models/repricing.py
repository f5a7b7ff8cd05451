"""Periods that an operator had priced anew (domain.md, Price)."""

from django.db import models
from django.db.models import F, Q

from kluisz_analytics.tenants.models import Tenant
from usage.models.rework import Rework


class Repricing(Rework):
    """A period of one tenant or of all, priced with the lists as they were at ``as_of``.

    It holds from its beginning, and undone no more, as every rework.
    """

    AFRESH = {**Rework.AFRESH, "reached_start": None}

    start = models.DateTimeField()
    end = models.DateTimeField(help_text="Not including this moment.")
    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Empty: all tenants.",
    )
    as_of = models.DateTimeField(help_text="The price lists as they were then.")
    # Traces go by their start, and those of one moment by their key.
    reached_start = models.DateTimeField(null=True, editable=False)

    class Meta(Rework.Meta):
        db_table = "usage_repricing"
        constraints = [
            models.CheckConstraint(
                condition=Q(end__gt=F("start")), name="repricing_ends_after_it_begins"
            )
        ]
