"""Licenses: who may start runs on which tier, from pools of a tenant (domain.md, Credits)."""

from decimal import Decimal

from django.db import models
from django.db.models import F, Q

from kluisz_analytics.tenants.models import Tenant, User
from pricing.models import PricingTier
from pricing.validators import at_most

MOST_LICENSES = Decimal(1_000_000)


class LicensePool(models.Model):
    """How many licenses of a tier a tenant has, and how many are given to its users."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="license_pools")
    tier = models.ForeignKey(PricingTier, on_delete=models.PROTECT, related_name="+")
    total = models.PositiveIntegerField(validators=[at_most(MOST_LICENSES)])
    assigned = models.PositiveIntegerField(default=0, editable=False)

    class Meta:
        db_table = "credit_license_pool"
        ordering = ["tenant__name", "tier__name"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "tier"], name="one_pool_a_tenant_and_tier"),
            models.CheckConstraint(
                condition=Q(assigned__lte=F("total")), name="not_more_assigned_than_there_are"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tier} of {self.tenant}: {self.assigned} of {self.total}"


class License(models.Model):
    """A user's license of a tier. A user has at most one at a time; ended ones stay as history."""

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="licenses")
    pool = models.ForeignKey(LicensePool, on_delete=models.PROTECT, related_name="licenses")
    starts_at = models.DateTimeField()
    expires_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    assigned_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        db_table = "credit_license"
        ordering = ["-starts_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["user"], condition=Q(ended_at__isnull=True), name="one_license_a_user"
            )
        ]

    def __str__(self) -> str:
        return f"{self.pool.tier} of {self.user}"


class LicenseEvent(models.Model):
    """What was done to a user's license: by whom, when, why. Never changed."""

    class Kind(models.TextChoices):
        ASSIGNED = "assigned", "Assigned"
        UNASSIGNED = "unassigned", "Unassigned"
        CHANGED = "changed", "Changed"

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="license_events")
    kind = models.CharField(max_length=10, choices=Kind.choices)
    tier_before = models.ForeignKey(
        PricingTier, null=True, on_delete=models.PROTECT, related_name="+"
    )
    tier_after = models.ForeignKey(
        PricingTier, null=True, on_delete=models.PROTECT, related_name="+"
    )
    credits = models.CharField(
        max_length=10, blank=True, help_text="What became of the credits: kept, reset or prorated."
    )
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(User, null=True, on_delete=models.SET_NULL, related_name="+")

    class Meta:
        db_table = "credit_license_event"
        ordering = ["-created_at", "-id"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()}: {self.user}"
