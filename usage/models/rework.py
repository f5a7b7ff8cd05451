"""What repricings and rulings have in common: how far each is, and what it has changed."""

from django.db import models

from kluisz_analytics.fields import CreditsField, UsdField
from kluisz_analytics.tenants.models import User


class Rework(models.Model):
    """Decides stored traces anew, batch after batch (``usage.facts.rework``).

    It holds from its beginning: a trace that is decided while it runs is decided by it already.
    Undone, it holds no more, and the traces are decided as before.
    """

    class State(models.TextChoices):
        APPLYING = "applying", "Applying"
        STOPPED = "stopped", "Stopped, to be continued"
        APPLIED = "applied", "Applied"
        UNDOING = "undoing", "Undoing"
        UNDONE = "undone", "Undone"

    HOLDING = (State.APPLYING, State.STOPPED, State.APPLIED)
    UNDER_WAY = (State.APPLYING, State.UNDOING)
    AFRESH = {"reached_trace_id": None, "traces_done": 0, "traces_changed": 0}
    """What is as at the beginning again when it is undone."""

    reason = models.CharField(max_length=500)
    state = models.CharField(max_length=10, choices=State.choices, default=State.APPLYING)
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.ForeignKey(
        User, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    # How far it is: the key of the last trace that was looked at.
    reached_trace_id = models.UUIDField(null=True, editable=False)
    traces_done = models.BigIntegerField(
        default=0, help_text="Looked at; when it is undone, counted from 0 again."
    )
    traces_changed = models.BigIntegerField(default=0)
    transactions_posted = models.BigIntegerField(default=0)
    cost_usd_difference = UsdField(default=0)
    credits_difference = CreditsField(default=0)

    class Meta:
        abstract = True
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.called}: {self.reason}"

    @property
    def called(self) -> str:
        """What it is, with its number."""
        return f"{str(self._meta.verbose_name).capitalize()} {self.pk}"
