"""Whose a run is (domain.md, What is counted): by what it says, and by what the directory knows."""

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from kluisz_analytics.tenants.membership import Stay, moved, tenant_at
from tests.conftest import NOON
from usage.facts.owner import Directory, Dispute, KnownUser, Outcome, Owner, Settlement, owner_of

ACME, GLOBEX, ANN, GUS, MOE = (uuid4() for _ in range(5))
HOUR = timedelta(hours=1)
MOE_MOVED = KnownUser(MOE, GLOBEX, (Stay(ACME, None, NOON), Stay(GLOBEX, NOON, None)))
KNOWN_ANN, KNOWN_GUS = KnownUser(ANN, ACME), KnownUser(GUS, GLOBEX)
DIRECTORY = Directory(
    {str(one): one for one in (ACME, GLOBEX)},
    {str(ANN): KNOWN_ANN, str(GUS): KNOWN_GUS, str(MOE): MOE_MOVED},
    {
        "ann@acme.test": {ACME: KNOWN_ANN},
        "boss": {ACME: KNOWN_ANN, GLOBEX: KNOWN_GUS},
        "sam": {ACME: None},
        "moe": {ACME: MOE_MOVED, GLOBEX: MOE_MOVED},
    },
)


def disputed(tenant: UUID, user: UUID) -> Owner:
    return Owner(None, None, Dispute.NOT_A_MEMBER.value, tenant, user)


@pytest.mark.parametrize(
    ("tenant", "user", "expected"),
    [
        ("", "", Owner()),
        ("", "nobody", Owner()),
        ("", str(ANN), Owner(ACME, ANN)),
        (str(ACME), str(ANN), Owner(ACME, ANN)),
        (str(ACME), "", Owner(ACME)),
        (str(ACME), "a webhook", Owner(ACME)),
        ("nobody", str(ANN), Owner(None, ANN)),
        (str(ACME), str(GUS), disputed(ACME, GUS)),
        # By what people call a user.
        (str(ACME), "Ann@Acme.test ", Owner(ACME, ANN)),
        (str(GLOBEX), "ann@acme.test", Owner(GLOBEX)),
        ("", "ann@acme.test", Owner(ACME, ANN)),
        ("nobody", "ann@acme.test", Owner()),
        (str(ACME), "boss", Owner(ACME, ANN)),
        (str(GLOBEX), "boss", Owner(GLOBEX, GUS)),
        ("", "boss", Owner()),
        (str(ACME), "sam", Owner(ACME)),
        ("", "sam", Owner()),
    ],
)
def test_it_is_who_the_directory_finds(tenant: str, user: str, expected: Owner) -> None:
    assert owner_of(DIRECTORY, tenant, user, NOON) == expected


def test_a_user_that_moves_leaves_its_past_where_it_was() -> None:
    for user in (str(MOE), "moe"):
        assert owner_of(DIRECTORY, "", user, NOON - HOUR) == Owner(ACME, MOE)
        assert owner_of(DIRECTORY, "", user, NOON) == Owner(GLOBEX, MOE)
        assert owner_of(DIRECTORY, str(ACME), user, NOON - HOUR) == Owner(ACME, MOE)
        assert owner_of(DIRECTORY, str(ACME), user, NOON) == disputed(ACME, MOE)
        assert owner_of(DIRECTORY, str(GLOBEX), user, NOON - HOUR) == disputed(GLOBEX, MOE)


def test_a_connections_tenant_is_named_whatever_a_run_says() -> None:
    assert owner_of(DIRECTORY, str(GLOBEX), str(ANN), NOON, ACME) == Owner(ACME, ANN)
    assert owner_of(DIRECTORY, "", str(GUS), NOON, ACME) == disputed(ACME, GUS)


@pytest.mark.parametrize(
    ("outcome", "owner"),
    [
        (Outcome.NAMED_TENANT, (ACME, None)),
        (Outcome.USERS_TENANT, (GLOBEX, GUS)),
        (Outcome.LEFT_OUT, (None, None)),
    ],
)
def test_a_settlement_holds_for_the_claim_that_was_settled(
    outcome: Outcome, owner: tuple[UUID | None, UUID | None]
) -> None:
    settlement = Settlement(outcome, ACME, GUS)

    def settled(tenant: UUID, user: UUID) -> Owner:
        return owner_of(DIRECTORY, str(tenant), str(user), NOON, settlement=settlement)

    found = settled(ACME, GUS)
    assert (found[:2], found.settled_as) == (owner, outcome.value)
    assert found[2:5] == disputed(ACME, GUS)[2:5]
    assert settled(ACME, MOE) == disputed(ACME, MOE)
    assert settled(ACME, ANN) == Owner(ACME, ANN)


def test_a_history_says_who_was_where_when() -> None:
    stays = moved([Stay(ACME, None, None)], GLOBEX, NOON)
    assert stays == [Stay(ACME, None, NOON), Stay(GLOBEX, NOON, None)]
    assert [tenant_at(stays, NOON + number * HOUR) for number in (-1, 0, 1)] == [
        ACME,
        GLOBEX,
        GLOBEX,
    ]
    back = moved(stays, ACME, NOON + HOUR)
    assert back == [
        Stay(ACME, None, NOON),
        Stay(GLOBEX, NOON, NOON + HOUR),
        Stay(ACME, NOON + HOUR, None),
    ]
    # A later word of the same time replaces an earlier one.
    assert moved(stays, GLOBEX, NOON - HOUR) == [
        Stay(ACME, None, NOON - HOUR),
        Stay(GLOBEX, NOON - HOUR, None),
    ]
    assert moved(stays, ACME, NOON) == [Stay(ACME, None, None)]
    assert moved(stays, GLOBEX, None) == [Stay(GLOBEX, None, None)]
