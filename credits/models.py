"""Accounts, grants, the ledger's transactions, and what has been charged for each hour of usage (domain.md, Credits)."""

from decimal import Decimal

from django.db import models
from django.db.models import F, Q

from kluisz_analytics.fields import CreditsField
from kluisz_analytics.tenants.models import User


class Account(models.Model):
    """A user's credits. The row is the lock; only :mod:`credits.ledger` writes it."""

    user = models.OneToOneField(User, on_delete=models.PROTECT, primary_key=True, related_name="account")
    allocated = CreditsField(default=0)
    used = CreditsField(default=0)
    held = CreditsField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        db_table = "credit_account"
        ordering = ["user__username"]
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
    """Credits given to an account, with the reason."""

    class Source(models.TextChoices):
        TIER_DEFAULT = "tier_default", "Tier default"
        MONTHLY = "monthly", "Monthly"
        PURCHASE = "purchase", "Purchase"
        PROMOTION = "promotion", "Promotion"
        MANUAL = "manual", "Manual"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="grants")
    amount = CreditsField()
    source = models.CharField(max_length=20, choices=Source.choices)
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        db_table = "credit_grant"
        ordering = ["-created_at"]
        constraints = [models.CheckConstraint(condition=Q(amount__gt=0), name="grant_above_zero")]

    def __str__(self) -> str:
        return f"{self.amount:f} credits to {self.account.user}"


class Transaction(models.Model):
    """One entry of the ledger. Append-only: a trigger of the database refuses to change or delete it.

    ``amount`` is signed: what it adds to the account's balance.
    """

    class Type(models.TextChoices):
        DEDUCTION = "deduction", "Deduction"
        ADDITION = "addition", "Addition"
        REFUND = "refund", "Refund"
        PURCHASE = "purchase", "Purchase"
        EXPIRY = "expiry", "Expiry"
        ADJUSTMENT = "adjustment", "Adjustment"

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="transactions")
    type = models.CharField(max_length=20, choices=Type.choices)
    amount = CreditsField()
    balance_before = CreditsField()
    balance_after = CreditsField()
    reason = models.CharField(max_length=500, blank=True)
    idempotency_key = models.CharField(max_length=200, unique=True)
    usage_hour = models.DateTimeField(null=True, blank=True, help_text="The hour of usage that this entry charges.")
    grant = models.ForeignKey(Grant, null=True, blank=True, on_delete=models.PROTECT, related_name="transactions")
    created_at = models.DateTimeField()
    created_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        db_table = "transaction"
        ordering = ["-id"]
        indexes = [models.Index(fields=["account", "-id"], name="transaction_by_account")]
        constraints = [
            models.CheckConstraint(condition=Q(balance_after=F("balance_before") + F("amount")), name="balance_follows_amount"),
        ]

    def __str__(self) -> str:
        return f"{self.get_type_display()} of {self.amount:f} credits"


class UsageCharge(models.Model):
    """What has been posted so far for a user's usage of one hour; ``postings`` counts the entries."""

    account = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="usage_charges")
    hour = models.DateTimeField()
    credits = CreditsField()
    postings = models.PositiveIntegerField()

    class Meta:
        db_table = "credit_usage_charge"
        ordering = ["-hour"]
        constraints = [models.UniqueConstraint(fields=["account", "hour"], name="one_charge_an_account_and_hour")]

    def __str__(self) -> str:
        return f"{self.credits:f} credits for {self.hour:%Y-%m-%d %H:00}"
