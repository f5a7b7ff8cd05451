"""Alerts: what they are about, whom they go to, and every attempt to deliver one (domain.md,
Credits).
"""

import uuid
from decimal import Decimal

from django.db import models
from django.db.models import Q

from kluisz_analytics import figures
from kluisz_analytics.fields import ExactDecimalField
from kluisz_analytics.scales import CREDIT_PLACES
from kluisz_analytics.secrets import decrypt, encrypt
from kluisz_analytics.tenants.models import Tenant, User
from pricing.bounds import LARGEST_CREDITS
from pricing.models import ABOVE_ZERO
from pricing.validators import at_most


class TenantBudget(models.Model):
    """What a tenant may use in a calendar month of its zone.

    A hard one refuses new runs when it is used up; a soft one only tells.
    """

    class Unit(models.TextChoices):
        CREDITS = "credits", "Credits"
        USD = "usd", "USD of provider cost"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="budgets")
    unit = models.CharField(max_length=7, choices=Unit.choices)
    # Six places are enough for either unit, and leave room for what a large tenant uses.
    amount = ExactDecimalField(
        decimal_places=CREDIT_PLACES, validators=[ABOVE_ZERO, at_most(LARGEST_CREDITS)]
    )
    is_hard = models.BooleanField(default=False)
    used = ExactDecimalField(
        decimal_places=CREDIT_PLACES,
        default=0,
        editable=False,
        help_text="In the month; kept up to date by the beat.",
    )
    period_start = models.DateTimeField(null=True, editable=False)

    class Meta:
        db_table = "credit_tenant_budget"
        ordering = ["tenant__name", "unit"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "unit"], name="one_budget_a_tenant_and_unit"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="budget_above_zero"),
            models.CheckConstraint(
                condition=Q(amount__lte=LARGEST_CREDITS), name="budget_within_bounds"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_text} a month for {self.tenant}"

    @property
    def amount_text(self) -> str:
        """The amount as people read it, with its unit."""
        if self.unit == self.Unit.USD:
            return figures.usd(self.amount)
        return f"{figures.credits(self.amount)} credits"

    @property
    def left(self) -> Decimal:
        return self.amount - self.used


class Webhook(models.Model):
    """Where alerts are posted, signed with a secret: a tenant's, or (without) the platform's, which
    gets all.
    """

    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="webhooks",
        help_text="Empty: all.",
    )
    url = models.URLField(max_length=500)
    encrypted_secret = models.TextField(editable=False)
    is_enabled = models.BooleanField(default=True)

    class Meta:
        db_table = "credit_webhook"
        ordering = ["url"]

    def __str__(self) -> str:
        return self.url

    @property
    def secret(self) -> str:
        """The signing secret in clear.

        Raises ImproperlyConfigured when no configured key can decrypt it.
        """
        return decrypt(self.encrypted_secret)

    @secret.setter
    def secret(self, value: str) -> None:
        self.encrypted_secret = encrypt(value)


class Alert(models.Model):
    """Something that was reached: once for each subject, kind, threshold and period, whoever looks
    how often.
    """

    class Kind(models.TextChoices):
        CREDITS = "credits", "Credits used"
        PROJECTION = "projection", "Credits run out before the month's end"
        BUDGET_CREDITS = "budget_credits", "Budget in credits"
        BUDGET_USD = "budget_usd", "Budget in USD"

    kind = models.CharField(max_length=14, choices=Kind.choices)
    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="alerts")
    user = models.ForeignKey(
        User,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="alerts",
        help_text="Empty: the tenant's.",
    )
    threshold = models.PositiveIntegerField(help_text="Percent.")
    period_start = models.DateTimeField()
    message = models.CharField(max_length=500)
    is_told = models.BooleanField(
        default=True, help_text="Not where a higher threshold was reached at the same time."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "credit_alert"
        ordering = ["-created_at", "-threshold"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "user", "threshold", "period_start"],
                condition=Q(user__isnull=False),
                name="one_alert_a_user",
            ),
            models.UniqueConstraint(
                fields=["kind", "tenant", "threshold", "period_start"],
                condition=Q(user__isnull=True),
                name="one_alert_a_tenant",
            ),
        ]

    def __str__(self) -> str:
        return self.message


class Delivery(models.Model):
    """An alert on its way to one receiver, with how often it was tried and what came of it."""

    class State(models.TextChoices):
        PENDING = "pending", "Pending"
        SENT = "sent", "Sent"
        FAILED = "failed", "Given up"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    alert = models.ForeignKey(
        Alert,
        null=True,
        on_delete=models.CASCADE,
        related_name="deliveries",
        help_text="Empty: a test.",
    )
    webhook = models.ForeignKey(
        Webhook, null=True, on_delete=models.CASCADE, related_name="deliveries"
    )
    channel = models.CharField(max_length=20, help_text="One of credits.channels.")
    address = models.CharField(max_length=500, help_text="Where it goes, as the channel says it.")
    state = models.CharField(max_length=7, choices=State.choices, default=State.PENDING)
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField()
    answer = models.CharField(max_length=500, blank=True, help_text="What the receiver said last.")
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "credit_alert_delivery"
        ordering = ["-created_at"]
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index(
                fields=["next_attempt_at"], condition=Q(state="pending"), name="delivery_due"
            )
        ]

    def __str__(self) -> str:
        return f"{self.get_state_display()}: {self.address}"
