"""Attribution rules of connections: whose the runs are that other tracers recorded (domain.md,
Attribution rules).
"""

import msgspec
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q

from pricing.models import PricingTier
from usage.facts.patterns import BadPattern, bounded_pattern
from usage.facts.rules import ENTERED, FINDS, FindsBy, Gives, Rule, Source, Wins
from usage.models.connections import LangfuseConnection
from usage.models.rework import Rework

LONGEST_TABLE = 20_000
ENTERED_A_DAY = 100
PATHED = (Source.METADATA, Source.ROOT_METADATA)


class AttributionRules(Rework):
    """Rules of a connection that were made to hold together, for runs that begin in [since, until).

    They hold from their beginning, and undone no more, as every rework; they are never changed.
    """

    AFRESH = {**Rework.AFRESH, "reached_start": None}

    connection = models.ForeignKey(LangfuseConnection, on_delete=models.PROTECT, related_name="+")
    name = models.CharField(max_length=100)
    position = models.IntegerField(
        default=0, help_text="Of several, the rules with the lowest position are asked first."
    )
    since = models.DateTimeField(
        null=True, blank=True, help_text="For runs that begin from then on. Empty: for all."
    )
    until = models.DateTimeField(
        null=True, blank=True, help_text="For runs that begin before. Empty: no end."
    )
    enters_a_day = models.PositiveIntegerField(
        default=ENTERED_A_DAY,
        help_text="How many tenants and users they enter in a day (UTC) at most.",
    )
    # Traces go by their start, and those of one moment by their key.
    reached_start = models.DateTimeField(null=True, editable=False)

    class Meta(Rework.Meta):
        db_table = "usage_attribution_rules"
        verbose_name = verbose_name_plural = "attribution rules"
        constraints = [
            models.CheckConstraint(
                condition=Q(since__isnull=True) | Q(until__isnull=True) | Q(until__gt=F("since")),
                name="attribution_rules_end_after_they_begin",
            )
        ]


class AttributionRule(models.Model):
    """One of them (usage.facts.rules.Rule)."""

    class GivesChoice(models.TextChoices):
        TENANT = Gives.TENANT.value, "The tenant"
        USER = Gives.USER.value, "The user"
        PROJECT = Gives.PROJECT.value, "The project"
        FLOW = Gives.FLOW.value, "The flow"

    class SourceChoice(models.TextChoices):
        METADATA = Source.METADATA.value, "Metadata of any step"
        ROOT_METADATA = Source.ROOT_METADATA.value, "Metadata of the root"
        TAG = Source.TAG.value, "A tag"
        NAME = Source.NAME.value, "The run's name"
        USER_ID = Source.USER_ID.value, "userId"
        SESSION_ID = Source.SESSION_ID.value, "sessionId"
        ENVIRONMENT = Source.ENVIRONMENT.value, "The environment"
        RELEASE = Source.RELEASE.value, "The release"
        CONSTANT = Source.CONSTANT.value, "Always this"

    class WinsChoice(models.TextChoices):
        NOBODY = Wins.NOBODY.value, "Nobody: the run is disputed"
        ROOT = Wins.ROOT.value, "What the root says"
        FIRST = Wins.FIRST.value, "What the earliest step says"
        MOST = Wins.MOST.value, "What most steps say"

    rules = models.ForeignKey(AttributionRules, on_delete=models.CASCADE, related_name="rules")
    position = models.IntegerField()
    gives = models.CharField(max_length=10, choices=GivesChoice)
    source = models.CharField("from", max_length=15, choices=SourceChoice)
    path = models.CharField(
        max_length=120, blank=True, help_text="Of metadata, for example attributes.metadata.team."
    )
    pattern = models.CharField(
        max_length=200,
        blank=True,
        help_text="The whole text has to match it, for example team:(?P<tenant>.+). Empty: any.",
    )
    value = models.CharField(max_length=200, blank=True, help_text="Of “Always this”.")
    finds_by = models.CharField(
        max_length=40,
        default="id,alias",
        help_text="In this order, apart by commas: id, slug, name, email, alias.",
    )
    table = models.TextField(
        blank=True,
        help_text="JSON: text → what it stands for, which is looked for instead. Empty: none.",
    )
    wins = models.CharField(
        "where steps disagree",
        max_length=5,
        blank=True,
        choices=[(value, label) for value, label in WinsChoice.choices if value],
        help_text="Who counts where the steps of a run name several. Empty: the run is disputed.",
    )
    enters = models.BooleanField(
        "enters unknown",
        default=False,
        help_text="Whom nobody knows, it enters as “seen in usage”: tenants and users.",
    )
    tier = models.ForeignKey(
        PricingTier,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Of whom it enters. Empty: the tenant's, or the platform's.",
    )

    class Meta:
        db_table = "usage_attribution_rule"
        ordering = ["rules", "position"]
        constraints = [
            models.UniqueConstraint(
                fields=["rules", "position"], name="one_attribution_rule_a_position"
            )
        ]

    def __str__(self) -> str:
        what = self.path or self.value or self.pattern
        where = f"{self.get_source_display()} {what}".strip()
        return f"{self.get_gives_display()} from: {where}"

    def clean(self) -> None:
        """Raises ValidationError, by field, for what can't be a rule."""
        problems: dict[str, str] = {}
        if (self.source in PATHED) != bool(self.path.strip()):
            problems["path"] = "Metadata has a path; nothing else has."
        if (self.source == Source.CONSTANT) != bool(self.value.strip()):
            problems["value"] = "“Always this” has a value; nothing else has."
        if self.pattern:
            try:
                bounded_pattern(self.pattern, self.gives)
            except BadPattern as error:
                problems["pattern"] = str(error)
        if self.enters and self.gives not in ENTERED:
            problems["enters"] = "Only tenants and users are entered."
        if self.enters and self.source == Source.CONSTANT:
            problems["enters"] = "“Always this” is somebody: write who."
        if self.tier_id and not self.enters:
            problems["tier"] = "A tier is of those whom the rule enters."
        for check in (self._check_finds_by, self._check_table):
            try:
                check()
            except ValueError as error:
                problems[check.__name__.removeprefix("_check_")] = str(error)
        if problems:
            raise ValidationError(problems)

    def _check_finds_by(self) -> None:
        allowed = FINDS.get(self.gives, tuple(FindsBy))
        named = [one.strip() for one in self.finds_by.split(",")]
        if not set(named) <= set(allowed) or len(set(named)) != len(named):
            known = ", ".join(one.value for one in allowed)
            raise ValueError(f"“{self.finds_by}”: write one or more of {known}, apart by commas.")
        self.finds_by = ",".join(named)

    def _check_table(self) -> None:
        if len(self.table) > LONGEST_TABLE:
            raise ValueError(
                f"The table has {len(self.table)} characters; {LONGEST_TABLE} at most."
            )
        try:
            table = msgspec.json.decode(self.table or "{}", type=dict[str, str])
        except msgspec.DecodeError as error:
            raise ValueError(
                f'Write a JSON map of texts, for example {{"vip": "acme"}} ({error}).'
            ) from error
        if "" in {key.strip() for key in table} | {text.strip() for text in table.values()}:
            raise ValueError("A text of the table is empty.")

    def as_rule(self) -> Rule:
        """As it is evaluated."""
        table = msgspec.json.decode(self.table or "{}", type=dict[str, str])
        return Rule(
            self.pk or -self.position - 1,
            Gives(self.gives),
            Source(self.source),
            self.path.strip(),
            self.pattern,
            self.value.strip(),
            tuple(map(FindsBy, self.finds_by.split(","))),
            tuple(sorted((key.strip().casefold(), text.strip()) for key, text in table.items())),
            Wins(self.wins),
            self.rules.since,
            self.rules.until,
            self.enters,
        )
