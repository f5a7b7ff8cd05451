"""Usage drawn at random, applied as the sync applies it, with rollups that are built, stale, or
neither.
"""

from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from kluisz_analytics.tenants.directory import Move, record_moves
from kluisz_analytics.tenants.models import User
from tests.conftest import NOON, People
from tests.usage.facts.test_decide import received
from usage.books import verify_books
from usage.facts.apply import apply_received
from usage.facts.attribution import attribute_all
from usage.facts.disputes import settle
from usage.facts.owner import Outcome
from usage.facts.received import packed_deletions
from usage.facts.store import received_of
from usage.facts.voiding import void
from usage.models import LangfuseConnection, ReceivedTrace, Trace
from usage.rollups.build import build_rollups


def moments_around(centre: datetime) -> st.SearchStrategy[datetime]:
    return st.integers(-3 * 24 * 60, 3 * 24 * 60).map(
        lambda minutes: centre + timedelta(minutes=minutes)
    )


def _settle_and_move(
    data: st.DataObject, people: People, moments: st.SearchStrategy[datetime]
) -> None:
    """A dispute may be settled, and a user may have moved, or not have after all."""
    if dispute := Trace.objects.exclude(dispute="").order_by("pk").first():
        outcome = data.draw(st.none() | st.sampled_from(Outcome), label="settled as")
        if outcome is not None:
            settle([dispute.pk.hex], outcome, people.platform_admin)
    for tenant in data.draw(
        st.sampled_from([(), (people.globex,), (people.globex, people.acme)]), label="moves"
    ):
        user = User.objects.get(pk=people.acme_colleague.pk)
        User.objects.filter(pk=user.pk).update(tenant=tenant)
        record_moves([Move(user.pk, user.tenant_id, tenant.pk, data.draw(moments))])
        if data.draw(st.booleans(), label="synced at once"):
            attribute_all()
    attribute_all()


def draw_usage(
    data: st.DataObject, connection: LangfuseConnection, people: People, centre: datetime = NOON
) -> None:
    """Up to 13 steps of nine runs within three days of the centre: of three users, of half an
    owner, of none, disputed; late ones after building.

    A run may be voided, a dispute settled, a user may have moved. Call it inside a transaction.
    """
    users = [people.acme_user, people.acme_colleague, people.globex_user]
    own = [(str(one.tenant_id), str(one.pk)) for one in users]
    owners = st.sampled_from(
        [
            ("", ""),
            ("", "nobody"),
            *own,
            (str(people.acme.pk), ""),
            (str(people.acme.pk), str(people.globex_user.pk)),
        ]
    )
    moments = moments_around(centre)
    # What comes late lies where other things lie already.
    hours = st.integers(-24, 24).map(lambda number: centre + timedelta(hours=number))

    def step(number: int, when: st.SearchStrategy[datetime]) -> Any:
        tenant, user = data.draw(owners)
        start = data.draw(when)
        usage = data.draw(
            st.sampled_from(
                [
                    {},
                    {"input": 7, "output": 2, "total": 9},
                    {"input": 7, "input_cache_read": 5, "output": 2, "total": 14},
                    {"input": 7, "output": 2, "total": 5},
                ]
            )
        )
        cost = (
            data.draw(st.none() | st.decimals(min_value=0, max_value=5, places=12))
            if usage
            else None
        )
        return received(
            f"o{number}",
            trace_id=f"t{data.draw(st.integers(0, 8))}",
            is_root=data.draw(st.booleans()),
            level=data.draw(st.sampled_from(["DEFAULT", "ERROR"])),
            start_time=start,
            end_time=data.draw(
                st.none() | st.just(start + timedelta(milliseconds=data.draw(st.integers(0, 9000))))
            ),
            tenant_reference=tenant,
            user_reference=user,
            flow_id=data.draw(st.sampled_from(["", "f1", "f2"])),
            environment=data.draw(st.sampled_from(["", "production", "staging"])),
            project_id=data.draw(st.sampled_from(["", "p1"])),
            type=data.draw(st.sampled_from(["SPAN", "GENERATION"])),
            model=data.draw(st.sampled_from(["m1", "m2", "nobody-knows"])) if usage else "",
            usage_details=usage,
            cost_usd=cost,
            uncosted=("input_cache_read",) if cost and len(usage) == 4 else (),
        )

    apply_received(
        connection, [step(number, moments) for number in range(data.draw(st.integers(0, 10)))]
    )
    built_at = data.draw(
        st.none() | moments | st.just(centre + timedelta(days=60)), label="built at"
    )
    if built_at:
        build_rollups(built_at)
        apply_received(
            connection,
            [step(number, hours) for number in range(8, 8 + data.draw(st.integers(0, 3)))],
        )
    _settle_and_move(data, people, moments)
    if data.draw(st.booleans(), label="one is voided") and (
        trace := Trace.objects.order_by("pk").first()
    ):
        step_id = next(iter(received_of(trace).observations))
        ReceivedTrace.objects.filter(trace=trace).update(
            deleted=packed_deletions({step_id: centre})
        )
        Trace.objects.filter(pk=trace.pk).update(deleted_observations=1)
        void([trace.pk.hex], "deleted", people.platform_admin)
    assert verify_books() == []
