"""Periods that an operator had priced anew (domain.md, Price)."""

from django.db import models
from django.db.models import F, Q

from kluisz_analytics.fields import CreditsField, UsdField
from kluisz_analytics.tenants.models import Tenant, User


class Repricing(models.Model):
    """A period of one tenant or of all, priced with the lists as they were at ``as_of``.

    It holds from its beginning: a trace that is decided while it runs is priced by it already.
    Undone, it holds no more, and the traces are priced as before.
    """

    class State(models.TextChoices):
        APPLYING = "applying", "Applying"
        STOPPED = "stopped", "Stopped, to be continued"
        APPLIED = "applied", "Applied"
        UNDOING = "undoing", "Undoing"
        UNDONE = "undone", "Undone"

    HOLDING = (State.APPLYING, State.STOPPED, State.APPLIED)
    UNDER_WAY = (State.APPLYING, State.UNDOING)

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
    reason = models.CharField(max_length=500)
    as_of = models.DateTimeField(help_text="The price lists as they were then.")
    state = models.CharField(max_length=10, choices=State.choices, default=State.APPLYING)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # How far it is: the start and the key of the last trace that was looked at.
    reached_start = models.DateTimeField(null=True, editable=False)
    reached_trace_id = models.UUIDField(null=True, editable=False)
    traces_done = models.BigIntegerField(
        default=0, help_text="Looked at; when it is undone, counted from 0 again."
    )
    traces_changed = models.BigIntegerField(default=0)
    transactions_posted = models.BigIntegerField(default=0)
    cost_usd_difference = UsdField(default=0)
    credits_difference = CreditsField(default=0)

    class Meta:
        db_table = "usage_repricing"
        ordering = ["-created_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(end__gt=F("start")), name="repricing_ends_after_it_begins"
            )
        ]

    def __str__(self) -> str:
        return f"Repricing {self.pk}: {self.reason}"
