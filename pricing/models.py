"""Tiers with dated rates, their assignment, and dated model prices (domain.md, Price).

Rates, assignments and prices are recorded, never changed: what is wrong is withdrawn and recorded
anew, by :mod:`pricing.lists`. So the tables are their own history, and what was priced with a row
can always be explained with it.
"""

import re
from decimal import Decimal

from django.core.exceptions import ValidationError
from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Lower
from django.utils import timezone

from kluisz_analytics.fields import CreditsField, ExactDecimalField, UsdField
from kluisz_analytics.tenants.models import Tenant, User
from pricing.bounds import (
    LARGEST_CREDITS,
    LARGEST_CREDITS_A_TRACE,
    LARGEST_CREDITS_PER_USD,
    LARGEST_MULTIPLIER,
    LARGEST_USD_PER_MILLION,
    LARGEST_USD_PER_MILLION_COUNTED,
)
from pricing.conditions import EXAMPLES, LONGEST, Conditions
from pricing.model_names import SPELLINGS
from pricing.prices import Precedence
from pricing.units import COUNTED_AS, UnitKind
from pricing.validators import at_most

ABOVE_ZERO = MinValueValidator(
    Decimal("0.000001"), message="%(show_value)s is not possible: write a number above 0."
)
NOT_BELOW_ZERO = MinValueValidator(
    Decimal(0), message="%(show_value)s is not possible: write 0 or a number above it."
)
CREDITS_GIVEN = [NOT_BELOW_ZERO, at_most(LARGEST_CREDITS)]
CREDITS_A_TRACE = [NOT_BELOW_ZERO, at_most(LARGEST_CREDITS_A_TRACE)]
USD_PER_MILLION = [NOT_BELOW_ZERO, at_most(LARGEST_USD_PER_MILLION)]
USD_PER_MILLION_COUNTED = [NOT_BELOW_ZERO, at_most(LARGEST_USD_PER_MILLION_COUNTED)]
IN_LIST = Q(withdrawn_at__isnull=True)


def _at_most(name: str, limit: Decimal) -> Q:
    """Whether the column is empty or no more than the limit."""
    return Q(**{f"{name}__isnull": True}) | Q(**{f"{name}__lte": limit})


def _largest_price(kind: UnitKind) -> Decimal:
    return LARGEST_USD_PER_MILLION if kind in COUNTED_AS else LARGEST_USD_PER_MILLION_COUNTED


def _counted(verbose_name: str, help_text: str = "") -> UsdField:
    """A price of what is no tokens."""
    return UsdField(
        verbose_name,
        null=True,
        blank=True,
        max_digits=19,
        validators=USD_PER_MILLION_COUNTED,
        help_text=help_text,
    )


def providers() -> list[tuple[str, str]]:
    """The providers whose names are understood, as a field's choices."""
    return [(one, one) for one in sorted(SPELLINGS)]


class Recorded(models.Model):
    """A row of a list: who entered it and when, who withdrew it and when.

    Nothing else of it ever changes; a trigger sees to it.
    """

    recorded_at = models.DateTimeField(default=timezone.now, editable=False)
    recorded_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )
    withdrawn_at = models.DateTimeField(null=True, blank=True, editable=False)
    withdrawn_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+", editable=False
    )

    class Meta:
        abstract = True


class PricingTier(models.Model):
    """A license tier.

    What it costs at a time is in its rates; a tier in use is retired, not deleted.
    """

    name = models.CharField(max_length=100, unique=True)
    default_credits = CreditsField(
        default=0,
        validators=CREDITS_GIVEN,
        help_text="Granted once, to a new user of this tier.",
    )
    default_credits_per_month = CreditsField(default=0, validators=CREDITS_GIVEN)
    retired_at = models.DateTimeField(
        null=True, blank=True, help_text="From then on it is not given to anyone anew."
    )

    class Meta:
        db_table = "pricing_tier"
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    default_credits__lte=LARGEST_CREDITS,
                    default_credits_per_month__lte=LARGEST_CREDITS,
                ),
                name="tier_gives_no_more_than_possible",
            )
        ]

    def __str__(self) -> str:
        return self.name


class TierRate(Recorded):
    """What a tier's usage costs from ``valid_from`` until its next rate."""

    tier = models.ForeignKey(PricingTier, on_delete=models.CASCADE, related_name="rates")
    valid_from = models.DateTimeField()
    credits_per_usd = ExactDecimalField(
        decimal_places=6, validators=[ABOVE_ZERO, at_most(LARGEST_CREDITS_PER_USD)]
    )
    pricing_multiplier = ExactDecimalField(
        decimal_places=6,
        validators=[ABOVE_ZERO, at_most(LARGEST_MULTIPLIER)],
        help_text="0.95 is 5% off.",
    )
    minimum_credits_per_trace = CreditsField(null=True, blank=True, validators=CREDITS_A_TRACE)
    maximum_credits_per_trace = CreditsField(null=True, blank=True, validators=CREDITS_A_TRACE)
    grace_credits = CreditsField(
        default=0,
        validators=CREDITS_GIVEN,
        help_text="How far below zero a user may still start runs.",
    )
    charges_failed_runs = models.BooleanField(
        default=True, help_text="Without it a run that failed has its cost and no credits."
    )

    class Meta:
        db_table = "pricing_tier_rate"
        ordering = ["tier", "-valid_from", "-recorded_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["tier", "valid_from"], condition=IN_LIST, name="one_rate_a_tier_and_moment"
            ),
            models.CheckConstraint(
                condition=Q(credits_per_usd__gt=0), name="credits_per_usd_above_zero"
            ),
            models.CheckConstraint(
                condition=Q(pricing_multiplier__gt=0), name="pricing_multiplier_above_zero"
            ),
            models.CheckConstraint(
                condition=Q(minimum_credits_per_trace__isnull=True)
                | Q(minimum_credits_per_trace__gte=0),
                name="minimum_not_negative",
            ),
            models.CheckConstraint(
                condition=Q(minimum_credits_per_trace__isnull=True)
                | Q(maximum_credits_per_trace__isnull=True)
                | Q(minimum_credits_per_trace__lte=F("maximum_credits_per_trace")),
                name="minimum_not_above_maximum",
            ),
            models.CheckConstraint(condition=Q(grace_credits__gte=0), name="grace_not_negative"),
            models.CheckConstraint(
                condition=Q(
                    credits_per_usd__lte=LARGEST_CREDITS_PER_USD,
                    pricing_multiplier__lte=LARGEST_MULTIPLIER,
                    grace_credits__lte=LARGEST_CREDITS,
                ),
                name="rate_within_bounds",
            ),
            models.CheckConstraint(
                condition=_at_most("minimum_credits_per_trace", LARGEST_CREDITS_A_TRACE)
                & _at_most("maximum_credits_per_trace", LARGEST_CREDITS_A_TRACE),
                name="limits_within_bounds",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.tier} from {self.valid_from:%Y-%m-%d}"

    def clean(self) -> None:
        minimum, maximum = self.minimum_credits_per_trace, self.maximum_credits_per_trace
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValidationError(
                {
                    "minimum_credits_per_trace": (
                        f"{minimum} is above the maximum of {maximum}: no charge fits both."
                    )
                }
            )


class TierAssignment(Recorded):
    """A tier from ``valid_from`` on: a user's, or a tenant's default, or (with neither) the
    platform's default.
    """

    tier = models.ForeignKey(PricingTier, on_delete=models.PROTECT, related_name="assignments")
    user = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.CASCADE, related_name="tier_assignments"
    )
    tenant = models.ForeignKey(
        Tenant, null=True, blank=True, on_delete=models.CASCADE, related_name="tier_assignments"
    )
    valid_from = models.DateTimeField()

    class Meta:
        db_table = "pricing_tier_assignment"
        ordering = ["-valid_from", "-recorded_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(user__isnull=True) | Q(tenant__isnull=True),
                name="user_or_tenant_not_both",
            ),
            models.UniqueConstraint(
                fields=["user", "valid_from"], condition=IN_LIST, name="one_tier_a_user_and_moment"
            ),
            models.UniqueConstraint(
                fields=["tenant", "valid_from"],
                condition=IN_LIST,
                name="one_tier_a_tenant_and_moment",
            ),
            models.UniqueConstraint(
                fields=["valid_from"],
                condition=IN_LIST & Q(user__isnull=True, tenant__isnull=True),
                name="one_platform_tier_a_moment",
            ),
        ]

    def __str__(self) -> str:
        return (
            f"{self.tier} for {self.user or self.tenant or 'the platform'} from"
            f" {self.valid_from:%Y-%m-%d}"
        )

    def clean(self) -> None:
        if self.user_id and self.tenant_id:
            raise ValidationError(
                "Choose a user, or a tenant for its default, or neither for the platform's default;"
                " not both."
            )
        if (
            self.tier_id
            and self.tier.retired_at is not None
            and self.tier.retired_at <= self.valid_from
        ):
            raise ValidationError(
                {
                    "tier": (
                        f"“{self.tier}” is retired since {self.tier.retired_at:%Y-%m-%d}; choose"
                        " another tier."
                    )
                }
            )


class ModelPrice(Recorded):
    """What a model costs, in USD for a million units of each kind, for one tenant or the whole
    platform.

    Two prices of one list (the tenant's or the platform's, for one name, of one precedence and with
    the same conditions) never hold at the same time: the database refuses it. A kind without a
    price is charged as its plain kind (pricing.units.PLAIN_KIND).
    """

    class Match(models.TextChoices):
        EXACT = "exact", "Exact name"
        PATTERN = "pattern", "Pattern (regular expression)"

    class PrecedenceChoice(models.TextChoices):
        REPLACES = Precedence.REPLACES.value, "Replaces Langfuse's cost"
        FALLBACK = Precedence.FALLBACK.value, "Where Langfuse has none"

    tenant = models.ForeignKey(
        Tenant,
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="model_prices",
        help_text="Empty: the whole platform.",
    )
    model = models.CharField(
        max_length=200, help_text="The model's name, or a pattern that the whole name has to match."
    )
    match = models.CharField(max_length=10, choices=Match.choices, default=Match.EXACT)
    precedence = models.CharField(
        max_length=10,
        choices=PrecedenceChoice.choices,
        default=PrecedenceChoice.REPLACES,
        help_text="A tenant's own price always replaces.",
    )
    conditions = models.CharField(
        max_length=LONGEST,
        blank=True,
        help_text=f"Only for such calls: {EXAMPLES}; several apart by spaces. Empty: for all.",
    )
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField(
        null=True,
        blank=True,
        help_text=(
            "Not including this moment; what held before holds again. Empty: until the next price."
        ),
    )
    input = UsdField(null=True, blank=True, validators=USD_PER_MILLION)
    cached_input = UsdField(
        null=True, blank=True, validators=USD_PER_MILLION, help_text="Empty: as input."
    )
    cache_write = UsdField(
        "cache write (5 minutes)",
        null=True,
        blank=True,
        validators=USD_PER_MILLION,
        help_text="Empty: as input.",
    )
    cache_write_1h = UsdField(
        "cache write (1 hour)",
        null=True,
        blank=True,
        validators=USD_PER_MILLION,
        help_text="Empty: as the cache write of 5 minutes.",
    )
    input_audio = UsdField(
        "audio in", null=True, blank=True, validators=USD_PER_MILLION, help_text="Empty: as input."
    )
    input_image = UsdField(
        "image tokens in",
        null=True,
        blank=True,
        validators=USD_PER_MILLION,
        help_text="Empty: as input.",
    )
    output = UsdField(null=True, blank=True, validators=USD_PER_MILLION)
    reasoning = UsdField(
        null=True, blank=True, validators=USD_PER_MILLION, help_text="Empty: as output."
    )
    output_audio = UsdField(
        "audio out",
        null=True,
        blank=True,
        validators=USD_PER_MILLION,
        help_text="Empty: as output.",
    )
    output_image = UsdField(
        "image tokens out",
        null=True,
        blank=True,
        validators=USD_PER_MILLION,
        help_text="Empty: as output.",
    )
    images = _counted("an image")
    request = _counted("a request")
    web_search = _counted("a web search", "Empty: what a request costs includes it, if it is said.")
    storage_search = _counted("a search in storage", "As a web search.")
    search_units = _counted("a search unit", "Of a reranker.")
    seconds = _counted("a second", "Of audio or video. Empty: free beside tokens.")
    characters = _counted("a character", "Empty: free beside tokens.")
    pages = _counted("a page", "Empty: free beside tokens.")
    other = _counted("another unit", "Empty: free.")
    other_units = models.CharField(
        "which other units",
        max_length=200,
        blank=True,
        help_text=(
            "Names in traces' usage that nobody knows; one * is any text, several apart by spaces:"
            " tool_calls gpu_*."
        ),
    )

    class Meta:
        db_table = "pricing_model_price"
        ordering = ["model", "-valid_from", "-recorded_at"]
        constraints = [
            models.CheckConstraint(
                condition=Q(valid_until__isnull=True) | Q(valid_until__gt=F("valid_from")),
                name="price_ends_after_it_begins",
            ),
            models.CheckConstraint(
                condition=Q(tenant__isnull=True) | Q(precedence=Precedence.REPLACES.value),
                name="a_tenants_price_replaces",
            ),
            models.CheckConstraint(
                condition=~Q(**{f"{kind.value}__isnull": True for kind in UnitKind}),
                name="price_has_a_unit",
            ),
            models.CheckConstraint(
                condition=Q(other__isnull=True, other_units="")
                | Q(other__isnull=False) & ~Q(other_units=""),
                name="other_units_have_names_and_a_price",
            ),
            *(
                models.CheckConstraint(
                    condition=Q(**{f"{kind.value}__isnull": True}) | Q(**{f"{kind.value}__gte": 0}),
                    name=f"{kind.value}_price_not_negative",
                )
                for kind in UnitKind
            ),
            *(
                models.CheckConstraint(
                    condition=_at_most(kind.value, _largest_price(kind)),
                    name=f"{kind.value}_price_within_bounds",
                )
                for kind in UnitKind
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} from {self.valid_from:%Y-%m-%d}"

    def clean(self) -> None:
        errors: dict[str, str] = {}
        try:
            self.conditions = str(Conditions.parsed(self.conditions))
        except ValueError as error:
            errors["conditions"] = str(error)
        if (self.other is None) != (not self.other_units):
            errors["other_units"] = (
                "Other units need both their names and a price; write both, or neither."
            )
        if self.match == self.Match.PATTERN:
            try:
                re.compile(self.model)
            except re.error as error:
                errors["model"] = (
                    f"“{self.model}” is not a valid pattern: {error}. Choose “Exact name” if it is"
                    " a name."
                )
        if self.tenant_id and self.precedence != self.PrecedenceChoice.REPLACES:
            errors["precedence"] = (
                "A tenant's own price always goes first; choose “Replaces Langfuse's cost”."
            )
        if self.valid_from and self.valid_until and self.valid_until <= self.valid_from:
            errors["valid_until"] = (
                f"{self.valid_until:%Y-%m-%d %H:%M} is not after the beginning,"
                f" {self.valid_from:%Y-%m-%d %H:%M}."
            )
        if errors:
            raise ValidationError(errors)
        if not self.usd_per_million():
            raise ValidationError(
                "Write a price for at least one kind of unit; 0 if the model is free."
            )

    def usd_per_million(self) -> dict[UnitKind, Decimal]:
        """The kinds that have a price of their own, in USD for a million."""
        return {
            kind: price for kind in UnitKind if (price := getattr(self, kind.value)) is not None
        }


class ModelAlias(Recorded):
    """What a name of a model means that doesn't tell by itself: an Azure deployment, a name of
    one's own, a bare name and whose it is (pricing.model_names.Alias); from ``valid_from`` until
    the next of its name.

    The column refers to the connections of the usage app, of which no code here knows more.
    """

    connection = models.ForeignKey(
        "usage.LangfuseConnection",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Only in what this one reads. Empty: in all usage.",
    )
    name = models.CharField(
        max_length=200,
        help_text="As it stands in traces; one * is any text: acme/*.",
    )
    model = models.CharField(
        max_length=200,
        blank=True,
        help_text="Such as azure/gpt-4o. Its * is what the name's stands for.",
    )
    provider = models.CharField(
        max_length=50,
        blank=True,
        choices=providers,
        help_text="Who is paid for it. Empty: as the model says.",
    )
    valid_from = models.DateTimeField()

    class Meta:
        db_table = "pricing_model_alias"
        verbose_name_plural = "model aliases"
        ordering = ["name", "-valid_from", "-recorded_at"]
        constraints = [
            models.UniqueConstraint(
                "connection",
                Lower("name"),
                "valid_from",
                condition=IN_LIST,
                name="one_meaning_a_connection_and_moment",
            ),
            models.UniqueConstraint(
                Lower("name"),
                "valid_from",
                condition=IN_LIST & Q(connection__isnull=True),
                name="one_meaning_for_all_a_moment",
            ),
            models.CheckConstraint(
                condition=~Q(model="", provider=""), name="alias_says_something"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} from {self.valid_from:%Y-%m-%d}"

    def clean(self) -> None:
        errors: dict[str, str] = {}
        if self.name.count("*") > 1:
            errors["name"] = f"“{self.name}” has more than one *; write one, for all the text."
        if self.name == "*" and self.connection_id is None:
            errors["name"] = (
                "“*” is every name there is: write what they begin or end with, or choose a"
                " connection."
            )
        if self.model.count("*") > self.name.count("*"):
            errors["model"] = (
                f"“{self.model}” has a * that stands for nothing in the name “{self.name}”."
            )
        if not self.provider and self.model.lower() in ("", self.name.lower()):
            errors["model"] = (
                f"“{self.name}” would mean what it means anyway: write another model, or choose a"
                " provider."
            )
        if errors:
            raise ValidationError(errors)


class ShippedPriceList(models.Model):
    """A state of the price book that the ``genai-prices`` package ships, from when it was known
    here.
    """

    class Origin(models.TextChoices):
        INSTALLED = "installed", "The installed package"
        FETCHED = "fetched", "Fetched from the package's authors"

    recorded_at = models.DateTimeField(default=timezone.now)
    origin = models.CharField(max_length=10, choices=Origin.choices)
    version = models.CharField(max_length=50, help_text="Of the installed package.")
    models_count = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        db_table = "pricing_shipped_list"
        ordering = ["-recorded_at", "-id"]

    def __str__(self) -> str:
        return f"genai-prices of {self.recorded_at:%Y-%m-%d}"
