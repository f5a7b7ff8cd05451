"""Accounts, grants, the ledger's transactions, and what has been charged for each hour of usage
(domain.md, Credits).
"""

from datetime import datetime
from decimal import Decimal

from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from credits.recurrence import Recurrence
from kluisz_analytics.fields import CreditsField
from kluisz_analytics.tenants.models import User
from pricing.bounds import LARGEST_CREDITS
from pricing.models import NOT_BELOW_ZERO
from pricing.validators import at_most


class Account(models.Model):
    """A user's credits: of the grants in force (``allocated``), and what has been burned of them
    (``used``). The row is the lock.

    Only :mod:`credits.ledger` writes the balance, and :mod:`credits.holds` what is held.
    """

    user = models.OneToOneField(
        User, on_delete=models.PROTECT, primary_key=True, related_name="account"
    )
    allocated = CreditsField(default=0)
    used = CreditsField(default=0)
    held = CreditsField(default=0, help_text="Reserved for runs that are under way.")
    next_event_at = models.DateTimeField(
        null=True, blank=True, help_text="When the next grant begins or ends."
    )
    last_ended_at = models.DateTimeField(
        null=True,
        blank=True,
        help_text=(
            "When the last grant ended that has been settled; usage before it burns grants of then."
        ),
    )
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "credit_account"
        ordering = ["user__username"]
        indexes = [
            models.Index(
                fields=["next_event_at"],
                condition=Q(next_event_at__isnull=False),
                name="account_by_next_event",
            )
        ]
        constraints = [models.CheckConstraint(condition=Q(held__gte=0), name="held_not_negative")]

    def __str__(self) -> str:
        return f"Account of {self.user}"

    @property
    def balance(self) -> Decimal:
        """The sum of the account's transactions."""
        return self.allocated - self.used

    @property
    def remaining(self) -> Decimal:
        """What new runs may still use; below zero after an overage."""
        return self.allocated - self.used - self.held


class Grant(models.Model):
    """Credits given to an account from ``starts_at`` until ``expires_at``. Ended and voided ones
    stay as history.

    A recurring one is given again as a new row (``series``) when it ends, which takes over what is
    left up to ``rollover_maximum``.
    """

    class Source(models.TextChoices):
        TIER_DEFAULT = "tier_default", "Tier default"
        MONTHLY = "monthly", "Monthly"
        PURCHASE = "purchase", "Purchase"
        PROMOTION = "promotion", "Promotion"
        MANUAL = "manual", "Manual"
        REFUND = "refund", "Refund"
        ADJUSTMENT = "adjustment", "Adjustment"

    class RecurrenceChoice(models.TextChoices):
        NONE = "", "Once"
        DAILY = Recurrence.DAILY.value, "Every day"
        WEEKLY = Recurrence.WEEKLY.value, "Every week"
        MONTHLY = Recurrence.MONTHLY.value, "Every month"

    DEFAULT_PRIORITY = 100

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="grants")
    amount = CreditsField(validators=[at_most(LARGEST_CREDITS)])
    priority = models.IntegerField(
        default=DEFAULT_PRIORITY, help_text="The lowest number is burned first."
    )
    starts_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    source = models.CharField(max_length=20, choices=Source.choices)
    reason = models.CharField(max_length=500, blank=True)
    recurrence = models.CharField(max_length=5, choices=RecurrenceChoice.choices, blank=True)
    rollover_maximum = CreditsField(
        null=True,
        blank=True,
        default=0,
        validators=[NOT_BELOW_ZERO, at_most(LARGEST_CREDITS)],
        help_text="How much of what is left the next occurrence takes over; empty: all of it.",
    )
    series = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.PROTECT,
        related_name="occurrences",
    )
    occurrence = models.PositiveIntegerField(default=0, editable=False)
    voided_at = models.DateTimeField(null=True, blank=True, editable=False)
    voided_by = models.ForeignKey(
        User, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    idempotency_key = models.CharField(max_length=200, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        User, null=True, blank=True, editable=False, on_delete=models.SET_NULL, related_name="+"
    )
    # What of it is in the ledger: added when it began, taken back when it ended, and in how many
    # entries.
    posted = CreditsField(default=0, editable=False)
    returned = CreditsField(default=0, editable=False)
    postings = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        db_table = "credit_grant"
        ordering = ["-starts_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="grant_above_zero"),
            models.CheckConstraint(
                condition=Q(amount__lte=LARGEST_CREDITS), name="grant_within_bounds"
            ),
            models.CheckConstraint(
                condition=Q(expires_at__isnull=True) | Q(expires_at__gt=F("starts_at")),
                name="grant_ends_after_it_begins",
            ),
            models.UniqueConstraint(
                fields=["series", "occurrence"], name="one_grant_an_occurrence"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount:f} credits to {self.account.user}"

    @property
    def ends_at(self) -> datetime | None:
        """When it expires or was voided, whichever is first."""
        return min(
            (moment for moment in (self.expires_at, self.voided_at) if moment is not None),
            default=None,
        )


class Transaction(models.Model):
    """One entry of the ledger. Append-only: a trigger of the database refuses to change or delete
    it.

    ``amount`` is signed: what it adds to the account's balance.
    """

    class Type(models.TextChoices):
        DEDUCTION = "deduction", "Deduction"
        ADDITION = "addition", "Addition"
        REFUND = "refund", "Refund"
        PURCHASE = "purchase", "Purchase"
        EXPIRY = "expiry", "Expiry"
        ADJUSTMENT = "adjustment", "Adjustment"

    # Its index, and those of grant and created_by, are below: each costs as much as the entry
    # itself.
    account = models.ForeignKey(
        Account, on_delete=models.PROTECT, related_name="transactions", db_index=False
    )
    type = models.CharField(max_length=20, choices=Type.choices)
    amount = CreditsField()
    balance_before = CreditsField()
    balance_after = CreditsField()
    reason = models.CharField(max_length=500, blank=True)
    idempotency_key = models.CharField(max_length=200)
    usage_hour = models.DateTimeField(
        null=True,
        blank=True,
        help_text=(
            "The hour of usage that this entry charges; of an hour in which a grant begins or ends,"
            " the beginning of the part that it charges."
        ),
    )
    grant = models.ForeignKey(
        Grant,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="transactions",
        db_index=False,
    )
    created_at = models.DateTimeField()
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.PROTECT, related_name="+", db_index=False
    )

    class Meta:
        db_table = "transaction"
        ordering = ["-id"]
        indexes = [
            models.Index(fields=["account", "-id"], name="transaction_by_account"),
            # Nearly all entries are of usage, without either.
            models.Index(
                fields=["grant"], condition=Q(grant__isnull=False), name="transaction_by_grant"
            ),
            models.Index(
                fields=["created_by"],
                condition=Q(created_by__isnull=False),
                name="transaction_by_creator",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["idempotency_key"], name="one_transaction_an_idempotency_key"
            ),
            models.CheckConstraint(
                condition=Q(balance_after=F("balance_before") + F("amount")),
                name="balance_follows_amount",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_type_display()} of {self.amount:f} credits"


class HourCut(models.Model):
    """A moment inside an hour at which a grant of the account begins or ends, or was once to end:
    usage before it and from it on is charged apart. Only :mod:`credits.ledger` writes them.
    """

    account = models.ForeignKey(
        Account, on_delete=models.CASCADE, related_name="hour_cuts", db_index=False
    )
    hour = models.DateTimeField()
    at = models.DateTimeField()

    class Meta:
        db_table = "credit_hour_cut"
        ordering = ["-at"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "hour", "at"], name="one_cut_an_account_and_moment"
            )
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H:00} is cut at {self.at:%H:%M:%S.%f}"


class UsageCharge(models.Model):
    """What has been posted so far for a user's usage of one hour, or of a part of it where the hour
    is cut (:class:`HourCut`): ``hour`` is then when the part begins. ``postings`` counts the
    entries.
    """

    # Kept by its transactions.
    account = models.ForeignKey(
        Account,
        on_delete=models.PROTECT,
        related_name="usage_charges",
        db_index=False,
        db_constraint=False,
    )
    hour = models.DateTimeField()
    credits = CreditsField()
    postings = models.PositiveIntegerField()

    class Meta:
        db_table = "credit_usage_charge"
        ordering = ["-hour"]
        constraints = [
            models.UniqueConstraint(
                fields=["account", "hour"], name="one_charge_an_account_and_hour"
            )
        ]

    def __str__(self) -> str:
        return f"{self.credits:f} credits for {self.hour:%Y-%m-%d %H:%M}"
