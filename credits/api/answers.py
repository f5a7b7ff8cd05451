"""The forms of what the credits API takes and answers."""

from decimal import Decimal
from typing import Any

from rest_framework import serializers

from credits.budgets import BudgetStanding
from credits.enforcement import Checked
from credits.estimate import Estimate
from credits.models import Grant, Hold, TenantBudget, Transaction
from credits.status import CreditStatus
from kluisz_analytics.answers import Answer, CreditsField
from kluisz_analytics.period_parameters import PeriodParameters
from kluisz_analytics.scales import CREDIT_PLACES, USD_PLACES
from pricing.bounds import LARGEST_CREDITS

LARGEST = int(LARGEST_CREDITS)
"""No one reserves or is given more credits than this; it is far below what can be stored."""


SMALLEST = Decimal(1).scaleb(-CREDIT_PLACES)


class AmountField(CreditsField):
    """An amount of credits above 0."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(min_value=SMALLEST, max_value=Decimal(LARGEST), **kwargs)


class RefusalItem(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()
    attr = serializers.CharField(allow_null=True)


class RefusalAnswer(serializers.Serializer[Any]):
    """Why it is refused: ``no_active_license`` or ``permission_denied`` (403), ``conflict``
    (409).
    """

    type = serializers.ChoiceField(choices=["client_error"])
    # an answer's field, not the serializer's own
    errors = RefusalItem(many=True)  # type: ignore[assignment]


class RequirementItem(Answer):
    shows = Checked


class BudgetItem(Answer):
    shows = BudgetStanding
    leaves_out = ("message",)


class ShortageAnswer(RefusalAnswer, RequirementItem):
    """``insufficient_credits`` or ``budget_exhausted``, with what the run requires and what
    remains, and which budget has no room for it.
    """

    budget = BudgetItem(allow_null=True)


class CreditStatusAnswer(Answer):
    shows = CreditStatus


class EstimateAnswer(Answer):
    shows = Estimate
    flow_id = serializers.CharField()


class CheckRequest(serializers.Serializer[Any]):
    user_id = serializers.UUIDField()
    flow_id = serializers.CharField(max_length=200, required=False, default="", allow_blank=True)
    credits = AmountField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Default: the median of the flow's history, or 1.",
    )
    model = serializers.CharField(
        max_length=200,
        required=False,
        default="",
        allow_blank=True,
        help_text="The model that the run will use, for budgets of a model.",
    )


class CheckAnswer(RequirementItem):
    can_execute = serializers.BooleanField()


class HoldRequest(CheckRequest):
    trace_id = serializers.CharField(
        max_length=200, help_text="The run's id, as the tracer is given it: a UUID, or any other."
    )
    credits = AmountField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Default: the 90th percentile of the flow's history, or 1.",
    )
    ttl_seconds = serializers.IntegerField(
        min_value=1, max_value=7 * 86_400, required=False, default=3600
    )


class SettleRequest(serializers.Serializer[Any]):
    credits = CreditsField(required=False, min_value=Decimal(0), max_value=Decimal(LARGEST))
    cost_usd = serializers.DecimalField(
        max_digits=18,
        decimal_places=USD_PLACES,
        required=False,
        min_value=Decimal(0),
        max_value=Decimal(10**6),
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if "credits" in attrs and "cost_usd" in attrs:
            raise serializers.ValidationError("Write credits or cost_usd, not both.")
        return attrs


class HoldAnswer(serializers.Serializer[Any]):
    """Written out, since it is answered before every run: a ModelSerializer finds its fields anew
    each time.
    """

    id = serializers.UUIDField()
    user_id = serializers.UUIDField(source="account_id")
    trace_id = serializers.CharField(help_text="Of the run in Langfuse: 32 hex digits.")
    flow_id = serializers.CharField()
    model = serializers.CharField()
    state = serializers.ChoiceField(choices=Hold.State.choices)
    credits = CreditsField()
    settled_credits = CreditsField(allow_null=True)
    created_at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)


class HoldRowAnswer(HoldAnswer):
    """For people to look at."""

    username = serializers.CharField(source="account.user.username")


class BudgetRowAnswer(serializers.Serializer[Any]):
    """A budget, and what of it is used and held in its running period. Amounts are of its unit;
    ``left`` is what runs may still need. Of a user who has left the tenant there is no name.
    """

    id = serializers.IntegerField(source="budget.pk")
    kind = serializers.ChoiceField(
        source="budget.kind", choices=["tenant", "user", "flow", "model"]
    )
    tenant_id = serializers.UUIDField(source="budget.tenant_id")
    tenant = serializers.CharField(source="budget.tenant.name")
    user_id = serializers.UUIDField(source="user.pk", default=None, allow_null=True)
    username = serializers.CharField(source="user.username", default="")
    flow_id = serializers.CharField(source="budget.flow_id")
    model = serializers.CharField(source="budget.model")
    period = serializers.ChoiceField(source="budget.period", choices=TenantBudget.Period.choices)
    unit = serializers.ChoiceField(source="budget.unit", choices=TenantBudget.Unit.choices)
    is_hard = serializers.BooleanField(source="budget.is_hard")
    amount = CreditsField(source="budget.amount")
    used = CreditsField(source="budget.used")
    held = CreditsField(source="budget.held")
    left = CreditsField(source="budget.left", help_text="Below 0 where it is passed.")
    period_start = serializers.DateTimeField()
    period_end = serializers.DateTimeField()


class TransactionAnswer(serializers.ModelSerializer[Transaction]):
    user_id = serializers.UUIDField(source="account_id")
    username = serializers.CharField(source="account.user.username")
    amount = CreditsField()
    balance_before = CreditsField()
    balance_after = CreditsField()
    created_by = serializers.CharField(source="created_by.username", default=None, allow_null=True)

    class Meta:
        model = Transaction
        fields = [
            "id",
            "user_id",
            "username",
            "type",
            "amount",
            "balance_before",
            "balance_after",
            "reason",
            "usage_hour",
            "created_at",
            "created_by",
        ]


class EstimateParameters(serializers.Serializer[Any]):
    flow_id = serializers.CharField(max_length=200, help_text="The flow's id, as traces name it.")


class ListParameters(PeriodParameters):
    """Whose rows; repeat ``user_id`` for “any of”. And how many, and where to go on."""

    user_id = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=100)
    cursor = serializers.CharField(required=False)


class TransactionParameters(ListParameters):
    """Which entries; repeat ``type`` for “any of”."""

    type = serializers.ListField(
        child=serializers.ChoiceField(choices=Transaction.Type.choices),
        required=False,
        max_length=10,
    )


class HoldParameters(ListParameters):
    """Which holds; repeat ``state`` and ``flow_id`` for “any of”. The period is of when they were
    made.
    """

    state = serializers.ListField(
        child=serializers.ChoiceField(choices=Hold.State.choices), required=False, max_length=10
    )
    flow_id = serializers.ListField(
        child=serializers.CharField(max_length=200), required=False, max_length=100
    )
    trace_id = serializers.CharField(
        max_length=200, required=False, help_text="The run's id, in any form."
    )


class BudgetParameters(serializers.Serializer[Any]):
    """Which budgets; repeat a parameter for “any of”. ``user_id``: those of these users."""

    tenant_id = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    user_id = serializers.ListField(child=serializers.UUIDField(), required=False, max_length=100)
    period = serializers.ListField(
        child=serializers.ChoiceField(choices=TenantBudget.Period.choices),
        required=False,
        max_length=3,
    )
    # What is left out of an address is False to a field that takes no null.
    is_hard = serializers.BooleanField(required=False, allow_null=True, default=None)
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=100)
    cursor = serializers.CharField(required=False)


class GiveRequest(serializers.Serializer[Any]):
    user_id = serializers.UUIDField()
    amount = AmountField()
    reason = serializers.CharField(max_length=500)


class GrantRequest(GiveRequest):
    source = serializers.ChoiceField(choices=["manual", "purchase", "promotion"], default="manual")  # type: ignore[assignment]
    priority = serializers.IntegerField(
        min_value=0, max_value=10_000, default=Grant.DEFAULT_PRIORITY
    )
    starts_at = serializers.DateTimeField(required=False)
    expires_at = serializers.DateTimeField(required=False, allow_null=True)
    recurrence = serializers.ChoiceField(
        choices=["day", "week", "month"], required=False, allow_null=True
    )
    rollover_maximum = CreditsField(
        required=False, allow_null=True, default=0, min_value=Decimal(0), max_value=Decimal(LARGEST)
    )


class GrantAnswer(serializers.ModelSerializer[Grant]):
    user_id = serializers.UUIDField(source="account_id")
    amount = CreditsField()
    rollover_maximum = CreditsField(allow_null=True)
    # Written down, since its range would be that of the database at hand.
    priority = serializers.IntegerField(help_text="The lowest number is burned first.")

    class Meta:
        model = Grant
        fields = [
            "id",
            "user_id",
            "amount",
            "source",
            "reason",
            "priority",
            "starts_at",
            "expires_at",
            "recurrence",
            "rollover_maximum",
            "created_at",
        ]
