"""The gate: check, reserve, settle, release; what was reserved is never counted twice and never
leaks.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.utils import timezone

import credits
from credits import enforcement, grants, holds
from credits.estimate import Estimate
from credits.gate import InsufficientCredits, NoActiveLicense
from credits.grants import IdempotencyConflict, NewGrant
from credits.holds import HoldConflict
from credits.models import Account, Grant, Hold
from credits.status import credit_status
from kluisz_analytics.tenants.models import User
from pricing import lists
from pricing.models import PricingTier, TierRate
from tests.conftest import LONG_AGO, NOON, People
from usage.analytics.estimates import refresh_estimates
from usage.books import verify_books

pytestmark = pytest.mark.django_db
D = Decimal
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def no_monthly_credits(tiers: dict[str, PricingTier]) -> None:
    PricingTier.objects.update(default_credits_per_month=0, default_credits=0)


@pytest.fixture
def ann(people: People) -> User:
    grants.grant(NewGrant(people.acme_user, D(100), Grant.Source.MANUAL, "ann"))
    return people.acme_user


def balanced() -> None:
    assert verify_books() == []


def account(user: User) -> Account:
    return Account.objects.get(pk=user.pk)


def test_it_works(ann: User) -> None:
    made = enforcement.reserve_credits(ann, "t1", "flow", D(60))
    assert (made.is_new, made.hold.credits, made.hold.state) == (True, 60, "open")
    assert (account(ann).held, account(ann).remaining) == (60, 40)
    with pytest.raises(InsufficientCredits) as refused:
        enforcement.reserve_credits(ann, "t2", "flow", D(41))
    assert (refused.value.required, refused.value.remaining) == (41, 40)
    assert enforcement.reserve_credits(ann, "t3", credits=D(40)).is_new
    balanced()


def test_the_same_trace_has_one_hold(ann: User, people: People) -> None:
    first = enforcement.reserve_credits(ann, "t1", credits=D(60))
    again = enforcement.reserve_credits(ann, "t1", credits=D(60))
    assert (again.is_new, again.hold.pk, account(ann).held) == (False, first.hold.pk, 60)
    assert enforcement.reserve_credits(ann, "t1").hold.pk == first.hold.pk
    with pytest.raises(IdempotencyConflict):
        enforcement.reserve_credits(ann, "t1", credits=D(10))
    grants.grant(NewGrant(people.acme_colleague, D(100), Grant.Source.MANUAL, "bob"))
    with pytest.raises(IdempotencyConflict):
        enforcement.reserve_credits(people.acme_colleague, "t1", credits=D(60))
    assert account(people.acme_colleague).held == 0
    balanced()


def test_settling_holds_what_was_used_until_it_is_charged(ann: User) -> None:
    hold = enforcement.reserve_credits(ann, "t1", credits=D(60)).hold
    assert holds.settle(hold.pk, D(12)).settled_credits == 12
    assert (account(ann).held, account(ann).remaining) == (12, 88)
    assert holds.settle(hold.pk, D(12)).settled_credits == 12, "settling twice is harmless"
    assert holds.settle(hold.pk).settled_credits == 12
    with pytest.raises(HoldConflict, match="was settled with 12"):
        holds.settle(hold.pk, D(50))
    assert holds.charged(["t1"]) == 1
    assert (account(ann).held, Hold.objects.get().state) == (0, "charged")
    assert holds.charged(["t1"]) == 0
    assert holds.release(hold.pk).state == "charged"
    balanced()


def test_a_run_may_have_used_more_than_was_reserved(ann: User) -> None:
    hold = enforcement.reserve_credits(ann, "t1", credits=D(60)).hold
    holds.settle(hold.pk, D(130))
    assert account(ann).remaining == -30
    holds.settle(enforcement.reserve_credits(people_admin(), "t2", credits=D(1)).hold.pk)
    balanced()


def people_admin() -> User:
    return User.objects.get(username="root")


def test_releasing_frees_and_is_harmless_twice(ann: User) -> None:
    hold = enforcement.reserve_credits(ann, "t1", credits=D(60)).hold
    assert holds.release(hold.pk).state == "released"
    assert holds.release(hold.pk).state == "released"
    assert holds.settle(hold.pk).state == "released"
    with pytest.raises(HoldConflict, match="was released"):
        holds.settle(hold.pk, D(5))
    assert account(ann).held == 0
    balanced()


def test_an_expired_hold_is_free_at_the_moment_it_is_looked_at(
    ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = enforcement.reserve_credits(ann, "t1", credits=D(90), ttl=HOUR).hold
    later = timezone.now() + 2 * HOUR
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert credit_status(ann, later).credits_remaining == 100
    assert enforcement.check(ann, credits=D(100)).remaining == 100
    assert enforcement.reserve_credits(ann, "t2", credits=D(95)).is_new
    hold.refresh_from_db()
    assert (hold.state, account(ann).held) == ("expired", 95)
    assert holds.settle(hold.pk).state == "expired"
    assert holds.settle(hold.pk, D(3)).state == "uncharged"
    assert account(ann).held == 95
    balanced()


def test_the_job_frees_what_nobody_looks_at(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    enforcement.reserve_credits(ann, "t1", credits=D(90), ttl=HOUR)
    later = timezone.now() + 2 * HOUR
    assert holds.expire_all(later) == 1
    assert holds.expire_all(later) == 0
    assert account(ann).held == 0
    balanced()


def test_a_grant_that_has_begun_or_ended_counts_without_any_job(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    bob = people.acme_colleague
    grants.grant(NewGrant(bob, D(100), Grant.Source.MANUAL, "ending", expires_at=now + HOUR))
    grants.grant(NewGrant(bob, D(30), Grant.Source.MANUAL, "beginning", starts_at=now + HOUR))
    monkeypatch.setattr(timezone, "now", lambda: now + 2 * HOUR)
    with pytest.raises(InsufficientCredits) as refused:
        enforcement.reserve_credits(bob, "t1", credits=D(31))
    assert refused.value.remaining == 30
    assert enforcement.reserve_credits(bob, "t2", credits=D(30)).is_new
    balanced()


def test_the_months_credits_are_there_although_the_beat_was_down(people: People) -> None:
    PricingTier.objects.update(default_credits_per_month=50)
    assert enforcement.reserve_credits(people.acme_user, "t1", credits=D(50)).is_new
    with pytest.raises(InsufficientCredits):
        enforcement.reserve_credits(people.acme_user, "t2", credits=D(1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_active": False}, "The user is not active."),
        ({"tenant__is_active": False}, "The tenant is not active."),
        ({"tier": None}, "The user has no pricing tier"),
    ],
)
def test_without_an_active_license_nothing_starts(
    ann: User, change: dict[str, Any], reason: str
) -> None:
    if "is_active" in change:
        ann.is_active = False
        ann.save()
    elif "tier" in change:
        for assignment in ann.tier_assignments.all():
            lists.withdraw(assignment, None)
    else:
        ann.tenant.is_active = False
        ann.tenant.save()
    for ask in (lambda: enforcement.check(ann), lambda: enforcement.reserve_credits(ann, "t1")):
        with pytest.raises(NoActiveLicense, match=reason):
            ask()
    assert not Hold.objects.exists()


def test_a_platform_admin_passes(people: People) -> None:
    assert enforcement.check(people.platform_admin, credits=D(5)).remaining == 0
    assert enforcement.reserve_credits(people.platform_admin, "t1", credits=D(5)).is_new
    assert account(people.platform_admin).held == 5
    balanced()


def test_a_tiers_grace_lets_runs_start_below_zero(ann: User) -> None:
    tier = ann.tier_assignments.get().tier
    lists.enter_rate(
        TierRate(
            tier=tier,
            valid_from=LONG_AGO,
            credits_per_usd=D(200),
            pricing_multiplier=D(1),
            grace_credits=D(25),
        ),
        None,
    )
    assert enforcement.reserve_credits(ann, "t1", credits=D(125)).is_new
    assert credit_status(ann, timezone.now()).can_execute is False
    with pytest.raises(InsufficientCredits):
        enforcement.reserve_credits(ann, "t2", credits=D("0.000001"))


def test_the_estimate_is_the_flows_own_history(
    ann: User, people: People, use: Callable[..., None]
) -> None:
    for cost in ("0.01", "0.02", "0.03", "0.04", "0.05", "0.06", "0.07", "0.08", "0.09", "1"):
        use(people.acme_colleague, cost, flow="f")
    use(people.acme_colleague, "9", flow="other")
    assert enforcement.estimate("f").runs == 0
    assert refresh_estimates(NOON + HOUR) == 2
    known = enforcement.estimate("f")
    assert (known.median, known.p90, known.runs) == (D("9.5"), D("17.1"), 10)
    hold = enforcement.reserve_credits(ann, "t1", "f").hold
    assert hold.credits == D("17.1")
    assert enforcement.check(ann, "f").required == D("9.5")
    assert enforcement.check(ann, "never run").required == 1


def of_a_host_with_a_fixed_price(flow_id: str) -> Estimate:
    return Estimate(D(3), D(4), 1)


def test_a_setting_names_who_knows_a_flows_history(ann: User, settings: Any) -> None:
    settings.CREDITS_ESTIMATE_OF_FLOW = f"{__name__}.of_a_host_with_a_fixed_price"
    assert enforcement.check(ann, "f").required == D(3)
    assert enforcement.reserve_credits(ann, "t1", "f").hold.credits == D(4)
    assert enforcement.check(ann, "").required == 1


@pytest.mark.parametrize("credits", ["0", "-1", "NaN", "Infinity", "1e30", "0.0000001"])
def test_an_impossible_amount_is_refused_and_the_books_are_unchanged(
    ann: User, credits: str
) -> None:
    with pytest.raises(ValueError, match=r"not possible|too large|decimal places"):
        enforcement.reserve_credits(ann, "t1", credits=D(credits))
    assert account(ann).held == 0
    assert not Hold.objects.exists()


@pytest.mark.parametrize(
    ("trace", "ttl", "message"),
    [
        ("", HOUR, "not a trace id"),
        ("x" * 201, HOUR, "not a trace id"),
        ("t", timedelta(0), "0 seconds"),
        ("t", timedelta(days=8), "at most 7 days"),
    ],
)
def test_an_impossible_hold_is_refused(ann: User, trace: str, ttl: timedelta, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        enforcement.reserve_credits(ann, trace, credits=D(1), ttl=ttl)


class TestAsAContext:
    def test_a_run_is_held_until_the_sync_charges_its_trace(
        self, ann: User, use: Callable[..., None]
    ) -> None:
        with credits.reserve(ann, "run0", "f", D(20)) as hold:
            assert hold.state == "open"
        assert (Hold.objects.get().state, account(ann).held) == ("settled", 20)
        use(ann, "0.06")
        assert (Hold.objects.get().state, account(ann).held, account(ann).remaining) == (
            "charged",
            0,
            D("88.6"),
        )
        balanced()

    def test_a_run_that_fails_leaves_its_hold_to_its_time(self, ann: User) -> None:
        with pytest.raises(RuntimeError), enforcement.reserve(ann, "t1", credits=D(20), ttl=HOUR):
            raise RuntimeError
        assert Hold.objects.get().state == "open"
        assert holds.expire_all(timezone.now() + 2 * HOUR) == 1

    def test_a_run_without_credits_does_not_start(self, ann: User) -> None:
        started = False
        with pytest.raises(InsufficientCredits), enforcement.reserve(ann, "t1", credits=D(200)):
            started = True
        assert not started


def test_a_hold_by_another_user_than_the_traces_ends_too(
    ann: User, people: People, use: Callable[..., None]
) -> None:
    grants.grant(NewGrant(people.acme_colleague, D(100), Grant.Source.MANUAL, "bob"))
    enforcement.reserve_credits(people.acme_colleague, "run0", credits=D(20))
    use(ann, "0.06")
    assert account(people.acme_colleague).held == 0
    balanced()


def test_the_gate_asks_a_fixed_number_of_queries(
    ann: User, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(8):
        enforcement.reserve_credits(ann, "t1", credits=D(1))
