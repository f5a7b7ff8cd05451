"""Reservations for runs (domain.md, Credits)."""

import uuid
from decimal import Decimal

from django.db import models
from django.db.models import Q

from credits.models.accounts import Account
from kluisz_analytics.fields import CreditsField, ExactDecimalField
from kluisz_analytics.scales import CREDIT_PLACES


class Hold(models.Model):
    """Credits reserved for one run, by its trace id.

    While it is open or settled, its amount is in the account's ``held``. What a run said that it
    used is kept also where nothing is charged for it: a settled hold that comes to its time
    becomes ``uncharged``, for somebody to look at, until its trace is charged after all.
    """

    class State(models.TextChoices):
        OPEN = "open", "Open"
        SETTLED = "settled", "Settled, waiting for the charge"
        CHARGED = "charged", "Charged"
        RELEASED = "released", "Released"
        EXPIRED = "expired", "Expired"
        UNCHARGED = "uncharged", "Settled, never charged"
        PRESUMED = "presumed", "Charged as settled, without a trace"

    HOLDING = (State.OPEN, State.SETTLED)
    AWAITING_CHARGE = (*HOLDING, State.UNCHARGED, State.PRESUMED)

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="holds", db_index=False
    )
    trace_id = models.CharField(max_length=32, help_text="Of the run in Langfuse.")
    flow_id = models.CharField(max_length=200, blank=True)
    model = models.CharField(max_length=200, blank=True, help_text="Which the run will use.")
    cost_usd = ExactDecimalField(
        decimal_places=CREDIT_PLACES,
        default=0,
        help_text=(
            "What the reserved credits are of provider cost, by the tier's rate: for budgets in"
            " USD."
        ),
    )
    credits = CreditsField(help_text="Reserved when the run began.")
    settled_credits = CreditsField(
        null=True, blank=True, help_text="What the run says that it used."
    )
    state = models.CharField(max_length=9, choices=State.choices, default=State.OPEN)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "credit_hold"
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["account", "expires_at"],
                condition=Q(state__in=["open", "settled", "uncharged"]),
                name="hold_by_account",
            ),
            models.Index(fields=["account", "-created_at"], name="hold_by_account_and_time"),
        ]
        constraints = [
            models.UniqueConstraint(fields=["trace_id"], name="one_hold_a_trace"),
            models.CheckConstraint(condition=Q(credits__gt=0), name="hold_above_zero"),
        ]

    def __str__(self) -> str:
        return f"{self.credits:f} credits for {self.trace_id}"

    @property
    def held(self) -> Decimal:
        """What of it counts in the account's ``held``."""
        if self.state == self.State.OPEN:
            return self.credits
        return (
            (self.settled_credits or Decimal(0)) if self.state == self.State.SETTLED else Decimal(0)
        )
