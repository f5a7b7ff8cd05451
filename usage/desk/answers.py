"""What the desk's endpoints answer."""

from typing import Any

from rest_framework import serializers

from kluisz_analytics.answers import Answer, CreditsField
from usage.api.answers import PeriodAnswer
from usage.desk.alike import AlikeSources, LikelyTwins, RecordedCall
from usage.desk.doubtful import DoubtfulModel, DoubtfulObservation
from usage.desk.expected import HoldNotSeen, RunsWithoutCalls, TenantGap
from usage.desk.hidden import HiddenCalls
from usage.desk.unknown import UnknownName
from usage.facts.hidden import Hidden


class HoldNotSeenAnswer(Answer):
    shows = HoldNotSeen
    fault = serializers.ChoiceField(choices=["never_traced", "not_charged", "other_amount"])
    at_stake = CreditsField(help_text="What was said or reserved against what is charged.")


class RunsWithoutCallsAnswer(Answer):
    shows = RunsWithoutCalls


class TenantGapAnswer(Answer):
    shows = TenantGap


class HoldsByFaultAnswer(serializers.Serializer[Any]):
    """How many holds there are of each kind; the list has those with the most at stake."""

    never_traced = serializers.IntegerField()
    not_charged = serializers.IntegerField()
    other_amount = serializers.IntegerField()


class ExpectedUsageAnswer(PeriodAnswer):
    """What should have come and has not."""

    holds_by_fault = HoldsByFaultAnswer()
    holds = HoldNotSeenAnswer(many=True)
    flows = RunsWithoutCallsAnswer(many=True)
    gaps_count = serializers.IntegerField()
    gaps = TenantGapAnswer(many=True)


class DoubtfulModelAnswer(Answer):
    shows = DoubtfulModel


class DoubtfulObservationAnswer(Answer):
    shows = DoubtfulObservation


class RecordedCallAnswer(Answer):
    shows = RecordedCall


class LikelyTwinsAnswer(Answer):
    shows = LikelyTwins
    records = RecordedCallAnswer(many=True)


class AlikeSourcesAnswer(Answer):
    shows = AlikeSources


class HiddenCallsAnswer(Answer):
    shows = HiddenCalls
    kind = serializers.ChoiceField(choices=[one.value for one in Hidden])


class UnknownNameAnswer(Answer):
    shows = UnknownName


class UnknownNamesAnswer(serializers.Serializer[Any]):
    complete_through = serializers.DateTimeField(allow_null=True)
    results = UnknownNameAnswer(many=True)


class DoubtfulAnswer(serializers.Serializer[Any]):
    """What doesn't add up; ``undecided``: observations that nobody has ruled on. Of the last seven
    days, ``alike``: calls that two runs may both record, by the two integrations, and
    ``alike_calls``: those with the most at stake; ``hidden``: runs of which a framework hides
    calls.
    """

    complete_through = serializers.DateTimeField(allow_null=True)
    undecided = serializers.IntegerField()
    models = DoubtfulModelAnswer(many=True)
    observations = DoubtfulObservationAnswer(many=True)
    alike = AlikeSourcesAnswer(many=True)
    alike_calls = LikelyTwinsAnswer(many=True)
    hidden = HiddenCallsAnswer(many=True)
