"""Tenant and user that don't belong together: nobody's until an operator settles it; and users who
move leave their past where it was.
"""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from django.test import Client
from django.utils import timezone

from credits.models import Account
from kluisz_analytics.tenants.directory import Move, record_moves
from kluisz_analytics.tenants.models import (
    DirectoryChange,
    Membership,
    Tenant,
    User,
    UserAlias,
)
from pricing.models import PricingTier, TierAssignment
from tests.conftest import LONG_AGO, NOON, People
from tests.usage.facts.test_decide import received
from usage.analytics.explain import explain
from usage.books import verify_books
from usage.directory.document import DirectoryDocument
from usage.directory.load import load_directory
from usage.facts.apply import Batch, apply_batch, apply_received, load_assembler
from usage.facts.attribution import attribute_all
from usage.facts.disputes import NotDisputed, settle, undo
from usage.facts.owner import Outcome
from usage.models import (
    LangfuseConnection,
    TenantUsageStats,
    Trace,
    TraceSettlement,
    UserUsageStats,
)
from usage.rollups.build import build_rollups

pytestmark = pytest.mark.django_db
D = Decimal


@pytest.fixture
def disputed(people: People, use: Callable[..., None]) -> Trace:
    """A run of Globex's user that names Acme."""
    TierAssignment.objects.create(
        tenant=people.acme, tier=PricingTier.objects.get(name="Starter"), valid_from=LONG_AGO
    )
    use(User(pk=people.globex_user.pk, tenant=people.acme), trace_id="t")
    use(people.globex_user, trace_id="own", cost="0.01")
    return Trace.objects.get(langfuse_trace_id="t")


def books() -> list[Any]:
    build_rollups(NOON + timedelta(days=60))
    return verify_books()


def used(user: User) -> Decimal:
    return Account.objects.get(pk=user.pk).used if Account.objects.filter(pk=user.pk) else D(0)


def credits_of_tenants() -> dict[str, Decimal]:
    build_rollups(NOON + timedelta(days=60))
    return dict(
        TenantUsageStats.objects.filter(granularity="day").values_list(
            "tenant__slug", "credits_exact"
        )
    )


def test_it_is_in_no_tenants_numbers_and_charged_to_nobody(people: People, disputed: Trace) -> None:
    assert (disputed.tenant, disputed.user, disputed.credits) == (None, None, None)
    assert (disputed.dispute, disputed.settled_as) == ("not_a_member", "")
    assert (disputed.disputed_tenant, disputed.disputed_user) == (people.acme, people.globex_user)
    assert disputed.cost_usd == D("0.06")
    why = explain(disputed, people.platform_admin).why_no_credits
    assert why.startswith("Its user was not of the tenant that it names")
    assert credits_of_tenants() == {"globex": D("1.9")}
    assert used(people.globex_user) == D("1.9")
    assert attribute_all().traces_changed == 0
    assert books() == []


@pytest.mark.parametrize(
    ("outcome", "tenants", "charged"),
    [
        (Outcome.NAMED_TENANT, {"acme": D("6"), "globex": D("1.9")}, D("1.9")),
        (Outcome.USERS_TENANT, {"globex": D("13.3")}, D("13.3")),
        (Outcome.LEFT_OUT, {"globex": D("1.9")}, D("1.9")),
    ],
)
def test_settling_it_counts_and_charges_it_and_undoing_leaves_what_was_before(
    people: People,
    disputed: Trace,
    outcome: Outcome,
    tenants: dict[str, Decimal],
    charged: Decimal,
) -> None:
    before = Trace.objects.values().get(pk=disputed.pk)
    settle([disputed.pk.hex], outcome, people.platform_admin)
    assert Trace.objects.get(pk=disputed.pk).settled_as == outcome.value
    assert (credits_of_tenants(), used(people.globex_user)) == (tenants, charged)
    assert books() == []
    row = TraceSettlement.objects.get()
    assert (row.outcome, row.created_by, row.undone_at) == (outcome, people.platform_admin, None)

    undo([disputed.pk.hex], people.acme_admin)
    assert Trace.objects.values().get(pk=disputed.pk) == before
    assert (credits_of_tenants(), used(people.globex_user)) == ({"globex": D("1.9")}, D("1.9"))
    row.refresh_from_db()
    assert row.undone_by == people.acme_admin
    assert row.undone_at is not None
    assert books() == []


def test_it_can_be_settled_otherwise(people: People, disputed: Trace) -> None:
    for outcome in (Outcome.NAMED_TENANT, Outcome.USERS_TENANT):
        settle([disputed.pk.hex], outcome, people.platform_admin)
        assert books() == []
    assert TraceSettlement.objects.count() == 2
    assert TraceSettlement.objects.get(undone_at=None).outcome == "users_tenant"


def test_what_comes_later_of_a_settled_run_is_settled_with_it(
    people: People, disputed: Trace
) -> None:
    settle([disputed.pk.hex], Outcome.NAMED_TENANT, people.platform_admin)
    late = received("late", trace_id="t", cost_usd=D("0.01"), usage_details={"input": 1})
    apply_received(disputed.connection, [late])
    trace = Trace.objects.get(pk=disputed.pk)
    assert (trace.tenant, trace.cost_usd, trace.credits) == (people.acme, D("0.07"), D(7))
    assert books() == []


def test_nothing_else_is_settled_or_undone(people: People, disputed: Trace) -> None:
    own = Trace.objects.get(langfuse_trace_id="own")
    with pytest.raises(NotDisputed, match="own is not disputed"):
        settle([disputed.pk.hex, own.pk.hex], Outcome.LEFT_OUT, people.platform_admin)
    with pytest.raises(NotDisputed, match="is not settled"):
        undo([disputed.pk.hex], people.platform_admin)
    assert TraceSettlement.objects.count() == 0


def test_a_user_of_no_tenant_then_has_none_to_be_settled_in(
    people: People, disputed: Trace
) -> None:
    user = people.globex_user
    record_moves([Move(user.pk, people.globex.pk, people.globex.pk, NOON - timedelta(days=9))])
    Membership.objects.filter(user=user).delete()
    Membership.objects.create(user=user, tenant=people.globex, since=NOON + timedelta(days=9))
    with pytest.raises(NotDisputed, match="of no tenant then"):
        settle([disputed.pk.hex], Outcome.USERS_TENANT, people.platform_admin)


def test_a_user_that_moves_leaves_its_past_and_takes_its_future(
    people: People, use: Callable[..., None]
) -> None:
    user = people.acme_user
    use(user, "0.06", NOON)
    user.tenant = people.globex
    user.save()
    assert [(one.tenant.slug, one.until) for one in Membership.objects.order_by("pk")] == [
        ("acme", Membership.objects.get(tenant=people.globex).since),
        ("globex", None),
    ]
    later = timezone.now() + timedelta(hours=1)
    use(user, "0.01", later, tenant_reference="")
    assert attribute_all().traces_changed == 0
    assert not DirectoryChange.objects.filter(is_done=False)
    assert sorted(
        UserUsageStats.objects.filter(user=user, granularity="month").values_list(
            "tenant__slug", "credits_exact"
        )
    ) == [("acme", D("11.4")), ("globex", D("1.9"))]
    assert used(user) == D("13.3")
    assert verify_books() == []


def test_a_move_that_is_known_late_moves_what_came_since(
    people: People, use: Callable[..., None]
) -> None:
    user = people.acme_user
    use(user, "0.06", NOON, trace_id="before")
    use(user, "0.01", NOON + timedelta(hours=2), trace_id="after")
    User.objects.filter(pk=user.pk).update(tenant=people.globex)
    record_moves([Move(user.pk, people.acme.pk, people.globex.pk, NOON + timedelta(hours=1))])
    assert attribute_all().traces_changed == 1
    before, after = Trace.objects.order_by("start_time")
    # It named Acme, where its user was no more.
    assert (before.tenant, after.tenant, after.dispute) == (people.acme, None, "not_a_member")
    assert used(user) == D("11.4")
    assert books() == []
    # And back: it was a mistake.
    User.objects.filter(pk=user.pk).update(tenant=people.acme)
    record_moves([Move(user.pk, people.globex.pk, people.acme.pk, NOON + timedelta(hours=1))])
    assert attribute_all().traces_changed == 1
    assert used(user) == D("13.3")
    assert books() == []


def test_a_store_that_began_with_an_older_directory_decides_by_the_newest(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    assembler = load_assembler(bare_connection)
    batch = Batch(
        bare_connection.pk,
        [received(is_root=True, cost_usd=D("0.06"), user_reference=str(people.acme_user.pk))],
    )
    batch.prepare(assembler)
    User.objects.filter(pk=people.acme_user.pk).update(tenant=people.globex)
    record_moves([Move(people.acme_user.pk, people.acme.pk, people.globex.pk, NOON)])
    apply_batch(bare_connection, batch, assembler)
    assert Trace.objects.get().tenant == people.globex
    assert books() == []


def test_a_user_is_found_as_people_name_it_once_the_directory_says_so(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    User.objects.filter(pk=people.acme_user.pk).update(email="Ann@acme.test")

    def run(trace_id: str, user: str, tenant: str = "") -> Any:
        return received(
            trace_id=trace_id,
            cost_usd=D("0.06"),
            usage_details={"input": 1},
            user_reference=user,
            tenant_reference=tenant,
        )

    acme = str(people.acme.pk)
    apply_received(
        bare_connection,
        [run("mail", "ann@acme.test"), run("name", "ANN", acme), run("alias", "the boss", acme)],
    )
    assert not Trace.objects.exclude(user=None)
    assert attribute_all().traces_changed == 0

    people.acme.finds_users_by_email = True
    people.acme.save()
    assert attribute_all().traces_changed == 1
    people.acme.finds_users_by_username = True
    people.acme.save()
    alias = UserAlias.objects.create(
        tenant=people.acme, user=people.acme_colleague, name="The Boss"
    )
    assert attribute_all().traces_changed == 2
    assert used(people.acme_user) == D("22.8")
    assert used(people.acme_colleague) == D("11.4")
    assert books() == []

    alias.delete()
    assert attribute_all().traces_changed == 1
    assert used(people.acme_colleague) == 0
    assert books() == []


def test_a_name_of_two_finds_nobody(
    people: People, use: Callable[..., None], bare_connection: LangfuseConnection
) -> None:
    people.acme.finds_users_by_username = True
    people.acme.save()
    UserAlias.objects.create(tenant=people.acme, user=people.acme_colleague, name="Ann")
    use(None, user_reference="ann", tenant_reference=str(people.acme.pk))
    trace = Trace.objects.get()
    assert trace.user is None
    assert attribute_all().traces_changed == 0
    assert "“ann” is the name of 2 users" in explain(trace, people.acme_admin).why_no_credits


def _found_by_username(people: People, is_on: bool) -> None:
    acme = Tenant.objects.get(pk=people.acme.pk)
    acme.finds_users_by_username = is_on
    acme.save()


CHANGES: dict[str, Callable[[People], object]] = {
    "on": lambda people: _found_by_username(people, True),
    "off": lambda people: _found_by_username(people, False),
    "alias": lambda people: UserAlias.objects.create(
        tenant=people.acme, user=people.acme_colleague, name="ANN"
    ),
    "no alias": lambda people: UserAlias.objects.get().delete(),
    "elsewhere": lambda people: UserAlias.objects.create(
        tenant=people.globex, user=people.globex_user, name="ann"
    ),
}


@pytest.mark.parametrize(
    ("actions", "named", "unnamed"),
    [
        # What names users in the end, whenever the runs came and whatever was before.
        (["on", "run"], "ann", "ann"),
        (["run", "on"], "ann", "ann"),
        (["run", "off", "on"], "ann", "ann"),
        (["run"], None, None),
        (["on", "run", "off"], None, None),
        (["run", "on", "off"], None, None),
        (["alias", "run"], "bob", "bob"),
        (["run", "alias"], "bob", "bob"),
        (["on", "run", "off", "alias"], "bob", "bob"),
        # A name of two is nobody's.
        (["on", "alias", "run"], None, None),
        (["on", "run", "alias"], None, None),
        (["alias", "run", "on"], None, None),
        (["on", "alias", "run", "no alias"], "ann", "ann"),
        (["alias", "run", "on", "off"], "bob", "bob"),
        # Where no tenant is named, of two anywhere.
        (["on", "elsewhere", "run"], "ann", None),
        (["on", "run", "elsewhere"], "ann", None),
        (["elsewhere", "run", "on"], "ann", None),
        (["elsewhere", "run", "on", "off"], None, "gus"),
    ],
    ids=lambda one: ", ".join(one) if isinstance(one, list) else str(one),
)
def test_whom_a_name_means_depends_on_the_directory_and_not_on_the_order(
    people: People,
    use: Callable[..., None],
    actions: list[str],
    named: str | None,
    unnamed: str | None,
) -> None:
    def run(**later: Any) -> None:
        acme = str(people.acme.pk)
        use(None, trace_id="named", user_reference="Ann", tenant_reference=acme, **later)
        use(None, trace_id="unnamed", user_reference="Ann", **later)

    def owners() -> dict[str, str | None]:
        return dict(Trace.objects.values_list("langfuse_trace_id", "user__username"))

    for action in actions:
        if action == "run":
            run()
        else:
            CHANGES[action](people)
        attribute_all()
    assert owners() == {"named": named, "unnamed": unnamed}
    charged = Account.objects.order_by("pk").values_list("pk", "used")
    before = list(charged.all())
    run(received_at=NOON + timedelta(days=1))
    assert owners() == {"named": named, "unnamed": unnamed}, "read again"
    assert list(charged.all()) == before
    assert books() == []


def test_another_user_of_the_same_address_makes_it_nobodys(
    people: People, use: Callable[..., None]
) -> None:
    people.acme.finds_users_by_email = True
    people.acme.save()
    ann = people.acme_user
    ann.email = "ann@acme.test"
    ann.save()
    use(None, user_reference="ann@acme.test", tenant_reference=str(people.acme.pk))
    assert Trace.objects.get().user == ann
    other = User.objects.create_user("other", "Ann@acme.test", tenant=people.acme)
    attribute_all()
    assert Trace.objects.get().user is None
    other.delete()
    attribute_all()
    assert Trace.objects.get().user == ann
    document = {"tenants": [{"id": str(people.acme.pk), "name": "Acme", "slug": "acme"}]}
    load_directory(msgspec.convert(document, DirectoryDocument))
    assert Trace.objects.get().user is None, "the file says that it finds nobody by addresses"
    assert used(ann) == 0
    assert books() == []


def test_the_desk_says_why_and_is_named_on_the_platforms_page(
    people: People, disputed: Trace
) -> None:
    client = Client()
    client.force_login(people.platform_admin)
    desk = "/admin/usage/disputedtrace/"
    assert "not a member" in client.get(desk).content.decode()
    assert "1 run is disputed" in client.get("/platform/").content.decode()
    form = {"action": "leave_out", "_selected_action": str(disputed.pk), "confirmed": "yes"}
    settled = client.post(desk, form, follow=True).content.decode()
    assert "Settled 1 trace." in settled
    assert "is disputed" not in client.get("/platform/").content.decode()
    undone = client.post(desk, {**form, "action": "undo_settlement"}, follow=True)
    assert "Disputed again: 1 trace." in undone.content.decode()
    client.force_login(people.acme_admin)
    assert "disputed" not in client.get("/tenants/acme/").content.decode()
