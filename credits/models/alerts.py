"""Alerts: what they are about, whom they go to, and every attempt to deliver one (domain.md,
Credits).
"""

import uuid
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import Q

from credits.recurrence import Recurrence
from kluisz_analytics import figures
from kluisz_analytics.fields import ExactDecimalField
from kluisz_analytics.identifiers import canonical_id
from kluisz_analytics.scales import CREDIT_PLACES
from kluisz_analytics.secrets import decrypt, encrypt
from kluisz_analytics.tenants.models import Tenant, User
from pricing.bounds import LARGEST_CREDITS
from pricing.models import ABOVE_ZERO
from pricing.validators import at_most


class TenantBudget(models.Model):
    """What a tenant may use in a calendar day, week or month of its zone: all of it, one of its
    users, one of its flows, or with one model.

    A hard one refuses runs that it has no room for, what is held included; a soft one only tells.
    """

    class Unit(models.TextChoices):
        CREDITS = "credits", "Credits"
        USD = "usd", "USD of provider cost"

    class Period(models.TextChoices):
        DAY = Recurrence.DAILY.value, "A day"
        WEEK = Recurrence.WEEKLY.value, "A week"
        MONTH = Recurrence.MONTHLY.value, "A month"

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="budgets")
    user = models.ForeignKey(
        User,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="budgets",
        help_text="Only what this user of the tenant uses.",
    )
    flow_id = models.CharField(
        "flow", max_length=200, blank=True, help_text="Only this flow: its id, as traces name it."
    )
    model = models.CharField(
        max_length=200, blank=True, help_text="Only this model, as traces name it."
    )
    period = models.CharField(max_length=5, choices=Period.choices, default=Period.MONTH)
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
        help_text="In the period; what has been charged.",
    )
    held = ExactDecimalField(
        decimal_places=CREDIT_PLACES,
        default=0,
        editable=False,
        help_text="By runs of the period that have not been charged yet.",
    )
    period_start = models.DateTimeField(null=True, editable=False)
    # Usage that changed, and how much of that is in ``used``: the gate trusts it where all is.
    changes = models.BigIntegerField(default=0, editable=False)
    reckoned_changes = models.BigIntegerField(default=0, editable=False)

    flow_name = ""
    """What its flow is called, where somebody looked it up (``credits.budgets.name_flows``)."""

    class Meta:
        db_table = "credit_tenant_budget"
        ordering = ["tenant__name", "unit"]
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "flow_id", "model", "period", "unit", "is_hard"],
                condition=Q(user__isnull=True),
                name="one_budget_of_a_kind",
                violation_error_message="Such a budget already exists.",
            ),
            models.UniqueConstraint(
                fields=["user", "period", "unit", "is_hard"],
                condition=Q(user__isnull=False),
                name="one_budget_of_a_kind_a_user",
                violation_error_message="Such a budget already exists.",
            ),
            models.CheckConstraint(
                condition=Q(user__isnull=True, flow_id="")
                | Q(user__isnull=True, model="")
                | Q(flow_id="", model=""),
                name="budget_of_one_thing",
                violation_error_message=(
                    "A budget is of a user, a flow or a model: name only one of them."
                ),
            ),
            models.CheckConstraint(condition=Q(amount__gt=0), name="budget_above_zero"),
            models.CheckConstraint(
                condition=Q(amount__lte=LARGEST_CREDITS), name="budget_within_bounds"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_text} a {self.period} for {self.subject}"

    def clean(self) -> None:
        self.flow_id = canonical_id(self.flow_id)
        # Without a tenant, the field of it says so.
        if self.user and self.tenant_id and self.user.tenant_id != self.tenant_id:
            raise ValidationError({"user": f"{self.user} is not a user of {self.tenant}."})

    @property
    def subject(self) -> str:
        """Whose usage it limits, as people read it."""
        if self.user is not None:
            return str(self.user)
        if self.flow_id:
            return f"{self.tenant}'s flow {self.flow_name or self.flow_id}"
        return f"{self.tenant}'s model {self.model}" if self.model else str(self.tenant)

    @property
    def kind(self) -> str:
        """What it is of: tenant, user, flow or model."""
        if self.user_id is not None:
            return "user"
        return "flow" if self.flow_id else "model" if self.model else "tenant"

    def text_of(self, amount: Decimal) -> str:
        """An amount as people read it, with the budget's unit."""
        if self.unit == self.Unit.USD:
            return figures.usd(amount)
        return f"{figures.credits(amount)} credits"

    @property
    def amount_text(self) -> str:
        return self.text_of(self.amount)

    @property
    def period_text(self) -> str:
        """As in “this month's 500 credits”."""
        return "today's" if self.period == self.Period.DAY else f"this {self.period}'s"

    @property
    def left(self) -> Decimal:
        """Below zero where more was used than it allows."""
        return self.amount - self.used - self.held


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
    budget = models.ForeignKey(
        TenantBudget, null=True, blank=True, on_delete=models.CASCADE, related_name="alerts"
    )
    threshold = models.PositiveIntegerField(help_text="Percent.")
    period_start = models.DateTimeField()
    message = models.CharField(max_length=500)
    is_sent = models.BooleanField(
        default=True,
        help_text="Whether it is sent: not where a higher threshold was reached at once.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "credit_alert"
        ordering = ["-created_at", "-threshold"]
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "user", "threshold", "period_start"],
                condition=Q(user__isnull=False, budget__isnull=True),
                name="one_alert_a_user",
            ),
            models.UniqueConstraint(
                fields=["kind", "tenant", "threshold", "period_start"],
                condition=Q(user__isnull=True, budget__isnull=True),
                name="one_alert_a_tenant",
            ),
            models.UniqueConstraint(
                fields=["budget", "threshold", "period_start"],
                condition=Q(budget__isnull=False),
                name="one_alert_a_budget",
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
