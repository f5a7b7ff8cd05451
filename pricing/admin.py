"""Admin pages for tiers and prices."""

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin, TabularInline

from pricing.models import ModelPrice, ModelPriceUnit, PricingTier, TierAssignment, TierRate


class TierRateInline(TabularInline):
    model = TierRate
    extra = 0


@admin.register(PricingTier)
class PricingTierAdmin(ModelAdmin):
    list_display = ["name", "default_credits", "default_credits_per_month", "retired_at"]
    search_fields = ["name"]
    inlines = [TierRateInline]

    def has_delete_permission(self, request: HttpRequest, obj: PricingTier | None = None) -> bool:
        in_use = obj is not None and (obj.assignments.exists() or obj.rates.exists())
        return super().has_delete_permission(request, obj) and not in_use


@admin.register(TierAssignment)
class TierAssignmentAdmin(ModelAdmin):
    list_display = ["tier", "user", "tenant", "valid_from"]
    list_filter = ["tier"]
    list_select_related = ["tier", "user", "tenant"]
    search_fields = ["user__username", "tenant__name", "tier__name"]
    autocomplete_fields = ["tier", "user", "tenant"]


class ModelPriceUnitInline(TabularInline):
    model = ModelPriceUnit
    extra = 0


@admin.register(ModelPrice)
class ModelPriceAdmin(ModelAdmin):
    list_display = ["model", "match", "tenant", "precedence", "valid_from", "valid_until"]
    list_filter = ["precedence", "match", "tenant"]
    list_select_related = ["tenant"]
    search_fields = ["model"]
    autocomplete_fields = ["tenant"]
    inlines = [ModelPriceUnitInline]
