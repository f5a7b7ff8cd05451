"""Attribution rules: whose a run is that other tracers recorded."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import NOON
from tests.usage.facts.test_decide import received
from usage.facts.decide import attributes_of
from usage.facts.owner import Directory, KnownUser
from usage.facts.patterns import BadPattern, bounded_pattern
from usage.facts.received import in_precedence
from usage.facts.rules import (
    Attributed,
    AttributionRules,
    Entries,
    FindsBy,
    Gives,
    Rule,
    Source,
    Wins,
)
from usage.langfuse.wire import ReceivedObservation

ACME, GLOBEX = uuid4(), uuid4()
ANN, BEN, GUS = (
    KnownUser(uuid4(), ACME),
    KnownUser(uuid4(), ACME),
    KnownUser(uuid4(), GLOBEX),
)
DIRECTORY = Directory(
    {str(one): one for one in (ACME, GLOBEX)},
    {str(one.id): one for one in (ANN, BEN, GUS)},
    {"ann": {ACME: ANN}, "sam": {ACME: BEN, GLOBEX: GUS}},
    tenant_names={"team one": ACME},
)
ENTRIES = Entries(
    {FindsBy.SLUG: {"acme": ACME, "globex": GLOBEX}, FindsBy.NAME: {"acme corp": ACME, "x": None}},
    {FindsBy.EMAIL: {"ann@acme.example": {ACME: ANN}}, FindsBy.NAME: {"gus": {GLOBEX: GUS}}},
    {"care": {ACME: "project-1"}},
    {"triage": {ACME: "flow-1"}},
)
EVERY = tuple(FindsBy)


def rule(gives: str, source: str, path: str = "", **fields: Any) -> Rule:
    fields = {"number": 1, "finds_by": EVERY, **fields}
    return Rule(gives=Gives(gives), source=Source(source), path=path, **fields)


def step(observation_id: str = "o1", **fields: Any) -> ReceivedObservation:
    return received(observation_id, **fields)


def attributed(rules: Sequence[Rule], *steps: ReceivedObservation, **fields: Any) -> Attributed:
    ordered = in_precedence(steps)
    return AttributionRules(rules, ENTRIES).attribute(
        ordered, attributes_of(ordered), NOON, DIRECTORY, **fields
    )


TENANT_RULES = [
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": "Acme"}), ACME),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": str(ACME)}), ACME),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": ACME.hex.upper()}), ACME),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": "ACME Corp"}), ACME),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": " Team One"}), ACME),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a.team": "x"}), None),
    (rule("tenant", "metadata", "a.team"), step(evidence={"a": "acme"}), None),
    (
        rule("tenant", "metadata", "a.team", finds_by=(FindsBy.ID,)),
        step(evidence={"a.team": "acme"}),
        None,
    ),
    (rule("tenant", "root_metadata", "t"), step(evidence={"t": "acme"}), None),
    (rule("tenant", "root_metadata", "t"), step(is_root=True, evidence={"t": "acme"}), ACME),
    (
        rule("tenant", "tag", pattern="team:(?P<tenant>.+)"),
        step(evidence={"@tags": '["prod","team:acme"]'}),
        ACME,
    ),
    (
        rule("tenant", "tag", pattern="team:(?P<tenant>.+)"),
        step(evidence={"@tags": '["my-team:acme"]'}),
        None,
    ),
    (rule("tenant", "name", pattern=r"(?P<tenant>\w+)/.*"), step(trace_name="acme/run"), ACME),
    (
        rule("tenant", "user_id", pattern=r"(?P<tenant>\w+):\w+"),
        step(user_reference="acme:7"),
        ACME,
    ),
    (rule("tenant", "session_id"), step(evidence={"@session": "acme"}), ACME),
    (rule("tenant", "environment"), step(environment="acme"), ACME),
    (rule("tenant", "release"), step(evidence={"@release": "acme"}), ACME),
    (rule("tenant", "constant", value="acme"), step(), ACME),
    (
        rule("tenant", "metadata", "k", table=(("vip", "globex"),)),
        step(evidence={"k": "VIP"}),
        GLOBEX,
    ),
    (
        rule("tenant", "metadata", "k", table=(("vip", "globex"),)),
        step(evidence={"k": "acme"}),
        None,
    ),
    (rule("tenant", "metadata", "tenant_id"), step(tenant_reference="acme"), ACME),
]


@pytest.mark.parametrize(("one", "of", "tenant"), TENANT_RULES)
def test_a_rule_finds_the_tenant(one: Rule, of: ReceivedObservation, tenant: UUID | None) -> None:
    found = attributed([one], of)
    assert found.tenant_id == tenant
    assert found.is_by_rule is (tenant is not None)


@pytest.mark.parametrize(
    ("text", "finds_by", "user"),
    [
        ("ann", EVERY, ANN),
        ("ANN@acme.example ", EVERY, ANN),
        (str(ANN.id), EVERY, ANN),
        ("gus", EVERY, None),
        ("ann", (FindsBy.ID, FindsBy.EMAIL), None),
        ("sam", EVERY, BEN),
    ],
)
def test_a_rule_finds_the_user_in_the_tenant(
    text: str, finds_by: tuple[FindsBy, ...], user: KnownUser | None
) -> None:
    rules = [
        rule("tenant", "constant", value="acme"),
        rule("user", "metadata", "who", number=2, finds_by=finds_by),
    ]
    found = attributed(rules, step(evidence={"who": text}))
    assert (found.tenant_id, found.user) == (ACME, user)
    assert (
        found.attributes.user_reference == text.strip() or found.attributes.user_reference == text
    )


def test_a_name_without_a_tenant_is_only_one_users() -> None:
    by_user_id = rule("user", "user_id")
    assert attributed([by_user_id], step(user_reference="gus")).user == GUS
    assert attributed([by_user_id], step(user_reference="sam")).user is None


def test_the_first_rule_that_finds_somebody_counts_and_its_number_is_kept() -> None:
    rules = [
        rule("tenant", "metadata", "a", number=1),
        rule("tenant", "metadata", "b", number=2),
        rule("tenant", "constant", value="globex", number=3),
    ]
    found = attributed(rules, step(evidence={"a": "nobody", "b": "acme"}))
    assert found.tenant_id == ACME
    assert [*map(tuple, found.given)] == [
        ("tenant", 2, "acme", True),
        ("tenant", 1, "nobody", False),
    ]
    assert found.attributes.tenant_reference == "acme"


def test_what_names_nobody_is_kept_as_it_was_given() -> None:
    found = attributed(
        [rule("tenant", "metadata", "a"), rule("user", "user_id", number=2)],
        step(evidence={"a": "who"}, user_reference="ann"),
    )
    assert found.attributes[:2] == ("who", "ann")
    assert (found.tenant_id, found.user) == (None, None), "of an unknown tenant nobody is known"
    assert found.owner(NOON, None).tenant_id is None


def test_after_all_rules_our_tracers_keys_count() -> None:
    rules = [rule("tenant", "metadata", "a")]
    own = step(tenant_reference=str(ACME), user_reference="ann", flow_id="f")
    found = attributed(rules, own)
    assert (found.tenant_id, found.user, found.attributes.flow_id) == (ACME, ANN, "f")
    assert found.given == (), "no rule gave anything"
    other = step("o2", evidence={"a": "globex"}, user_reference=str(ANN.id))
    assert attributed(rules, other).owner(NOON, None).dispute == "not_a_member"


def test_a_rule_holds_for_runs_that_begin_in_its_time() -> None:
    hour = timedelta(hours=1)
    for since, until, holds in (
        (None, None, True),
        (NOON, NOON + hour, True),
        (NOON + hour, None, False),
        (None, NOON, False),
    ):
        one = rule("tenant", "constant", value="acme", since=since, until=until)
        assert (attributed([one], step()).tenant_id == ACME) is holds


DISAGREEING = [
    step("a", start_time=NOON, evidence={"t": "globex"}),
    step("b", start_time=NOON + timedelta(seconds=1), is_root=True, evidence={"t": "acme"}),
    step("c", start_time=NOON + timedelta(seconds=2), evidence={"t": "globex"}),
    step("d", start_time=NOON + timedelta(seconds=3), evidence={"t": "unknown"}),
]


@pytest.mark.parametrize(
    ("wins", "tenant", "dispute"),
    [("", None, "steps_disagree"), ("root", ACME, ""), ("first", GLOBEX, ""), ("most", GLOBEX, "")],
)
def test_steps_that_disagree(wins: str, tenant: UUID | None, dispute: str) -> None:
    one = rule("tenant", "metadata", "t", wins=Wins(wins))
    for steps in permutations(DISAGREEING):
        owner = attributed([one], *steps).owner(NOON, None)
        assert (owner.tenant_id, owner.dispute) == (tenant, dispute)


def test_users_that_disagree_are_disputed_too() -> None:
    steps = [step("a", user_reference="ann"), step("b", user_reference="sam")]
    found = attributed([rule("tenant", "constant", value="acme"), rule("user", "user_id")], *steps)
    assert found.owner(NOON, None) == (None, None, "steps_disagree", ACME, ANN.id, "")


def test_projects_and_flows_are_found_by_name_and_counted_where_unknown() -> None:
    rules = [
        rule("tenant", "constant", value="acme"),
        rule("project", "metadata", "p", number=2),
        rule("flow", "metadata", "f", number=3),
    ]
    found = attributed(rules, step(evidence={"p": "Care", "f": "Triage"}))
    assert (found.attributes.project_id, found.attributes.flow_id) == ("project-1", "flow-1")
    found = attributed(rules, step(evidence={"f": ACME.hex}, project_id="ours"))
    assert (found.attributes.project_id, found.attributes.flow_id) == ("ours", str(ACME))


def test_a_fixed_tenant_is_it_whatever_is_said() -> None:
    found = attributed(
        [rule("tenant", "constant", value="globex"), rule("user", "user_id")],
        step(user_reference="ann"),
        fixed_tenant_id=ACME,
    )
    assert (found.tenant_id, found.user) == (ACME, ANN)


def test_who_becomes_known_is_noticed() -> None:
    rules = AttributionRules([rule("tenant", "metadata", "a"), rule("user", "user_id")], ENTRIES)
    steps = in_precedence([step(evidence={"a": "later"}, user_reference="new")])
    given_then = rules.attribute(steps, attributes_of(steps), NOON, DIRECTORY).given
    assert not rules.finds_now(given_then, None, DIRECTORY)
    later = Directory(DIRECTORY.tenants, DIRECTORY.users, {}, 1, {"later": GLOBEX})
    assert rules.finds_now(given_then, None, later)
    assert not rules.finds_now(given_then, ACME, later), "its tenant is known by now"


def test_what_was_cut_off_is_told() -> None:
    one = rule("tenant", "metadata", "a.b.team")
    cut = {"@cut": '["a.b"]', "a.b.key": "k"}
    found = attributed([one], step(evidence=cut, tenant_reference=str(ACME)))
    assert found.tenant_id == ACME
    assert found.given == (("tenant", 0, str(ACME), True), ("tenant", 1, "", False))
    assert attributed([rule("tenant", "metadata", "a.c")], step(evidence=cut)).given == ()


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("team:.+", "does not say which part"),
        ("(?P<tenant>", "is no pattern"),
        ("(?P<tenant>(a+)+)", "repeat single characters"),
        ("(?P<tenant>(a|a)*)b", "repeat single characters"),
        (r"(?P<tenant>.+)(\1)", "refers back"),
        ("(?=x)(?P<tenant>.+)", "looks ahead"),
        ("(?P<tenant>.*).*.*", "could take too long"),
        ("a?" * 30 + "(?P<tenant>a)", "could take too long"),
        ("(?P<tenant>x)" + "y" * 200, "200 at most"),
        ("(?P<user>.+)", "(?P<tenant>…)"),
    ],
)
def test_a_pattern_that_could_take_long_is_refused(pattern: str, says: str) -> None:
    with pytest.raises(BadPattern) as raised:
        bounded_pattern(pattern, "tenant")
    assert says in str(raised.value)


steps_of_a_run = st.lists(
    st.tuples(
        st.sampled_from(["", "acme", "globex", "nobody"]),
        st.sampled_from(["", "ann", "gus", "sam", "who"]),
        st.booleans(),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(said=steps_of_a_run, wins=st.sampled_from(list(Wins)), seed=st.randoms())
def test_the_order_that_steps_come_in_changes_nothing(said: Any, wins: Wins, seed: Any) -> None:
    steps = [
        step(
            f"o{at}",
            is_root=is_root,
            start_time=NOON + timedelta(seconds=second),
            user_reference=user,
            evidence={"t": tenant} if tenant else {},
        )
        for at, (tenant, user, is_root, second) in enumerate(said)
    ]
    rules = [
        rule("tenant", "metadata", "t", wins=wins),
        rule("user", "user_id", number=2, wins=wins),
    ]
    before = attributed(rules, *steps)
    seed.shuffle(steps)
    assert attributed(rules, *steps) == before
