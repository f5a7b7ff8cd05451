"""Any sequence of grants, reservations, charges, expiry, refunds and time, against a simple model
of the rules.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from credits import enforcement, grants, holds
from credits.books import ledger_findings
from credits.burn import GrantTerms, burn_down
from credits.gate import InsufficientCredits
from credits.grants import NewGrant
from credits.holds import HoldConflict
from credits.models import Account, Grant, Hold, Transaction
from kluisz_analytics.findings import findings
from kluisz_analytics.identifiers import as_trace_id
from kluisz_analytics.tenants.models import User
from pricing.models import PricingTier, TierAssignment, TierRate
from tests.conftest import LONG_AGO, People
from tests.usage.facts.test_decide import received
from usage.books import CHARGE_CHECKS
from usage.facts.apply import apply_received
from usage.models import LangfuseConnection

pytestmark = pytest.mark.django_db
# Later than the tiers are recorded: what is stored before knows nothing of them.
START = datetime(2030, 6, 1, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
FOREVER = datetime.max.replace(tzinfo=UTC)
amounts = st.integers(1, 60).map(Decimal)


class Credits(RuleBasedStateMachine):
    """The model keeps lists of what was given, used and held, each at its own minute, and asks the
    pure burn-down what they come to.
    """

    user: User
    langfuse: LangfuseConnection
    made = Bundle("made")
    given = Bundle("given")
    ran = Bundle("ran")

    @initialize()
    def begin(self) -> None:
        self.now = START
        self.clock = mock.patch.object(timezone, "now", side_effect=lambda: self.now)
        self.clock.start()
        self.grants: dict[int, list[Any]] = {}
        self.usage: dict[str, tuple[datetime, Decimal]] = {}
        self.corrections: list[tuple[datetime, int]] = []
        self.holds: dict[str, list[Any]] = {}
        self.number = 0

    def teardown(self) -> None:
        self.clock.stop()

    def key(self) -> str:
        self.number += 1
        return f"key{self.number}"

    @rule(
        target=given,
        amount=amounts,
        begins=st.integers(-300, 1800),
        lasts=st.none() | st.integers(1, 2400),
        priority=st.integers(1, 3),
    )
    def give(self, amount: Decimal, begins: int, lasts: int | None, priority: int) -> int:
        starts_at = self.now + begins * MINUTE
        expires_at = None if lasts is None else starts_at + lasts * MINUTE
        new = NewGrant(
            self.user,
            amount,
            Grant.Source.MANUAL,
            self.key(),
            priority=priority,
            starts_at=starts_at,
            expires_at=expires_at,
        )
        grant = grants.grant(new)
        self.grants[grant.pk] = [amount, priority, starts_at, expires_at or FOREVER]
        return grant.pk

    @rule(grant=given)
    def void(self, grant: int) -> None:
        grants.void(Grant.objects.get(pk=grant), None)
        self.grants[grant][3] = (
            min(self.grants[grant][3], self.now)
            if self.grants[grant][3] > self.now
            else self.grants[grant][3]
        )

    @rule(target=ran, amount=st.integers(0, 60).map(Decimal), ago=st.integers(0, 2400))
    def run(self, amount: Decimal, ago: int) -> str:
        trace = self.key()
        self.usage[trace] = (self.now - ago * MINUTE, amount)
        self.step(trace, "call", self.usage[trace][0], amount)
        return trace

    @rule(trace=ran, amount=st.integers(0, 60).map(Decimal))
    def cost_something_else(self, trace: str, amount: Decimal) -> None:
        start, _ = self.usage[trace]
        self.usage[trace] = (start, amount)
        self.step(trace, "call", start, amount)

    @rule(trace=ran, earlier=st.integers(1, 90))
    def begin_earlier(self, trace: str, earlier: int) -> None:
        """A step of before comes in: the run is then of another moment, often of the same hour."""
        start, amount = self.usage[trace]
        start -= earlier * MINUTE
        self.usage[trace] = (start, amount)
        self.step(trace, self.key(), start, None)

    def step(self, trace: str, name: str, start: datetime, amount: Decimal | None) -> None:
        self.number += 1
        used = {} if amount is None else {"usage_details": {"input": 1}, "cost_usd": amount / 100}
        one = received(
            name,
            trace,
            start_time=start,
            received_at=START + timedelta(days=900, seconds=self.number),
            user_reference=str(self.user.pk),
            model="gpt-4o" if used else "",
            **used,
        )
        with transaction.atomic():
            apply_received(self.langfuse, [one])

    @rule(amount=amounts)
    def refund(self, amount: Decimal) -> None:
        grant = grants.refund(self.user, amount, reason="r", idempotency_key=self.key(), by=None)
        self.grants[grant.pk] = [amount, Grant.DEFAULT_PRIORITY, self.now, FOREVER]

    @rule(amount=amounts)
    def take(self, amount: Decimal) -> None:
        grants.adjust(self.user, -amount, reason="less", idempotency_key=self.key(), by=None)
        self.corrections.append((self.now, int(amount)))

    @rule(minutes=st.integers(1, 1800))
    def wait(self, minutes: int) -> None:
        self.now += minutes * MINUTE

    @rule()
    def beat(self) -> None:
        grants.catch_up(self.now)
        holds.expire_all(self.now)

    @rule(target=made, amount=amounts, hours=st.integers(1, 20))
    def reserve(self, amount: Decimal, hours: int) -> str:
        trace = self.key()
        enough = self.remaining() >= amount
        if not enough:
            with pytest.raises(InsufficientCredits) as refused:
                enforcement.reserve_credits(self.user, trace, credits=amount, ttl=hours * HOUR)
            assert refused.value.remaining == self.remaining()
        else:
            assert enforcement.reserve_credits(
                self.user, trace, credits=amount, ttl=hours * HOUR
            ).is_new
            self.holds[trace] = [amount, self.now + hours * HOUR]
        return trace

    @rule(trace=made, used=st.none() | st.integers(0, 80).map(Decimal))
    def settle(self, trace: str, used: Decimal | None) -> None:
        hold = Hold.objects.filter(trace_id=as_trace_id(trace)).first()
        if hold is None:
            return
        is_open = hold.state == Hold.State.OPEN
        if used is not None and hold.settled_credits not in (None, used):
            with pytest.raises(HoldConflict):
                holds.settle(hold.pk, used)
            return
        holds.settle(hold.pk, used)
        if is_open and trace in self.holds:
            self.holds[trace] = [
                self.holds[trace][0] if used is None else used,
                self.now + holds.SETTLED_TTL,
            ]

    @rule(trace=consumes(made), how=st.sampled_from(["release", "charge"]))
    def end(self, trace: str, how: str) -> None:
        hold = Hold.objects.filter(trace_id=as_trace_id(trace)).first()
        if how == "charge":
            holds.charged([trace])
        elif hold is not None:
            holds.release(hold.pk)
        self.holds.pop(trace, None)

    def model(self) -> Any:
        terms = [
            GrantTerms(pk, int(amount), priority, start, end)
            for pk, (amount, priority, start, end) in self.grants.items()
        ]
        usage = sorted([(at, int(amount)) for at, amount in self.usage.values()] + self.corrections)
        return burn_down(terms, usage, self.now)

    def remaining(self) -> Decimal:
        burned = self.model()
        balance = (
            sum(state.left for state in burned.grants.values() if not state.has_ended) - burned.debt
        )
        return Decimal(balance) - sum(
            (amount for amount, expires_at in self.holds.values() if expires_at > self.now),
            Decimal(0),
        )

    @invariant()
    def the_books_are_closed(self) -> None:
        assert list(ledger_findings()) == []
        with connection.cursor() as cursor:
            assert list(findings(cursor, CHARGE_CHECKS)) == []

    @invariant()
    def looked_at_the_account_is_what_the_rules_say(self) -> None:
        if not Account.objects.filter(pk=self.user.pk).exists():
            return
        with transaction.atomic():
            grants.catch_up(self.now)
            holds.expire_all(self.now)
            account = Account.objects.get(pk=self.user.pk)
            assert account.remaining == self.remaining()
            transaction.set_rollback(True)


@pytest.fixture
def machine(people: People, bare_connection: LangfuseConnection) -> Iterator[type[Credits]]:
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)
    tier = PricingTier.objects.create(name="A hundred a dollar")
    TierRate.objects.create(
        tier=tier, valid_from=LONG_AGO, credits_per_usd=100, pricing_multiplier=1
    )
    TierAssignment.objects.create(
        user=people.acme_user, tier=tier, valid_from=LONG_AGO + timedelta(days=1)
    )

    class OfAnn(Credits):
        user = people.acme_user
        langfuse = bare_connection

        def teardown(self) -> None:
            super().teardown()
            self.rollback.__exit__(RuntimeError, RuntimeError(), None)

        @initialize()
        def begin(self) -> None:
            self.rollback = transaction.atomic()
            self.rollback.__enter__()
            super().begin()

    yield OfAnn
    assert not Transaction.objects.exists()


def test_any_sequence_ends_as_the_rules_say(machine: type[Credits]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=40, stateful_step_count=25),
    )
