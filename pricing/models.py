"""Tiers with dated rates, their assignment, and dated model prices (domain.md, Price)."""

import re
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q

from kluisz_analytics.fields import CreditsField, ExactDecimalField, UsdField
from kluisz_analytics.tenants.models import Tenant, User
from pricing.engine import Precedence
from pricing.units import UnitKind

ABOVE_ZERO = MinValueValidator(Decimal("0.000001"), message="Write a number above 0.")
NOT_BELOW_ZERO = MinValueValidator(Decimal(0), message="Write 0 or a number above it.")


class PricingTier(models.Model):
    """A licence tier. What it costs at a time is in its rates; a tier in use is retired, not deleted."""

    name = models.CharField(max_length=100, unique=True)
    default_credits = CreditsField(default=0, validators=[NOT_BELOW_ZERO], help_text="Granted once, to a new user of this tier.")
    default_credits_per_month = CreditsField(default=0, validators=[NOT_BELOW_ZERO])
    retired_at = models.DateTimeField(null=True, blank=True, help_text="From then on it is not given to anyone anew.")

    class Meta:
        db_table = "pricing_tier"
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class TierRate(models.Model):
    """What a tier's usage costs from ``valid_from`` until its next rate."""

    tier = models.ForeignKey(PricingTier, on_delete=models.PROTECT, related_name="rates")
    valid_from = models.DateTimeField()
    credits_per_usd = ExactDecimalField(decimal_places=6, validators=[ABOVE_ZERO])
    pricing_multiplier = ExactDecimalField(decimal_places=6, validators=[ABOVE_ZERO], help_text="0.95 is 5% off.")
    minimum_credits_per_trace = CreditsField(null=True, blank=True, validators=[NOT_BELOW_ZERO])
    maximum_credits_per_trace = CreditsField(null=True, blank=True, validators=[NOT_BELOW_ZERO])

    class Meta:
        db_table = "pricing_tier_rate"
        ordering = ["tier", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["tier", "valid_from"], name="one_rate_a_tier_and_moment"),
            models.CheckConstraint(condition=Q(credits_per_usd__gt=0), name="credits_per_usd_above_zero"),
            models.CheckConstraint(condition=Q(pricing_multiplier__gt=0), name="pricing_multiplier_above_zero"),
            models.CheckConstraint(
                condition=Q(minimum_credits_per_trace__isnull=True)
                | Q(maximum_credits_per_trace__isnull=True)
                | Q(minimum_credits_per_trace__lte=F("maximum_credits_per_trace")),
                name="minimum_not_above_maximum",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tier} from {self.valid_from:%Y-%m-%d}"


class TierAssignment(models.Model):
    """A tier from ``valid_from`` on: a user's, or a tenant's default, or (with neither) the platform's default."""

    tier = models.ForeignKey(PricingTier, on_delete=models.PROTECT, related_name="assignments")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="tier_assignments")
    tenant = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="tier_assignments")
    valid_from = models.DateTimeField()

    class Meta:
        db_table = "pricing_tier_assignment"
        ordering = ["-valid_from"]
        constraints = [
            models.CheckConstraint(condition=Q(user__isnull=True) | Q(tenant__isnull=True), name="user_or_tenant_not_both"),
            models.UniqueConstraint(fields=["user", "valid_from"], name="one_tier_a_user_and_moment"),
            models.UniqueConstraint(fields=["tenant", "valid_from"], name="one_tier_a_tenant_and_moment"),
            models.UniqueConstraint(
                fields=["valid_from"],
                condition=Q(user__isnull=True, tenant__isnull=True),
                name="one_platform_tier_a_moment",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tier} for {self.user or self.tenant or 'the platform'} from {self.valid_from:%Y-%m-%d}"


class ModelPrice(models.Model):
    """What a model costs, in USD for a million units of each kind, for one tenant or the whole platform."""

    class Match(models.TextChoices):
        EXACT = "exact", "Exact name"
        PATTERN = "pattern", "Pattern (regular expression)"

    class PrecedenceChoice(models.TextChoices):
        REPLACES = Precedence.REPLACES.value, "Replaces Langfuse's cost"
        FALLBACK = Precedence.FALLBACK.value, "Where Langfuse has none"

    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="model_prices", help_text="Empty: the whole platform."
    )
    model = models.CharField(max_length=200, help_text="The model's name, or a pattern that the whole name has to match.")
    match = models.CharField(max_length=10, choices=Match.choices, default=Match.EXACT)
    precedence = models.CharField(max_length=10, choices=PrecedenceChoice.choices, default=PrecedenceChoice.REPLACES)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        db_table = "pricing_model_price"
        ordering = ["model", "-valid_from"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "model", "precedence", "valid_from"], name="one_tenant_price_a_moment"),
            models.UniqueConstraint(
                fields=["model", "precedence", "valid_from"], condition=Q(tenant__isnull=True), name="one_platform_price_a_moment"
            ),
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")), name="price_ends_after_it_begins"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.valid_from:%Y-%m-%d}"

    def clean(self) -> None:
        if self.match == self.Match.PATTERN:
            try:
                re.compile(self.model)
            except re.error as error:
                raise ValidationError({"model": f"“{self.model}” is not a valid pattern: {error}."}) from error

    def pattern(self) -> re.Pattern[str]:
        """The compiled pattern that the model's whole name has to match."""
        return re.compile(self.model if self.match == self.Match.PATTERN else re.escape(self.model))


class ModelPriceUnit(models.Model):
    """One kind's price: USD for a million units."""

    class Kind(models.TextChoices):
        INPUT = UnitKind.INPUT.value, "Input"
        CACHED_INPUT = UnitKind.CACHED_INPUT.value, "Cached input"
        CACHE_WRITE = UnitKind.CACHE_WRITE.value, "Cache write"
        INPUT_AUDIO = UnitKind.INPUT_AUDIO.value, "Audio in"
        OUTPUT = UnitKind.OUTPUT.value, "Output"
        REASONING = UnitKind.REASONING.value, "Reasoning"
        OUTPUT_AUDIO = UnitKind.OUTPUT_AUDIO.value, "Audio out"

    price = models.ForeignKey(ModelPrice, on_delete=models.CASCADE, related_name="units")
    kind = models.CharField(max_length=20, choices=Kind.choices)
    usd_per_million = UsdField(validators=[NOT_BELOW_ZERO])

    class Meta:
        db_table = "pricing_model_price_unit"
        constraints = [
            models.UniqueConstraint(fields=["price", "kind"], name="one_price_a_kind"),
            models.CheckConstraint(condition=Q(usd_per_million__gte=0), name="unit_price_not_negative"),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: ${self.usd_per_million:f} a million"
