"""A price that is entered late changes nothing until its period is repriced; that can be stopped,
continued and undone.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.core.management import CommandError
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from credits.models import Account, Transaction
from pricing import lists
from pricing.models import ModelPrice, TierAssignment, TierRate
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.facts.test_decide import received
from tests.usage.sync.test_sync import state
from usage.books import verify_books
from usage.facts import rework
from usage.facts.apply import apply_received
from usage.facts.unpriced import price_all_unpriced
from usage.models import LangfuseConnection, Repricing, Trace
from usage.repricing import repricing as service
from usage.repricing.preview import preview

pytestmark = pytest.mark.django_db
D = Decimal
DAY = timedelta(days=1)
PERIOD = (NOON - DAY, NOON + DAY)


def enter(
    per_million: str, people: People, since: datetime = LONG_AGO, **fields: Any
) -> ModelPrice:
    values = {
        "model": "gpt-4o",
        "valid_from": since,
        "input": D(per_million),
        "output": D(per_million),
        **fields,
    }
    return lists.enter_price(ModelPrice(**values), people.platform_admin)


def apply(**fields: Any) -> Repricing:
    repricing = service.begin(*PERIOD, reason="Agreed", by=None, **fields)
    service.advance(repricing)
    assert verify_books() == []
    return repricing


def test_it_works(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    enter("1000", people)
    assert Trace.objects.get().credits == D("11.4"), (
        "a price that is entered late changes nothing by itself"
    )

    found = preview(*PERIOD)
    assert (found.traces, found.traces_changed, found.total.cost_usd, found.total.credits) == (
        1,
        1,
        D("-0.045"),
        D("-8.55"),
    )
    (key,) = found.differences
    assert (key.tenant_id, key.user_id, key.model) == (
        people.acme.pk,
        people.acme_user.pk,
        "gpt-4o",
    )
    assert Trace.objects.get().credits == D("11.4"), "a dry run changes nothing"

    repricing = apply()

    assert Trace.objects.get().credits == D("2.85")
    assert [
        (entry.type, entry.amount, entry.reason) for entry in Transaction.objects.order_by("pk")
    ] == [
        ("deduction", D("-11.4"), "Usage"),
        ("adjustment", D("8.55"), f"Repricing {repricing.pk}: Agreed"),
    ]
    assert (repricing.state, repricing.traces_changed, repricing.credits_difference) == (
        "applied",
        1,
        D("-8.55"),
    )
    assert preview(*PERIOD).traces_changed == 0


def test_usage_that_comes_after_a_late_entry_has_the_new_price(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    enter("1000", people)
    use(people.acme_user, "0.06")
    assert sorted(Trace.objects.values_list("credits", flat=True)) == [D("2.85"), D("11.4")]


def test_a_run_that_is_sent_again_keeps_the_prices_that_it_had(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    use(people.acme_user, "0.06")
    enter("1000", people)
    usage = {"input": 10, "output": 5, "total": 15}
    late = received(
        "more",
        trace_id="run0",
        model="gpt-4o",
        usage_details=usage,
        cost_usd=D("0.02"),
        received_at=NOON + DAY,
    )
    with transaction.atomic():
        apply_received(bare_connection, [late])
    assert Trace.objects.get().credits == D("15.2")
    apply()
    assert Trace.objects.get().credits == D("5.7")


def test_a_rate_and_a_tier_that_are_entered_late_change_nothing_until_then(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    tier = people.acme_user.tier_assignments.get().tier
    lists.enter_rate(
        TierRate(tier=tier, valid_from=NOON - DAY, credits_per_usd=D(400), pricing_multiplier=D(1)),
        None,
    )
    use(people.acme_user, "0.06", NOON - 2 * DAY)
    assert preview(*PERIOD).total.credits == D("12.6")
    apply()
    assert sorted(Trace.objects.values_list("credits", flat=True)) == [D("11.4"), D(24)]


def test_it_is_for_its_tenant_and_its_period_only(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    use(people.acme_user, "0.06", NOON + DAY)
    use(people.globex_user, "0.06")
    use(None, "0.06")
    enter("1000", people)
    apply(tenant=people.acme)
    assert list(Trace.objects.filter(credits=D("2.85")).values_list("tenant", "start_time")) == [
        (people.acme.pk, NOON)
    ]
    apply()
    assert Trace.objects.filter(cost_usd=D("0.015")).count() == 3


def test_undoing_brings_everything_back(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    use(people.globex_user, "1")
    before = state()
    enter("1000", people)
    repricing = apply()
    assert state() != before

    service.undo(repricing)
    service.advance(repricing)

    assert verify_books() == []
    posted = state()
    assert {**posted, "UsageCharge": None} == {**before, "UsageCharge": None}
    assert Account.objects.get(pk=people.acme_user.pk).used == D("11.4")
    assert (repricing.state, repricing.credits_difference, repricing.cost_usd_difference) == (
        "undone",
        0,
        0,
    )
    assert Transaction.objects.filter(type="adjustment").count() == 4
    with pytest.raises(ValueError, match="“Undone”, so it can't be undone"):
        service.undo(repricing)


def test_it_can_be_stopped_and_continued(
    people: People, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rework, "TRACES_A_BATCH", 2)
    for number in range(5):
        use(people.acme_user, "0.06", NOON + timedelta(minutes=number % 2))
    enter("1000", people)
    repricing = service.begin(*PERIOD, reason="Agreed", by=None)

    service.advance(repricing, report=service.stop)

    assert (repricing.state, repricing.traces_done) == ("stopped", 2)
    assert Trace.objects.filter(credits=D("2.85")).count() == 2
    assert verify_books() == []
    service.advance(repricing)
    assert repricing.traces_done == 2, "a stopped one does not go on by itself"
    service.resume(repricing)
    service.advance(repricing)
    assert (repricing.state, repricing.traces_done, repricing.traces_changed) == ("applied", 5, 5)
    assert set(Trace.objects.values_list("credits", flat=True)) == {D("2.85")}


def test_after_a_crash_it_goes_on_where_it_was(
    people: People, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rework, "TRACES_A_BATCH", 2)
    for _ in range(5):
        use(people.acme_user, "0.06")
    enter("1000", people)
    repricing = service.begin(*PERIOD, reason="Agreed", by=None)
    with monkeypatch.context() as broken:
        batches = iter([service.reassemble])

        def fail_at_the_second(*args: Any) -> Any:
            return next(batches)(*args)

        broken.setattr(service, "reassemble", fail_at_the_second)
        with pytest.raises(StopIteration):
            service.advance(repricing)
    assert verify_books() == []
    assert Trace.objects.filter(credits=D("2.85")).count() == 2

    service.advance(repricing, 60)

    repricing.refresh_from_db()
    assert (repricing.state, repricing.traces_changed) == ("applied", 5)
    assert Account.objects.get().used == D("14.25")


def test_undone_halfway_it_leaves_nothing(
    people: People, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rework, "TRACES_A_BATCH", 2)
    for _ in range(5):
        use(people.acme_user, "0.06")
    enter("1000", people)
    repricing = service.begin(*PERIOD, reason="Agreed", by=None)
    service.advance(
        repricing, report=lambda row: service.undo(row) if row.state == "applying" else None
    )
    assert (repricing.state, repricing.credits_difference) == ("undone", 0)
    assert set(Trace.objects.values_list("credits", flat=True)) == {D("11.4")}
    assert verify_books() == []


@pytest.mark.parametrize(
    ("start", "end", "reason", "message"),
    [(NOON, NOON, "x", "is not after the beginning"), (*PERIOD, " ", "Say why")],
)
def test_an_impossible_one_is_refused(
    start: datetime, end: datetime, reason: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        service.begin(start, end, reason=reason, by=None)


usages = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["acme_user", "acme_colleague", "globex_user", "platform_admin"]),
        "cost": st.sampled_from([None, "0", "0.06", "0.0006"]),
        "start": st.integers(-40, 40).map(lambda hours: NOON + timedelta(hours=hours)),
        "model": st.sampled_from(["gpt-4o", "m", "n"]),
    }
)
entries = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["gpt-4o", "m", ".*"]),
        "since": st.integers(-40, 40).map(lambda hours: NOON + timedelta(hours=hours)),
        "precedence": st.sampled_from(["replaces", "fallback"]),
        "per_million": st.sampled_from(["0", "5", "1000"]),
    }
)


@settings(max_examples=25)
@given(
    before=st.lists(usages, max_size=5),
    listed=st.lists(
        entries, min_size=1, max_size=4, unique_by=lambda one: (one["model"], one["since"])
    ),
)
def test_the_dry_run_says_what_applying_does_and_undoing_undoes_it(
    people: People,
    use: Callable[..., None],
    before: list[dict[str, Any]],
    listed: list[dict[str, Any]],
) -> None:
    with transaction.atomic():
        for one in before:
            use(getattr(people, one["user"]), one["cost"], one["start"], one["model"])
        for entry in listed:
            match = "pattern" if entry["model"] == ".*" else "exact"
            enter(
                entry["per_million"],
                people,
                entry["since"],
                model=entry["model"],
                match=match,
                precedence=entry["precedence"],
            )
        price_all_unpriced()
        was = figures()
        found = preview(*PERIOD)
        repricing = apply()
        assert (found.total.cost_usd, found.total.credits) == (
            repricing.cost_usd_difference,
            repricing.credits_difference,
        )
        assert found.total.credits == figures()[1] - was[1]
        assert preview(*PERIOD).traces_changed == 0
        service.undo(repricing)
        service.advance(repricing)
        assert figures() == was
        assert verify_books() == []
        transaction.set_rollback(True)


def figures() -> tuple[Any, ...]:
    traces = list(Trace.objects.order_by("pk").values_list("pk", "cost_usd", "credits"))
    return traces, sum((credits or D(0) for _, _, credits in traces), D(0))


class TestCommand:
    def run(self, command: Callable[..., str], *more: str) -> Any:
        return json.loads(command("reprice_usage", "--json", *more))

    def test_it_shows_then_applies_then_undoes(
        self, people: People, use: Callable[..., None], command: Callable[..., str]
    ) -> None:
        use(people.acme_user, "0.06")
        enter("1000", people)
        period = ["--from", "2026-11-10", "--to", "2026-11-11"]
        shown = self.run(command, *period)
        assert shown == {
            "traces": 1, "traces_changed": 1, "cost_usd": "-0.045000000000", "credits": "-8.550000",
            "differences": [
                {"tenant": "Acme", "user": "ann", "model": "gpt-4o", "observations": 1,
                 "cost_usd": "-0.045000000000", "credits": "-8.550000"}
            ],
        }  # fmt: skip
        assert "1 of 1 traces would change: -0.045" in command("reprice_usage", *period)
        done = self.run(command, *period, "--tenant", "acme", "--apply", "--reason", "Agreed")
        assert (done["state"], done["credits_difference"]) == ("applied", "-8.550000")
        undone = self.run(command, "--undo", str(done["repricing"]))
        assert (undone["state"], undone["credits_difference"]) == ("undone", "0.000000")
        assert Trace.objects.get().credits == D("11.4")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "Write --from T and --to T"),
            (["--from", "2026-11-11", "--to", "2026-11-10"], "is not after --from"),
            (
                ["--from", "2026-11-10", "--to", "2026-11-11", "--tenant", "nobody"],
                "There is no tenant “nobody”; there is ",
            ),
            (["--from", "2026-11-10", "--to", "2026-11-11", "--apply"], "Write --reason TEXT"),
            (["--undo", "7"], "There is no repricing 7."),
            (["--from", "soon", "--to", "2026-11-11"], "“soon” is not an ISO date"),
        ],
    )
    def test_it_refuses_by_name(
        self, people: People, command: Callable[..., str], arguments: list[str], message: str
    ) -> None:
        with pytest.raises(CommandError, match=message):
            command("reprice_usage", *arguments)


def test_a_tenants_own_price_is_for_what_comes_after_it_or_is_repriced(
    people: People, use: Callable[..., None]
) -> None:
    use(people.acme_user, "0.06")
    use(people.globex_user, "0.06")
    enter("1000", people, tenant=people.acme)
    assert preview(*PERIOD).traces_changed == 1
    apply()
    assert Trace.objects.get(tenant=people.acme).cost_usd == D("0.015")
    assert Trace.objects.get(tenant=people.globex).cost_usd == D("0.06")


def test_voided_traces_stay_out(people: People, use: Callable[..., None]) -> None:
    use(people.acme_user, "0.06")
    use(people.acme_user, "0.06")
    Trace.objects.filter(pk=Trace.objects.first().pk).update(deleted_observations=1)  # type: ignore[union-attr]
    from usage.facts.voiding import void

    void([Trace.objects.get(deleted_observations=1).pk.hex], "deleted", people.platform_admin)
    enter("1000", people)
    assert preview(*PERIOD).traces == 1
    apply()
    assert Account.objects.get().used == D("2.85")


def test_unrated_usage_is_rated_by_a_repricing(people: People, use: Callable[..., None]) -> None:
    use(people.globex_admin, "0.06")
    tier = people.acme_user.tier_assignments.get().tier
    lists.assign_tier(
        TierAssignment(user=people.globex_admin, tier=tier, valid_from=LONG_AGO), None
    )
    assert Trace.objects.get().credits is None
    apply()
    assert Trace.objects.get().credits == D("11.4")
